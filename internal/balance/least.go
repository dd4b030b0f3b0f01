package balance

import (
	"math"
	"math/rand/v2"
)

// first takes the first that is eligible.
func (s *Set) first(now instant, tried []int) int {
	for i := range s.live {
		if s.live[i].eligible(now, tried) > 0 {
			return i
		}
	}
	return -1
}

// least takes one of the least loaded, those who tie at random.
func (s *Set) least(now instant, tried []int) int {
	r := rand.Uint64()
	if i := s.column(r); s.live[i].node.InFlight() == 0 && s.takes(i, now, tried) {
		return i // nobody has less
	}
	if now < never { // else those that are closed count too
		i := s.lowest(r)
		e := &s.live[i]
		if now >= instant(e.node.ready.Load()) && e.eligible(now, tried) > 0 {
			return i
		}
	}
	return s.lowestEligible(r, now, tried)
}

// lowest returns who has the lowest load of all that are not closed, eligible
// or not. It has no jumps that are hard to predict, and reads only what it
// must: that makes it much faster than lowestEligible.
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

// lowestEligible is lowest of the eligible, or -1.
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

// rankBits is how much of a load is left for what breaks ties: the product of a
// random number, the same for all in one pick, and one of each candidate's own.
const rankBits = 17

// newScan lays out what lowest reads.
func (s *Set) newScan() {
	for i, e := range s.live {
		s.costs = append(s.costs, e.cost<<rankBits)
		s.ranks = append(s.ranks, mix(uint64(i)+golden))
	}
}
