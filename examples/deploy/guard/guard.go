// Package guard watches new targets of an Upstream. It goes back to the old
// ones by itself if the new ones fail more often or are slower. It needs at
// most fifty requests.
//
//	var m guard.Meter
//	r := hostproxy.Router{BeginAttempt: m.BeginAttempt, Observe: m.Observe}
//	r.Handle("blog.example.com", blog)
//	...
//	err := m.Replace(ctx, "blog.example.com", blog, guard.Limits{}, "10.0.0.4:4000")
//
// One client alone cannot make it go back, since it may request what never
// works. At most two failed or slow requests of each client count against the
// new targets. A request counts only if the old targets have served its method
// and URL well. There are two exceptions. If the old targets have had fewer
// than 20 requests, all requests count. If they have had fewer than three
// clients, these may be load balancers: then all requests that the old targets
// have served count.
//
// Attempt.Whole decides whether a request is timed: the speed at which a client
// sends a body says nothing about a target. A program that only gets requests
// with large bodies is guarded against failing targets, but not against slow
// ones.
//
// The files: guard.go has the settings, judge.go decides, meter.go counts
// attempts, baseline.go knows what was usual, watch.go connects these, and
// swap.go has Replace and Canary.
package guard

import (
	"cmp"
	"fmt"
	"time"
)

// Limits define when new targets are worse than old ones. The zero value is
// ready to use.
type Limits struct {
	// Requests is how many requests are enough to keep the new targets. Only
	// requests that start a quarter of a second after one another count for
	// this; if slow responses take longer, that interval is longer. Failures
	// always count. Zero means 50.
	Requests int

	// Worse is the additional share of failed or slow requests to detect. With
	// 0.2, the guard detects new targets that fail in 21 % of the requests if
	// the old ones fail in 1 %. Smaller values need more requests. Zero means
	// 0.2.
	Worse float64

	// FalseAlarms limits the probability that the guard goes back although the
	// new targets are as good as the old ones. Zero means 0.001.
	FalseAlarms float64

	// A response is slow if it takes Slower times as long as the old targets'
	// p99, and at least Grace longer. Zero means 2, and 50 ms.
	Slower float64
	Grace  time.Duration

	// Slow is the time after which a response is slow if the old targets have
	// served too few requests to compare with: fewer than 20. Zero means 10 s.
	Slow time.Duration

	// For limits the watch. New targets that are not found to be worse in that
	// time are kept. Zero means 1 minute.
	For time.Duration
}

func (l Limits) requests() int        { return cmp.Or(l.Requests, 50) }
func (l Limits) worse() float64       { return cmp.Or(l.Worse, 0.2) }
func (l Limits) falseAlarms() float64 { return cmp.Or(l.FalseAlarms, 0.001) }
func (l Limits) slower() float64      { return cmp.Or(l.Slower, 2) }
func (l Limits) grace() time.Duration { return cmp.Or(l.Grace, 50*time.Millisecond) }
func (l Limits) slow() time.Duration  { return cmp.Or(l.Slow, 10*time.Second) }
func (l Limits) length() time.Duration {
	return cmp.Or(l.For, time.Minute)
}

// check returns an error if a limit is invalid.
func (l Limits) check() error {
	switch {
	case l.requests() < 1:
		return fmt.Errorf("guard: Limits.Requests is %d: want 1 or more", l.Requests)
	case !(l.worse() > 0 && l.worse() < 1):
		return fmt.Errorf("guard: Limits.Worse is %v: want a share between 0 and 1, such as 0.2", l.Worse)
	case !(l.falseAlarms() > 0 && l.falseAlarms() < 1):
		return fmt.Errorf("guard: Limits.FalseAlarms is %v: want a probability between 0 and 1, such as 0.001", l.FalseAlarms)
	case !(l.slower() >= 1):
		return fmt.Errorf("guard: Limits.Slower is %v: want 1 or more", l.Slower)
	case l.grace() < 0 || l.slow() < 0 || l.length() < 0:
		return fmt.Errorf("guard: Limits has a negative duration (Grace %v, Slow %v, For %v): want 0 or more", l.Grace, l.Slow, l.For)
	}
	return nil
}
