package routes

import (
	"iter"
	"slices"

	"github.com/hostproxy/hostproxy/internal/yield"
)

// A Change is what makes one table of another.
type Change[V any] struct {
	From, To        *Table[V]
	Coming, Leaving []*Route[V] // that only To has, and that only From has
	// of From, whose patterns those of Coming take; nil for none, and beyond
	// the end
	taken []*Route[V]
}

// NewChange returns the change that makes the given routes, which are new, the
// only ones. A route of from stays as it is if same says so of it and the given
// one of its pattern. The error is that of New.
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
	if from.Len() > len(given)-len(c.Coming) { // more than those that stay
		c.Leaving = slices.Collect(Only(from, c.To))
	}
	return c, nil
}

// Hosts yields the host patterns whose routes may differ, each once and in no
// order.
func (c *Change[V]) Hosts() iter.Seq[string] { return Differ(c.From, c.To, c.Coming, c.Leaving) }

// Came yields each route that comes, with the one whose pattern it takes, nil
// if there is none.
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

// Left yields each route that leaves, with the one that takes its pattern, nil
// if there is none.
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

// Patterns returns the patterns that come and that go; and those whose routes
// change, apart as alike says whether the old and the new route are alike. Each
// list is sorted.
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
