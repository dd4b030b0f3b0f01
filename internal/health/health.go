// Package health decides whether a target can get exchanges, from the results
// of health checks and of exchanges.
//
// A [Monitor] is the state machine of one target. It has no clock and no I/O:
// callers report results to it, and it takes the target's balance.Node out of
// service and back. [Watch] is the loop that checks a target.
//
//   - health.go: the configuration
//   - monitor.go: the state of a target
//   - watch.go: the loop
package health

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"time"
)

// A State says whether a target serves.
type State string

// The states of a target.
const (
	Up       State = "up"
	Down     State = "down"      // checks failed
	Open     State = "open"      // exchanges failed; the target gets none for a while
	HalfOpen State = "half-open" // a few trial exchanges test whether it has recovered
)

// A Status is the state of a target, with its reason and time.
type Status struct {
	State  State
	Reason string // "" before the first change
	Since  time.Time
}

// A Config says when a target goes out of service. The zero value never takes
// one out.
type Config struct {
	Check   Check
	Breaker Breaker
	// time in which a recovered target's share grows to the whole; 0 means
	// immediately
	SlowStart time.Duration

	// Changed is called for each change of a target's state, in order, on any
	// goroutine. A panic in it is ignored.
	Changed func(target any, s Status)
}

// A Check configures health checks.
type Check struct {
	Interval  time.Duration // between checks, varied by up to a tenth; 0 disables checks
	Timeout   time.Duration // of one check
	Rise      int           // successes in a row that bring a target up
	Fall      int           // failures in a row that take it down
	StartDown bool          // a target is down until its first checks succeed
}

// A Breaker configures what failed exchanges do.
type Breaker struct {
	Failures     int           // failures in a row that open it; 0 disables it
	FailureRatio float64       // share of failures within Window that opens it; 0 disables it
	Window       time.Duration // time over which FailureRatio counts
	MinRequests  int           // exchanges within Window below which FailureRatio does not count
	// a slower response counts as a failure; 0 disables this
	Slow time.Duration
	// how long it stays open; doubles each time in a row, up to MaxFor
	OpenFor time.Duration
	Trials  int // exchanges in flight while it is half-open
}

// MaxFor limits how long a breaker stays open.
const MaxFor = 5 * time.Minute

// on reports whether exchanges can open the breaker.
func (b *Breaker) on() bool { return b.Failures > 0 || b.FailureRatio > 0 }

// Validate returns all faults of c as one error that names the fields, or nil.
func (c *Config) Validate() error {
	var faults []error
	fault := func(wrong bool, format string, args ...any) {
		if wrong {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	k, b := &c.Check, &c.Breaker
	fault(c.SlowStart < 0, "SlowStart is negative (%v): want 0 or more", c.SlowStart)
	fault(c.SlowStart > 0 && k.Interval == 0 && !b.on(), "SlowStart requires Health or Breaker, which detect that a target has recovered")
	if k.Interval != 0 {
		fault(k.Interval < 0, "Health.Interval is %v, want more than 0", k.Interval)
		fault(k.Timeout <= 0, "Health.Timeout is %v, want more than 0", k.Timeout)
		fault(k.Rise < 1, "Health.Rise is %d, want at least 1", k.Rise)
		fault(k.Fall < 1, "Health.Fall is %d, want at least 1", k.Fall)
	}
	fault(b.Failures < 0, "Breaker.Failures is negative (%d): want 0 or more", b.Failures)
	fault(math.IsNaN(b.FailureRatio) || b.FailureRatio < 0 || b.FailureRatio > 1, "Breaker.FailureRatio is %v, want 0 to 1", b.FailureRatio)
	fault(b.Slow < 0, "Breaker.Slow is negative (%v): want 0 or more", b.Slow)
	fault(b.Slow > 0 && !b.on(), "Breaker.Slow requires Failures or FailureRatio: slow responses count toward them")
	if b.on() {
		fault(b.Window <= 0, "Breaker.Window is %v, want more than 0", b.Window)
		fault(b.MinRequests < 1, "Breaker.MinRequests is %d, want at least 1", b.MinRequests)
		fault(b.OpenFor <= 0 || b.OpenFor > MaxFor, "Breaker.OpenFor is %v, want more than 0 and at most %v", b.OpenFor, MaxFor)
		fault(b.Trials < 1, "Breaker.Trials is %d, want at least 1", b.Trials)
	}
	return errors.Join(faults...)
}

// Defaults sets the default of each field that is 0 and must not be.
func (c *Config) Defaults() {
	k, b := &c.Check, &c.Breaker
	k.Timeout, k.Rise, k.Fall = cmp.Or(k.Timeout, 5*time.Second), cmp.Or(k.Rise, 1), cmp.Or(k.Fall, 3)
	b.Window, b.MinRequests = cmp.Or(b.Window, 10*time.Second), cmp.Or(b.MinRequests, 20)
	b.OpenFor, b.Trials = cmp.Or(b.OpenFor, 10*time.Second), cmp.Or(b.Trials, 1)
}
