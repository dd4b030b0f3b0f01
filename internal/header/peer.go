package header

import (
	"net"
	"net/netip"
	"strings"
)

// A Peer is who sits at the other end of a connection. The zero Peer is unknown
// and never trusted.
type Peer struct {
	Addr netip.Addr // without zone, IPv4 unmapped; invalid if the peer has no address
	Unix bool       // the peer came over a unix socket
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
// "@". Anything else is the zero Peer, "" included: a client of a unix socket
// that has no name looks like that on some systems, and only [PeerOf] can tell
// it from a request without a connection.
func ParsePeer(remote string) Peer {
	if strings.HasPrefix(remote, "@") || strings.HasPrefix(remote, "/") {
		return Peer{Unix: true}
	}
	addr, _ := parseNode(remote)
	return Peer{Addr: addr}
}

// TrustedBy reports whether the peer's forwarding fields count: its address is
// in one of the prefixes. A unix peer is a process of this machine and is
// trusted where 127.0.0.1 or ::1 is. IPv4 prefixes are written as such: a
// prefix of IPv4-mapped IPv6 addresses holds nobody.
func (p Peer) TrustedBy(trusted []netip.Prefix) bool {
	if p.Unix {
		return within(trusted, netip.AddrFrom4([4]byte{127, 0, 0, 1})) || within(trusted, netip.IPv6Loopback())
	}
	return within(trusted, p.Addr)
}

// maxHops bounds how many X-Forwarded-For entries are looked at, maxNode how
// long one may be.
const (
	maxHops = 32
	maxNode = 80
)

// ClientIP returns who a request is from: the peer, unless it is trusted; then
// the right-most address in the X-Forwarded-For lines xff that is not, or the
// left-most if all are. Entries may be IPv4 or IPv6, with a port, with
// brackets, with a zone; empty ones are skipped. The walk stops at the last
// good address before an entry that is no address, and after 32 entries. The
// result is without zone, IPv4 unmapped, and invalid only if no address is
// known.
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
// space around it, and what precedes it. A member longer than maxNode is cut,
// which no address survives.
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

// within reports whether one of the prefixes holds addr. It is false for an
// invalid address.
func within(prefixes []netip.Prefix, addr netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}
