package balance

import (
	"cmp"
	"math"
	"slices"
	"sync/atomic"
	"time"
)

// slots is the number of slots for keys. It does not depend on the candidates,
// since that would move keys. A candidate's number of slots differs from its
// weight by about the square root of the slots: 5 % for one of a hundred.
const (
	slotBits = 15
	slots    = 1 << slotBits
)

// walk limits how many slots placed looks at before it tries the candidates in
// turn. It is only reached when about 1 % of the weight or less is eligible.
const walk = 256

// placed takes the candidate of the key's slot, or else of the next slot, and
// so on.
func (s *Set) placed(now instant, key uint64, tried []int) int {
	var all load
	spare := -1 // the first candidate that is eligible but has its share already
	slot := key * golden >> (64 - slotBits)
	for range walk {
		i := int(s.slots[slot%slots])
		slot++
		e := &s.live[i]
		w := e.eligible(now, tried)
		if w == 0 {
			continue
		}
		n := uint64(e.node.InFlight())
		if n == 0 || s.bound.leaves(n, w, now) {
			return i
		}
		if all.weight == 0 {
			all = s.load(now)
		}
		if all.leaves(n, w) {
			return i
		}
		if spare < 0 {
			spare = i
		}
	}
	if spare >= 0 {
		return spare
	}
	begin := int(slot % uint64(len(s.live)))
	for i := range s.live {
		if i = (begin + i) % len(s.live); s.live[i].eligible(now, tried) > 0 {
			return i
		}
	}
	return -1
}

// A load has two sums over the candidates in service: of exchanges in flight,
// and of weights.
type load struct{ inFlight, weight uint64 }

func (s *Set) load(now instant) load {
	all := load{weight: s.weight}
	for i, n := range s.nodes {
		if now < instant(n.ready.Load()) && !n.inService(now) {
			all.weight -= s.live[i].weight
			continue
		}
		all.inFlight += uint64(n.InFlight())
	}
	s.bound.set(all, now)
	return all
}

// leaves reports whether a candidate with n exchanges in flight and weight w,
// in parts of a whole, may have one more: n+1 must not be above 5/4 of its
// share of all exchanges, the new one included, rounded up.
func (l load) leaves(n, w uint64) bool {
	return 4*n*l.weight*whole < 5*(l.inFlight+1)*w
}

// A bound is the last load as a number per weight. It saves most picks from
// reading all counters: for a moment it is good enough to allow a candidate one
// more. A refusal requires a new load.
type bound struct {
	asOf atomic.Uint64
	each atomic.Uint64 // in parts of 1<<boundBits
}

const (
	boundBits = 20
	moment    = instant(100 * time.Microsecond)
)

func (b *bound) set(all load, now instant) {
	if all.weight > 0 {
		b.each.Store((all.inFlight + 1) << boundBits * 5 / (4 * all.weight))
		b.asOf.Store(uint64(now))
	}
}

func (b *bound) leaves(n, w uint64, now instant) bool {
	return now-instant(b.asOf.Load()) < moment && now < never && n<<boundBits*whole < b.each.Load()*w
}

// newSlots gives each slot to a candidate, by a race: each candidate throws
// darts at the slots, as many per unit of time as its weight, and gets the
// slots that it hits first. Only its name decides where and when its darts hit.
//
// So candidates have slots in proportion to weight, however large the weights
// are. A new candidate takes its share from the others and moves no slot
// between them, and a removed one gives back exactly its slots. A ring with a
// number of points per unit of weight has the first and last property only
// while that number never changes.
func newSlots(names []string, weights []uint64) *[slots]uint16 {
	var sum uint64
	racers := make([]racer, 0, len(names))
	for i, name := range names[:min(len(names), 1<<16)] { // the rest would get hardly any slot
		racers = append(racers, racer{who: uint16(i), seed: KeyString(name), step: 1 << stepBits / weights[i]})
		sum += weights[i]
	}
	// When two hit a slot at the same time, the first by name gets it.
	slices.SortFunc(racers, func(a, b racer) int { return cmp.Compare(names[a.who], names[b.who]) })
	owner := new([slots]uint16)
	hit := make([]uint64, slots) // time of the earliest hit
	for i := range hit {
		hit[i] = math.MaxUint64
	}
	open, round := slots, max(1, slots<<stepBits/sum) // a dart for each slot, on average
	for end := round; open > 0; end += round {
		for i := range racers {
			r := &racers[i]
			for {
				slot, at := r.dart()
				if at >= end {
					break
				}
				if hit[slot] == math.MaxUint64 {
					open--
				}
				if at < hit[slot] {
					hit[slot], owner[slot] = at, r.who
				}
				r.darts++
			}
		}
	}
	return owner
}

// A racer is a candidate in the race for slots.
type racer struct {
	who   uint16
	seed  uint64
	step  uint64 // time between darts
	darts uint64 // darts thrown
}

// stepBits scales the time between darts, a fraction, to an integer.
const stepBits = 40

// dart returns the slot that the next dart hits, and the time, which is
// anywhere within the dart's step.
func (r *racer) dart() (slot, at uint64) {
	h := mix(r.seed + r.darts*golden)
	return h >> (64 - slotBits), r.darts*r.step + (h&0xffff)*r.step>>16
}
