package health

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/balance"
)

// A Monitor has the health of one target. With a nil Monitor the target is
// always up. Its methods may be called concurrently.
//
// Hot path: while the breaker is closed, Admit is one load, and Report of a
// success is one load more, or one addition with Breaker.FailureRatio.
type Monitor struct {
	config *Config
	node   *balance.Node
	target any // for Changed

	alert  atomic.Bool  // the breaker is not closed
	streak atomic.Int64 // failures in a row
	total  atomic.Int64 // exchanges since windowAt
	status atomic.Pointer[Status]

	mu       sync.Mutex // guards what follows
	down     string     // reason of the last failed check; "" while the target is up for checks
	run      int        // checks in a row that contradict down
	breaker  State      // Up, Open or HalfOpen
	why      string     // why the breaker is not closed
	until    time.Time  // when an open breaker becomes half-open
	opened   int        // how often it has opened in a row
	openedAt time.Time  // when it last opened; zero if it never has
	trials   int        // exchanges in flight while it is half-open
	triedAt  time.Time  // when the last trial began
	failed   int64      // failures since windowAt
	windowAt time.Time
	past     []Status // the latest changes of the state, the oldest first
	events   []Status // not yet passed to Changed
	telling  bool
}

// New returns the Monitor of target, at now. c must be valid and must not
// change. Only the Monitor may suspend and resume node.
func New(c *Config, node *balance.Node, target any, now time.Time) *Monitor {
	m := &Monitor{config: c, node: node, target: target, breaker: Up, windowAt: now}
	m.status.Store(&Status{State: Up, Since: now})
	if c.Check.Interval > 0 && c.Check.StartDown {
		m.down = "not checked yet"
		node.Suspend(time.Time{})
		m.status.Store(&Status{State: Down, Reason: m.down, Since: now})
	}
	return m
}

// Status returns the state of the target.
func (m *Monitor) Status() Status {
	if m == nil {
		return Status{State: Up}
	}
	return *m.status.Load()
}

// keptChanges is how many changes of state a Monitor remembers, and keptReason
// how many bytes of each reason.
const (
	keptChanges = 5
	keptReason  = 300
)

// Changes returns the latest changes of the target's state, the oldest first. A
// nil Monitor has none.
func (m *Monitor) Changes() []Status {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.past)
}

// remember keeps a change, and drops the oldest if there are too many. m.mu is
// held.
func (m *Monitor) remember(s Status) {
	if len(m.past) == keptChanges {
		m.past = slices.Delete(m.past, 0, 1)
	}
	if len(s.Reason) > keptReason {
		// a copy: the reason may be a part of a large string
		s.Reason = strings.ToValidUTF8(s.Reason[:keptReason], "") + "…"
	}
	m.past = append(m.past, s)
}

// Admit reports whether an exchange may go to the target at now. If so, Report
// or Release must follow. While the breaker is half-open, trials without a
// result after Breaker.OpenFor count as lost, and others may begin.
func (m *Monitor) Admit(now time.Time) bool {
	if m == nil || !m.alert.Load() {
		return true
	}
	m.mu.Lock()
	defer m.tell()
	defer m.mu.Unlock()
	if !m.admits(now) {
		return false
	}
	if m.breaker == Open {
		m.breaker, m.trials = HalfOpen, 0
		m.note(now, m.why)
	}
	if m.breaker == HalfOpen {
		if m.trials >= m.config.Breaker.Trials {
			m.trials = 0
		}
		m.trials++
		m.triedAt = now
	}
	return true
}

