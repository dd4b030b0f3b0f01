package certs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

// recallLast is the longest pause between two tries to list what storage has: each that hangs keeps a slot.
const recallLast = time.Hour

// recall is the task that finds the certificates of an earlier process for hosts that came on demand: they are served,
// shown and renewed as before, though no route names them.
func (m *Manager) recall() {
	for c := range m.chains() {
		m.recallChain(m.ctx, c)
	}
}

func (m *Manager) recallChain(ctx context.Context, c *chain) {
	for _, a := range c.authorities {
		m.recallFrom(ctx, a)
	}
}

// recallFrom is recall for one issuer. It tries until storage lists what it has, and at once when storage returns.
func (m *Manager) recallFrom(ctx context.Context, a *authority) {
	for wait := storageFirst; ctx.Err() == nil; wait = min(2*wait, recallLast) {
		returning := m.storage.returning()
		keys, err := m.storage.List(ctx, a.prefix, false)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			m.recallKeys(ctx, a.prefix, keys)
			return
		}
		m.log.Debug("certificates in storage are not listed", "issuer", a.key, "cause", err)
		select {
		case <-returning:
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

func (m *Manager) recallKeys(ctx context.Context, prefix string, keys []string) {
	for len(keys) > 0 && ctx.Err() == nil {
		n := min(len(keys), batch)
		m.recallHosts(prefix, keys[:n])
		keys = keys[n:]
	}
}

// recallHosts adds the hosts of some storage keys that a route serves and no route names.
func (m *Manager) recallHosts(prefix string, keys []string) {
	for _, key := range keys {
		name, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(key, prefix), "/"), "/")
		canonical, err := hostname.Canonical(name)
		if err != nil || canonical != name || isIP(name) || isShort(name) || !m.options.Knows(name) || m.options.Wants(name) {
			continue
		}
		if cert, err := m.choices.demanded(name); cert != nil || err != nil {
			continue // a handshake asks anew
		}
		m.mu.Lock()
		if m.find(name) == nil {
			h := &host{manager: m, name: name, kind: onDemand}
			m.table.add(h)
			m.below.add(name)
			h.put(m.loads, load, time.Now())
		}
		m.mu.Unlock()
	}
}

// Status returns the status of the certificate that serves a canonical host, and whether there is or will be one.
func (m *Manager) Status(host string) (Status, bool) {
	m.syncHost(host)
	ch, _ := m.choices.exact(host)
	if s, ok := ch.status(host); ok {
		return s, true
	}
	if s, ok := m.static.Load().status(host); ok {
		return s, true
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	h := m.find(host)
	if h == nil {
		h = m.table.get(host) // a pattern
	}
	if h == nil {
		return Status{}, false
	}
	return m.lobby.count(h.status()), true
}

// Renew gets a new certificate for a canonical host or a wildcard now, whether or not the one in use is due, and forgets
// what failed before: backoff and verdict of the policy. It does not wait. The error says why there is nothing to do.
func (m *Manager) Renew(host string) error {
	if m.ctx.Err() != nil {
		return errClosed
	}
	m.syncHost(host)
	if m.brings(host) {
		return fmt.Errorf("the certificate of %q comes from TLS.Files, TLS.Config or TLS.Host: replace it there", host)
	}
	m.Forget(host)
	m.mu.Lock()
	h := m.find(host)
	if h != nil {
		defer m.mu.Unlock()
		return h.renew()
	}
	m.mu.Unlock()
	switch {
	case m.passed(host):
		return errPassed(host)
	case isPattern(host) || !m.options.Knows(host):
		return fmt.Errorf("no route serves %q", host)
	case m.choices.none(host):
		return fmt.Errorf("TLS.Host set NoCertificate for %q: leave it false, then call ReloadTLS", host)
	case m.mints(host):
		return fmt.Errorf("the local CA makes the certificate of %q in the handshake: there is none to renew", host)
	case m.options.Policy == nil:
		return fmt.Errorf("no route names %q, and TLS.HostPolicy is not set: add a route for it, or set TLS.HostPolicy", host)
	}
	_, _, err := m.demands.join(host)
	return err
}

// Forget forgets what the policy said of a canonical host.
func (m *Manager) Forget(host string) { m.demands.forget(host) }

// renew makes an order the next thing that is done for h. The manager's lock is held.
func (h *host) renew() error {
	o := h.move()
	if o.undecided {
		h.manager.choices.ask(h.name, true)
		return nil
	}
	if o.why == hopeless && o.err != nil {
		return o.err
	}
	o.forced, o.rushed, o.awaited = h.summary != nil, o.cancel != nil, true
	o.attempts, o.stalls, o.told = 0, 0, 0
	h.marks.Store(used | recent)
	if o.err != nil && h.summary == nil {
		h.state = pending
	}
	o.err, o.next = nil, time.Time{}
	if o.cancel == nil {
		h.put(h.chain().queue, issue, time.Now())
	}
	return nil
}
