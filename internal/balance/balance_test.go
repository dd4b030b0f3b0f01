package balance_test

import (
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/balance"
)

// down suspends all of cs but the given ones.
func down(cs []balance.Candidate, but ...int) {
	for i, c := range cs {
		if !slices.Contains(but, i) {
			c.Node.Suspend(time.Time{})
		}
	}
}

func TestPickReturnsTheOnlyPossibleCandidateOrNone(t *testing.T) {
	full := func(n *balance.Node) {
		n.SetLimit(2)
		begin(n, 2)
	}
	tests := []struct {
		name  string
		n     int
		state func(cs []balance.Candidate)
		tried []int
		want  int
		any   int // result of PickAny
	}{
		{name: "no candidate at all", n: 0, want: -1, any: -1},
		{name: "the only candidate", n: 1, want: 0, any: 0},
		{name: "the only candidate was tried before", n: 1, tried: []int{0}, want: -1, any: -1},
		{name: "the only candidate is down", n: 1, state: func(cs []balance.Candidate) { down(cs) }, want: -1, any: 0},
		{name: "the only candidate is full", n: 1, state: func(cs []balance.Candidate) { full(cs[0].Node) }, want: -1, any: -1},
		{name: "the only candidate is closed to new exchanges", n: 1, state: func(cs []balance.Candidate) { cs[0].Weight = 0 }, want: -1, any: -1},
		{name: "a negative weight counts as zero", n: 2, state: func(cs []balance.Candidate) { cs[0].Weight = -1 }, want: 1, any: 1},
		{name: "the first of two was tried before", n: 2, tried: []int{0}, want: 1, any: 1},
		{name: "the second of two was tried before", n: 2, tried: []int{1}, want: 0, any: 0},
		{name: "tried candidates that do not exist", n: 2, tried: []int{7, -1, 1}, want: 0, any: 0},
		{name: "one of many is in service", n: 200, state: func(cs []balance.Candidate) { down(cs, 117) }, tried: many(200, 116), want: 117, any: 116},
		{name: "one of many has a weight", n: 200, state: func(cs []balance.Candidate) {
			for i := range cs {
				cs[i].Weight = i / 199
			}
		}, want: 199, any: 199},
		{name: "none of many is in service", n: 200, state: func(cs []balance.Candidate) { down(cs) }, tried: many(200, 50), want: -1, any: 50},
		{name: "one of two is full", n: 2, state: func(cs []balance.Candidate) { full(cs[0].Node) }, want: 1, any: 1},
		{name: "the one in service is full", n: 3, state: func(cs []balance.Candidate) { down(cs, 2); full(cs[2].Node); full(cs[0].Node) }, want: -1, any: 1},
		{name: "a light one is left of very heavy ones", n: 3, state: func(cs []balance.Candidate) {
			cs[0].Weight, cs[1].Weight, cs[2].Weight = math.MaxInt, math.MaxInt, 1
			down(cs, 2)
		}, tried: []int{0, 1}, want: 2, any: 2},
	}
	for _, p := range policies {
		for _, tt := range tests {
			t.Run(p.name+"/"+tt.name, func(t *testing.T) {
				cs := candidates(tt.n)
				if tt.state != nil {
					tt.state(cs)
				}
				s := balance.NewSet(p.policy, cs)
				assert.Equal(t, tt.n, s.Len())
				for k := range 200 {
					tried := tt.tried
					if tt.want >= 0 { // PickAny finds the wanted one in tried; Pick must not
						tried = slices.DeleteFunc(slices.Clone(tried), func(i int) bool { return i == tt.want })
					}
					require.Equal(t, tt.want, s.Pick(noon, key(k), tried))
					require.Equal(t, tt.any, s.PickAny(noon, key(k), tt.tried))
				}
			})
		}
	}
}

// many returns all numbers below n except one.
func many(n, but int) []int {
	all := make([]int, 0, n)
	for i := range n {
		if i != but {
			all = append(all, i)
		}
	}
	return all
}

func TestChangingTheListAfterNewSetHasNoEffect(t *testing.T) {
	cs := candidates(2)
	s := balance.NewSet(balance.First, cs)
	cs[0] = balance.Candidate{}
	assert.Equal(t, 0, s.Pick(noon, 0, nil))
}

func TestACandidateWithoutNodeIsInServiceAndIdle(t *testing.T) {
	for _, p := range policies {
		s := balance.NewSet(p.policy, []balance.Candidate{{Name: "a", Weight: 1}, {Name: "b", Weight: 1}})
		assert.Equal(t, 1, s.Pick(noon, 0, []int{0}), p.name)
	}
}

