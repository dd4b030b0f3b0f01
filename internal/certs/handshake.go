package certs

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

// Hot path: the gate, one map look-up under a read lock and one atomic load; no
// allocation, no storage.

const (
	demandPatience   = time.Minute      // of a handshake for an on-demand certificate
	handshakeTimeout = 10 * time.Second // after it
)

// GetCertificate is for tls.Config. It returns nil and no error, which is the
// alert unrecognized_name, for what is no host of a route; and an error if the
// host has no certificate yet.
//
// It waits while the host's certificate is on its way, as long as the
// handshake may take. For a host that was never asked for before it extends
// the connection's deadline meanwhile.
func (m *Manager) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if isChallenge(hello) {
		return m.tlsALPN(hello), nil
	}
	name := m.nameOf(hello)
	if name == "" || !m.options.Knows(name) {
		return nil, nil
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
	if cert := h.cert.Load(); cert != nil && time.Now().Before(cert.Leaf.NotAfter) {
		return cert, nil
	}
	return m.wait(contextOf(hello), h)
}

// contextOf returns the context of the handshake; programs that make a hello
// themselves have none.
func contextOf(hello *tls.ClientHelloInfo) context.Context {
	if ctx := hello.Context(); ctx != nil {
		return ctx
	}
	return context.Background()
}

// nameOf returns the canonical name a client asks for, or ought to have; "" if
// there is none.
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

// other serves names of routes that have no certificate of their own.
func (m *Manager) other(hello *tls.ClientHelloInfo, name string) (*tls.Certificate, error) {
	if m.ctx.Err() != nil {
		return nil, nil
	}
	// A route may be so new that the table does not have it.
	m.glance(name)
	m.mu.RLock()
	h := m.find(name)
	m.mu.RUnlock()
	ctx := contextOf(hello)
	switch {
	case h != nil:
	case m.mints(name):
		m.introduce()
		return m.minted.get(ctx, name)
	case m.options.Policy == nil || isIP(name):
		return nil, nil
	default:
		defer extend(hello.Conn)()
		var err error
		if h, err = m.demands.ask(ctx, name); h == nil {
			return nil, err
		}
	}
	return m.wait(ctx, h)
}

// wait returns the certificate of h when it is there.
func (m *Manager) wait(ctx context.Context, h *host) (*tls.Certificate, error) {
	select {
	case m.waiters <- struct{}{}:
		defer func() { <-m.waiters }()
	default:
		return h.orExpired(errors.New("too many handshakes wait for certificates"))
	}
	for {
		cert, moved, err := m.hurry(h)
		if cert != nil {
			return cert, nil
		}
		if err != nil {
			return h.orExpired(err)
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return h.orExpired(fmt.Errorf("no certificate for %q yet: %w", h.name, ctx.Err()))
		case <-m.ctx.Done():
			return h.orExpired(errClosed)
		}
	}
}

// hurry returns the certificate of h, or makes sure it comes soon and returns what is closed at the next outcome. After
// a failure of a CA nothing waits: the next try has its time, and handshakes cannot change that.
func (m *Manager) hurry(h *host) (*tls.Certificate, <-chan struct{}, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if cert := h.cert.Load(); cert != nil && time.Now().Before(cert.Leaf.NotAfter) {
		return cert, nil, nil
	}
	o := h.move()
	switch {
	case h.gone:
		return nil, nil, fmt.Errorf("the route of %q is gone", h.name)
	case o.err != nil && o.why != ofStorage && !h.evicted():
		h.nudge()
		return nil, nil, fmt.Errorf("no certificate for %q: %w", h.name, o.err)
	case o.err != nil && o.why == ofStorage && time.Until(o.next) > storageFirst && o.cancel == nil:
		h.put(m.loads, load, time.Now()) // storage may be back
	}
	first := !o.awaited
	o.awaited = true
	switch {
	case o.cancel != nil:
	case h.evicted(), first && h.kind == lazy && h.summary == nil:
		h.put(m.loads, load, time.Now())
	case h.queue != nil:
		h.queue.hurry(h)
	}
	return nil, h.outcome(), nil
}

// evicted reports whether the certificate of h had to leave the memory. The manager's lock is held.
func (h *host) evicted() bool {
	return h.cert.Load() == nil && h.summary != nil && !h.summary.expired(time.Now())
}

// orExpired returns an expired certificate rather than none: the client may
// say what is wrong then.
func (h *host) orExpired(err error) (*tls.Certificate, error) {
	if cert := h.cert.Load(); cert != nil {
		return cert, nil
	}
	return nil, err
}

// extend gives a handshake more time, until the function it returns is called.
func extend(c net.Conn) (back func()) {
	if c == nil {
		return func() {}
	}
	_ = c.SetDeadline(time.Now().Add(demandPatience))
	return func() { _ = c.SetDeadline(time.Now().Add(handshakeTimeout)) }
}

// localIP returns the canonical address a client connected to, "" if none.
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
