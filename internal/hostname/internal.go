package hostname

import "net/netip"

// internalNames are the names that belong to no public zone, together with all
// names below them (RFC 6761, RFC 6762, RFC 8375, and ICANN's reservation of
// internal). Read-only.
var internalNames = []string{"localhost", "test", "internal", "local", "home.arpa"}

// internalPrefixes are the special-purpose addresses that belong to no one on
// the Internet (RFC 6890, IANA registries), except those that net/netip has
// methods for. Read-only.
var internalPrefixes = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("192.88.99.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("2001::/23"),
	netip.MustParsePrefix("2001:db8::/32"),
	netip.MustParsePrefix("2002::/16"),
	netip.MustParsePrefix("3fff::/20"),
}

// IsInternal reports whether a canonical host belongs to no one on the
// Internet, so that no public CA signs it: localhost, test, internal, local,
// home.arpa and the names below them, and addresses that are private or
// special. It accepts the base of a wildcard as well as a host.
func IsInternal(host string) bool {
	if a, ok := Addr(host); ok {
		return isInternalAddr(a.Unmap())
	}
	return Below(host, internalNames...)
}

func isInternalAddr(a netip.Addr) bool {
	if !a.IsGlobalUnicast() || a.IsPrivate() {
		return true
	}
	// Only an eighth of IPv6 is global unicast so far (RFC 4291, 2.4; IANA).
	if a.Is6() && a.As16()[0]>>5 != 1 {
		return true
	}
	for _, p := range internalPrefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
