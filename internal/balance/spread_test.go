package balance_test

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/balance"
)

// drawing has the policies under which idle candidates get exchanges in
// proportion to weight. Read-only.
var drawing = policies[:balance.Least]

func TestIdleCandidatesShareByWeight(t *testing.T) {
	tests := []struct {
		name    string
		weights []int
		down    []int
		tried   []int
	}{
		{name: "two alike", weights: []int{1, 1}},
		{name: "seven alike", weights: []int{9, 9, 9, 9, 9, 9, 9}},
		{name: "two that differ", weights: []int{1, 3}},
		{name: "many that differ", weights: []int{5, 1, 1, 8, 13, 2, 40}},
		{name: "very different ones", weights: []int{1, 1000}},
		{name: "weights with a common factor", weights: []int{100 << 22, 200 << 22, 300 << 22}},
		{name: "weights that have to be rounded", weights: []int{1_000_003, 2_000_003, 3_000_017}},
		{name: "some without weight", weights: []int{0, 2, 0, 1, 0}},
		{name: "a gap does not favour the candidate behind it", weights: []int{1, 1, 1, 1, 1, 1, 1, 1}, down: []int{3}},
		{name: "a long gap does not favour the candidate behind it", weights: []int{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2}, down: []int{2, 3, 4, 5, 6, 7, 8, 9, 10, 11}},
		{name: "a tried candidate does not favour the one behind it", weights: []int{1, 1, 1, 1, 1}, tried: []int{2}},
		{name: "nearly all are down", weights: []int{500, 1, 500, 2, 500}, down: []int{0, 2, 4}},
		{name: "one has nearly all and is down", weights: []int{16000, 1, 2}, down: []int{0}},
	}
	for _, p := range drawing {
		for _, tt := range tests {
			t.Run(p.name+"/"+tt.name, func(t *testing.T) {
				cs := weighted(tt.weights...)
				shares := make([]float64, len(cs))
				for i, w := range tt.weights {
					shares[i] = float64(w)
				}
				for _, i := range tt.down {
					cs[i].Node.Suspend(time.Time{})
					shares[i] = 0
				}
				for _, i := range tt.tried {
					shares[i] = 0
				}
				assertShares(t, shares, tally(t, balance.NewSet(p.policy, cs), picks, tt.tried...))
			})
		}
	}
}

func TestCandidatesAtTheirLimitAreLeftOut(t *testing.T) {
	for _, p := range drawing {
		t.Run(p.name, func(t *testing.T) {
			cs := candidates(5)
			cs[1].Node.SetLimit(1)
			for i := range cs { // the same load for all, so that it decides nothing
				cs[i].Node.Begin()
			}
			assertShares(t, []float64{1, 0, 1, 1, 1}, tally(t, balance.NewSet(p.policy, cs), picks))
		})
	}
}

func TestLessBusyNeverPicksTheBusierOfTwo(t *testing.T) {
	t.Run("of two, always the less busy", func(t *testing.T) {
		cs := candidates(2)
		begin(cs[1].Node, 1)
		assert.Equal(t, []int{picks, 0}, tally(t, balance.NewSet(balance.LessBusy, cs), picks))
	})
	t.Run("of two, by weight", func(t *testing.T) {
		cs := weighted(1, 3)
		begin(cs[0].Node, 2)
		begin(cs[1].Node, 5)
		assert.Equal(t, []int{0, picks}, tally(t, balance.NewSet(balance.LessBusy, cs), picks))
		begin(cs[1].Node, 2)
		assert.Equal(t, []int{picks, 0}, tally(t, balance.NewSet(balance.LessBusy, cs), picks))
	})
	t.Run("of two, by what a slow start leaves of the weight", func(t *testing.T) {
		cs := candidates(2)
		cs[0].Node.Resume(noon, time.Second)
		begin(cs[0].Node, 1)
		begin(cs[1].Node, 9)
		assert.Equal(t, []int{0, 1000}, tally(t, balance.NewSet(balance.LessBusy, cs), 1000))
		begin(cs[1].Node, 2)
		assert.Equal(t, []int{1000, 0}, tally(t, balance.NewSet(balance.LessBusy, cs), 1000))
	})
	t.Run("of many, the rank decides and the busiest never wins", func(t *testing.T) {
		const n = 5
		cs := candidates(n)
		shares := make([]float64, n)
		for i := range cs {
			begin(cs[i].Node, i)
			shares[i] = float64(n - 1 - i) // it wins if the other drawn one is behind it
		}
		assertShares(t, shares, tally(t, balance.NewSet(balance.LessBusy, cs), picks))
	})
}

