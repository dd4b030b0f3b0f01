package balance

import "time"

// Foresee returns the index that Pick would return for the same arguments, but
// uses no turn. It returns -1 if chance decides, or if none is eligible.
func (s *Set) Foresee(now time.Time, key uint64, tried []int) int {
	return s.foresee(at(now), key, tried)
}

// ForeseeAny is Foresee for a PickAny after a Pick that returned -1. That Pick
// uses a turn, so ForeseeAny does not foresee turns.
func (s *Set) ForeseeAny(_ time.Time, key uint64, tried []int) int {
	return s.foresee(never, key, tried)
}

func (s *Set) foresee(t instant, key uint64, tried []int) int {
	i := -1
	switch few := s.eligibles(t, tried); {
	case len(few) == 1:
		i = few[0]
	case len(few) == 0, s.policy == Random, s.policy == LessBusy, s.policy > Hash:
	case s.policy == RoundRobin && t == never:
	case s.policy == RoundRobin:
		i = s.nextTurn(t, tried)
	case s.policy == Least:
		i = s.soleLowest(t, few)
	case s.policy == First:
		i = few[0]
	case s.policy == Hash:
		i = s.placed(t, key, tried)
	}
	if i < 0 {
		return -1
	}
	return s.live[i].index
}

// eligibles returns the positions of the candidates that are eligible.
func (s *Set) eligibles(now instant, tried []int) (all []int) {
	for i := range s.live {
		if s.live[i].eligible(now, tried) > 0 {
			all = append(all, i)
		}
	}
	return all
}

// nextTurn returns the candidate whose turn it is, or -1 if that one is rising,
// and takes its turn only by chance.
func (s *Set) nextTurn(now instant, tried []int) int {
	n := uint64(len(s.turns))
	turn := s.turn.Load()
	for k := range n {
		i := int(s.turns[(turn+k)%n])
		switch e := &s.live[i]; {
		case e.eligible(now, tried) == 0:
		case e.node.share(now) < whole:
			return -1
		default:
			return i
		}
	}
	return -1
}

// soleLowest returns the least loaded of few, or -1 if there is more than one.
func (s *Set) soleLowest(now instant, few []int) int {
	low, ties := few[0], false
	for _, i := range few[1:] {
		switch a, b := s.live[i].load(now), s.live[low].load(now); {
		case a < b:
			low, ties = i, false
		case a == b:
			ties = true
		}
	}
	if ties {
		return -1
	}
	return low
}
