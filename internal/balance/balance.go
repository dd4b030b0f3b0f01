// Package balance chooses a target from counters.
//
// A [Node] holds what is known of one target and lives as long as the target. A
// [Set] is the immutable list of candidates that one policy chooses from, and
// is built anew whenever the list changes.
//
//   - balance.go, node.go: sets and nodes
//   - random.go, roundrobin.go, least.go, hash.go: the policies
//   - foresee.go: what would be chosen, without a choice
//   - key.go: hashes of keys
package balance

import (
	"slices"
	"sync/atomic"
	"time"
)

// A Policy says which of the eligible candidates an exchange goes to. An
// unknown policy is LessBusy.
//
// What a candidate with twice the weight gets is twice the exchanges, or under
// LessBusy and Least twice the exchanges at once. While a node rises after
// [Node.Resume], its weight counts only in part.
type Policy uint8

const (
	// LessBusy draws two at random in proportion to weight and takes the less
	// loaded one: fewer exchanges in flight for its weight. Two instead of all
	// keeps those who see the same old counters from all running to the same
	// target.
	LessBusy Policy = iota

	// RoundRobin lets candidates take turns. Turns of the same candidate are
	// spread out: over a cycle each has its exact share, and in any run of
	// turns less than two more or less. Turns of those that are not eligible
	// are left out.
	RoundRobin

	// Random draws one at random in proportion to weight.
	Random

	// Least takes the least loaded of all. Ties are broken by a fair draw. It
	// reads the counters of all candidates.
	Least

	// First takes the first eligible one in the order of the list, whatever its
	// weight: the others are its spares. There is no slow start: a spare that
	// takes over takes all.
	First

	// Hash takes the same candidate for the same key, in every process that has
	// candidates of the same names and weights, in whatever order. A change of
	// the list moves only the keys that have to move: 1/n of them for one of n.
	//
	// No candidate is given more than 1.25 times its share of what is in
	// flight, rounded up: a key beyond it goes to the next candidate on the
	// key's way, as it does while its own is not eligible. While a node rises
	// that bound rises with it, and so its keys come back as far as they fit.
	Hash
)

// A Candidate is a node in a set.
type Candidate struct {
	// Node is what is known of the target. Nil means a target that is always in
	// service and always idle.
	Node *Node

	// Name is what Hash places the candidate by. Names are distinct, and the
	// same in every process.
	Name string

	// Weight is the candidate's share relative to the others'. Zero or less
	// means no new exchanges. Only proportions count, and they may be rounded
	// when some weights are over 10,000 times others.
	Weight int
}

// A Set is an immutable list of candidates, with what its policy precomputes.
// All methods may be called concurrently.
//
// Hot path: picks take no lock and allocate nothing.
type Set struct {
	policy  Policy
	size    int            // of the list that the set was made of
	live    []entry        // those with a weight
	nodes   []*Node        // of live, close together for those who read all
	weight  uint64         // of all of live
	columns []column       // to draw by weight; nil when all weights are the same
	turns   []int32        // for RoundRobin: one cycle, as positions in live
	costs   []uint64       // for Least: of live, shifted
	ranks   []uint64       // for Least: what breaks ties
	slots   *[slots]uint16 // for Hash: where keys begin, as positions in live

	_     [cacheLine]byte // what picks write is apart from what they only read
	turn  atomic.Uint64   // of RoundRobin
	bound bound           // of Hash
	_     [cacheLine]byte
}

// An entry is a candidate that may be given exchanges.
type entry struct {
	node   *Node
	weight uint64
	cost   uint64 // of one exchange in flight: in inverse proportion to weight
	index  int    // in the list that the set was made of
}

// Bounds that make loads fit in 64 bits: count times cost, with what breaks
// ties or times whole.
const (
	maxCost   = 1 << 20
	maxWeight = 1 << 14
	maxSum    = 1 << 24 // of weights
)

// NewSet returns the set of cs under p. It keeps the nodes, but not cs.
// RoundRobin and Hash compute their tables here, which takes up to a few
// milliseconds.
func NewSet(p Policy, cs []Candidate) *Set {
	s := &Set{policy: p, size: len(cs)}
	names := make([]string, 0, len(cs))
	for i, c := range cs {
		if c.Weight <= 0 {
			continue
		}
		if c.Node == nil {
			c.Node = new(Node)
		}
		s.live = append(s.live, entry{node: c.Node, weight: uint64(c.Weight), index: i})
		names = append(names, c.Name)
	}
	if len(s.live) == 0 {
		return s
	}
	s.scaleWeights()
	if slices.ContainsFunc(s.live, func(e entry) bool { return e.weight != s.live[0].weight }) {
		s.columns = newColumns(s.weights())
	}
	switch p {
	case RoundRobin:
		s.newTurns()
	case Least:
		s.newScan()
	case Hash:
		s.slots = newSlots(names, s.weights())
	}
	return s
}

