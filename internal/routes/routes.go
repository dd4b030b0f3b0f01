// Package routes finds the route of a request by its host and its path.
//
// A Table is immutable: it is built once or changed by making another, which shares what did not change, so that one
// atomic pointer to it is all that a request needs.
package routes

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
)

// Hot path: Lookup and Knows take no lock and allocate nothing, with one route or a million.

// maxNormal bounds the normal forms of paths that need no allocation.
const maxNormal = 512

// ErrAmbiguous says that a path could choose one route as it stands, and another as an upstream may understand it.
var ErrAmbiguous = errors.New("path is ambiguous: its plain form belongs to another route")

// A Route is a pattern and what serves it.
type Route[V any] struct {
	Pattern  Pattern
	Value    V
	Spelling string // the pattern as it was given, for conflicts; "" means as Pattern spells it
	Where    string // the file and line that gave it, for conflicts; "" means unknown
}

// A Table is an immutable set of routes with different patterns. A nil Table is empty. All methods may be called
// concurrently.
//
// An exact host beats a wildcard, which beats "*"; then the longest path prefix wins. A host whose path prefixes do not
// match a request leaves it to the wildcard, and that to "*".
type Table[V any] struct {
	exact, wild trie[site[V]] // by host, and by what follows the star and the dot
	any         site[V]       // of "*"
	size        int
}

// New returns the table of some routes, in any order. The error joins all conflicts: pairs of routes with the same
// pattern, each named with both spellings and places. New is faster than With for many routes.
func New[V any](routes []Route[V]) (*Table[V], error) {
	var conflicts []error
	t := &Table[V]{size: len(routes)}
	exact, wild := map[string]site[V]{}, map[string]site[V]{}
	for _, r := range routes {
		sites, key := exact, r.Pattern.Host
		if base, ok := strings.CutPrefix(key, "*."); ok {
			sites, key = wild, base
		}
		old := sites[key].get(r.Pattern.Path)
		if old != nil {
			conflicts = append(conflicts, conflict(old, &r))
			continue
		}
		sites[key] = sites[key].with(r.Pattern.Path, &r)
	}
	if conflicts != nil {
		return nil, errors.Join(conflicts...)
	}
	t.any = exact["*"]
	delete(exact, "*")
	t.exact, t.wild = newTrie(exact), newTrie(wild)
	return t, nil
}

// With returns a table that also has r, in place of the route of the same pattern if there is one.
func (t *Table[V]) With(r Route[V]) *Table[V] {
	c := t.clone()
	s := t.site(r.Pattern.Host)
	if s.get(r.Pattern.Path) == nil {
		c.size++
	}
	c.set(r.Pattern.Host, s.with(r.Pattern.Path, &r))
	return c
}

// Without returns a table without the route of pattern p, and whether there was one. If not, it is the table itself.
func (t *Table[V]) Without(p Pattern) (*Table[V], bool) {
	s := t.site(p.Host)
	if s.get(p.Path) == nil {
		return t, false
	}
	c := t.clone()
	c.size--
	c.set(p.Host, s.with(p.Path, nil))
	return c, true
}

// Get returns the route of pattern p itself, and whether there is one.
func (t *Table[V]) Get(p Pattern) (*Route[V], bool) {
	r := t.site(p.Host).get(p.Path)
	return r, r != nil
}

// Lookup returns the route that serves a canonical host and a path, nil if there is none.
//
// The path is the escaped one that goes upstream; "" means "/", and "*" is the one of OPTIONS, which belongs to no path
// prefix. Prefixes match its bytes. If its plain form (escapes decoded, backslashes taken for slashes, slashes merged,
// dot segments resolved) would choose another route, the error is ErrAmbiguous: whoever serves the one route would be
// asked for what belongs to the other. There is no other error.
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
	if !c.hasPaths() || isNormal(path) {
		return r, nil
	}
	var buf [maxNormal]byte
	if choose(&c, appendNormal(buf[:0], path)) != r {
		return nil, ErrAmbiguous
	}
	return r, nil
}

// Knows reports whether any route serves a canonical host, with some path at least.
func (t *Table[V]) Knows(host string) bool {
	if t == nil {
		return false
	}
	return !t.exact.get(host).empty() || !t.wildcard(host).empty() || !t.any.empty()
}

// HasHost reports whether a pattern of exactly that host, or wildcard, has a route.
func (t *Table[V]) HasHost(host string) bool { return !t.site(host).empty() }

// All yields the routes in the order of their patterns, by host and then by path. They must not be changed.
func (t *Table[V]) All() iter.Seq[*Route[V]] {
	return slices.Values(t.sorted())
}

// Len returns the number of routes.
func (t *Table[V]) Len() int {
	if t == nil {
		return 0
	}
	return t.size
}

// clone returns a table with the same routes, to be changed before anyone sees it.
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

func (t *Table[V]) sorted() []*Route[V] {
	all := make([]*Route[V], 0, t.Len())
	if t == nil {
		return all
	}
	add := func(r *Route[V]) { all = append(all, r) }
	each := func(_ string, s site[V]) { s.each(add) }
	t.exact.each(each)
	t.wild.each(each)
	t.any.each(add)
	slices.SortFunc(all, func(a, b *Route[V]) int { return a.Pattern.compare(b.Pattern) })
	return all
}

// candidates are the sites that match a host, best first: exact, wildcard, any.
type candidates[V any] [3]site[V]

// choose returns the route of the best site that has one for a path, nil if none has.
func choose[V any, S string | []byte](c *candidates[V], path S) *Route[V] {
	for _, s := range c {
		if r := match(s, path); r != nil {
			return r
		}
	}
	return nil
}

func (c *candidates[V]) hasPaths() bool {
	return c[0].paths != nil || c[1].paths != nil || c[2].paths != nil
}

// conflict says that two routes have one pattern.
func conflict[V any](a, b *Route[V]) error {
	return fmt.Errorf("pattern %s conflicts with %s: both mean %q", b.name(), a.name(), b.Pattern)
}

// name returns how and where a route was given.
func (r *Route[V]) name() string {
	spelling, where := r.Spelling, r.Where
	if spelling == "" {
		spelling = r.Pattern.String()
	}
	if where == "" {
		return fmt.Sprintf("%q", spelling)
	}
	return fmt.Sprintf("%q (%s)", spelling, where)
}
