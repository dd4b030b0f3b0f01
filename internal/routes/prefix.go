package routes

import (
	"errors"
	"fmt"
	"strings"
)

// ParsePrefix reads a path prefix as ParsePattern does, and returns it without
// a slash at its end. The error quotes it and says which rule it breaks.
func ParsePrefix(s string) (string, error) {
	path, err := parsePath(s)
	switch {
	case !strings.HasPrefix(s, "/"):
		err = errors.New("a prefix begins with a slash")
	case err == nil && path == "":
		err = errors.New("every path begins with a slash: write more of the prefix, or leave it empty")
	}
	if err != nil {
		return "", fmt.Errorf("prefix %.*q: %w", maxQuoted, s, err)
	}
	return strings.TrimSuffix(path, "/"), nil
}

// Below reports whether path is prefix or below it, by whole segments. prefix
// has no slash at its end.
func Below(path, prefix string) bool {
	n := len(prefix)
	return len(path) >= n && path[:n] == prefix && (len(path) == n || path[n] == '/')
}

// MeetsPrefix reports whether some path that p matches has the prefix, in the
// form of ParsePrefix.
func (p Pattern) MeetsPrefix(prefix string) bool {
	prefix, path := strings.TrimSuffix(prefix, "/"), strings.TrimSuffix(p.Path(), "/")
	return Below(path, prefix) || Below(prefix, path)
}

// enclosures are two different prefixes: a path that leaves its prefix may come
// back to one of them, but not to both. Read-only.
var enclosures = [...]string{"/a", "/b"}

// Stays reports whether a path, appended to any prefix, is below that prefix in
// every reading of a server. It is false for a path whose dot segments lead out
// of the prefix, and for one that can be read in too many ways; see Lookup.
//
// Hot path: one pass without allocation, unless the path is unusual.
func Stays(path string) bool {
	if isNormal(path) {
		return true
	}
	for _, prefix := range enclosures {
		r := new(Route[struct{}])
		s := (&segment[struct{}]{}).with(inner(prefix), r)
		c := candidates[struct{}]{{paths: s}}
		if !c.agree(prefix+path, r) {
			return false
		}
	}
	return true
}
