// Package routes finds the route of a request by its host and its path.
//
// A Table is immutable. A change makes another Table, which shares the
// unchanged parts. So a request needs only one atomic pointer to it.
//
//   - routes.go, trie.go: Table, and the look-up of a host
//   - builder.go, change.go: how a Table is made and changed
//   - pattern.go, site.go, path.go: patterns, and the paths below a host
//   - prefix.go: path prefixes, and paths that stay below them
//   - conflict.go, place.go: conflicting patterns, and their lines in the
//     program
//   - candidate.go: why a route was or was not chosen
//   - life.go: the lifetime of a route
package routes

import (
	"errors"
	"iter"
	"math/bits"
	"slices"
	"strings"
	"unsafe"

	"github.com/hostproxy/hostproxy/internal/yield"
)

// Hot path: Lookup and Knows take no lock and allocate nothing, with one route
// or a million.

// maxReading is the length of the longest path whose readings need no
// allocation.
const maxReading = 512

// ErrAmbiguous means that a path has one route as it is written, and another in
// a reading that some target may have.
var ErrAmbiguous = errors.New("path is ambiguous: a target may read it as the path of another route")

// A Route is a pattern and the value that serves it. A Table keeps the pointer,
// so a Route must not be changed or copied.
type Route[V any] struct {
	Pattern Pattern
	Value   V
	Where   Place // the line that gave it, for conflicts
}

// A Given is a route as the program gave it.
type Given[V any] struct {
	*Route[V]
	Spelling string // the pattern as given, for conflicts; "" means Pattern's spelling
}

// A Table is an immutable set of routes with different patterns. A nil Table is
// empty. All methods may be called concurrently.
//
// An exact host beats a wildcard, which beats "*"; then the longest path prefix
// wins. If no path prefix of a host matches, the wildcard is tried, and then
// "*".
type Table[V any] struct {
	exact, wild trie[V] // by host, and by the rest of the host after "*."
	any         site[V] // the site of "*"
	size        int
}

// New returns the table of some routes, in any order. The error joins all
// conflicts: pairs of routes with the same pattern, with both spellings and
// places. New is faster than With for many routes.
func New[V any](given []Given[V]) (*Table[V], error) {
	c := conflicts[V]{given: given}
	sites := c.withPaths()
	exact, wild := builder[V]{}, builder[V]{skip: len("*.")}
	exact.sites = make([]site[V], 0, len(given))
	add := func(host string, s site[V]) {
		if strings.HasPrefix(host, "*.") {
			wild.sites = append(wild.sites, s)
		} else {
			exact.sites = append(exact.sites, s)
		}
	}
	for _, g := range given {
		exact.turn.Step()
		if g.Pattern.Path() != "" {
			continue
		}
		host := g.Pattern.Host()
		if s, ok := sites[host]; ok || host == "*" {
			c.put(sites, s, g.Route)
			continue
		}
		add(host, site[V]{route: g.Route})
	}
	t := &Table[V]{size: len(given), any: sites["*"]}
	delete(sites, "*")
	for host, s := range sites {
		add(host, s)
	}
	t.exact, t.wild = exact.trie(), wild.trie()
	c.pairs = slices.Concat(c.pairs, exact.twice, wild.twice)
	if err := c.err(); err != nil {
		return nil, err
	}
	return t, nil
}

// withPaths returns the sites of the routes with a path, by host.
func (c *conflicts[V]) withPaths() map[string]site[V] {
	sites := make(map[string]site[V])
	for _, g := range c.given {
		if g.Pattern.Path() != "" {
			c.put(sites, sites[g.Pattern.Host()], g.Route)
		}
	}
	return sites
}

// put adds a route to s, which is one of sites, or notes a conflict.
func (c *conflicts[V]) put(sites map[string]site[V], s site[V], r *Route[V]) {
	if old := s.get(r.Pattern.Path()); old != nil {
		c.pairs = append(c.pairs, [2]*Route[V]{old, r})
		return
	}
	sites[r.Pattern.Host()] = s.with(r.Pattern, r)
}

// With returns a table that also has r, instead of a route of the same pattern.
func (t *Table[V]) With(r *Route[V]) *Table[V] {
	c := t.clone()
	s := t.site(r.Pattern.Host())
	if s.get(r.Pattern.Path()) == nil {
		c.size++
	}
	c.set(r.Pattern.Host(), s.with(r.Pattern, r))
	return c
}