// Admits reports whether Admit would return true, and changes nothing.
func (m *Monitor) Admits(now time.Time) bool {
	if m == nil || !m.alert.Load() {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.admits(now)
}

// admits is Admits. m.mu is held.
func (m *Monitor) admits(now time.Time) bool {
	switch b := &m.config.Breaker; m.breaker {
	case Open:
		return !now.Before(m.until)
	case HalfOpen:
		return m.trials < b.Trials || now.Sub(m.triedAt) >= b.OpenFor
	}
	return true
}

// Report notes that an exchange has failed, or had a response, latency after
// its start. It ignores an exchange that began before the breaker last opened:
// the target may have recovered since.
func (m *Monitor) Report(now time.Time, failure error, latency time.Duration) {
	if m == nil || !m.config.Breaker.on() {
		return
	}
	b := &m.config.Breaker
	if b.FailureRatio > 0 {
		m.total.Add(1)
	}
	if failure == nil && b.Slow > 0 && latency > b.Slow {
		failure = fmt.Errorf("response after %v, slower than %v", latency.Round(time.Millisecond), b.Slow)
	}
	if failure == nil && !m.alert.Load() {
		if m.streak.Load() != 0 {
			m.streak.Store(0)
		}
		return
	}
	m.mu.Lock()
	defer m.tell()
	defer m.mu.Unlock()
	if m.outdated(now, latency) {
		return
	}
	m.trials = max(0, m.trials-1)
	if failure == nil {
		m.succeeded(now)
	} else {
		m.hasFailed(now, failure)
	}
}

// Release notes that an exchange ended, latency after its start, without a
// result about the target.
func (m *Monitor) Release(now time.Time, latency time.Duration) {
	if m == nil || !m.alert.Load() {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.outdated(now, latency) {
		m.trials = max(0, m.trials-1)
	}
}

// outdated reports whether an exchange that ends now began before the breaker
// last opened. m.mu is held.
func (m *Monitor) outdated(now time.Time, latency time.Duration) bool {
	return now.Add(-latency).Before(m.openedAt)
}

// Abandon notes that an exchange was given up, without a response after
// latency. It counts as a failure if that is too slow for the breaker.
func (m *Monitor) Abandon(now time.Time, latency time.Duration) {
	if m != nil && m.config.Breaker.Slow > 0 && latency > m.config.Breaker.Slow {
		m.Report(now, fmt.Errorf("no response after %v", latency.Round(time.Millisecond)), latency)
		return
	}
	m.Release(now, latency)
}

// succeeded closes a half-open breaker. m.mu is held.
func (m *Monitor) succeeded(now time.Time) {
	m.streak.Store(0)
	if m.breaker != HalfOpen {
		return // no target was up, so that it began although the breaker was open
	}
	m.breaker, m.opened, m.failed, m.windowAt = Up, 0, 0, now
	m.total.Store(0)
	m.alert.Store(false)
	m.note(now, "answers again")
	m.serve(now)
}

// hasFailed counts a failure, and opens the breaker if there were enough. m.mu
// is held.
func (m *Monitor) hasFailed(now time.Time, failure error) {
	b := &m.config.Breaker
	streak := m.streak.Add(1)
	if now.Sub(m.windowAt) > b.Window {
		m.windowAt, m.failed = now, 0
		m.total.Store(1)
	}
	m.failed++
	total := m.total.Load()
	switch {
	case m.breaker == Open:
	case m.breaker == HalfOpen:
		m.open(now, failure.Error())
	case b.Failures > 0 && streak >= int64(b.Failures):
		m.open(now, inARow(streak, failure))
	case b.FailureRatio > 0 && total >= int64(b.MinRequests) && float64(m.failed) >= b.FailureRatio*float64(total):
		m.open(now, fmt.Sprintf("%d of %d requests failed, the last: %v", m.failed, total, failure))
	}
}

// inARow returns the reason for opening the breaker after that many failures in
// a row; failure is the last.
func inARow(streak int64, failure error) string {
	if streak == 1 {
		return fmt.Sprintf("1 failure: %v", failure)
	}
	return fmt.Sprintf("%d failures in a row, the last: %v", streak, failure)
}

// open opens the breaker. m.mu is held.
func (m *Monitor) open(now time.Time, why string) {
	d := m.config.Breaker.OpenFor << min(m.opened, 10)
	m.opened++
	m.breaker, m.why, m.openedAt, m.until = Open, why, now, now.Add(min(d, MaxFor))
	m.alert.Store(true)
	m.streak.Store(0)
	m.note(now, why)
	m.serve(now)
}

// Probed notes the result of a check.
func (m *Monitor) Probed(now time.Time, err error) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.tell()
	defer m.mu.Unlock()
	k := &m.config.Check
	switch {
	case (err == nil) == (m.down == ""):
		m.run = 0
		if err != nil {
			m.down = err.Error()
		}
		return
	case err == nil:
		if m.run++; m.run < k.Rise {
			return
		}
		m.down, m.run = "", 0
		m.note(now, "answers checks again")
	default:
		if m.run++; m.run < k.Fall {
			return
		}
		m.down, m.run = err.Error(), 0
		m.note(now, m.down)
	}
	m.serve(now)
}

// Restarted notes that the target was started anew: it becomes up, and the
// breaker is closed. With StartDown, checks still have to find it up.
func (m *Monitor) Restarted(now time.Time) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.tell()
	defer m.mu.Unlock()
	checked := m.down == "" || m.config.Check.StartDown
	if checked && m.breaker == Up {
		return
	}
	if !checked {
		m.down, m.run = "", 0
	}
	m.breaker, m.opened, m.trials, m.failed, m.windowAt = Up, 0, 0, 0, now
	m.streak.Store(0)
	m.total.Store(0)
	m.alert.Store(false)
	m.note(now, "restarted")
	m.serve(now)
}

// serve takes the node out of service or back, as the state requires. m.mu is
// held.
func (m *Monitor) serve(now time.Time) {
	switch {
	case m.down != "":
		m.node.Suspend(time.Time{})
	case m.breaker == Open && now.Before(m.until):
		m.node.Suspend(m.until)
	default:
		m.node.Resume(now, m.config.SlowStart)
	}
}

// note updates the status from down and the breaker. m.mu is held.
func (m *Monitor) note(now time.Time, reason string) {
	s := Status{State: m.breaker, Reason: reason, Since: now}
	if m.down != "" {
		s.State, s.Reason = Down, m.down
	} else if m.breaker != Up {
		s.Reason = m.why
	}
	old := m.status.Load()
	if old.State == s.State {
		s.Since = old.Since
	} else {
		m.remember(s)
		if m.config.Changed != nil {
			m.events = append(m.events, s)
		}
	}
	m.status.Store(&s)
}

// tell calls Changed for each event, in order.
func (m *Monitor) tell() {
	for {
		m.mu.Lock()
		if m.telling || len(m.events) == 0 {
			m.mu.Unlock()
			return
		}
		next := m.events[0]
		m.events, m.telling = m.events[1:], true
		m.mu.Unlock()
		m.call(next)
		m.mu.Lock()
		m.telling = false
		m.mu.Unlock()
	}
}

func (m *Monitor) call(s Status) {
	// a fault of the hook, on which the target's state does not depend
	defer func() { _ = recover() }()
	m.config.Changed(m.target, s)
}
