package routes

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

// maxQuoted bounds how many runes of a refused pattern an error repeats.
const maxQuoted = 128

// A Pattern says which requests a route serves. Patterns are equal iff they mean the same.
// Only ParsePattern makes them: a Table relies on their being canonical.
type Pattern struct {
	text string // canonical; an IPv6 address is in brackets
	path int    // where the path begins; negative of that if the host is in brackets
}

// Host returns a canonical host; "*." and a canonical name, for exactly one label before it; or "*", for any host.
func (p Pattern) Host() string {
	if p.path < 0 {
		return p.text[1 : -p.path-1]
	}
	return p.text[:p.path]
}

// Path returns a path prefix in its escaped form, with a slash at both ends; "" for all paths.
func (p Pattern) Path() string { return p.text[max(p.path, -p.path):] }

// ParsePattern reads a pattern such as api.example.com, *.example.com, * or example.com/api/.
//
// The host is given in any spelling, without a port; an IPv6 address in brackets. The path prefix ends at a border of
// segments whether a slash is there or not, and is given as requests have it on the wire: escaped where it must be and
// nowhere else, in upper case, without empty and dot segments. The error quotes the pattern and says what was wanted.
func ParsePattern(s string) (Pattern, error) {
	host, path := s, ""
	if i := strings.IndexByte(s, '/'); i >= 0 {
		host, path = s[:i], s[i:]
	}
	if strings.Contains(s, "://") {
		return Pattern{}, refuse(s, "it has a scheme")
	}
	if strings.ContainsAny(s, "?#") {
		return Pattern{}, refuse(s, "it has a query or a fragment")
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

// String returns the pattern in its canonical spelling, which ParsePattern reads as the same pattern.
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
		return "", fmt.Errorf("the star is not alone in the first label")
	}
	host, port, err := hostname.Split(base)
	switch {
	case err != nil:
		return "", err
	case port != "" || strings.HasSuffix(base, ":"):
		return "", fmt.Errorf("it has a port")
	case !wild:
		return host, nil
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return "", fmt.Errorf("an address has no labels")
	}
	return "*." + host, nil
}

func parsePath(s string) (string, error) {
	if s == "" || s == "/" {
		return "", nil
	}
	if strings.Contains(s, "*") {
		return "", fmt.Errorf("a star in the path means nothing")
	}
	path := s
	if !strings.HasSuffix(path, "/") {
		path += "/"
	}
	if normal := string(appendNormal(nil, path)); normal != path {
		return "", fmt.Errorf("the path is not in its plain form, %q", normal)
	}
	return path, nil
}

// refuse says why a pattern is none.
func refuse(s, reason string) error {
	return fmt.Errorf("pattern %.*q: %s; want a host such as api.example.com, *.example.com or *, with an optional path prefix such as /api/",
		maxQuoted, s, reason)
}
