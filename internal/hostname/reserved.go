package hostname

import (
	"fmt"
	"slices"
	"strings"
)

// reservedNames are the names that no registry of the public DNS assigns,
// together with all names below them. Names in use that may be delegated one
// day are not listed. Read-only.
var reservedNames = []string{
	"example", "invalid", // RFC 2606; RFC 6761
	"onion",                      // RFC 7686
	"alt",                        // RFC 9476
	"lan", "intranet", "private", // RFC 6762, appendix G
	"corp", "home", "mail", // ICANN, resolution 2018.02.04.12
	"localdomain",              // ICANN, SAC 045
	"in-addr.arpa", "ip6.arpa", // CA/Browser Forum, ballot SC-086
	"resolver.arpa", "ipv4only.arpa", // RFC 9462; RFC 8880
}

// Unsignable returns why no public CA signs a canonical host or a wildcard, as
// a clause about the name, or "" if one may. The Baseline Requirements of the
// CA/Browser Forum (4.2.2 and 7.1.2.7.12) exclude names outside the public DNS,
// names with an underscore and labels of reserved forms.
func Unsignable(pattern string) string {
	host := strings.TrimPrefix(pattern, "*.")
	if a, ok := Addr(host); ok {
		if isInternalAddr(a.Unmap()) {
			return "the address is private or reserved"
		}
		return ""
	}
	if IsInternal(host) {
		return "the name is reserved for internal use"
	}
	return unsignableName(pattern, host)
}

func unsignableName(pattern, host string) string {
	switch {
	case len(pattern) > maxName:
		return fmt.Sprintf("the name is longer than %d bytes", maxName)
	case !strings.Contains(host, "."):
		return "the name has a single label"
	case strings.Contains(host, "_"):
		return "the name has an underscore"
	}
	for _, name := range reservedNames {
		if Below(host, name) {
			return fmt.Sprintf("%q is not a domain of the public DNS", "."+name)
		}
	}
	for label := range strings.SplitSeq(host, ".") {
		// Only xn-- has a meaning so far (RFC 5890, 2.3.1).
		if len(label) >= 4 && label[2:4] == "--" && !strings.HasPrefix(label, "xn--") {
			return fmt.Sprintf("the label %q has hyphens in the third and fourth position", label)
		}
	}
	return ""
}

// IsOnion reports whether a canonical host or a wildcard is a Tor name (RFC
// 7686).
func IsOnion(pattern string) bool { return strings.HasSuffix(pattern, ".onion") }

// Below reports whether a canonical host is one of the domains or below one of
// them.
func Below(host string, domains ...string) bool {
	return slices.ContainsFunc(domains, func(domain string) bool {
		above, ok := strings.CutSuffix(host, domain)
		return ok && (above == "" || strings.HasSuffix(above, "."))
	})
}