func TestANodeIsTheSameInAllSets(t *testing.T) {
	cs := candidates(2)
	a, b := balance.NewSet(balance.First, cs), balance.NewSet(balance.First, cs[:1])
	cs[0].Node.Suspend(time.Time{})
	assert.Equal(t, 1, a.Pick(noon, 0, nil))
	assert.Equal(t, -1, b.Pick(noon, 0, nil))
}

func TestSaturatedTellsWhetherWaitingMayHelp(t *testing.T) {
	tests := []struct {
		name  string
		state func(c *balance.Candidate)
		tried []int
		want  bool
	}{
		{name: "below its limit", state: func(c *balance.Candidate) { c.Node.SetLimit(2) }, want: false},
		{name: "at its limit", state: func(*balance.Candidate) {}, want: true},
		{name: "at its limit while it rises", state: func(c *balance.Candidate) { c.Node.Resume(noon, time.Second) }, want: true},
		{name: "down as well", state: func(c *balance.Candidate) { c.Node.Suspend(time.Time{}) }, want: false},
		{name: "tried as well", state: func(*balance.Candidate) {}, tried: []int{0}, want: false},
		{name: "without weight as well", state: func(c *balance.Candidate) { c.Weight = 0 }, want: false},
		{name: "without limit", state: func(c *balance.Candidate) { c.Node.SetLimit(0) }, want: false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cs := candidates(1)
			cs[0].Node.SetLimit(1)
			cs[0].Node.Begin()
			tt.state(&cs[0])
			assert.Equal(t, tt.want, balance.NewSet(balance.LessBusy, cs).Saturated(noon, tt.tried))
		})
	}
	assert.False(t, balance.NewSet(balance.LessBusy, nil).Saturated(noon, nil))
}

func TestServesIgnoresLimitsButNotHealthWeightOrAttempts(t *testing.T) {
	free, full, down := new(balance.Node), new(balance.Node), new(balance.Node)
	full.SetLimit(1)
	full.Begin()
	down.Suspend(time.Time{})
	serves := func(n *balance.Node, weight int, tried ...int) bool {
		return balance.NewSet(balance.LessBusy, []balance.Candidate{{Node: n, Weight: weight}}).Serves(noon, tried)
	}
	assert.True(t, serves(free, 1), "a free candidate serves")
	assert.True(t, serves(full, 1))
	assert.False(t, serves(full, 1, 0), "it was tried before")
	assert.False(t, serves(full, 0), "it has no weight")
	assert.False(t, serves(down, 1))
}

func TestPicksAllocateNothing(t *testing.T) {
	tried := []int{4}
	for _, p := range policies {
		for _, state := range states {
			for _, n := range []int{1, 3, 100} {
				cs := candidates(n)
				for i := range cs {
					state.set(i, &cs[i])
				}
				s := balance.NewSet(p.policy, cs)
				k := uint64(0)
				assert.Zero(t, testing.AllocsPerRun(200, func() {
					k += 1 << 50
					s.Pick(noon, k, nil)
					s.Pick(noon, k, tried)
					s.PickAny(noon, k, tried)
					s.Saturated(noon, tried)
				}), "%s, %s, %d", p.name, state.name, n)
			}
		}
	}
}

func TestConcurrentPicksOfChangingNodes(t *testing.T) {
	for _, p := range policies {
		t.Run(p.name, func(t *testing.T) {
			cs := candidates(8)
			cs[7].Weight = 3
			s := balance.NewSet(p.policy, cs)
			var wg sync.WaitGroup
			for g := range 4 {
				wg.Go(func() {
					for k := range 2000 {
						i := s.Pick(noon, key(k), nil)
						if i < 0 {
							i = s.PickAny(noon, key(k), nil)
						}
						if i >= 0 {
							cs[i].Node.Begin()
							s.Saturated(noon, nil)
							cs[i].Node.End()
						}
						n := cs[(k*5+g)%len(cs)].Node
						switch k % 5 {
						case 0:
							n.Suspend(time.Time{})
						case 1:
							n.Suspend(noon.Add(time.Second))
						case 2:
							n.Resume(noon, time.Minute)
						case 3:
							n.SetLimit(int64(k % 3))
						case 4:
							n.Resume(noon, 0)
						}
					}
				})
			}
			wg.Wait()
			for i, c := range cs {
				assert.Zero(t, c.Node.InFlight(), "candidate %d", i)
				c.Node.Resume(noon, 0)
				c.Node.SetLimit(0)
				assert.False(t, c.Node.Suspended(noon), "candidate %d", i)
			}
			seen := map[int]bool{}
			for k := range 10_000 {
				seen[s.Pick(noon, key(k), nil)] = true
			}
			if p.policy != balance.First {
				assert.Len(t, seen, len(cs), "all candidates are in service again")
			}
		})
	}
}
