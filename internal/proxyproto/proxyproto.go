// Package proxyproto reads and writes the header of the PROXY protocol,
// versions 1 and 2. A load balancer sends it before the bytes that it forwards.
// It contains the addresses of the connection that the load balancer has
// accepted (https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, below
// "the specification").
//
//   - proxyproto.go: the content of a header, the number of missing bytes, and
//     the errors
//   - v1.go: the text header
//   - v2.go: the binary header
//   - context.go: the header for a new connection
package proxyproto

import (
	"net/netip"
	"strings"
)

// Limits of a header, in bytes. The specification limits version 1 to 107. It
// allows 65,551 for version 2.
const (
	MaxV1 = 107
	MaxV2 = 4 << 10
)

// minLen is the length of the shortest header: "PROXY UNKNOWN\r\n". The
// shortest one of version 2 is a byte longer.
const minLen = 15

// A Kind is the kind of the forwarded connection.
type Kind uint8

// The kinds. The zero Kind is Local.
const (
	// no information: the addresses of the connection itself are used. LOCAL,
	// UNKNOWN and UNSPEC
	Local Kind = iota
	TCP        // a TCP connection with its addresses
	Unix       // a unix socket, whose client has no address
)

// A Header is a parsed header. The zero Header is for a connection that the
// sender has opened for itself, such as a health check.
type Header struct {
	Kind Kind
	// for TCP; both are IPv4, or both are IPv6, which may be IPv4-mapped
	Source, Destination netip.AddrPort
}

// Of returns the header for a client's connection. It is Local unless both
// addresses are known. IPv4 addresses may be IPv4-mapped.
func Of(client, here netip.AddrPort) Header {
	if !client.IsValid() || !here.IsValid() {
		return Header{}
	}
	src, dst := client.Addr().Unmap(), here.Addr().Unmap()
	if src.Is4() != dst.Is4() {
		src, dst = netip.AddrFrom16(src.As16()), netip.AddrFrom16(dst.As16())
	}
	return Header{Kind: TCP, Source: netip.AddrPortFrom(src.WithZone(""), client.Port()), Destination: netip.AddrPortFrom(dst.WithZone(""), here.Port())}
}

// An Error is why bytes are not a valid header. It never quotes a peer.
type Error string

// Error implements error.
func (e Error) Error() string { return string(e) }

// The errors.
const (
	ErrNone     = Error("the connection does not begin with a PROXY header")
	ErrLong     = Error("the PROXY header is too long")
	ErrLine     = Error("the line of a PROXY header of version 1 is malformed")
	ErrAddress  = Error("the PROXY header has an invalid address or port")
	ErrVersion  = Error("the version or the command of the PROXY header is unknown")
	ErrFamily   = Error("the PROXY header is for a protocol other than TCP and unix streams")
	ErrShort    = Error("the PROXY header is too short for its addresses")
	ErrTLV      = Error("the PROXY header has a malformed extension")
	ErrChecksum = Error("the checksum of the PROXY header is wrong")
)

// Missing returns how many bytes of the header are certainly missing after b,
// its beginning. It returns 0 if b is a whole header. A reader that never reads
// more than that reads no byte after the header. Missing refuses what it can
// already judge, and leaves the rest to Parse.
func Missing(b []byte) (int, error) {
	head := string(b[:min(len(b), len(signature))])
	switch {
	case strings.HasPrefix(signature, head) && len(b) < len(signature), strings.HasPrefix(prefix, head):
		return minLen - len(b), nil
	case head == signature:
		return missingV2(b)
	case strings.HasPrefix(head, prefix):
		return missingV1(b)
	}
	return 0, ErrNone
}

// Parse parses b, which must be a whole header and nothing else.
func Parse(b []byte) (Header, error) {
	switch n, err := Missing(b); {
	case err != nil:
		return Header{}, err
	case n != 0:
		return Header{}, ErrShort
	case b[0] == prefix[0]:
		return parseV1(string(b))
	}
	return parseV2(b)
}
