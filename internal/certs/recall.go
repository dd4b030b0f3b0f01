package certs

import (
	"context"
	"errors"
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
