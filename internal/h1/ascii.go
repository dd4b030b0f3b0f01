package h1

import "encoding/binary"

// Classes of bytes, looked up in class.
const (
	tokenByte  = 1 << iota // tchar, RFC 9110, 5.6.2
	targetByte             // visible ASCII except "#"
	hostByte               // uri-host and port, RFC 3986, 3.2.2
	hexByte
)

// class holds the classes of each byte. Read-only.
var class = makeClass()

func makeClass() (t [256]uint8) {
	for c := 0x21; c < 0x7f; c++ {
		t[c] |= targetByte
	}
	t['#'] &^= targetByte
	mark(&t, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", tokenByte|hostByte)
	mark(&t, "!#$%&'*+-.^_`|~", tokenByte)
	mark(&t, "-._~!$%&'()*+,;=:[]", hostByte)
	mark(&t, "0123456789abcdefABCDEF", hexByte)
	return t
}

func mark(t *[256]uint8, bytes string, bits uint8) {
	for i := range len(bytes) {
		t[bytes[i]] |= bits
	}
}

// all reports whether each byte of b has one of the class bits.
func all[T ~string | ~[]byte](b T, bits uint8) bool {
	for i := range len(b) {
		if class[b[i]]&bits == 0 {
			return false
		}
	}
	return true
}

// ValidToken reports whether b is a token, like methods and field names.
func ValidToken[T ~string | ~[]byte](b T) bool { return len(b) > 0 && all(b, tokenByte) }

// ValidTarget reports whether b has only bytes that a request target may
// contain: visible ASCII without "#".
func ValidTarget[T ~string | ~[]byte](b T) bool { return len(b) > 0 && all(b, targetByte) }

// ValidHost reports whether b is not empty and has only bytes that a Host value
// may contain. It does not check the host itself.
func ValidHost[T ~string | ~[]byte](b T) bool { return len(b) > 0 && all(b, hostByte) }

// ValidValue reports whether b has no control byte except HTAB.
func ValidValue[T ~string | ~[]byte](b T) bool {
	for i := range len(b) {
		if badValueByte(b[i]) {
			return false
		}
	}
	return true
}

func badValueByte(c byte) bool { return c < ' ' && c != '\t' || c == 0x7f }

// validValue is ValidValue, eight bytes at a time.
func validValue(b []byte) bool {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	for len(b) >= 8 {
		x := binary.LittleEndian.Uint64(b)
		del := x ^ 0x7f*ones
		// A byte below 0x20, or equal to 0x7f, leaves its high bit set. A
		// borrow can only report too much; then the slow path decides.
		if ((x-0x20*ones)&^x|(del-ones)&^del)&high != 0 && !ValidValue(b[:8]) {
			return false
		}
		b = b[8:]
	}
	return ValidValue(b)
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c | 0x20
	}
	return c
}

// equalFold reports whether b equals s, ignoring case; s must be lower case.
func equalFold(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i := range len(b) {
		if lower(b[i]) != s[i] {
			return false
		}
	}
	return true
}

// trim removes the optional white space around a field value.
func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// parseSize parses a Content-Length: 1 to 19 digits that fit in an int64.
func parseSize(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 19 {
		return 0, false
	}
	var n uint64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return int64(n), n < 1<<63
}