// scaleWeights makes the weights as small as they can be in the same
// proportions, and smaller if they do not fit. It fills in what follows from
// them.
func (s *Set) scaleWeights() {
	var common, largest uint64
	for _, e := range s.live {
		common, largest = gcd(e.weight, common), max(largest, e.weight)
	}
	if most := min(maxWeight, max(1, maxSum/uint64(len(s.live)))); largest/common > most {
		common = largest/most + 1
	}
	multiple := uint64(1) // of all weights: with it costs are exact, and so are ties
	for i := range s.live {
		w := max(1, s.live[i].weight/common)
		s.live[i].weight = w
		multiple = min(maxCost, multiple*(w/gcd(multiple, w)))
	}
	for i := range s.live {
		e := &s.live[i]
		e.cost = (multiple + e.weight/2) / e.weight
		s.nodes = append(s.nodes, e.node)
		s.weight += e.weight
	}
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

func (s *Set) weights() []uint64 {
	weights := make([]uint64, len(s.live))
	for i, e := range s.live {
		weights[i] = e.weight
	}
	return weights
}

// Len returns the number of candidates, those without weight included.
func (s *Set) Len() int { return s.size }

// Pick returns the index of the candidate for an exchange, or -1 when none is
// eligible: in service at now, below its limit, of a weight above 0, and not in
// tried. The key is used by Hash alone, see [Key].
//
// Pick counts nothing in: that is for the caller, with [Node.Begin], and until
// then others may pick the same candidate beyond its limit.
func (s *Set) Pick(now time.Time, key uint64, tried []int) int {
	return s.pick(at(now), key, tried)
}

// PickAny is Pick that takes suspended candidates too, with their whole weight:
// for when all are down, and trying is better than refusing.
func (s *Set) PickAny(_ time.Time, key uint64, tried []int) int {
	return s.pick(never, key, tried) // by then everybody is back
}

func (s *Set) pick(now instant, key uint64, tried []int) int {
	var i int
	switch {
	case len(s.live) <= 1:
		i = s.first(now, tried)
	case s.policy == RoundRobin:
		i = s.next(now, tried)
	case s.policy == Random:
		i = s.draw(now, tried, -1)
	case s.policy == Least:
		i = s.least(now, tried)
	case s.policy == First:
		i = s.first(now, tried)
	case s.policy == Hash:
		i = s.placed(now, key, tried)
	default:
		i = s.lessBusy(now, tried)
	}
	if i < 0 {
		return -1
	}
	return s.live[i].index
}

// Saturated reports whether there is a candidate that only its limit keeps from
// being picked: waiting may help.
func (s *Set) Saturated(now time.Time, tried []int) bool {
	t := at(now)
	for i := range s.live {
		e := &s.live[i]
		if e.node.full() && e.node.share(t) > 0 && !e.in(tried) {
			return true
		}
	}
	return false
}

// Serves reports whether there is a candidate in service that is not in tried,
// at its limit or not. A pick that found none can only have been kept from it
// by its limit, even if there is room by now.
func (s *Set) Serves(now time.Time, tried []int) bool {
	t := at(now)
	for i := range s.live {
		if e := &s.live[i]; e.node.share(t) > 0 && !e.in(tried) {
			return true
		}
	}
	return false
}

// eligible returns the weight of e, in parts of a [whole], that counts at now:
// 0 when e cannot be picked.
func (e *entry) eligible(now instant, tried []int) uint64 {
	if e.node.full() || len(tried) > 0 && e.in(tried) {
		return 0
	}
	return e.weight * e.node.share(now)
}

// load returns what e has in flight for the weight that counts at now.
func (e *entry) load(now instant) uint64 {
	load := uint64(e.node.InFlight()) * e.cost
	if now >= instant(e.node.ready.Load()) {
		return load
	}
	return load * whole / max(1, e.node.rising(now))
}

func (e *entry) in(tried []int) bool { return slices.Contains(tried, e.index) }
