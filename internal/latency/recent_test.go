package latency_test

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/latency"
)

// start is the start of a window.
var start = time.Unix(64*27_000_000, 0)

func TestASpreadCountsInBucketsThatDouble(t *testing.T) {
	var h latency.Histogram
	for _, d := range []time.Duration{-1, 0, 1023, 1024, 2047, 2048, time.Millisecond, time.Hour} {
		h.Record(start, d)
	}
	r := h.Recent(start, 0.5, 1)
	s := r.Spread
	assert.EqualValues(t, 8, r.Count)
	assert.Equal(t, h.Quantiles(start, 0.5, 1), r.Quantiles)
	assert.Equal(t, []uint64{3, 2, 1}, s[:3])
	assert.EqualValues(t, 1, s[10], "1 ms is below 1.048576 ms, and not below 524.288 µs")
	assert.EqualValues(t, 1, s[latency.Doublings-1], "the longest")
	assert.Equal(t, 1024*time.Nanosecond, latency.Limit(0))
	assert.Equal(t, 1_048_576*time.Nanosecond, latency.Limit(10))
	r = h.Recent(start.Add(128 * time.Second))
	assert.Equal(t, latency.Recent{Ever: 8, Quantiles: []time.Duration{}}, r, "old durations remain only in the count")
}

func TestASpanCoversThePreviousWindowAndTheCurrentOne(t *testing.T) {
	assert.Equal(t, 64*time.Second, latency.Span(start))
	assert.Equal(t, 74*time.Second, latency.Span(start.Add(10*time.Second)))
	assert.Equal(t, 64*time.Second, latency.Span(start.Add(64*time.Second)))
}

func TestACounterReportsTheTotalAndTheRecentCount(t *testing.T) {
	var c latency.Counter
	c.Add(start)
	c.Add(start.Add(-time.Second)) // the caller took the time just before the turn
	assert.EqualValues(t, 2, c.Recent(start.Add(63*time.Second)))
	c.Add(start.Add(64 * time.Second))
	assert.EqualValues(t, 3, c.Recent(start.Add(127*time.Second)))
	assert.EqualValues(t, 1, c.Recent(start.Add(128*time.Second)))
	assert.Zero(t, c.Recent(start.Add(time.Hour)))
	assert.EqualValues(t, 3, c.Total())

	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 100 {
				c.Add(start.Add(time.Hour))
			}
		})
	}
	all.Wait()
	assert.EqualValues(t, 403, c.Total())
}
