package certs

import "time"

// idleFor is how long a host that came on demand and has failed is kept though
// no client asks for it.
const idleFor = 2 * 24 * time.Hour

// doze keeps an on-demand host with a certificate that is good and due, but
// that no client has asked for since the last order or since the start of the
// process: it is served as before, and the next handshake has it renewed. Until
// then nobody asks the policy, which may not know. False means that there is no
// good certificate.
func (h *host) doze() bool {
	m := h.manager
	m.mu.Lock()
	if h.gone || h.summary == nil || h.summary.expired(time.Now()) {
		m.mu.Unlock()
		return false
	}
	h.motion.then = plan{m.loads, load, time.Unix(h.summary.notAfter, 0)}
	// by a handshake that came just now, or a route
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

// named ends the doze of a host that a route names now. The manager's lock is
// held.
func (h *host) named() {
	dozed := h.marks.And(^uint32(dozing))&dozing != 0
	if dozed && (h.motion == nil || !h.motion.undecided) {
		h.wake()
	}
}

// wake has a host looked at that has dozed. The manager's lock is held.
func (h *host) wake() {
	now := plan{h.manager.loads, load, time.Now()}
	if h.motion != nil && h.motion.cancel != nil {
		h.motion.then = now
		return
	}
	h.put(now.queue, now.step, now.due)
}

// idle keeps a host that has failed, and that no client has asked for since:
// for some days it stays as it is. Forgotten, it would begin anew with the next
// client, as if nothing had failed.
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
