package routes

import (
	"errors"
	"fmt"
	"slices"
)

// conflicts collects pairs of routes with the same pattern.
type conflicts[V any] struct {
	given []Given[V]
	pairs [][2]*Route[V]
}

// err joins all conflicts in the order of the given routes, or returns nil.
func (c *conflicts[V]) err() error {
	if len(c.pairs) == 0 {
		return nil
	}
	at := make(map[*Route[V]][]int) // positions of each route, which may be given twice
	for i, g := range c.given {
		at[g.Route] = append(at[g.Route], i)
	}
	named := make(map[*Route[V]]int)
	var found [][2]int
	for _, pair := range c.pairs {
		if pair[0] == pair[1] { // the same route, given more than once
			named[pair[1]]++
		}
		found = append(found, [2]int{at[pair[1]][named[pair[1]]], at[pair[0]][0]})
	}
	slices.SortFunc(found, func(a, b [2]int) int { return slices.Compare(a[:], b[:]) })
	var errs []error
	for _, f := range found {
		later, first := &c.given[f[0]], &c.given[f[1]]
		errs = append(errs, fmt.Errorf("pattern %s conflicts with %s: both mean %q", later.name(), first.name(), first.Pattern))
	}
	return errors.Join(errs...)
}

// name returns the spelling of a given route and its place.
func (g *Given[V]) name() string {
	spelling := g.Spelling
	if spelling == "" {
		spelling = g.Pattern.String()
	}
	if g.Where == 0 {
		return fmt.Sprintf("%q", spelling)
	}
	return fmt.Sprintf("%q (%s)", spelling, g.Where)
}
