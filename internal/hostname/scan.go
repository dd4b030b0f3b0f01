package hostname

// Hot path: one pass to find the port, one over the name, no allocation.

// The limits of a name in text form (RFC 1035, 2.3.4), without the trailing
// dot.
const (
	maxName  = 253
	maxLabel = 63
)

// A form is what the bytes of a host tell about it.
type form int

const (
	foreign   form = iota // not plain ASCII, or not a host: left to hostname.go
	canonical             // a name in lower case, or an IPv4 address
	mixedCase             // canonical in lower case
)

// What to do with labels that begin with xn--: a peer's must be decoded first.
type labels int

const (
	rawLabels labels = iota
	decodedLabels
)

// The classes of bytes in a name.
const (
	other = iota
	lower
	upper
)

// classes maps each byte to its class; dots have none. Read-only.
var classes = [256]uint8{
	'-': lower, '_': lower,
	'0': lower, '1': lower, '2': lower, '3': lower, '4': lower, '5': lower, '6': lower, '7': lower, '8': lower, '9': lower,
	'a': lower, 'b': lower, 'c': lower, 'd': lower, 'e': lower, 'f': lower, 'g': lower, 'h': lower, 'i': lower, 'j': lower,
	'k': lower, 'l': lower, 'm': lower, 'n': lower, 'o': lower, 'p': lower, 'q': lower, 'r': lower, 's': lower, 't': lower,
	'u': lower, 'v': lower, 'w': lower, 'x': lower, 'y': lower, 'z': lower,
	'A': upper, 'B': upper, 'C': upper, 'D': upper, 'E': upper, 'F': upper, 'G': upper, 'H': upper, 'I': upper, 'J': upper,
	'K': upper, 'L': upper, 'M': upper, 'N': upper, 'O': upper, 'P': upper, 'Q': upper, 'R': upper, 'S': upper, 'T': upper,
	'U': upper, 'V': upper, 'W': upper, 'X': upper, 'Y': upper, 'Z': upper,
}

// parse removes the port and a trailing dot from a host and returns the form of
// the rest. The port is valid unless the form is foreign.
func parse[S string | []byte](hostport S) (host, port S, f form) {
	i := 0
	for i < len(hostport) && hostport[i] != ':' {
		i++
	}
	host = hostport[:i]
	if i < len(hostport) {
		port = hostport[i+1:]
	}
	if !isPort(port) {
		return host, port, foreign
	}
	if i > 0 && host[i-1] == '.' {
		host = host[:i-1]
	}
	return host, port, judge(host, rawLabels)
}

// isPort reports whether s is empty or a number from 1 to 65535 without leading
// zeros.
func isPort[S string | []byte](s S) bool {
	if len(s) == 0 {
		return true
	}
	n, ok := number(s, 5)
	return ok && s[0] != '0' && n <= 65535
}

// number returns the value of a decimal number with one to most digits.
func number[S string | []byte](s S, most int) (n int, ok bool) {
	if len(s) == 0 || len(s) > most {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n, true
}

// judge returns the form of a host without port and trailing dot.
func judge[S string | []byte](host S, l labels) form {
	if len(host) > maxName {
		return foreign
	}
	f, start := canonical, 0
	for i := range len(host) {
		switch c := host[i]; {
		case classes[c] == lower:
		case classes[c] == upper:
			f = mixedCase
		case c != '.' || !isLabel(host[start:i], l):
			return foreign
		default:
			start = i + 1
		}
	}
	last := host[start:]
	if !isLabel(last, l) || isNumeric(last) && !isIPv4(host) {
		return foreign
	}
	return f
}

// isLabel reports whether a label of letters, digits, hyphens and underscores
// can be used as it is.
func isLabel[S string | []byte](s S, l labels) bool {
	n := len(s)
	if n == 0 || n > maxLabel || s[0] == '-' || s[n-1] == '-' {
		return false
	}
	encoded := n > 3 && s[2] == '-' && s[3] == '-' && s[0]|0x20 == 'x' && s[1]|0x20 == 'n'
	return !encoded || l == decodedLabels
}

// isNumeric reports whether a name that ends in this label must be an IPv4
// address to be valid: other programs may read the label as decimal, octal or
// hexadecimal (WHATWG URL, "ends in a number").
func isNumeric[S string | []byte](label S) bool {
	if label[0] < '0' || label[0] > '9' {
		return false
	}
	if len(label) > 1 && label[0] == '0' && label[1]|0x20 == 'x' {
		return isHex(label[2:])
	}
	_, ok := number(label, maxLabel)
	return ok
}

func isHex[S string | []byte](s S) bool {
	for i := range len(s) {
		c := s[i] | 0x20
		if (s[i] < '0' || s[i] > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// isIPv4 reports whether host is four numbers up to 255 without leading zeros.
func isIPv4[S string | []byte](host S) bool {
	parts, start := 0, 0
	for i := 0; i <= len(host); i++ {
		if i < len(host) && host[i] != '.' {
			continue
		}
		part := host[start:i]
		n, ok := number(part, 3)
		if !ok || n > 255 || part[0] == '0' && len(part) > 1 {
			return false
		}
		parts, start = parts+1, i+1
	}
	return parts == 4
}