// Without returns a table without the route of pattern p, and whether there was
// one. Otherwise it returns t.
func (t *Table[V]) Without(p Pattern) (*Table[V], bool) {
	s := t.site(p.Host())
	if s.get(p.Path()) == nil {
		return t, false
	}
	c := t.clone()
	c.size--
	c.set(p.Host(), s.with(p, nil))
	return c, true
}

// Get returns the route of pattern p itself, and whether there is one.
func (t *Table[V]) Get(p Pattern) (*Route[V], bool) {
	r := t.site(p.Host()).get(p.Path())
	return r, r != nil
}

// Lookup returns the route that serves a canonical host and a path, or nil if
// there is none.
//
// The path is the escaped one that goes upstream; "" means "/", and "*" is the
// path of OPTIONS, which has no path prefix. Prefixes match its bytes. But
// servers read a path in different ways. Some decode escapes (once), with or
// without those of slashes; read a backslash as a slash; drop the parameters of
// segments (";x"), before or after that; merge slashes; or resolve dot
// segments. A proxy before the server may resolve only dot segments, and leave
// the rest to it. If any combination of these steps would choose another route,
// the error is ErrAmbiguous: the target of one route would be asked for a
// resource of another. A path of several KiB with many possible combinations
// gets that error too. There is no other error.
//
// Lookup does not compare readings that ignore case, decode escapes twice, end
// the path at a NUL ("%00"), or drop dots and spaces at the end of a segment.
func (t *Table[V]) Lookup(host, path string) (*Route[V], error) {
	if t == nil {
		return nil, nil
	}
	exact := t.exact.get(host)
	if exact.route != nil && exact.paths == nil {
		return exact.route, nil
	}
	c := candidates[V]{exact, t.wildcard(host), t.any}
	r := choose(&c, path)
	if c.hasPaths() && !isNormal(path) && !c.agree(path, r) {
		return nil, ErrAmbiguous
	}
	return r, nil
}

// Knows reports whether any route serves a canonical host, at least for some
// paths.
func (t *Table[V]) Knows(host string) bool {
	if t == nil {
		return false
	}
	return !t.exact.get(host).empty() || !t.wildcard(host).empty() || !t.any.empty()
}

// Host returns the route of a host pattern without a path, or nil, and whether
// the pattern has any route.
func (t *Table[V]) Host(pattern string) (*Route[V], bool) {
	s := t.site(pattern)
	return s.route, !s.empty()
}

// Hosts yields each host pattern that has a route once, in no particular order.
func (t *Table[V]) Hosts() iter.Seq[string] {
	return func(yield func(string) bool) {
		if t == nil {
			return
		}
		host := func(s site[V]) bool { return yield(s.host()) }
		_ = (t.any.empty() || yield("*")) && t.exact.each(host) && t.wild.each(host)
	}
}

// Differ yields the host patterns whose routes differ between two tables, each
// once, in no particular order. coming are the routes only in to, and leaving
// those only in from. It may also yield patterns whose routes are the same.
func Differ[V any](from, to *Table[V], coming, leaving []*Route[V]) iter.Seq[string] {
	return func(yields func(string) bool) {
		var turn yield.Turn
		// hosts of routes with a path, which may have several routes
		paths := make(map[string]struct{})
		for _, r := range coming {
			turn.Step()
			switch host := r.Pattern.Host(); {
			case r.Pattern.Path() != "":
				paths[host] = struct{}{}
			case !yields(host):
				return
			}
		}
		for _, r := range leaving {
			turn.Step()
			switch host := r.Pattern.Host(); {
			case r.Pattern.Path() != "":
				paths[host] = struct{}{}
			case to.site(host).route == nil && !yields(host): // else the new route is in coming
				return
			}
		}
		for host := range paths {
			turn.Step()
			// else the host was yielded above
			if from.site(host).route == to.site(host).route && !yields(host) {
				return
			}
		}
	}
}

// Only yields the routes that only a has, in no particular order.
func Only[V any](a, b *Table[V]) iter.Seq[*Route[V]] {
	return func(yield func(*Route[V]) bool) {
		for r := range a.Routes() {
			if o, ok := b.Get(r.Pattern); (!ok || o != r) && !yield(r) {
				return
			}
		}
	}
}

