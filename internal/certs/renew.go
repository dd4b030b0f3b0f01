package certs

import (
	"fmt"
	"time"
)

// Renew gets a new certificate for a canonical host or a wildcard now, even if
// the current one is not due. It forgets earlier failures: backoff and the
// policy's verdict. It does not wait. It returns an error if there is nothing
// to renew.
func (m *Manager) Renew(host string) error {
	if m.ctx.Err() != nil {
		return errClosed
	}
	m.follower.syncHost(host)
	if m.routing.brings(host) {
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
	case m.routing.passed(host):
		return errPassed(host)
	case isPattern(host) || !m.options.Knows(host):
		return fmt.Errorf("no route serves %q", host)
	case m.choices.none(host):
		return fmt.Errorf("TLS.Host set NoCertificate for %q: leave it false, then call ReloadTLS", host)
	case m.routing.mints(host):
		return fmt.Errorf("the local CA makes the certificate of %q in the handshake: there is none to renew", host)
	case m.options.Policy == nil:
		return fmt.Errorf("no route names %q, and TLS.HostPolicy is not set: add a route for it, or set TLS.HostPolicy", host)
	}
	if m.choices == nil { // otherwise TLS.Host may set an issuer for it
		if err := m.routing.refusal(host); err != nil {
			return err
		}
	}
	_, _, err := m.demands.join(host)
	return err
}

// Forget forgets the policy's verdict about a canonical host.
func (m *Manager) Forget(host string) { m.demands.forget(host) }

// renew makes an order the next step of h. The manager's lock is held.
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
