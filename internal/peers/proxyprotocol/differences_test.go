package proxyprotocol_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	theirs "github.com/pires/go-proxyproto"
	"github.com/stretchr/testify/assert"

	ours "github.com/hostproxy/hostproxy/internal/proxyproto"
)

// A difference is a kind of header that only one of the two accepts.
type difference struct {
	name    string
	why     string
	ours    error // our error; nil means that only we accept it
	theirs  error // their error; nil means that only they accept it
	holds   func(b []byte) bool
	example []byte
}

// v2 returns a header of version 2.
func v2(command, family byte, rest string) []byte {
	return append(append(bytes.Clone(theirs.SIGV2), command, family, byte(len(rest)>>8), byte(len(rest))), rest...)
}

// four has the addresses of a connection over IPv4.
const four = "\xc0\x00\x02\x01\xc6\x33\x64\x02\x01\x02\x01\xbb"

// binaryHead reports whether b is of version 2, with one of these commands and
// one of these families.
func binaryHead(b []byte, commands, families string) bool {
	return len(b) >= 16 && bytes.HasPrefix(b, theirs.SIGV2) && strings.IndexByte(commands, b[12]) >= 0 && (families == "" || strings.IndexByte(families, b[13]) >= 0)
}

// differences lists all known differences. Read-only.
var differences = []difference{
	{"UDP and unix datagrams", "a server that accepts connections gets none from datagrams: the header is for another listener",
		ours.ErrFamily, nil, func(b []byte) bool { return binaryHead(b, "\x21", "\x12\x22\x32") }, v2(0x21, 0x12, four)},
	{"a checksum that is wrong", "go-proxyproto leaves checksums to its users",
		ours.ErrChecksum, nil, func(b []byte) bool { return binaryHead(b, "\x21", "\x11\x21\x31") }, v2(0x21, 0x11, four+"\x03\x00\x04abcd")},
	{"extensions that do not fit", "go-proxyproto splits them when it is asked for them: a checksum behind them would be missed",
		ours.ErrTLV, nil, func(b []byte) bool { return binaryHead(b, "\x21", "\x11\x21\x31") }, v2(0x21, 0x11, four+"\x01\x00\x09h2")},
	{"4,097 to 4,112 bytes", "our limit includes the 16 bytes in front",
		ours.ErrLong, nil, func(b []byte) bool {
			return binaryHead(b, "\x20\x21", "") && int(b[14])<<8+int(b[15]) > ours.MaxV2-16
		}, v2(0x21, 0x11, four+"\x04\x0f\xf1"+strings.Repeat("x", 4081))},
	{"a lone CR behind UNKNOWN", "a line ends with its first CR: another reader may take what follows for the request",
		ours.ErrLine, nil, func(b []byte) bool { return bytes.HasPrefix(b, []byte("PROXY UNKNOWN ")) }, []byte("PROXY UNKNOWN a\rb\r\n")},
	{"PROXY without addresses", "the specification lets the receiver choose: the connection keeps its own addresses",
		nil, theirs.ErrUnsupportedAddressFamilyAndProtocol, func(b []byte) bool { return binaryHead(b, "\x21", "\x00") }, v2(0x21, 0x00, "")},
	{"LOCAL of a family that does not exist", "the specification says that the family is ignored: a health check must not fail",
		nil, theirs.ErrUnsupportedAddressFamilyAndProtocol, func(b []byte) bool { return binaryHead(b, "\x20", "") }, v2(0x20, 0x77, "")},
}

// differenceOf returns the difference that explains both results, or nil.
func differenceOf(b []byte, err1, err2 error) *difference {
	if (err1 == nil) == (err2 == nil) {
		return nil
	}
	for i := range differences {
		d := &differences[i]
		if errors.Is(err1, d.ours) && errors.Is(err2, d.theirs) && d.holds(b) {
			return d
		}
	}
	return nil
}

func TestEachKnownDifferenceExists(t *testing.T) {
	for i := range differences {
		d := &differences[i]
		t.Run(d.name, func(t *testing.T) {
			_, _, err1 := readOurs(d.example)
			_, _, err2 := readTheirs(d.example)
			assert.ErrorIs(t, err1, d.ours)
			assert.ErrorIs(t, err2, d.theirs)
			assert.Same(t, d, differenceOf(d.example, err1, err2))
		})
	}
}

// Both refuse what no receiver should accept.
func TestBothRefuseInvalidHeaders(t *testing.T) {
	for _, b := range [][]byte{
		[]byte("GET / HTTP/1.1\r\n\r\n"), []byte("PROXY TCP4 192.0.2.01 198.51.100.2 258 443\r\n"), []byte("PROXY TCP4 192.0.2.1 198.51.100.2 0258 443\r\n"),
		[]byte("PROXY TCP4 192.0.2.1 198.51.100.2 258 65536\r\n"), []byte("PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n"), []byte("PROXY TCP6 192.0.2.1 ::1 1 2\r\n"),
		[]byte("PROXY TCP4  192.0.2.1 198.51.100.2 258 443\r\n"), []byte("PROXY TCP4 192.0.2.1 198.51.100.2 258 443\n"), []byte("PROXY UDP4 192.0.2.1 198.51.100.2 258 443\r\n"),
		[]byte("PROXY UNKNOWN " + strings.Repeat("x", 100) + "\r\n"), v2(0x22, 0x11, four), v2(0x11, 0x11, four), v2(0x21, 0x13, four), v2(0x21, 0x11, four[1:]), v2(0x21, 0x31, four),
	} {
		_, _, err := readOurs(b)
		assert.Error(t, err, "%q", b)
		_, _, err = readTheirs(b)
		assert.Error(t, err, "%q", b)
	}
}
