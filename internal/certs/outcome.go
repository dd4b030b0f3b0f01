package certs

import (
	"math/rand/v2"
	"time"
)

// The pauses of a host after failures of storage, doubling from the first to
// the last. They are short: storage is near, and its failures say nothing about
// the host.
const (
	// between two reads of storage for a host that a CA's limit holds back
	heldLook     = 15 * time.Minute
	storageFirst = time.Second
	storageLast  = 30 * time.Second
)

// install makes s the certificate that handshakes get.
func (h *host) install(s *stored) {
	h.manager.mu.Lock()
	defer h.manager.mu.Unlock()
	h.serve(s)
}

// installHeld is install for a certificate that is served while it is being
// replaced. It is kept in memory even if that is full, since nothing can load
// it meanwhile.
func (h *host) installHeld(s *stored) {
	h.manager.mu.Lock()
	defer h.manager.mu.Unlock()
	h.motion.awaited = true
	h.serve(s)
}

// serve is install, and reports whether handshakes get a new certificate. The
// manager's lock is held.
func (h *host) serve(s *stored) (changed bool) {
	if h.gone {
		return false
	}
	y := newSummary(s)
	changed = !h.summary.same(y)
	if h.summary != nil {
		y.slot = h.summary.slot
	}
	if !changed {
		y.ordered = max(y.ordered, h.summary.ordered)
	}
	h.summary = y
	h.manager.memory.put(h, s.cert)
	h.motion.spare = s.spare
	h.motion.awaited, h.motion.lost, h.motion.unread = false, false, nil
	if changed {
		h.motion.forced, h.motion.lapsed = false, false
	}
	h.settle()
	return changed
}

// relieve replaces an expired certificate with a valid older one of another
// issuer, and reports whether there was one. The manager's lock is held.
func (h *host) relieve() bool {
	o := h.motion
	if o == nil || o.spare == nil || !fresh(o.spare.cert) {
		return false
	}
	spare, awaited := o.spare, o.awaited
	o.awaited = true // gets it a place in memory
	h.serve(spare)
	o.awaited = awaited
	return true
}

// keep installs a good certificate and waits for its next date.
func (h *host) keep(s *stored) {
	m := h.manager
	m.mu.Lock()
	if h.gone {
		m.mu.Unlock()
		return
	}
	recovered := h.state != valid
	h.state = valid // before serve wakes waiters
	changed := h.serve(s)
	o := h.motion
	o.spare = nil // a spare is not needed: renewal and reading come before expiry
	o.attempts, o.stalls, o.unusable, o.kept, o.unknown, o.told, o.err, o.next = 0, 0, 0, 0, 0, 0, nil, time.Time{}
	o.then = h.upkeep(s)
	status := h.status()
	m.mu.Unlock()
	if changed || recovered {
		m.reporter.ready(status)
	}
}

// upkeep returns the next step for a good certificate.
func (h *host) upkeep(s *stored) plan {
	m, now := h.manager, time.Now()
	p := plan{m.loads, load, latest(latest(s.renewAt(), now.Add(s.pause())), h.rested(s))}
	if t := s.refreshAt(); !t.IsZero() && t.Before(p.due) {
		p = plan{m.infos, refresh, latest(t, now.Add(s.pause()))}
	}
	return p
}

// rested returns when the next order may follow the one that brought s. A CA
// may issue certificates that are due immediately, or report that for any of
// them; this must not lead to a busy loop. It is zero if s was not ordered
// here, or if the program requests a new certificate. The manager's lock is
// held.
func (h *host) rested(s *stored) time.Time {
	if h.summary.ordered == 0 || h.motion.forced {
		return time.Time{}
	}
	if s.premature() { // then the time of the order is wrong too
		return time.Time{}
	}
	return atMost(time.Unix(int64(h.summary.ordered), 0).Add(s.rest()), s.rest())
}

// fail notes err and plans p as the next try. If p has no time, it is set to
// the end of the backoff.
func (h *host) fail(err error, why failure, p plan) {
	m := h.manager
	m.mu.Lock()
	if h.gone || m.ctx.Err() != nil || h.motion.again {
		m.mu.Unlock()
		return
	}
	o := h.motion
	switch {
	case why == ofStorage:
		p.due = time.Now().Add(storageBackoff(o.stalls))
		o.stalls++
	case p.due.IsZero():
		o.attempts++
		p.due = time.Now().Add(backoff(o.attempts, err, h.left()))
	}
	news := o.told&(1<<why) == 0
	o.told |= 1 << why
	o.looked = time.Now()
	if why == ofPreflight {
		o.kept++
		news = news || o.why == why && o.err != nil && o.err.Error() != err.Error()
	}
	h.state = failed
	o.err, o.why, o.next, o.then, o.awaited = err, why, p.due, p, false
	status := h.status()
	h.settle()
	m.mu.Unlock()
	m.reporter.failed(status, why, news)
}

// retryStalled immediately retries everything that failed because of storage,
// now that it has returned. Orders are not repeated after each of many short
// failures: these may be about one key, and the CA counts orders.
func (m *Manager) retryStalled() {
	long := m.storage.outageLasted() > 2*outageLookMost
	m.each(func(h *host) { h.retryStalled(long) })
}

func (h *host) retryStalled(long bool) {
	o := h.motion
	if o == nil || o.err == nil || o.why != ofStorage && (o.why != ofOrder || !long && o.attempts > 3) {
		return
	}
	o.stalls = 0
	if now := time.Now(); o.cancel == nil && o.next.After(now) {
		o.next = now
		h.put(h.manager.loads, load, now)
	}
}

// hold notes that the host must wait for a CA. This is not a failed attempt.
func (h *host) hold(err error, until time.Time) {
	m := h.manager
	m.mu.Lock()
	if h.gone || m.ctx.Err() != nil || h.motion.again {
		m.mu.Unlock()
		return
	}
	until = atMost(until, limitedLast) // may come from storage, written by a wrong clock
	o := h.motion
	began := o.err == nil || o.why != held
	news := o.told&(1<<held) == 0
	o.told |= 1 << held
	o.err, o.why, o.next, o.awaited = err, held, until, false
	o.then = h.heldPlan()
	status := h.status()
	h.settle()
	m.mu.Unlock()
	if began {
		m.reporter.held(status, news)
	}
}

// heldPlan reads storage while the host must wait: another process may obtain
// the certificate that a CA refuses to this one. The manager's lock is held.
func (h *host) heldPlan() plan {
	next := h.motion.next
	if soon := time.Now().Add(heldLook); soon.Before(next) {
		next = soon
	}
	return plan{h.manager.loads, load, next}
}

// left returns the remaining life of the certificate in use, 0 if there is
// none. The manager's lock is held.
func (h *host) left() time.Duration {
	if h.summary == nil {
		return 0
	}
	return max(0, time.Until(time.Unix(h.summary.notAfter, 0)))
}

// storageBackoff returns how long a host waits after n consecutive failures of
// storage.
func storageBackoff(n int) time.Duration {
	wait := storageLast
	if n < 5 {
		wait = storageFirst << n
	}
	return time.Duration(float64(wait) * (0.8 + 0.4*rand.Float64()))
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
