package certs

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hostproxy/hostproxy/internal/yield"
)

// changes are the host patterns whose routes have changed and that the table does not show yet.
type changes struct {
	mu    sync.Mutex
	all   bool
	names []string
	wake  chan struct{}
}

// add notes changes; none named means that anything may have changed.
func (c *changes) add(names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = c.all || len(names) == 0
	if c.names == nil {
		c.names = slices.Clip(names)
	} else {
		c.names = append(c.names, names...)
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *changes) take() (all bool, names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all, names = c.all, c.names
	c.all, c.names = false, nil
	return all, names
}

func (c *changes) empty() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.all && len(c.names) == 0
}

// Changed says that the routes of some host patterns have come, gone or changed; none named means that any may have. It
// is cheap and does not block: the work is that of the hosts named, whatever the number of all. It keeps the slice.
func (m *Manager) Changed(hosts ...string) { m.changes.add(hosts) }

// watch follows the routes.
func (m *Manager) watch(grace time.Duration) {
	timer := time.NewTimer(grace)
	defer timer.Stop()
	first := true
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-timer.C:
		}
		m.sync()
		m.notices.later()
		if first && m.options.Policy != nil {
			m.spawn(m.recall)
		}
		first = false
		select {
		case <-m.ctx.Done():
			return
		case <-m.changes.wake:
		}
		timer.Reset(syncPause)
	}
}

// sync makes the table follow the routes. When it returns the table shows all that Changed has said before.
func (m *Manager) sync() {
	m.syncMu.Lock()
	defer m.syncMu.Unlock()
	all, names := m.changes.take()
	if all {
		m.followAll()
	}
	m.follow(names)
}

// syncHost makes the table follow the routes of one host, ahead of all others that have changed.
func (m *Manager) syncHost(name string) {
	if m.changes.empty() && m.syncMu.TryLock() {
		m.syncMu.Unlock() // nothing is under way either
		return
	}
	if wild := wildcardOf(name); wild != "" {
		m.decideAll([]string{wild})
	}
	m.decideAll([]string{name})
}

// followAll looks at every host of a route, and at every host of the table.
func (m *Manager) followAll() {
	names := make([]string, 0, batch)
	var turn yield.Turn
	for name := range m.options.Hosts() {
		if names = append(names, name); len(names) == batch {
			m.decideAll(names)
			names = names[:0]
			turn.Check()
		}
	}
	m.decideAll(names)
	known := m.names()
	m.mu.RLock()
	known = append(known, m.below.names("*")...)
	m.mu.RUnlock()
	m.follow(known)
}

// follow decides about names, and about those below the wildcards among them.
func (m *Manager) follow(names []string) {
	var turn yield.Turn
	for len(names) > 0 && m.ctx.Err() == nil {
		n := min(len(names), batch)
		m.decideAll(names[:n])
		for _, name := range names[:n] {
			if isPattern(name) {
				m.mu.RLock()
				below := m.below.names(name)
				m.mu.RUnlock()
				m.follow(below) // hosts, which have none below them
			}
		}
		names = names[n:]
		turn.Check() // a million changes must not keep handshakes from a processor
	}
}

