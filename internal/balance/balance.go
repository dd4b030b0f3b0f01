// Package balance chooses a target from counters.
//
// A [Node] holds the counters of one target and lives as long as the target. A
// [Set] is the immutable list of candidates from which one policy chooses. A
// new Set is built when the list changes.
//
//   - balance.go, node.go: sets and nodes
//   - random.go, roundrobin.go, least.go, hash.go: the policies
//   - foresee.go: which candidate would be chosen, without choosing it
//   - key.go: hashes of keys
package balance

import (
	"slices"
	"sync/atomic"
	"time"
)

// A Policy says which of the eligible candidates gets an exchange. An unknown
// policy means LessBusy.
//
// A candidate with twice the weight gets twice the exchanges, or under LessBusy
// and Least twice the exchanges in flight. While a node rises after
// [Node.Resume], only a part of its weight counts.
type Policy uint8

const (
	// LessBusy draws two candidates at random in proportion to weight and takes
	// the less loaded one, which has fewer exchanges in flight for its weight.
	// It looks at two instead of all, so that picks which see the same old
	// counters do not all choose the same target.
	LessBusy Policy = iota

	// RoundRobin lets candidates take turns. The turns of a candidate are
	// spread out: over a cycle it has its exact share, and in any run of turns
	// less than two more or less. Turns of ineligible candidates are skipped.
	RoundRobin

	// Random draws a candidate at random in proportion to weight.
	Random

	// Least takes the least loaded candidate, and breaks ties at random. It
	// reads the counters of all candidates.
	Least

	// First takes the first eligible candidate in the order of the list,
	// regardless of weight: the others are spares. There is no slow start: a
	// spare that takes over gets everything.
	First

	// Hash takes the same candidate for the same key, in every process whose
	// candidates have the same names and weights, in any order. A change of the
	// list moves only the keys that have to move: 1/n of them for one of n
	// candidates.
	//
	// No candidate gets more than 1.25 times its share of the exchanges in
	// flight, rounded up. An exchange beyond that goes to the next candidate on
	// its key's way, as it does while the key's own candidate is not eligible.
	// While a node rises its limit rises too, so its keys come back step by
	// step.
	Hash
)

// A Candidate is a node in a set.
type Candidate struct {
	// Node has the counters of the target. Nil means a target that is always in
	// service and always idle.
	Node *Node

	// Name decides which keys Hash gives to the candidate. Names are distinct,
	// and the same in every process.
	Name string

	// Weight is the candidate's share relative to the others. Zero or less
	// means no new exchanges. Only proportions count. They may be rounded if
	// some weights are over 10,000 times others.
	Weight int
}

// A Set is an immutable list of candidates, with the tables of its policy. All
// methods may be called concurrently.
//
// Hot path: picks take no lock and allocate nothing.
type Set struct {
	policy  Policy
	size    int            // length of the list given to NewSet
	live    []entry        // the candidates with a weight
	nodes   []*Node        // of live; close together in memory for policies that read all
	weight  uint64         // the sum over live
	columns []column       // for draws by weight; nil if all weights are the same
	turns   []int32        // for RoundRobin: one cycle, as positions in live
	costs   []uint64       // for Least: costs of live, shifted
	ranks   []uint64       // for Least: factors that break ties
	slots   *[slots]uint16 // for Hash: the slots of keys, as positions in live

	_     [cacheLine]byte // keeps what picks write apart from what they only read
	turn  atomic.Uint64   // of RoundRobin
	bound bound           // of Hash
	_     [cacheLine]byte
}

// An entry is a candidate that may get exchanges.
type entry struct {
	node   *Node
	weight uint64
	cost   uint64 // load of one exchange in flight, in inverse proportion to weight
	index  int    // in the list given to NewSet
}

// Limits that make loads fit in 64 bits: count times cost, with tie-breaking
// bits or times whole.
const (
	maxCost   = 1 << 20
	maxWeight = 1 << 14
	maxSum    = 1 << 24 // of all weights
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

// scaleWeights makes the weights as small as possible in the same proportions,
// and rounds them if they still do not fit. It fills in the fields computed
// from them.
func (s *Set) scaleWeights() {
	var common, largest uint64
	for _, e := range s.live {
		common, largest = gcd(e.weight, common), max(largest, e.weight)
	}
	if most := min(maxWeight, max(1, maxSum/uint64(len(s.live)))); largest/common > most {
		common = largest/most + 1
	}
	multiple := uint64(1) // common multiple of all weights: it makes costs, and so ties, exact
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
// eligible: in service at now, below its limit, with a weight above 0, and not
// in tried. Only Hash uses the key, see [Key].
//
// Pick counts nothing in: the caller does that, with [Node.Begin]. Until then
// other calls may pick the same candidate beyond its limit.
func (s *Set) Pick(now time.Time, key uint64, tried []int) int {
	return s.pick(at(now), key, tried)
}

// PickAny is Pick that takes suspended candidates too, with their whole weight.
// It is for the case that all are down, and trying is better than refusing.
func (s *Set) PickAny(_ time.Time, key uint64, tried []int) int {
	return s.pick(never, key, tried) // at never, no node is suspended
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

// Saturated reports whether a candidate cannot be picked only because of its
// limit, so that waiting may help.
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

// Serves reports whether a candidate that is not in tried is in service,
// regardless of its limit. If a pick returned -1 before, only the limit can be
// the reason, even if there is room by now.
func (s *Set) Serves(now time.Time, tried []int) bool {
	t := at(now)
	for i := range s.live {
		if e := &s.live[i]; e.node.share(t) > 0 && !e.in(tried) {
			return true
		}
	}
	return false
}

// eligible returns the weight of e that counts at now, in parts of a [whole],
// or 0 if e cannot be picked.
func (e *entry) eligible(now instant, tried []int) uint64 {
	if e.node.full() || len(tried) > 0 && e.in(tried) {
		return 0
	}
	return e.weight * e.node.share(now)
}

// load returns the exchanges of e in flight relative to the weight that counts
// at now.
func (e *entry) load(now instant) uint64 {
	load := uint64(e.node.InFlight()) * e.cost
	if now >= instant(e.node.ready.Load()) {
		return load
	}
	return load * whole / max(1, e.node.rising(now))
}

func (e *entry) in(tried []int) bool { return slices.Contains(tried, e.index) }
