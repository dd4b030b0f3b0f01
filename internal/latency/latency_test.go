package latency_test

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/latency"
)

// noon is the beginning of a window of 64 seconds.
var noon = time.Unix(1_800_000_000&^63, 0)

func TestQuantilesAreCloseToTheTruth(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, spread := range []float64{1, 3, 9} {
		var h latency.Histogram
		var all []time.Duration
		for range 20_000 {
			d := time.Duration(float64(time.Microsecond) * (1 + rng.ExpFloat64()*pow10(rng.Float64()*spread)))
			all = append(all, min(d, latency.Max))
			h.Record(noon, d)
		}
		slices.Sort(all)
		qs := []float64{0, 0.01, 0.5, 0.9, 0.99, 0.999, 1}
		for i, got := range h.Quantiles(noon, qs...) {
			want := all[max(0, min(len(all)-1, int(float64(len(all))*qs[i]+0.999999)-1))]
			assert.InEpsilon(t, float64(want), float64(got), 0.0626, "quantile %v", qs[i])
		}
	}
}

func pow10(x float64) float64 {
	p := 1.0
	for ; x >= 1; x-- {
		p *= 10
	}
	return p * (1 + 9*x)
}

func TestExtremeDurationsAreCounted(t *testing.T) {
	var h latency.Histogram
	assert.Equal(t, []time.Duration{0, 0}, h.Quantiles(noon, 0.5, 1))
	for _, d := range []time.Duration{-time.Second, 0, 1 << 62} {
		h.Record(noon, d)
	}
	got := h.Quantiles(noon, -1, 0.5, 2)
	assert.Less(t, got[0], time.Microsecond)
	assert.Less(t, got[1], time.Microsecond)
	assert.InEpsilon(t, float64(latency.Max), float64(got[2]), 0.07)
	assert.EqualValues(t, 3, h.Count())
}

func TestOldDurationsLeaveTheQuantilesButNotTheCount(t *testing.T) {
	var h latency.Histogram
	h.Record(noon, time.Second)
	half := func(at time.Duration) time.Duration { return h.Quantiles(noon.Add(at), 0.5)[0] }
	assert.InEpsilon(t, float64(time.Second), float64(half(0)), 0.07)
	assert.InEpsilon(t, float64(time.Second), float64(half(70*time.Second)), 0.07, "the previous window counts")
	assert.Zero(t, half(130*time.Second))
	assert.EqualValues(t, 1, h.Count())

	for i := range 10 {
		h.Record(noon.Add(time.Duration(i)*time.Minute), time.Millisecond)
	}
	assert.InEpsilon(t, float64(time.Millisecond), float64(half(9*time.Minute)), 0.07)
	h.Record(noon.Add(9*time.Minute-time.Second), time.Millisecond) // a slow caller
	assert.EqualValues(t, 12, h.Count())
}

func TestConcurrentRecordsAreCountedWhileWindowsChange(t *testing.T) {
	var h latency.Histogram
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 5000 {
				h.Record(noon.Add(time.Duration(i)*time.Second), time.Millisecond)
				if i%500 == 0 {
					h.Quantiles(noon.Add(time.Duration(i)*time.Second), 0.5)
				}
			}
		})
	}
	all.Wait()
	assert.EqualValues(t, 40_000, h.Count())
}

func TestRecordDoesNotAllocate(t *testing.T) {
	var h latency.Histogram
	assert.Zero(t, testing.AllocsPerRun(1000, func() { h.Record(noon, time.Millisecond) }))
}

func BenchmarkRecord(b *testing.B) {
	var h latency.Histogram
	b.RunParallel(func(pb *testing.PB) {
		for d := time.Duration(0); pb.Next(); d += 997 {
			h.Record(noon, d&(1<<24-1))
		}
	})
}