func TestLoadSpreadsBetterThanAtRandom(t *testing.T) {
	const n = 100
	tests := []struct {
		policy balance.Policy
		delta  float64
	}{
		{balance.Random, 5 * math.Sqrt(picks/n)}, // 5 sigma of chance
		// log log n above the mean, and the same below for the last drawn
		{balance.LessBusy, 20},
		{balance.RoundRobin, 0},
		{balance.Least, 0},
	}
	for _, tt := range tests {
		cs := candidates(n)
		s := balance.NewSet(tt.policy, cs)
		for range picks {
			cs[s.Pick(noon, 0, nil)].Node.Begin()
		}
		for i, c := range cs {
			assert.InDelta(t, picks/n, c.Node.InFlight(), tt.delta, "policy %d, candidate %d", tt.policy, i)
		}
	}
}

func TestLeastTakesTheLeastLoaded(t *testing.T) {
	tests := []struct {
		name     string
		weights  []int
		inFlight []int
		state    func(cs []balance.Candidate)
		tried    []int
		shares   []float64
	}{
		{name: "the only one", weights: []int{1, 1, 1}, inFlight: []int{3, 2, 4}, shares: []float64{0, 1, 0}},
		{name: "the idle one", weights: []int{1, 1, 1}, inFlight: []int{3, 2, 0}, shares: []float64{0, 0, 1}},
		{name: "by weight", weights: []int{1, 5, 10}, inFlight: []int{1, 4, 9}, shares: []float64{0, 1, 0}},
		{name: "candidates that tie share evenly", weights: []int{1, 1, 1, 1, 1, 1}, inFlight: []int{3, 2, 2, 9, 9, 2}, shares: []float64{0, 1, 1, 0, 0, 1}},
		{name: "ties by weight are ties", weights: []int{3, 7, 1, 9}, inFlight: []int{3, 7, 1, 10}, shares: []float64{1, 1, 1, 0}},
		{name: "all of them idle, by weight", weights: []int{1, 4, 2}, inFlight: []int{0, 0, 0}, shares: []float64{1, 4, 2}},
		{name: "the least loaded is down", weights: []int{1, 1, 1}, inFlight: []int{0, 2, 2}, shares: []float64{0, 1, 1},
			state: func(cs []balance.Candidate) { cs[0].Node.Suspend(time.Time{}) }},
		{name: "the least loaded is down for a while", weights: []int{1, 1, 1}, inFlight: []int{0, 2, 2}, shares: []float64{0, 1, 1},
			state: func(cs []balance.Candidate) { cs[0].Node.Suspend(noon.Add(1)) }},
		{name: "the least loaded was down", weights: []int{1, 1, 1}, inFlight: []int{1, 2, 2}, shares: []float64{1, 0, 0},
			state: func(cs []balance.Candidate) { cs[0].Node.Suspend(time.Time{}); cs[0].Node.Suspend(noon) }},
		{name: "the least loaded is full", weights: []int{1, 1, 1}, inFlight: []int{1, 2, 2}, shares: []float64{0, 1, 1},
			state: func(cs []balance.Candidate) { cs[0].Node.SetLimit(1) }},
		{name: "the least loaded was tried", weights: []int{1, 1, 1}, inFlight: []int{1, 2, 2}, shares: []float64{0, 1, 1}, tried: []int{0}},
		{name: "the least loaded rises", weights: []int{1, 1, 1}, inFlight: []int{1, 9, 9}, shares: []float64{0, 1, 1},
			state: func(cs []balance.Candidate) { cs[0].Node.Resume(noon, time.Second) }},
		{name: "the one that rises is less loaded still", weights: []int{1, 1, 1}, inFlight: []int{1, 11, 11}, shares: []float64{1, 0, 0},
			state: func(cs []balance.Candidate) { cs[0].Node.Resume(noon, time.Second) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cs := weighted(tt.weights...)
			for i := range cs {
				begin(cs[i].Node, tt.inFlight[i])
			}
			if tt.state != nil {
				tt.state(cs)
			}
			s := balance.NewSet(balance.Least, cs)
			assertShares(t, tt.shares, tally(t, s, picks, tt.tried...))
		})
	}
	t.Run("of a hundred busy ones, each as often", func(t *testing.T) {
		cs := candidates(100)
		shares := make([]float64, len(cs))
		for i := range cs {
			begin(cs[i].Node, 3+i%2)
			shares[i] = float64(1 - i%2)
		}
		assertShares(t, shares, tally(t, balance.NewSet(balance.Least, cs), picks))
	})
	t.Run("PickAny counts the load of a suspended candidate", func(t *testing.T) {
		cs := candidates(2)
		begin(cs[0].Node, 2)
		begin(cs[1].Node, 1)
		down(cs)
		assert.Equal(t, 1, balance.NewSet(balance.Least, cs).PickAny(noon, 0, nil))
	})
}

