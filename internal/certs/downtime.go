package certs

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

const (
	downFirst = brokenFirst // first pause between tries at a CA that does not answer; doubles
	downLast  = time.Minute // longest such pause
	downAfter = 3           // consecutive orders without an answer
	// longest pause of a host whose orders are not placed: it is notified when
	// the CA answers again
	downRest = time.Hour
)

// A downtime notices when a CA answers no orders, for any host. From then on
// one order at a time tests whether it answers again, and the others fail
// without being placed. Otherwise thousands of hosts would ask every few
// minutes, for days. The zero value means a CA that answers.
//
// The host of the last test retries after at most brokenLast, however long the
// others wait: so there is always a next test.
//
// It is not kept in storage: the network of the previous process may have been
// at fault. A new process finds out with no more orders than it has in flight
// at a time.
type downtime struct {
	mu       sync.Mutex
	failures int           // consecutive orders without an answer
	pause    time.Duration // before the next test
	next     time.Time     // when the next test is
	refusal  *downError    // error for the other orders
}

// A downError says that a CA has not answered.
type downError struct {
	unasked bool // this order was not sent, because the CA did not answer others
	err     error
}

func (e *downError) Error() string { return e.err.Error() }
func (e *downError) Unwrap() error { return e.err }

// enter lets an order through, as a test or because the CA answers, or returns
// why it must not be placed. An order that the program forces is always a test.
// Call release after the order.
func (d *downtime) enter(o order) (look bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failures < downAfter {
		return false, nil
	}
	now := time.Now()
	if now.Before(d.next) && !o.force {
		return false, d.refusal
	}
	d.next = now.Add(tryTime)
	return true, nil
}

// release ends what enter began. err is the error of the order. It reports
// whether the CA answers again.
func (d *downtime) release(look bool, err error) (over bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	switch {
	case noAnswer(err):
		d.fail(look, err, now)
	case err == nil || refused(err) || orderTaken(err):
		over = d.failures >= downAfter
		d.failures = 0
	case look: // the order did not reach the CA
		d.next = now
	}
	return over
}

// fail notes that an order got no answer. An order that was in flight before
// the downtime began is no test. d.mu is held.
func (d *downtime) fail(look bool, err error, now time.Time) {
	switch {
	case look:
		d.pause = min(2*d.pause, downLast)
	case d.failures < downAfter:
		d.failures++
		d.pause = downFirst
	default:
		return
	}
	d.next = now.Add(d.pause)
	err = fmt.Errorf("not asked, since the CA answers no orders: %w", err)
	d.refusal = &downError{unasked: true, err: &paceError{first: brokenFirst, last: downRest, err: err}}
}

// noAnswer reports whether a CA did not even accept the order, for a reason
// that has nothing to do with its host: it is unreachable, hangs or is too
// busy. The text is acmez's.
func noAnswer(err error) bool {
	if err == nil || orderTaken(err) || refused(err) || storageFailed(err) {
		return false
	}
	text := errorText(err)
	return strings.Contains(text, "creating new order") || strings.Contains(text, "registering account")
}

// retryUnanswered retries the hosts of a CA that did not answer and now does.
func (m *Manager) retryUnanswered() { m.each((*host).retryUnanswered) }

func (h *host) retryUnanswered() {
	var down *downError
	o := h.motion
	if o == nil || o.why != ofIssue || !errors.As(o.err, &down) {
		return
	}
	if now := time.Now(); o.cancel == nil && o.next.After(now) {
		o.next = now
		h.put(h.manager.loads, load, now)
	}
}
