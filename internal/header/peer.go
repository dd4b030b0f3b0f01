package header

import (
	"net"
	"net/netip"
	"strings"
)

// A Peer is the other end of a connection. The zero Peer is unknown and never
// trusted.
type Peer struct {
	Addr netip.Addr // without zone, IPv4 unmapped; invalid if the peer has no address
	Unix bool       // the peer is connected by a unix socket
}

// PeerOf returns the peer with the remote address of a connection.
func PeerOf(remote net.Addr) Peer {
	switch a := remote.(type) {
	case *net.TCPAddr:
		return Peer{Addr: a.AddrPort().Addr().WithZone("").Unmap()}
	case *net.UnixAddr:
		return Peer{Unix: true}
	case nil:
		return Peer{}
	}
	return ParsePeer(remote.String())
}

// ParsePeer reads an [net/http.Request.RemoteAddr]: "192.0.2.1:80",
// "[2001:db8::1%eth0]:80", either without a port, or a unix socket's path or
// "@". Anything else becomes the zero Peer, including "". A client of a unix
// socket has that address on some systems; only [PeerOf] can tell it from a
// request without a connection.
func ParsePeer(remote string) Peer {
	if strings.HasPrefix(remote, "@") || strings.HasPrefix(remote, "/") {
		return Peer{Unix: true}
	}
	addr, _ := parseNode(remote)
	return Peer{Addr: addr}
}

// TrustedBy reports whether the peer's forwarding fields are used: its address
// is in one of the prefixes. A unix peer is a process on this machine; it is
// trusted if 127.0.0.1 or ::1 is. IPv4 prefixes must be written as IPv4: a
// prefix of IPv4-mapped IPv6 addresses matches no peer.
func (p Peer) TrustedBy(trusted []netip.Prefix) bool {
	if p.Unix {
		return within(trusted, netip.AddrFrom4([4]byte{127, 0, 0, 1})) || within(trusted, netip.IPv6Loopback())
	}
	return within(trusted, p.Addr)
}

// maxHops limits how many X-Forwarded-For entries are read, and maxNode the
// length of one.
const (
	maxHops = 32
	maxNode = 80
)

// ClientIP returns the client's address of a request. That is the peer's, if
// the peer is not trusted. Otherwise it is the right-most untrusted address in
// the X-Forwarded-For lines xff, or the left-most address if all are trusted.
// Entries may be IPv4 or IPv6, with port, brackets or zone; empty ones are
// skipped. At an entry that is no address, and after 32 entries, the last
// address so far is the result. The result has no zone, IPv4 is unmapped, and
// it is invalid only if no address is known.
//
// Hot path: no allocation.
func ClientIP[T Text](peer Peer, trusted []netip.Prefix, xff []T) netip.Addr {
	client := peer.Addr
	if !peer.TrustedBy(trusted) {
		return client
	}
	hops := 0
	for i := len(xff) - 1; i >= 0; i-- {
		for rest := xff[i]; len(rest) > 0; {
			var entry T
			entry, rest = lastMember(rest)
			if hops++; hops > maxHops {
				return client
			}
			if len(entry) == 0 {
				continue
			}
			addr, ok := parseNode(entry)
			if !ok {
				return client
			}
			if client = addr; !within(trusted, addr) {
				return client
			}
		}
	}
	return client
}

// lastMember returns the last member of a comma-separated list, without white
// space around it, and the list before it. A member longer than maxNode is cut,
// and is then not a valid address.
func lastMember[T Text](list T) (member, rest T) {
	for i := len(list) - 1; i >= 0; i-- {
		if list[i] == ',' {
			return trim(list[i+1:]), list[:i]
		}
		if len(list)-i > maxNode {
			return list[i:], list[:i]
		}
	}
	return trim(list), list[:0]
}

// within reports whether one of the prefixes contains addr. It is false for an
// invalid address.
func within(prefixes []netip.Prefix, addr netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}
