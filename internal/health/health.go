// Package health knows whether a target can be sent exchanges: what checks and
// exchanges said of it, and what follows.
//
// A [Monitor] is the state machine of one target. It has no clock and no I/O:
// those who have seen something tell it, and it takes the target's balance.Node
// out of service and back. [Watch] is the loop that checks a target in the
// meantime.
//
//   - health.go: what is configured
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

// A State is what a target is good for.
type State string

// The states of a target.
const (
	Up       State = "up"
	Down     State = "down"      // checks failed
	Open     State = "open"      // exchanges failed; it is left alone for a while
	HalfOpen State = "half-open" // a few exchanges try whether it is back
)

// A Status is the state of a target and how it came to it.
type Status struct {
	State  State
	Reason string // "" when nothing has ever happened
	Since  time.Time
}

// A Config says when a target goes out of service. The zero value never takes
// one out.
type Config struct {
	Check   Check
	Breaker Breaker
	// in which a target that comes back grows into its share; 0 means at once
	SlowStart time.Duration

	// Changed is told each change of a target's state, in order. It may be
	// called on any goroutine. A panic in it is lost.
	Changed func(target any, s Status)
}

// A Check says what follows from checks.
type Check struct {
	Interval  time.Duration // between checks, give or take a tenth; 0 means that nobody checks
	Timeout   time.Duration // of one check
	Rise      int           // successes in a row that bring a target back
	Fall      int           // failures in a row that take it out
	StartDown bool          // a target is down until its first checks succeeded
}

// A Breaker says what follows from exchanges.
type Breaker struct {
	Failures     int           // consecutive ones that open it; 0 disables this criterion
	FailureRatio float64       // of failures within Window that opens it; 0 disables this criterion
	Window       time.Duration // over which FailureRatio counts
	MinRequests  int           // exchanges within Window below which FailureRatio does not count
	// an answer that takes longer counts as a failure; 0 means that none does
	Slow time.Duration
	// how long it stays open; twice as long each time in a row, up to MaxFor
	OpenFor time.Duration
	Trials  int // exchanges at once while it is half-open
}

// MaxFor bounds how long a breaker stays open.
const MaxFor = 5 * time.Minute

// on reports whether exchanges can open the breaker.
func (b *Breaker) on() bool { return b.Failures > 0 || b.FailureRatio > 0 }

// Validate returns all that is wrong with c as one error that names the fields,
// or nil.
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

// Defaults fills in what is 0 and may not be.
func (c *Config) Defaults() {
	k, b := &c.Check, &c.Breaker
	k.Timeout, k.Rise, k.Fall = cmp.Or(k.Timeout, 5*time.Second), cmp.Or(k.Rise, 1), cmp.Or(k.Fall, 3)
	b.Window, b.MinRequests = cmp.Or(b.Window, 10*time.Second), cmp.Or(b.MinRequests, 20)
	b.OpenFor, b.Trials = cmp.Or(b.OpenFor, 10*time.Second), cmp.Or(b.Trials, 1)
}
