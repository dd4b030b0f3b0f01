package routes

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

// maxQuoted limits how many runes of a refused pattern an error quotes.
const maxQuoted = 128

// A Pattern says which requests a route serves. Patterns are equal if and only
// if they mean the same. Only ParsePattern makes them, since a Table relies on
// their canonical form.
type Pattern struct {
	text string // canonical; an IPv6 address is in brackets
	path int    // where the path begins; negative if the host is in brackets
}

// Host returns a canonical host; or "*." and a canonical name, for exactly one
// more label; or "*", for any host.
func (p Pattern) Host() string {
	if p.path < 0 {
		return p.text[1 : -p.path-1]
	}
	return p.text[:p.path]
}

// Path returns a path prefix in its escaped form, with a slash at both ends, or
// "" for all paths.
func (p Pattern) Path() string { return p.text[max(p.path, -p.path):] }

// ParsePattern reads a pattern such as api.example.com, *.example.com, * or
// example.com/api/.
//
// The host may have any spelling, but no port; an IPv6 address is in brackets.
// The path prefix ends at the end of a segment, with or without a slash. It is
// written as in requests: escaped where necessary and nowhere else, with
// upper-case escapes, without empty and dot segments and without parameters
// (";x"). The error quotes the pattern and says which rule it breaks.
func ParsePattern(s string) (Pattern, error) {
	host, path := s, ""
	if i := strings.IndexByte(s, '/'); i >= 0 {
		host, path = s[:i], s[i:]
	}
	if strings.Contains(s, "://") {
		return Pattern{}, refuse(s, "a pattern has no scheme: write the host alone")
	}
	if strings.ContainsAny(s, "?#") {
		return Pattern{}, refuse(s, "a pattern has no query and no fragment")
	}
	if host == "" {
		return Pattern{}, refuse(s, "a pattern begins with a host: write *"+path+" for any host")
	}
	if strings.Contains(host, " ") {
		return Pattern{}, refuse(s, "a pattern has no method and no spaces: write one host, with or without a path")
	}
	host, err := parseHost(host)
	if err != nil {
		return Pattern{}, refuse(s, err.Error())
	}
	path, err = parsePath(path)
	if err != nil {
		return Pattern{}, refuse(s, err.Error())
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
		return Pattern{host + path, -len(host)}, nil
	}
	return Pattern{host + path, len(host)}, nil
}

// String returns the pattern in its canonical spelling. ParsePattern reads that
// as the same pattern.
func (p Pattern) String() string { return p.text }

// compare orders patterns by host, then by path.
func (p Pattern) compare(q Pattern) int {
	return cmp.Or(strings.Compare(p.Host(), q.Host()), strings.Compare(p.Path(), q.Path()))
}

func parseHost(s string) (string, error) {
	if s == "*" {
		return s, nil
	}
	base, wild := strings.CutPrefix(s, "*.")
	if strings.Contains(base, "*") {
		return "", errors.New("\"*\" must be the whole first label, as in *.example.com")
	}
	host, port, err := hostname.Split(base)
	switch {
	case err != nil:
		return "", err
	case port != "" || strings.HasSuffix(base, ":"):
		return "", errors.New("a pattern has no port: it matches its host on every port")
	case !wild:
		return host, nil
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return "", errors.New("\"*\" stands for a label of a name: an IP address has none")
	}
	return "*." + host, nil
}

func parsePath(s string) (string, error) {
	if s == "" || s == "/" {
		return "", nil
	}
	if strings.Contains(s, "*") {
		return "", errors.New("\"*\" is not allowed in a path: a path already matches everything below it")
	}
	if strings.ContainsAny(s, "{}") {
		return "", errors.New("braces are not allowed in a path: it is a prefix and has no placeholders")
	}
	path := s
	if !strings.HasSuffix(path, "/") {
		path += "/"
	}
	if normal := string(plainly.append(nil, path)); normal != path {
		return "", fmt.Errorf("write the path in its normal form, %q", normal)
	}
	return path, nil
}

// refuse returns the error for a pattern that breaks a rule.
func refuse(s, rule string) error { return fmt.Errorf("pattern %.*q: %s", maxQuoted, s, rule) }
