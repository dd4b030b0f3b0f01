// Package latency counts durations, and estimates quantiles of the recent ones.
//
//   - latency.go: durations, and their quantiles
//   - recent.go: durations by doublings, and rare events, in the same windows
package latency

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

// Buckets are log-linear: one per 128 ns below 1.024 µs, and eight per doubling
// above that. The middle of a bucket differs from its durations by at most
// 1/16.
const (
	unit      = 7 // 1<<unit ns is the width of the narrowest bucket
	steps     = 3 // 1<<steps buckets per doubling
	maxBits   = 40
	buckets   = (maxBits - unit - steps + 1) << steps
	windowLog = 6 // a window has 1<<windowLog seconds
)

// Max is about the longest duration that a Histogram distinguishes: 17 minutes.
const Max = 1<<maxBits - 1<<(maxBits-steps-2)

// A Histogram counts durations in 2 KB, and estimates their quantiles within
// 6.25 % from 1 µs to 17 minutes; longer durations count as Max, negative ones
// as 0. The estimates are for the last one to two minutes: the current window
// of 64 seconds and the one before are kept, and older ones are forgotten.
//
// The zero value is empty and ready. All methods may be called concurrently. A
// Histogram must not be copied.
type Histogram struct {
	// Hot path: Record loads turn and adds to one bucket; no locks, no
	// allocation. The number of the current window, shifted left by one, plus
	// its index in windows
	turn    atomic.Uint64
	turning atomic.Bool   // a goroutine empties a window; others still use the old one
	past    atomic.Uint64 // number of forgotten durations
	windows [2]window
}

// A window has room for 4 billion durations per bucket, 67 million a second.
type window [buckets]atomic.Uint32

// Record counts d, which ended at now. now is a time of the wall clock; times
// may be out of order by up to a minute.
func (h *Histogram) Record(now time.Time, d time.Duration) {
	h.windows[h.current(now)][bucket(d)].Add(1)
}

// Count returns the number of durations ever recorded.
func (h *Histogram) Count() uint64 {
	n := h.past.Load()
	for i := range h.windows {
		for b := range h.windows[i] {
			n += uint64(h.windows[i][b].Load())
		}
	}
	return n
}

// Quantiles returns the q-quantile of the recent durations for each q in qs: 0
// is the shortest, 0.5 the median, 1 the longest. It returns zeros if there are
// none.
func (h *Histogram) Quantiles(now time.Time, qs ...float64) []time.Duration {
	h.current(now)
	var counts [buckets]uint64
	total := uint64(0)
	for i := range h.windows {
		for b := range h.windows[i] {
			n := uint64(h.windows[i][b].Load())
			counts[b] += n
			total += n
		}
	}
	return quantiles(&counts, total, qs)
}

func quantiles(counts *[buckets]uint64, total uint64, qs []float64) []time.Duration {
	all := make([]time.Duration, len(qs))
	if total == 0 {
		return all
	}
	for i, q := range qs {
		all[i] = middle(find(counts, rank(q, total)))
	}
	return all
}

// current returns the index of the window of now. It turns to that window first
// if it is new.
func (h *Histogram) current(now time.Time) uint64 {
	turn, number := h.turn.Load(), number(now)
	// One number back: the caller took the time just before the turn.
	if behind := turn>>1 - number; behind <= 1 {
		return turn & 1
	}
	return h.advance(number)
}

// advance turns to the window of that number. The old window is kept if it is
// the one just before.
func (h *Histogram) advance(number uint64) uint64 {
	if !h.turning.CompareAndSwap(false, true) {
		return h.turn.Load() & 1
	}
	defer h.turning.Store(false)
	turn := h.turn.Load()
	old, next := turn&1, turn&1^1
	switch ahead := number - turn>>1; ahead {
	case 0, math.MaxUint64:
		return old // another goroutine was faster
	case 1:
		h.forget(next)
		h.turn.Store(number<<1 | next)
	default:
		h.forget(next)
		h.turn.Store(number<<1 | next)
		h.forget(old)
	}
	return next
}

// forget empties a window. Durations that a slow goroutine adds meanwhile are
// not lost: they count as recent.
func (h *Histogram) forget(index uint64) {
	for b := range h.windows[index] {
		// past first, so that Count may be too high for a moment, but never
		// decreases.
		if n := h.windows[index][b].Load(); n > 0 {
			h.past.Add(uint64(n))
			h.windows[index][b].Add(-n)
		}
	}
}

// number returns the number of the window of now, counted from 1970.
func number(now time.Time) uint64 { return uint64(now.Unix()) >> windowLog }

// bucket returns the index of the bucket of d.
func bucket(d time.Duration) int {
	u := uint64(min(max(d, 0), 1<<maxBits-1)) >> unit
	doubling := max(bits.Len64(u)-steps-1, 0)
	return doubling<<steps + int(u>>doubling)
}

// middle returns the duration in the middle of a bucket.
func middle(bucket int) time.Duration {
	doubling := max(bucket>>steps-1, 0)
	low := time.Duration(bucket-doubling<<steps) << doubling << unit
	return low + 1<<doubling<<unit/2
}

// rank returns which of total sorted values, counted from 1, is the q-quantile.
func rank(q float64, total uint64) uint64 {
	if !(q > 0) { // NaN too
		return 1
	}
	return max(uint64(math.Ceil(min(q, 1)*float64(total))), 1)
}

// find returns the bucket that holds the value of that rank.
func find(counts *[buckets]uint64, rank uint64) int {
	seen := uint64(0)
	for b, n := range counts {
		if seen += n; seen >= rank {
			return b
		}
	}
	return buckets - 1
}
