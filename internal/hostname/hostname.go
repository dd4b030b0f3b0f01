// Package hostname gives each host one spelling, and rejects everything that is
// not a host.
//
// A canonical host is a lower case ASCII name without port and trailing dot,
// with international labels in their xn-- form; or an IPv4 address; or an IPv6
// address in the form of net/netip, without brackets and zone. Two hosts are
// the same iff their canonical forms are equal bytes.
//
//   - hostname.go, scan.go: the canonical form
//   - internal.go, reserved.go: names that no public CA signs
package hostname

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Hot path: parse in scan.go handles hosts that are canonical, or canonical in
// lower case. Nothing is allocated for the former.

// maxQuoted limits how many runes of a rejected host an error quotes.
const maxQuoted = 64

// Canonical returns the canonical form of a host. A port is dropped.
//
// Canonical accepts its own results: unlike Split, it accepts an IPv6 address
// without brackets, which then has no port. Use Split for a host that a peer
// has sent. The error quotes the input and states the rule.
func Canonical(hostport string) (string, error) {
	host, _, err := Split(hostport)
	if err != nil && strings.Count(hostport, ":") > 1 {
		if a, ok := parseIPv6(hostport); ok {
			return a, nil
		}
	}
	return host, err
}

// Split returns the canonical form of the host in a Host field or an authority
// (RFC 9110, 7.2), and the port as written, "" if there is none. A port is a
// number from 1 to 65535 without leading zeros, or empty. An IPv6 address is in
// brackets. The error quotes the input and states the rule.
func Split(hostport string) (host, port string, err error) {
	host, port, form := parse(hostport)
	switch form {
	case canonical:
		return host, port, nil
	case mixedCase:
		return strings.ToLower(host), port, nil
	}
	return splitOther(hostport)
}

// AppendCanonical appends the canonical form of a host, with or without a port,
// to dst and reports whether it could. It handles plain ASCII names and IPv4
// addresses. If it returns false, dst is unchanged and Split decides. What it
// accepts, Split accepts with the same result. It allocates only what dst needs
// to grow.
func AppendCanonical(dst, hostport []byte) ([]byte, bool) {
	host, _, form := parse(hostport)
	switch form {
	case canonical:
		return append(dst, host...), true
	case mixedCase:
		for _, c := range host {
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			dst = append(dst, c)
		}
		return dst, true
	}
	return dst, false
}

// splitOther splits a host that is not plain ASCII: an IPv6 address, an
// international name, or no valid host.
func splitOther(hostport string) (host, port string, err error) {
	if strings.HasPrefix(hostport, "[") {
		return splitBracketed(hostport)
	}
	host, port, found := strings.Cut(hostport, ":")
	switch {
	case strings.Contains(hostport, "/"):
		return "", "", &refusal{hostport, "a host is a name such as a.example.com, without a scheme or a path"}
	case !found:
	case strings.Contains(port, ":"):
		return "", "", &refusal{hostport, "an IPv6 address needs brackets, as in [::1]; a name has no colon but the one before its port"}
	case !isPort(port):
		return "", "", &refusal{hostport, badPort}
	}
	host, err = international(host)
	if err != nil {
		return "", "", &refusal{hostport, err.Error()}
	}
	return host, port, nil
}

func splitBracketed(hostport string) (host, port string, err error) {
	inner, rest, found := strings.Cut(hostport[1:], "]")
	if !found {
		return "", "", &refusal{hostport, "the closing bracket is missing"}
	}
	host, ok := parseIPv6(inner)
	if !ok {
		return "", "", &refusal{hostport, "brackets must hold an IPv6 address without a zone"}
	}
	if rest == "" {
		return host, "", nil
	}
	if rest[0] != ':' || !isPort(rest[1:]) {
		return "", "", &refusal{hostport, badPort}
	}
	return host, rest[1:], nil
}

// Addr returns the address of a host without brackets; false if the host is a
// name. It does not allocate for names, unlike netip.ParseAddr, which makes an
// error for each.
func Addr(host string) (netip.Addr, bool) {
	if host == "" || !isDigit(host[len(host)-1]) && !strings.Contains(host, ":") {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(host)
	return a, err == nil
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// parseIPv6 returns the canonical form of an IPv6 address. An address with a
// zone has none: a zone is meaningful to one machine only.
func parseIPv6(s string) (string, bool) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is6() || a.Zone() != "" {
		return "", false
	}
	return a.String(), true
}

// international maps a name to ASCII as for look-up (RFC 5891, 5; UTS 46), but
// allows underscores in labels, as service names have them, and hyphens in
// third and fourth place, as some hosts' names have them. The error is only the
// reason.
func international(name string) (string, error) {
	if utf8.RuneCountInString(name) > maxName+1 {
		return "", errLong // Each rune takes at least one byte of the result.
	}
	if isASCII(name) && !strings.Contains(strings.ToLower(name), "xn--") {
		return "", fault(strings.TrimSuffix(name, "."))
	}
	if !utf8.ValidString(name) {
		return "", errors.New("a name must be valid UTF-8") // ToASCII accepts it.
	}
	p := idna.New(idna.MapForLookup(), idna.BidiRule(), idna.StrictDomainName(false), idna.CheckHyphens(false))
	ascii, err := p.ToASCII(name)
	// the first pass looks for right-to-left letters before it maps symbols to
	// them
	if again, err2 := p.ToASCII(ascii); err != nil || err2 != nil || again != ascii {
		return "", errors.New("not a valid internationalized name (IDNA)")
	}
	ascii = strings.TrimSuffix(ascii, ".")
	if judge(ascii, decodedLabels) != canonical {
		return "", fault(ascii)
	}
	return ascii, nil
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

var errLong = fmt.Errorf("a name has at most %d bytes", maxName)

const badPort = "a port is a number from 1 to 65535 without leading zeros"

// fault returns why a name in ASCII, without port and trailing dot, is invalid.
func fault(name string) error {
	switch {
	case name == "":
		return errors.New("the name is empty")
	case len(name) > maxName:
		return errLong
	}
	for _, label := range strings.Split(name, ".") {
		switch {
		case label == "":
			return errors.New("a label must not be empty: use one dot between labels, and none in front")
		case len(label) > maxLabel:
			return errors.New("a label has at most 63 bytes")
		case label[0] == '-' || label[len(label)-1] == '-':
			return errors.New("a label must not begin or end with a hyphen")
		}
	}
	if i := strings.IndexFunc(name, func(r rune) bool { return r != '.' && (r >= utf8.RuneSelf || classes[r] == other) }); i >= 0 {
		return fmt.Errorf("the character %q is not allowed: use letters, digits, hyphens, underscores and dots", name[i])
	}
	return errors.New("a name whose last label is a number must be an IPv4 address such as 192.0.2.1")
}

// A refusal says why the input is not a host. Its text is made only when
// needed: peers can cause any number of refusals.
type refusal struct{ input, reason string }

// Rule returns the broken rule, without the input.
func (r *refusal) Rule() string { return r.reason }

func (r *refusal) Error() string {
	more := ""
	if utf8.RuneCountInString(r.input) > maxQuoted {
		more = "..."
	}
	return fmt.Sprintf("host %.*q%s: %s", maxQuoted, r.input, more, r.reason)
}
