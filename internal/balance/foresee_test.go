package balance_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/balance"
)

func TestPickReturnsWhatForeseeReturned(t *testing.T) {
	for _, p := range policies {
		t.Run(p.name, func(t *testing.T) {
			certain, rounds := 0, 500
			if p.policy == balance.Hash { // its tables take a while
				rounds = 20
			}
			for round := range rounds {
				cs := candidates(1 + rand.IntN(4))
				for i := range cs {
					cs[i].Weight = rand.IntN(3)
					begin(cs[i].Node, rand.IntN(3))
					switch rand.IntN(6) {
					case 0:
						cs[i].Node.Suspend(time.Time{})
					case 1:
						cs[i].Node.SetLimit(1)
					case 2:
						cs[i].Node.Resume(noon, time.Hour)
					}
				}
				s := balance.NewSet(p.policy, cs)
				var tried []int
				if rand.IntN(3) == 0 {
					tried = []int{0}
				}
				for k := range 5 {
					foreseen := s.Foresee(noon, key(k), tried)
					if picked := s.Pick(noon, key(k), tried); foreseen >= 0 {
						certain++
						assert.Equal(t, foreseen, picked, "round %d", round)
					}
					if any := s.ForeseeAny(noon, key(k), tried); any >= 0 {
						assert.Equal(t, any, s.PickAny(noon, key(k), tried), "round %d", round)
					}
				}
			}
			assert.Positive(t, certain)
		})
	}
}

func TestForeseeingUsesNoTurn(t *testing.T) {
	s := balance.NewSet(balance.RoundRobin, candidates(3))
	first := s.Foresee(noon, 0, nil)
	for range 10 {
		assert.Equal(t, first, s.Foresee(noon, 0, nil))
	}
	assert.Equal(t, first, s.Pick(noon, 0, nil))
	assert.NotEqual(t, first, s.Foresee(noon, 0, nil))
}

func TestForeseeReturnsNoneForARandomPick(t *testing.T) {
	cs := candidates(2)
	for _, p := range []balance.Policy{balance.LessBusy, balance.Random, balance.Least} {
		assert.Equal(t, -1, balance.NewSet(p, cs).Foresee(noon, 0, nil))
	}
	cs[0].Node.Begin()
	assert.Equal(t, 1, balance.NewSet(balance.Least, cs).Foresee(noon, 0, nil), "the other candidate is busier")
	assert.Equal(t, -1, balance.NewSet(balance.First, nil).Foresee(noon, 0, nil))
}
