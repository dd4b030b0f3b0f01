// Package balance chooses a target from counters.
package balance

import "math/rand/v2"

// tries bounds the cheap draws of one candidate. With most candidates eligible
// the first one or two succeed; after that one pass over all of them decides.
const tries = 4

// LessBusyOfTwo draws two of the candidates 0..n-1 at random, each eligible
// one with the same chance, and returns the one with the lower load. Equal
// loads are decided by the draw. With one eligible candidate it returns that
// one, with none, or n <= 0, it returns -1. Candidates that are down or were
// tried before are kept out by eligible, which may see an index several times.
//
// Two at random instead of the least busy of all keeps callers that see the
// same old counters from all running to the same target.
//
// Hot path: no locks, no allocation. It may be called concurrently, as far as
// eligible and load may.
func LessBusyOfTwo(n int, eligible func(i int) bool, load func(i int) int64) int {
	first := draw(n, n, eligible)
	if first < 0 || n == 1 {
		return first
	}
	second := draw(n, first, eligible)
	if second < 0 || load(first) <= load(second) {
		return first
	}
	return second
}

// draw returns an eligible candidate other than except, each with the same
// chance, or -1 if there is none. An except of n excepts nobody.
func draw(n, except int, eligible func(int) bool) int {
	others := n
	if except < n {
		others--
	}
	if others <= 0 {
		return -1
	}
	for range tries {
		i := rand.IntN(others)
		if i >= except {
			i++
		}
		if eligible(i) {
			return i
		}
	}
	// Few are eligible. Stepping on to the next one would favour those behind
	// a gap, so that one target that is down doubled its neighbour's share.
	chosen, seen := -1, 0
	for i := range n {
		if i == except || !eligible(i) {
			continue
		}
		if seen++; rand.IntN(seen) == 0 {
			chosen = i
		}
	}
	return chosen
}