func TestFirstPicksTheFirstCandidateInService(t *testing.T) {
	cs := weighted(0, 1, 9)
	begin(cs[1].Node, 50)
	s := balance.NewSet(balance.First, cs)
	assert.Equal(t, []int{0, picks, 0}, tally(t, s, picks))
	cs[1].Node.Suspend(time.Time{})
	assert.Equal(t, []int{0, 0, picks}, tally(t, s, picks))
	cs[1].Node.Resume(noon, 0)
	assert.Equal(t, []int{0, picks, 0}, tally(t, s, picks))
}

func TestTurnsAreExactAndSpread(t *testing.T) {
	heavy := make([]int, 100)
	for i := range heavy {
		heavy[i] = 1 + i*i%17
	}
	for _, weights := range [][]int{
		{1}, {1, 1}, {5, 1, 1}, {1, 1, 1, 1, 1}, {7, 3}, {2, 4, 6}, {1, 50}, {4, 3, 2, 1}, {15, 1, 1, 1}, {300, 299, 298, 1}, {16000, 1, 1, 1}, heavy,
	} {
		t.Run(fmt.Sprint(weights), func(t *testing.T) {
			cycle, common := 0, 0
			for _, w := range weights {
				cycle += w
				for a, b := common, w; ; a, b = b, a%b {
					if b == 0 {
						common = a
						break
					}
				}
			}
			cycle /= common
			s := balance.NewSet(balance.RoundRobin, weighted(weights...))
			counts := make([]int, len(weights))
			for k := range 3 * cycle {
				counts[s.Pick(noon, 0, nil)]++
				for i, w := range weights {
					share := float64(k+1) * float64(w) / float64(common*cycle)
					if math.Abs(share-float64(counts[i])) >= 2 {
						t.Fatalf("after %d turns candidate %d had %d, its share is %.2f", k+1, i, counts[i], share)
					}
				}
			}
			for i, w := range weights {
				assert.Equal(t, 3*w/common, counts[i], "candidate %d", i)
			}
		})
	}
}

func TestTurnsComeInNoBursts(t *testing.T) {
	s := balance.NewSet(balance.RoundRobin, weighted(5, 1, 1))
	run, longest := 0, 0
	for range 700 {
		if run++; s.Pick(noon, 0, nil) != 0 {
			run = 0
		}
		longest = max(longest, run)
	}
	assert.Equal(t, 3, longest, "5 turns with 2 others between them make runs of 2 and 3")
}

func TestRoundRobinStartsAtARandomCandidate(t *testing.T) {
	first := map[int]bool{}
	for range 200 {
		first[balance.NewSet(balance.RoundRobin, candidates(3)).Pick(noon, 0, nil)] = true
	}
	assert.Len(t, first, 3)
}

func TestRoundRobinStaysExactWhenSomeCandidatesAreDown(t *testing.T) {
	for _, tt := range []struct {
		weights, down, want []int
	}{
		{[]int{1, 1, 1, 1, 1}, []int{1, 2}, []int{1, 0, 0, 1, 1}},
		{[]int{5, 1, 1, 2}, []int{0}, []int{0, 1, 1, 2}},
		{[]int{3, 2, 2}, []int{2}, []int{3, 2, 0}},
	} {
		cs := weighted(tt.weights...)
		for _, i := range tt.down {
			cs[i].Node.Suspend(time.Time{})
		}
		s, sum := balance.NewSet(balance.RoundRobin, cs), 0
		for i := range tt.want {
			sum += tt.want[i]
			tt.want[i] *= 1000
		}
		assert.Equal(t, tt.want, tally(t, s, 1000*sum), "weights %v", tt.weights)
	}
}

func TestRoundRobinIsExactUnderConcurrentPicks(t *testing.T) {
	for _, down := range []int{0, 1} {
		cs := weighted(4, 2, 1, 1)
		for _, c := range cs[:down] {
			c.Node.Suspend(time.Time{})
		}
		s := balance.NewSet(balance.RoundRobin, cs)
		var counts [4]atomic.Int64
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 8 * 1000 {
					counts[s.Pick(noon, 0, nil)].Add(1)
				}
			})
		}
		wg.Wait()
		want := [][4]int64{{16000, 8000, 4000, 4000}, {0, 16000, 8000, 8000}}[down]
		for i := range counts {
			assert.Equal(t, want[i], counts[i].Load(), "candidate %d with %d down", i, down)
		}
	}
}
