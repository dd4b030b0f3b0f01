package balance

import (
	"math"
	"math/rand/v2"
)

// first takes the first eligible candidate.
func (s *Set) first(now instant, tried []int) int {
	for i := range s.live {
		if s.live[i].eligible(now, tried) > 0 {
			return i
		}
	}
	return -1
}

// least takes the least loaded candidate, and breaks ties at random.
func (s *Set) least(now instant, tried []int) int {
	r := rand.Uint64()
	if i := s.column(r); s.live[i].node.InFlight() == 0 && s.takes(i, now, tried) {
		return i // no candidate has less
	}
	if now < never { // otherwise candidates that are closed count too
		i := s.lowest(r)
		e := &s.live[i]
		if now >= instant(e.node.ready.Load()) && e.eligible(now, tried) > 0 {
			return i
		}
	}
	return s.lowestEligible(r, now, tried)
}

// lowest returns the candidate with the lowest load of all that are not closed,
// eligible or not. It has no branches that are hard to predict, and reads
// little memory, so it is much faster than lowestEligible.
func (s *Set) lowest(r uint64) int {
	low, next := uint64(math.MaxUint64), 0
	nodes := s.nodes
	costs, ranks := s.costs[:len(nodes)], s.ranks[:len(nodes)]
	for i := 0; i < len(nodes); {
		n, cost, rank := nodes[i], costs[i], ranks[i]
		i++
		if load := uint64(n.count.Load())*cost | rank*r>>(64-rankBits); load < low {
			low, next = load, i
		}
	}
	return max(0, next-1)
}

// lowestEligible is lowest among the eligible candidates, or -1.
func (s *Set) lowestEligible(r uint64, now instant, tried []int) int {
	low, lowest := uint64(math.MaxUint64), -1
	for i := range s.live {
		e := &s.live[i]
		if e.eligible(now, tried) == 0 {
			continue
		}
		if load := e.load(now)<<rankBits | s.ranks[i]*r>>(64-rankBits); lowest < 0 || load < low {
			low, lowest = load, i
		}
	}
	return lowest
}

// rankBits is the number of low bits of a load that break ties. They come from
// the product of a random number, the same for all candidates in one pick, and
// the candidate's rank.
const rankBits = 17

// newScan fills in the tables of lowest.
func (s *Set) newScan() {
	for i, e := range s.live {
		s.costs = append(s.costs, e.cost<<rankBits)
		s.ranks = append(s.ranks, mix(uint64(i)+golden))
	}
}
