package certs

import "time"

// idleFor is how long a failed on-demand host is kept while no client asks for
// it.
const idleFor = 2 * 24 * time.Hour

// doze keeps an on-demand host whose certificate is good and due for renewal,
// but that no client has asked for since the last order or since the start of
// the process. It is served as before, and the next handshake starts the
// renewal. Until then the policy is not asked; it might not be able to tell.
// False means that there is no good certificate.
func (h *host) doze() bool {
	m := h.manager
	m.mu.Lock()
	if h.gone || h.summary == nil || h.summary.expired(time.Now()) {
		m.mu.Unlock()
		return false
	}
	h.motion.then = plan{m.loads, load, time.Unix(h.summary.notAfter, 0)}
	// a handshake that came just now, or a route
	if h.marks.Or(dozing)&used != 0 || h.kind != onDemand {
		h.marks.And(^uint32(dozing))
		h.wake()
	}
	recovered := h.state != valid && h.motion.err == nil
	if recovered {
		h.state = valid
	}
	status := h.status()
	m.mu.Unlock()
	if recovered {
		m.reporter.ready(status)
	}
	return true
}

// named ends the doze of a host that now has its own route. The manager's lock
// is held.
func (h *host) named() {
	dozed := h.marks.And(^uint32(dozing))&dozing != 0
	if dozed && (h.motion == nil || !h.motion.undecided) {
		h.wake()
	}
}

// wake schedules a dozing host for now. The manager's lock is held.
func (h *host) wake() {
	now := plan{h.manager.loads, load, time.Now()}
	if h.motion != nil && h.motion.cancel != nil {
		h.motion.then = now
		return
	}
	h.put(now.queue, now.step, now.due)
}

// idle keeps a failed host that no client has asked for since, for some days.
// If it were removed, it would start anew with the next client, as if nothing
// had failed.
func (h *host) idle() bool {
	m := h.manager
	m.mu.Lock()
	defer m.mu.Unlock()
	o := h.motion
	if o.err == nil || time.Since(o.looked) > idleFor {
		return false
	}
	o.next = time.Now().Add(backoff(o.attempts, o.err, 0))
	o.then = plan{h.chain().queue, issue, o.next}
	return true
}
