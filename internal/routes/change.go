package routes

import (
	"iter"
	"slices"

	"github.com/hostproxy/hostproxy/internal/yield"
)

// A Change is the difference between two tables.
type Change[V any] struct {
	From, To        *Table[V]
	Coming, Leaving []*Route[V] // routes only in To, and only in From
	// the routes of From whose patterns Coming takes, by position; nil for a
	// new pattern, as are positions past the end
	taken []*Route[V]
}

// NewChange returns the change after which only the given routes, which are
// new, exist. If same returns true for a route of from and the given route of
// its pattern, the old route stays in its place. The error is that of New.
func NewChange[V any](from *Table[V], given []Given[V], same func(old, given *Route[V]) bool) (*Change[V], error) {
	c := &Change[V]{From: from, Coming: make([]*Route[V], 0, len(given))}
	var turn yield.Turn
	for i, n := range given {
		turn.Step()
		o, ok := from.Get(n.Pattern)
		switch {
		case ok && same(o, n.Route):
			given[i].Route = o
			continue
		case ok && c.taken == nil:
			c.taken = make([]*Route[V], 0, len(given))
		}
		if ok {
			c.taken = append(c.taken[:len(c.Coming)], o)
		}
		c.Coming = append(c.Coming, n.Route)
	}
	var err error
	if c.To, err = New(given); err != nil {
		return nil, err
	}
	if from.Len() > len(given)-len(c.Coming) { // from has more routes than stay
		c.Leaving = slices.Collect(Only(from, c.To))
	}
	return c, nil
}

// Hosts yields the host patterns whose routes may differ, each once and in no
// particular order.
func (c *Change[V]) Hosts() iter.Seq[string] { return Differ(c.From, c.To, c.Coming, c.Leaving) }

// Came yields each route that only To has, with the old route of its pattern,
// or nil.
func (c *Change[V]) Came() iter.Seq2[*Route[V], *Route[V]] {
	return func(yields func(*Route[V], *Route[V]) bool) {
		var turn yield.Turn
		for i, r := range c.Coming {
			turn.Step()
			var old *Route[V]
			if i < len(c.taken) {
				old = c.taken[i]
			}
			if !yields(r, old) {
				return
			}
		}
	}
}

// Left yields each route that only From has, with the new route of its pattern,
// or nil.
func (c *Change[V]) Left() iter.Seq2[*Route[V], *Route[V]] {
	return func(yields func(*Route[V], *Route[V]) bool) {
		var turn yield.Turn
		for _, r := range c.Leaving {
			turn.Step()
			other, _ := c.To.Get(r.Pattern)
			if !yields(r, other) {
				return
			}
		}
	}
}

// Patterns returns the patterns of routes that were added, that were removed,
// and that have changed. A changed route is similar if alike returns true for
// the old and the new one; otherwise it is swapped. Each list is sorted.
func (c *Change[V]) Patterns(alike func(old, new *Route[V]) bool) (added, removed, similar, swapped []string) {
	for r, old := range c.Came() {
		to := &swapped
		switch {
		case old == nil:
			to = &added
		case alike(old, r):
			to = &similar
		}
		*to = append(*to, r.Pattern.String())
	}
	for r, next := range c.Left() {
		if next == nil {
			removed = append(removed, r.Pattern.String())
		}
	}
	for _, all := range [][]string{added, removed, similar, swapped} {
		slices.Sort(all)
	}
	return added, removed, similar, swapped
}
