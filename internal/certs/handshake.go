package certs

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

// Hot path: the gate, one map look-up under a read lock and one atomic load; no
// allocation, no storage.

// How long a handshake may wait for a certificate, counted from its
// ClientHello. Our own server has other limits; see pauser.
const (
	waitPatience   = 10 * time.Second
	demandPatience = 30 * time.Second       // for the handshake that began an order on demand
	localPatience  = 250 * time.Millisecond // for the local CA, if there is an expired certificate
)

// GetCertificate is for tls.Config. If the name is not a host of a route, it
// returns nil and no error, which sends the alert unrecognized_name. If the
// host has no certificate yet, it returns an error.
//
// It waits while the host's first certificate is being obtained: at most
// waitPatience, or the limit of our own server; the handshake that began an
// order on demand waits at most demandPatience. The wait ends when the client
// disconnects. It sets no deadlines. An expired certificate is served
// immediately while it is being replaced.
func (m *Manager) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if isChallenge(hello) {
		return m.tlsALPN(hello), nil
	}
	name := m.nameOf(hello)
	if name == "" || !m.options.Knows(name) {
		m.notices.refused(name)
		return nil, nil
	}
	ch, err := m.decided(hello)
	switch {
	case err != nil:
		return nil, err
	case ch != nil && (ch.none || ch.cert != nil):
		return ch.cert, nil
	}
	if cert := m.static.Load().pick(hello, name); cert != nil {
		return cert, nil
	}
	m.mu.RLock()
	h := m.find(name)
	m.mu.RUnlock()
	if h == nil {
		return m.other(hello, name)
	}
	h.mark()
	if cert := h.cert.Load(); fresh(cert) {
		return cert, nil
	}
	if cert := m.wildcards(h); cert != nil {
		return cert, nil
	}
	if own := m.uncover(name, h); own != nil {
		return m.wait(hello, own)
	}
	return m.wait(hello, h)
}

// fresh reports whether cert is not nil and has not expired.
func fresh(cert *tls.Certificate) bool { return cert != nil && time.Now().Before(cert.Leaf.NotAfter) }

// nameOf returns the canonical name that a client asks for, or the default for
// a client without SNI; "" if there is none.
func (m *Manager) nameOf(hello *tls.ClientHelloInfo) string {
	if hello.ServerName == "" {
		if m.options.DefaultHost != "" {
			return m.options.DefaultHost
		}
		return localIP(hello.Conn)
	}
	name, err := hostname.Canonical(hello.ServerName)
	if err != nil {
		return ""
	}
	return name
}

// other serves names of routes that have no host in the table.
func (m *Manager) other(hello *tls.ClientHelloInfo, name string) (*tls.Certificate, error) {
	if m.ctx.Err() != nil {
		return nil, nil
	}
	// The route may be so new that the table does not have it.
	m.follower.syncHost(name)
	m.mu.RLock()
	h := m.find(name)
	m.mu.RUnlock()
	switch {
	case h != nil:
		return m.wait(hello, h)
	case m.routing.mints(name):
		m.local.introduce()
		return m.mint(hello, name)
	case isIP(name):
		return nil, nil
	case m.options.Policy == nil:
		m.notices.undemanded(name)
		return nil, nil
	}
	return m.demand(hello, name)
}

// mint returns a certificate that is kept in memory only. Making one may need
// storage.
func (m *Manager) mint(hello *tls.ClientHelloInfo, name string) (*tls.Certificate, error) {
	if cert := m.local.minted.held(name); cert != nil {
		return cert, nil
	}
	return m.lobby.pause(hello, "*", 0, func(ctx context.Context, _ *waiter) (*tls.Certificate, error) {
		return m.local.minted.get(ctx, name)
	})
}

// demand returns the certificate of a name that may have one on demand.
func (m *Manager) demand(hello *tls.ClientHelloInfo, name string) (*tls.Certificate, error) {
	d, began, err := m.demands.join(name)
	if d == nil {
		return nil, err
	}
	patience := time.Duration(0)
	if began {
		patience = demandPatience
	}
	return m.lobby.pause(hello, name, patience, func(ctx context.Context, w *waiter) (*tls.Certificate, error) {
		if err := m.lobby.until(ctx, w, d.done); err != nil {
			return nil, err
		}
		if d.host == nil {
			return d.cert, d.err
		}
		return m.await(ctx, w, d.host)
	})
}

// wait returns the certificate of h once there is one. An expired one is
// returned immediately, except as in prompt.
func (m *Manager) wait(hello *tls.ClientHelloInfo, h *host) (*tls.Certificate, error) {
	cert, err := m.waitFor(hello, h)
	if err != nil && isPattern(h.name) && m.gone(h) {
		// The host existed until the program returned its TLS settings: its
		// hosts may come on demand now.
		return m.other(hello, m.nameOf(hello))
	}
	return cert, err
}

func (m *Manager) gone(h *host) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return h.gone
}

// waitFor is wait for h itself, or for its successor if h is removed.
func (m *Manager) waitFor(hello *tls.ClientHelloInfo, h *host) (*tls.Certificate, error) {
	old, moved, err := m.expedite(h)
	if err != nil {
		if next := m.successor(h); next != nil {
			return m.wait(hello, next)
		}
		if wild := m.wildcards(h); wild != nil {
			return wild, nil
		}
	}
	if moved == nil || old != nil && !m.prompt(h) {
		return old, err
	}
	cert, err := m.lobby.pause(hello, h.name, 0, func(ctx context.Context, w *waiter) (*tls.Certificate, error) {
		return m.await(ctx, w, h)
	})
	if err == errManyWaiters && old != nil {
		return old, nil
	}
	return cert, err
}