// decideAll decides about a batch of names, and makes the table follow.
func (m *Manager) decideAll(names []string) {
	m.followMu.Lock() // what is decided is done before anything else is decided
	defer m.followMu.Unlock()
	wants := m.wants[:0]
	for _, name := range names {
		wants = append(wants, m.decide(name))
	}
	defer clear(wants)
	m.wants = wants
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

// A want is what the routes say of a name.
type want struct {
	wanted  bool
	known   bool  // a route serves it, if not one of exactly that name
	refusal error // why it cannot have a certificate; nil if it can
	kind    kind

	left      bool // no route has exactly that pattern
	undecided bool // the program has not said yet how its TLS is done
}

// decide says what the routes want of a name now.
func (m *Manager) decide(name string) want {
	switch {
	case m.options.Wants(name):
	case m.passes(name):
		m.choices.inspect(name)
		return want{}
	default:
		return want{known: !isPattern(name) && m.options.Knows(name) && !m.passed(name), left: true}
	}
	if !m.choices.settled(name) {
		m.choices.ask(name, false)
		return want{wanted: true, undecided: true}
	}
	return m.wantOf(name)
}

// wantOf says what a host pattern of a route wants.
func (m *Manager) wantOf(name string) want {
	zone, wild := strings.CutPrefix(name, "*.")
	ch, _ := m.choices.exact(name)
	switch {
	case ch != nil && (ch.none || ch.cert != nil):
		return want{known: true}
	case name == "*", m.static.Load().has(name):
		return want{known: true}
	case !wild:
		return want{wanted: true, refusal: m.refusal(name), kind: m.kindOf(name)}
	case m.mintable(zone) && m.chainOf(name) == m.internal && !strings.Contains(zone, "."):
		// No client takes *.localhost: its hosts get certificates of their own as they are asked for.
		return want{known: true}
	case m.chainOf(name).wildcards(), m.refusal(name) != nil:
		return want{wanted: true, refusal: m.refusal(name)}
	case m.options.Policy == nil:
		return want{wanted: true, refusal: errWildcard}
	}
	return want{known: true}
}

var errWildcard = errors.New("wildcard certificates require a DNS-01 solver: set a DNS provider (TLS.DNS), " +
	"or a HostPolicy that allows a certificate for each of its hosts when a handshake asks for it")

// kindOf returns the kind of a host that a route names.
func (m *Manager) kindOf(name string) kind {
	if wild := wildcardOf(name); wild != "" && m.options.Wants(wild) && !m.choices.apart(name, wild) {
		if w := m.wantOf(wild); w.wanted && w.refusal == nil {
			return covered
		}
	}
	if m.options.Lazy {
		return lazy
	}
	return ofRoute
}

// apply makes the table do what is wanted of a name, and returns the host if it is new. m.mu is held.
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
		return nil // has no certificate of its own in any case
	case w.kind == covered:
		m.below.add(name)
		if m.wildReady(name) {
			return nil
		}
	}
	h = m.add(name, w)
	if w.refusal == nil && !w.undecided && m.local != nil && h.chain() == m.internal {
		m.introduce()
	}
	return h
}

// decideLate starts a host that has waited for the program to say how its TLS is done. m.mu is held.
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
	if m.local != nil && h.chain() == m.internal {
		m.introduce()
	}
}

// change makes an old host of the kind that the routes want now. m.mu is held.
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

// wildReady reports whether a wildcard's certificate serves name now. m.mu is held for reading.
func (m *Manager) wildReady(name string) bool {
	w := m.table.get(wildcardOf(name))
	return w != nil && w.summary != nil && !w.summary.expired(time.Now())
}

// add starts a host, or notes why only a change of the program helps it. m.mu is held.
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

// hopeless notes why only a change of the program helps a host. The manager's lock is held.
func (h *host) hopeless(why error) {
	h.state = failed
	o := h.move()
	o.err, o.why = why, hopeless
	if h.queue != nil {
		h.queue.drop(h)
	}
	h.settle()
}

// remove ends a host. What is under way for it is cancelled, and finds itself gone. m.mu is held.
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

// A zones is the names that have to be looked at again when the wildcard above them changes: hosts that came on demand,
// and hosts that a wildcard's certificate covers. It is used under the manager's lock.
type zones map[string]map[string]struct{}

func (z zones) add(name string) {
	wild := wildcardOf(name)
	if z[wild] == nil {
		z[wild] = make(map[string]struct{})
	}
	z[wild][name] = struct{}{}
}

func (z zones) drop(name string) {
	wild := wildcardOf(name)
	if delete(z[wild], name); len(z[wild]) == 0 {
		delete(z, wild)
	}
}

// names returns those below a wildcard, or all for "*".
func (z zones) names(wild string) []string {
	if wild != "*" {
		return slices.Collect(maps.Keys(z[wild]))
	}
	var all []string
	for _, names := range z {
		all = slices.AppendSeq(all, maps.Keys(names))
	}
	return all
}

// wildcardOf returns the wildcard that covers a host, "" if none can.
func wildcardOf(name string) string {
	i := strings.IndexByte(name, '.')
	if i <= 0 || name[0] == '*' || isIP(name) {
		return ""
	}
	return "*" + name[i:]
}

func isPattern(name string) bool { return strings.HasPrefix(name, "*") }
