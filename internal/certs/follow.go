package certs

import (
	"slices"
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
			m.spawn(func() { m.recaller.recall(m.ctx, m.chains()) })
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
		wants = append(wants, m.routing.decide(name))
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
