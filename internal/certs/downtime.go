package certs

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

const (
	downFirst = brokenFirst // until the next look at a CA that does not answer, doubling
	downLast  = time.Minute // to this
	downAfter = 3           // orders in a row without an answer
	// of a host whose orders are not placed, at most: it is told when the CA
	// answers
	downRest = time.Hour
)

// A downtime notices when a CA answers no orders, whatever host they are for.
// From then on one order at a time looks whether it does again, and the others
// fail without being placed: thousands of hosts would else ask every few
// minutes each, for days. The zero value is that of a CA that answers.
//
// The host of the last look is back after brokenLast, however long the others
// rest: there is always one that looks.
//
// It is not kept in storage: the network of the process before may have been to
// blame. A new process finds out by no more orders than it has under way at a
// time.
type downtime struct {
	mu       sync.Mutex
	failures int           // orders in a row without an answer
	pause    time.Duration // before the next look
	next     time.Time     // when that is
	refusal  *downError    // for the others
}

// A downError says that a CA has not answered.
type downError struct {
	unasked bool // nor was it asked: it did not answer others
	err     error
}

func (e *downError) Error() string { return e.err.Error() }
func (e *downError) Unwrap() error { return e.err }

// enter lets an order through, as a look or because nothing is wrong, or
// returns why it must not be placed. One that the program wants now is a look.
// release is to be called after the order.
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

// release ends what enter began, with the error of the order, and reports
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
	case look: // it did not get as far as the CA
		d.next = now
	}
	return over
}

// fail notes that an order got no answer. What was under way when the first did
// not is no look. d.mu is held.
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

// noAnswer reports whether a CA did not even take the order, for no reason that
// is about its host: it cannot be reached, hangs or is too busy. The text is
// acmez's.
func noAnswer(err error) bool {
	if err == nil || orderTaken(err) || refused(err) || storageFailed(err) {
		return false
	}
	text := errorText(err)
	return strings.Contains(text, "creating new order") || strings.Contains(text, "registering account")
}

// retryUnanswered tries the hosts of a CA again that has not answered, now that
// it does.
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
