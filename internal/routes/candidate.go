package routes

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"
	"strings"
)

// A Candidate is a route whose host pattern matches a host, and the reason why
// Lookup does not return it.
type Candidate[V any] struct {
	*Route[V]
	Why string // why Lookup does not return the route; "" if it does
}

// Candidates returns the routes whose host pattern matches a canonical host, in
// the order in which Lookup prefers them, each with the reason why Lookup does
// not return it for the path. It is for explanations, since it takes time and
// memory.
func (t *Table[V]) Candidates(host, path string) []Candidate[V] {
	if t == nil {
		return nil
	}
	chosen, err := t.Lookup(host, path)
	var all []Candidate[V]
	c := candidates[V]{t.exact.get(host), t.wildcard(host), t.any}
	for _, s := range c {
		var of []Candidate[V]
		s.each(func(r *Route[V]) bool {
			of = append(of, Candidate[V]{Route: r})
			return true
		})
		slices.SortFunc(of, func(a, b Candidate[V]) int {
			p, q := a.Pattern.Path(), b.Pattern.Path()
			return cmp.Or(cmp.Compare(len(q), len(p)), strings.Compare(p, q))
		})
		all = append(all, of...)
	}
	if err != nil {
		explainAmbiguous(all, &c, path)
		return all
	}
	for i := range all {
		if a := &all[i]; a.Route != chosen {
			a.Why = a.whyNot(chosen, path)
		}
	}
	return all
}

// whyNot returns why the candidate does not serve a path. chosen serves it, or
// nil if no route does.
func (c *Candidate[V]) whyNot(chosen *Route[V], path string) string {
	switch {
	case !c.Pattern.holds(path):
		return fmt.Sprintf("the path is not below %s", c.Pattern.Path())
	case chosen.Pattern.Host() == c.Pattern.Host():
		return fmt.Sprintf("%s wins: its path is longer", chosen.Pattern)
	case strings.HasPrefix(chosen.Pattern.Host(), "*."):
		return fmt.Sprintf("%s wins: a wildcard beats *", chosen.Pattern)
	}
	return fmt.Sprintf("%s wins: an exact host beats a wildcard and *", chosen.Pattern)
}

// explainAmbiguous sets the reason of each candidate for an ambiguous path.
func explainAmbiguous[V any](all []Candidate[V], c *candidates[V], path string) {
	written := choose(c, path)
	read, other := c.disagree(path, written)
	for i := range all {
		switch a := &all[i]; {
		case read == "":
			a.Why = "there are too many ways to read the path"
		case a.Route == written:
			a.Why = fmt.Sprintf("it matches the path as sent, but a target may read the path as %s", read)
		case a.Route == other:
			a.Why = fmt.Sprintf("it matches the path that a target may read, %s, but not the path as sent", read)
		default:
			a.Why = "the path is ambiguous"
		}
	}
}

// disagree returns a reading of path by which it has another route than r, and
// that route, which may be nil. It returns "" if there are too many ways to
// read it.
func (c *candidates[V]) disagree(path string, r *Route[V]) (string, *Route[V]) {
	all := readings(path)
	if n := 1 << bits.OnesCount8(uint8(all)); n > fewReadings && n*len(path) > maxWork {
		return "", nil
	}
	for read := all; read != 0; read = (read - 1) & all {
		if read&(slashes|decodes) == slashes {
			continue
		}
		if text := string(read.append(nil, path)); choose(c, text) != r {
			return text, choose(c, text)
		}
	}
	return "", nil
}

// holds reports whether the pattern matches a path.
func (p Pattern) holds(path string) bool {
	prefix := p.Path()
	return prefix == "" || strings.HasPrefix(path, "/") && strings.HasPrefix(path+"/", prefix)
}
