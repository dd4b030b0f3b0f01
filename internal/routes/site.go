package routes

import (
	"slices"
	"strings"
)

// Hot path: match reads one segment of the path per step, only as far as
// patterns go, and allocates nothing.

// A site holds the routes of one host pattern. It never changes. The zero value
// has no routes.
type site[V any] struct {
	route *Route[V]   // the route without a path, or nil
	paths *segment[V] // the routes with a path, or nil
}

// A segment is a step on the way to a path prefix; the first one's name is the
// host pattern.
type segment[V any] struct {
	name  string
	route *Route[V]     // the route of the prefix that ends here, or nil
	below []*segment[V] // sorted by name
}

func (s site[V]) empty() bool { return s.route == nil && s.paths == nil }

// host returns the host pattern of a site, or "" if it is empty.
func (s *site[V]) host() string {
	switch {
	case s.route != nil:
		return s.route.Pattern.Host()
	case s.paths != nil:
		return s.paths.name
	}
	return ""
}

// is reports whether key is the host pattern without its first skip bytes.
func (s *site[V]) is(key string, skip int) bool {
	host := s.host()
	return len(host) == len(key)+skip && host[skip:] == key
}

// match returns the route with the longest prefix of a path, or nil.
func match[V any, S string | []byte](s site[V], path S) *Route[V] {
	best := s.route
	for n := s.paths; n != nil && len(path) > 0 && path[0] == '/'; {
		end := 1
		for end < len(path) && path[end] != '/' {
			end++
		}
		n = child(n, path[1:end])
		path = path[end:]
		if n != nil && n.route != nil {
			best = n.route
		}
	}
	return best
}

// get returns the route of a pattern's path, or nil.
func (s site[V]) get(path string) *Route[V] {
	if path == "" {
		return s.route
	}
	n := s.paths
	for rest := inner(path); n != nil && rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		n = child(n, name)
	}
	if n == nil {
		return nil
	}
	return n.route
}

// with returns the site with r as the route of a pattern; a nil r removes it.
func (s site[V]) with(p Pattern, r *Route[V]) site[V] {
	if p.Path() == "" {
		s.route = r
		return s
	}
	if s.paths == nil {
		s.paths = &segment[V]{name: p.Host()}
	}
	s.paths = s.paths.with(inner(p.Path()), r)
	return s
}

// each calls f for each route, in no particular order, until f returns false.
// It reports whether f never did.
func (s site[V]) each(f func(*Route[V]) bool) bool {
	return (s.route == nil || f(s.route)) && s.paths.each(f)
}

// inner returns a pattern's path without the slash at its start.
func inner(path string) string { return path[1:] }

// with returns a copy of n, which may be nil, with r below it at rest. It
// returns nil if no route is left.
func (n *segment[V]) with(rest string, r *Route[V]) *segment[V] {
	c := segment[V]{}
	if n != nil {
		c = *n
	}
	if rest == "" {
		c.route = r
	} else {
		c.replace(rest, r)
	}
	if c.route == nil && len(c.below) == 0 {
		return nil
	}
	return &c
}

// replace puts r below n at rest. It changes n, but not its old slice, which
// may be shared.
func (n *segment[V]) replace(rest string, r *Route[V]) {
	name, rest, _ := strings.Cut(rest, "/")
	i, found := find(n, name)
	old := &segment[V]{name: name}
	if found {
		old = n.below[i]
	}
	end := i
	if found {
		end++
	}
	if child := old.with(rest, r); child != nil {
		n.below = slices.Concat(n.below[:i], []*segment[V]{child}, n.below[end:])
	} else {
		n.below = slices.Concat(n.below[:i], n.below[end:])
	}
}

func (n *segment[V]) each(f func(*Route[V]) bool) bool {
	if n == nil {
		return true
	}
	if n.route != nil && !f(n.route) {
		return false
	}
	for _, c := range n.below {
		if !c.each(f) {
			return false
		}
	}
	return true
}

// child returns the segment of that name below n, or nil.
func child[V any, S string | []byte](n *segment[V], name S) *segment[V] {
	if i, found := find(n, name); found {
		return n.below[i]
	}
	return nil
}

// find returns the place of name below n, and whether it is there.
func find[V any, S string | []byte](n *segment[V], name S) (int, bool) {
	low, high := 0, len(n.below)
	for low < high {
		mid := (low + high) / 2
		if n.below[mid].name < string(name) {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low, low < len(n.below) && n.below[low].name == string(name)
}
