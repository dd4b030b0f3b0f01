package latency

import (
	"sync"
	"time"
)

// Doublings is how many counts a Spread has.
const Doublings = buckets >> steps

// A Spread counts durations by doublings: the count at i is for durations below
// Limit(i), but not below Limit(i-1). The last count includes all longer ones.
type Spread [Doublings]uint64

// Limit returns the duration below which a Spread counts at i: 1.024 µs at 0,
// doubled at each further position.
func Limit(i int) time.Duration { return 1 << (unit + steps + i) }

// A Recent has the durations of a Histogram during a Span, and the total count.
type Recent struct {
	Ever, Count uint64
	Spread      Spread
	Quantiles   []time.Duration // as Histogram.Quantiles returns them
}

// Recent returns a Recent of h.
func (h *Histogram) Recent(now time.Time, qs ...float64) (r Recent) {
	h.current(now)
	r.Ever = h.past.Load()
	var counts [buckets]uint64
	for i := range h.windows {
		for b := range h.windows[i] {
			n := uint64(h.windows[i][b].Load())
			counts[b] += n
			r.Spread[b>>steps] += n
			r.Count += n
		}
	}
	r.Ever += r.Count
	r.Quantiles = quantiles(&counts, r.Count, qs)
	return r
}

// Span returns how far back the recent durations go at most, at now: 64 to 128
// seconds. It is the same for a Histogram and a Counter.
func Span(now time.Time) time.Duration {
	window := time.Second << windowLog
	begun := time.Unix(int64(number(now))<<windowLog, 0)
	return window + max(now.Sub(begun), 0)
}

// A Counter counts rare events, such as failures, in total and recently. The
// zero value is ready. Its methods may be called concurrently. A Counter must
// not be copied.
type Counter struct {
	mu     sync.Mutex
	total  uint64
	number uint64    // number of the current window
	counts [2]uint64 // in the current window, and in the one before
}

// Add counts an event at now.
func (c *Counter) Add(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.turn(now)
	c.total++
	c.counts[0]++
}

// Total returns the number of all events.
func (c *Counter) Total() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.total
}

// Recent returns the number of events within Span.
func (c *Counter) Recent(now time.Time) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.turn(now)
	return c.counts[0] + c.counts[1]
}

// turn moves to the window of now. A time in the window just before still
// counts in the current one. c.mu is held.
func (c *Counter) turn(now time.Time) {
	switch n := number(now); n - c.number {
	case 0, ^uint64(0): // the same, or one back
		return
	case 1:
		c.number, c.counts = n, [2]uint64{0, c.counts[0]}
	default:
		c.number, c.counts = n, [2]uint64{}
	}
}
