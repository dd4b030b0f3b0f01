package balance_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/balance"
)

const picks = 100_000

func all(int) bool   { return true }
func none(int) bool  { return false }
func idle(int) int64 { return 0 }
func only(want ...int) func(int) bool {
	return func(i int) bool {
		for _, w := range want {
			if i == w {
				return true
			}
		}
		return false
	}
}

// tally counts how often each candidate is picked.
func tally(t *testing.T, n int, eligible func(int) bool, load func(int) int64) []int {
	t.Helper()
	counts := make([]int, n)
	for range picks {
		i := balance.LessBusyOfTwo(n, eligible, load)
		if i < 0 { // no require: it would cost more than the pick
			t.Fatal("nothing picked")
		}
		counts[i]++
	}
	return counts
}

func TestFewCandidatesHaveDefinedAnswers(t *testing.T) {
	tests := []struct {
		name     string
		n        int
		eligible func(int) bool
		want     int
	}{
		{"no candidate at all", 0, all, -1},
		{"a negative number is none", -1, all, -1},
		{"the only candidate", 1, all, 0},
		{"the only candidate is not eligible", 1, none, -1},
		{"none of many is eligible", 1000, none, -1},
		{"one of many is eligible", 1000, only(617), 617},
		{"the first of two was tried before", 2, only(1), 1},
		{"the second of two was tried before", 2, only(0), 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for range 100 {
				require.Equal(t, tt.want, balance.LessBusyOfTwo(tt.n, tt.eligible, idle))
			}
		})
	}
}

func TestEqualLoadsAreSharedEvenly(t *testing.T) {
	tests := []struct {
		name     string
		n        int
		eligible func(int) bool
		share    int // eligible candidates
	}{
		{"two candidates", 2, all, 2},
		{"seven candidates", 7, all, 7},
		{"a gap does not favour the candidate behind it", 8, func(i int) bool { return i != 3 }, 7},
		{"a long gap neither", 100, func(i int) bool { return i < 4 || i == 99 }, 5},
		{"three eligible of two hundred", 200, only(1, 2, 198), 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := float64(picks) / float64(tt.share)
			for i, got := range tally(t, tt.n, tt.eligible, idle) {
				if !tt.eligible(i) {
					assert.Zero(t, got, "candidate %d is not eligible", i)
					continue
				}
				assert.InEpsilon(t, want, got, 0.06, "candidate %d", i)
			}
		})
	}
}

func TestTheBusierOfTwoIsNotChosen(t *testing.T) {
	load := func(i int) int64 { return int64(i) }

	t.Run("of two, always the less busy", func(t *testing.T) {
		assert.Equal(t, []int{picks, 0}, tally(t, 2, all, load))
	})
	t.Run("of many, the rank decides and the busiest never wins", func(t *testing.T) {
		const n = 5
		counts := tally(t, n, all, load)
		for i, got := range counts[:n-1] {
			// Candidate i wins iff the other one drawn is one of the n-1-i behind it.
			want := float64(picks) * 2 * float64(n-1-i) / (n * (n - 1))
			assert.InEpsilon(t, want, got, 0.06, "candidate %d", i)
		}
		assert.Zero(t, counts[n-1])
	})
}

func TestLoadSpreadsBetterThanAtRandom(t *testing.T) {
	const n = 100
	load := make([]int64, n)
	for range picks {
		load[balance.LessBusyOfTwo(n, all, func(i int) int64 { return load[i] })]++
	}
	for i, got := range load {
		// One choice at random strays by about 3 sigma = 95; two stay within a few.
		assert.InDelta(t, picks/n, got, 20, "candidate %d", i)
	}
}

func TestConcurrentPicksOfMovingCounters(t *testing.T) {
	var load [8]atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 1000 {
				i := balance.LessBusyOfTwo(len(load), all, func(i int) int64 { return load[i].Load() })
				load[i].Add(1)
			}
		})
	}
	wg.Wait()
	var sum int64
	for i := range load {
		sum += load[i].Load()
	}
	assert.EqualValues(t, 4000, sum)
}

func TestPickAllocatesNothing(t *testing.T) {
	load := []int64{3, 1, 2, 5}
	for _, down := range []int{-1, 0} {
		assert.Zero(t, testing.AllocsPerRun(1000, func() {
			balance.LessBusyOfTwo(len(load), func(i int) bool { return i != down }, func(i int) int64 { return load[i] })
		}))
	}
}

func BenchmarkLessBusyOfTwo(b *testing.B) {
	for _, n := range []int{1, 2, 10, 1000} {
		b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) {
			load := make([]int64, n)
			b.ReportAllocs()
			for b.Loop() {
				balance.LessBusyOfTwo(n, all, func(i int) int64 { return load[i] })
			}
		})
	}
}