// prompt reports whether a new certificate for h takes only milliseconds, so
// that waiting is better than serving an expired one.
func (m *Manager) prompt(h *host) bool { return m.local != nil && h.chain() == m.issuers.internal }

// await returns the certificate of h once there is one; see wait.
func (m *Manager) await(ctx context.Context, w *waiter, h *host) (*tls.Certificate, error) {
	for bounded := false; ; {
		cert, moved, err := m.expedite(h)
		if err != nil {
			if next := m.successor(h); next != nil {
				h = next
				continue
			}
			if wild := m.wildcards(h); wild != nil {
				return wild, nil
			}
		}
		if moved == nil || cert != nil && !m.prompt(h) {
			return cert, err
		}
		if cert != nil && !bounded {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, localPatience)
			defer cancel()
			bounded = true
		}
		switch err := m.lobby.until(ctx, w, moved); {
		case err != nil && cert != nil:
			return cert, nil
		case err != nil:
			return nil, fmt.Errorf("no certificate for %q yet: %w", h.name, err)
		}
	}
}

// expedite returns the certificate of h, expired or not. Unless it is fresh,
// expedite makes sure that a new one comes soon, and returns a channel that is
// closed at the next outcome. The channel is nil if waiting is useless: after a
// failure the next try has a fixed time. Handshakes cannot change that, except
// that after a failure of storage they make it be read again, at most once a
// second.
func (m *Manager) expedite(h *host) (cert *tls.Certificate, moved <-chan struct{}, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	cert = h.cert.Load()
	if fresh(cert) || h.gone && cert != nil {
		return cert, nil, nil
	}
	if !h.gone && h.relieve() {
		return h.cert.Load(), nil, nil
	}
	if h.gone {
		return nil, nil, fmt.Errorf("the route of %q was removed", h.name)
	}
	o := h.move()
	switch {
	case h.evicted() && !o.lost:
		if err := h.reload(); err != nil {
			return nil, nil, err
		}
		return nil, h.outcome(), nil
	case o.err != nil && cert != nil:
		return cert, nil, nil
	case o.err != nil && o.why == ofStorage && time.Since(o.looked) >= storageFirst:
		h.fetch() // storage may be available again
	case o.err != nil:
		h.nudge()
		return nil, nil, fmt.Errorf("no certificate for %q: %w", h.name, o.err)
	}
	first := !o.awaited
	o.awaited = true
	switch {
	case first && (h.evicted() || h.summary == nil && (h.kind == lazy || h.kind == covered)):
		h.fetch()
	case h.queue != nil:
		h.queue.expedite(h)
	}
	return cert, h.outcome(), nil
}

// successor returns the host that serves the name of a removed host now: its
// wildcard, or the same host added again; nil if there is none.
func (m *Manager) successor(h *host) *host {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if next := m.find(h.name); h.gone && next != h {
		return next
	}
	return nil
}

// wildcards returns the certificate of the wildcard above a host, for a host
// without a good certificate of its own. It is nil if there is no such
// certificate, or if the host must have another issuer.
func (m *Manager) wildcards(h *host) *tls.Certificate {
	w := m.wildcardFor(h)
	if w == nil {
		return nil
	}
	w.mark()
	return w.cert.Load()
}

// wildcardFor returns the wildcard whose certificate wildcards returns, nil if
// there is none.
func (m *Manager) wildcardFor(h *host) *host {
	wild := wildcardOf(h.name)
	if wild == "" {
		return nil
	}
	m.mu.RLock()
	w, undecided := m.table.get(wild), h.motion != nil && h.motion.undecided
	m.mu.RUnlock()
	if w == nil || undecided || !fresh(w.cert.Load()) || m.routing.chainOf(h.name) != m.routing.chainOf(wild) {
		return nil
	}
	return w
}

// uncover returns the host of name if the certificate of the wildcard w has
// expired and name may have its own in storage; nil if only w can serve it. The
// hosts below w are scheduled once.
func (m *Manager) uncover(name string, w *host) *host {
	if w.name == name {
		return nil
	}
	m.mu.Lock()
	var covered []string
	lapsed := !w.gone && w.summary != nil && w.summary.expired(time.Now())
	if lapsed && !w.move().lapsed {
		w.motion.lapsed = true
		covered = m.below.names(w.name)
	}
	m.mu.Unlock()
	if len(covered) > 0 {
		m.Changed(covered...)
	}
	if !lapsed {
		return nil
	}
	m.follower.syncHost(name)
	m.mu.RLock()
	defer m.mu.RUnlock()
	if h := m.find(name); h != w {
		return h
	}
	return nil
}

// evicted reports whether the certificate of h was evicted from memory. The
// manager's lock is held.
func (h *host) evicted() bool {
	return h.cert.Load() == nil && h.summary != nil && !h.summary.expired(time.Now())
}

// fetch makes h read storage now, unless a job of h is running. The manager's
// lock is held.
func (h *host) fetch() {
	if h.motion.cancel == nil {
		h.put(h.manager.loads, load, time.Now())
	}
}

// localIP returns the canonical address that a client connected to, "" if
// unknown.
func localIP(c net.Conn) string {
	if c == nil {
		return ""
	}
	ap, err := netip.ParseAddrPort(c.LocalAddr().String())
	if err != nil {
		return ""
	}
	return ap.Addr().Unmap().WithZone("").String()
}