// All yields the routes in the order of their patterns, by host and then by
// path. It sorts them first.
func (t *Table[V]) All() iter.Seq[*Route[V]] {
	all := slices.AppendSeq(make([]*Route[V], 0, t.Len()), t.Routes())
	slices.SortFunc(all, func(a, b *Route[V]) int { return a.Pattern.compare(b.Pattern) })
	return slices.Values(all)
}

// Routes yields the routes in no particular order.
func (t *Table[V]) Routes() iter.Seq[*Route[V]] {
	return func(yield func(*Route[V]) bool) {
		if t == nil {
			return
		}
		each := func(s site[V]) bool { return s.each(yield) }
		_ = t.any.each(yield) && t.exact.each(each) && t.wild.each(each)
	}
}

// Len returns the number of routes.
func (t *Table[V]) Len() int {
	if t == nil {
		return 0
	}
	return t.size
}

// clone returns a table with the same routes, to change before it is published.
func (t *Table[V]) clone() *Table[V] {
	c := &Table[V]{}
	if t != nil {
		*c = *t
	}
	return c
}

// site returns the routes of a pattern's host.
func (t *Table[V]) site(host string) site[V] {
	base, wild := strings.CutPrefix(host, "*.")
	switch {
	case t == nil:
		return site[V]{}
	case host == "*":
		return t.any
	case wild:
		return t.wild.get(base)
	}
	return t.exact.get(host)
}

// set makes s the routes of a pattern's host.
func (t *Table[V]) set(host string, s site[V]) {
	if host == "*" {
		t.any = s
		return
	}
	trie, key := &t.exact, host
	if base, wild := strings.CutPrefix(host, "*."); wild {
		trie, key = &t.wild, base
	}
	if s.empty() {
		*trie = trie.without(key)
	} else {
		*trie = trie.with(key, s)
	}
}

// wildcard returns the routes of the wildcard that matches a host.
func (t *Table[V]) wildcard(host string) site[V] {
	i := strings.IndexByte(host, '.')
	if i < 0 || t.wild.empty() {
		return site[V]{}
	}
	return t.wild.get(host[i+1:])
}

// candidates are the sites that match a host, the best first: exact, wildcard,
// any.
type candidates[V any] [3]site[V]

// choose returns the route for a path in the first site that has one, or nil.
func choose[V any, S string | []byte](c *candidates[V], path S) *Route[V] {
	for _, s := range c {
		if r := match(s, path); r != nil {
			return r
		}
	}
	return nil
}

// Limits of the work for one path: if it has more than fewReadings readings,
// they must not have more than maxWork bytes together. A client must not decide
// what a request costs.
const (
	fewReadings = 4
	maxWork     = 64 << 10
)

// resolvers are the readings that a proxy before the server may apply to a
// path. The server then reads the result like any path. It does not see the dot
// segments that are resolved already, even if they were next to empty segments
// or parameters. Read-only.
var resolvers = [...]reading{dots, dots | decodes | backslashes}

// agree reports whether a path has route r in every reading of a server, also
// behind a proxy that has resolved its dot segments.
func (c *candidates[V]) agree(path string, r *Route[V]) bool {
	all := readings(path)
	if !c.agreeOn(path, all, r) {
		return false
	}
	if all&dots == 0 {
		return true
	}
	var buf [maxReading]byte
	for _, first := range resolvers {
		left := view(first.append(buf[:0], path))
		if left != path && !c.agreeOn(left, readings(left), r) {
			return false
		}
	}
	return true
}

// agreeOn reports whether a path has route r in all combinations of the
// readings.
func (c *candidates[V]) agreeOn(path string, all reading, r *Route[V]) bool {
	var buf [maxReading]byte
	if n := 1 << bits.OnesCount8(uint8(all)); n > fewReadings && n*len(path) > maxWork {
		return false
	}
	for read := all; ; read = (read - 1) & all {
		if read&(slashes|decodes) != slashes && choose(c, read.append(buf[:0], path)) != r {
			return false
		}
		if read == 0 {
			return true
		}
	}
}

// view returns b as a string that is valid as long as b is not changed.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

func (c *candidates[V]) hasPaths() bool {
	return c[0].paths != nil || c[1].paths != nil || c[2].paths != nil
}
