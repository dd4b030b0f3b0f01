package certs

import "time"

// applyAll makes the table follow what the routes want of some names.
func (m *Manager) applyAll(names []string, wants []want) {
	var hopeless []Status
	m.mu.Lock()
	for i, name := range names {
		if h := m.apply(name, wants[i]); h != nil && wants[i].refusal != nil {
			hopeless = append(hopeless, h.status())
		}
	}
	m.mu.Unlock()
	for _, s := range hopeless {
		m.reporter.hopeless(s)
	}
}

// apply makes the table follow what the routes want of a name, and returns the
// host if it is new. m.mu is held.
func (m *Manager) apply(name string, w want) *host {
	h := m.table.get(name)
	switch {
	case !w.wanted && h != nil && h.kind == onDemand && w.known:
		return nil
	case !w.wanted:
		if h != nil {
			m.remove(h)
		}
		m.below.drop(name)
		if w.left {
			m.choices.drop(name)
		}
		return nil
	case h != nil:
		if w.undecided {
			h.move().undecided = true
		}
		m.decideLate(h, w)
		m.change(h, w.kind)
		return nil
	case w.undecided && name == "*":
		return nil // "*" never has a certificate of its own
	case w.kind == covered:
		m.below.add(name)
		if m.wildReady(name) {
			return nil
		}
	}
	h = m.add(name, w)
	if w.refusal == nil && !w.undecided && m.local != nil && h.chain() == m.issuers.internal {
		m.local.introduce()
	}
	return h
}

// decideLate starts a host that waited for the program's TLS settings. m.mu is
// held.
func (m *Manager) decideLate(h *host, w want) {
	if w.undecided || h.motion == nil || !h.motion.undecided {
		return
	}
	h.begun()
	if w.refusal != nil {
		h.hopeless(w.refusal)
		return
	}
	h.put(m.loads, load, time.Now())
	if m.local != nil && h.chain() == m.issuers.internal {
		m.local.introduce()
	}
}

// change gives an existing host the kind that the routes want now. m.mu is
// held.
func (m *Manager) change(h *host, k kind) {
	switch {
	case k == h.kind:
		return
	case k == covered:
		m.below.add(h.name)
	default:
		m.below.drop(h.name)
	}
	h.kind = k
	h.named()
}

// wildReady reports whether a wildcard's certificate serves name now. m.mu is
// held for reading.
func (m *Manager) wildReady(name string) bool {
	w := m.table.get(wildcardOf(name))
	return w != nil && w.summary != nil && !w.summary.expired(time.Now())
}

// add starts a host, or notes why only a change of the program can help it.
// m.mu is held.
func (m *Manager) add(name string, w want) *host {
	h := &host{manager: m, name: name, kind: w.kind}
	m.table.add(h)
	switch {
	case w.undecided:
		h.move().undecided = true
	case w.refusal != nil:
		h.hopeless(w.refusal)
	default:
		h.put(m.loads, load, time.Now())
	}
	return h
}

// hopeless notes why only a change of the program can help a host. The
// manager's lock is held.
func (h *host) hopeless(why error) {
	h.state = failed
	o := h.move()
	o.err, o.why = why, hopeless
	if h.queue != nil {
		h.queue.drop(h)
	}
	h.settle()
}

// remove removes a host and cancels its work, which will then see that the host
// is gone. m.mu is held.
func (m *Manager) remove(h *host) {
	h.gone = true
	m.table.drop(h)
	m.memory.drop(h)
	if h.queue != nil {
		h.queue.drop(h)
	}
	if h.motion != nil && h.motion.cancel != nil {
		h.motion.cancel()
	}
	if h.kind == onDemand {
		m.below.drop(h.name)
		m.choices.drop(h.name)
	}
	h.settle()
}

// forget removes a host that came on demand.
func (m *Manager) forget(h *host) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !h.gone {
		m.remove(h)
	}
}

// addOnDemand adds a host that came with a handshake. It returns the host and a
// channel that is closed at its first outcome. vouched means that the policy
// has allowed it.
func (m *Manager) addOnDemand(name string, vouched bool) (*host, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if h := m.find(name); h != nil {
		if h.marks.Or(used|recent)&dozing != 0 {
			h.wake()
		}
		if fresh(h.cert.Load()) || h.motion != nil && h.motion.err != nil {
			return h, nil // there is no outcome to wait for
		}
		return h, h.outcome()
	}
	if !m.options.Knows(name) { // its route was removed while the policy decided
		return nil, nil
	}
	h := &host{manager: m, name: name, kind: onDemand}
	h.move().awaited = true
	if vouched {
		h.motion.vouched = time.Now()
	}
	h.marks.Store(used)
	m.table.add(h)
	m.below.add(name)
	h.put(m.loads, load, time.Now())
	return h, h.outcome()
}

// addRecalled adds a host that came on demand to an earlier process, unless it
// is served already.
func (m *Manager) addRecalled(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.find(name) == nil {
		h := &host{manager: m, name: name, kind: onDemand}
		m.table.add(h)
		m.below.add(name)
		h.put(m.loads, load, time.Now())
	}
}

// onDemand reports whether a host came on demand.
func (m *Manager) onDemand(name string) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	h := m.table.get(name)
	return h != nil && h.kind == onDemand
}

// reissue makes a host use its new issuer.
func (m *Manager) reissue(name string) {
	refusal := m.routing.refusal(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.table.get(name)
	switch {
	case h == nil || h.motion != nil && h.motion.undecided:
	case refusal == nil:
		h.switched()
	case h.summary == nil:
		h.hopeless(refusal)
	}
}

// undecidable notes that the hook failed for a host that waits for it.
func (m *Manager) undecidable(name string, err error, next time.Time, news bool) {
	m.follower.mu.Lock() // the host may be about to enter the table
	defer m.follower.mu.Unlock()
	m.mu.Lock()
	h := m.table.get(name)
	if h == nil || h.motion == nil || !h.motion.undecided {
		m.mu.Unlock()
		if news && name == "*" { // which has no status
			m.log.Warn("TLS.Host failed", "host", name, "cause", err)
		}
		return
	}
	h.state = failed
	o := h.motion
	o.err, o.why, o.looked, o.next, o.awaited = err, ofChoice, time.Now(), next, false
	status := h.status()
	h.settle()
	m.mu.Unlock()
	m.reporter.failed(status, ofChoice, news)
}
