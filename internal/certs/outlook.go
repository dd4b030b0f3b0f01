package certs

import (
	"fmt"
	"time"
)

// An Outlook describes what a handshake for a host would get.
type Outlook struct {
	// of the certificate that would be served or waited for; Host is "" without
	// one
	Status Status
	About  string // what would happen, in words
}

// Outlook returns what a handshake for a canonical host would get now. It does
// not wait, call hooks or start work; a route that was just added may not be
// visible yet.
func (m *Manager) Outlook(name string) Outlook {
	if !m.options.Knows(name) {
		return Outlook{About: "no certificate: no route serves the host"}
	}
	ch, pattern, ok := m.choices.of(name)
	switch {
	case !ok:
		return Outlook{About: fmt.Sprintf("the handshake waits: TLS.Host has not answered for %q yet", pattern)}
	case ch != nil && ch.none:
		return Outlook{About: "no certificate: TLS.Host set NoCertificate; handshakes are refused"}
	}
	if s, ok := ch.status(name); ok {
		return Outlook{s, "a certificate from TLS.Host"}
	}
	if s, ok := m.static.Load().status(name); ok {
		return Outlook{s, "a certificate from TLS.Files or TLS.Config"}
	}
	m.mu.RLock()
	h := m.find(name)
	if h == nil {
		m.mu.RUnlock()
		return m.outlookOfOther(name)
	}
	s := h.status()
	m.mu.RUnlock()
	if s.NotAfter.IsZero() || !time.Now().Before(s.NotAfter) {
		if w := m.wildcardFor(h); w != nil {
			m.mu.RLock()
			defer m.mu.RUnlock()
			return Outlook{w.status(), fmt.Sprintf("the certificate of %s, until the host has its own", w.name)}
		}
	}
	return Outlook{m.lobby.count(s), s.describe(name)}
}

// describe says what a handshake for a host gets from a managed certificate.
func (s *Status) describe(name string) string {
	switch {
	case s.NotAfter.IsZero() && s.Err != nil:
		return "no certificate: the last attempt failed"
	case s.NotAfter.IsZero():
		return "no certificate yet: the handshake waits for it"
	case !time.Now().Before(s.NotAfter):
		return "an expired certificate, until a new one is ready"
	case s.Host != name:
		return "the certificate of " + s.Host
	}
	return "a certificate of its own"
}

// outlookOfOther is Outlook for hosts that are not in the table.
func (m *Manager) outlookOfOther(name string) Outlook {
	switch wild := wildcardOf(name); {
	case m.options.Wants(name) || wild != "" && m.options.Wants(wild) && m.routing.wantOf(wild).wanted:
		return Outlook{About: "no certificate yet: the route is new"}
	case m.routing.mints(name):
		return Outlook{About: "a certificate that the local CA makes in the handshake"}
	case isIP(name):
		return Outlook{About: "no certificate: no route names the address, and on-demand certificates are for host names only; handshakes are refused"}
	case m.options.Policy == nil:
		return Outlook{About: "no certificate: no route names the host and TLS.HostPolicy is not set; handshakes are refused"}
	}
	switch why := m.routing.refusal(name); {
	case why == nil:
		return Outlook{About: "a certificate on demand, if HostPolicy allows it"}
	case m.choices == nil:
		return Outlook{About: fmt.Sprintf("no certificate: %v; handshakes are refused", why)}
	default:
		return Outlook{About: fmt.Sprintf("a certificate on demand, if HostPolicy allows it and TLS.Host returns an issuer that signs it, since %v", why)}
	}
}

// Orders reports whether a certificate would be loaded or obtained if a route
// for a host pattern were added. It is false if the program provides the
// certificate, a wildcard's certificate serves, none is possible, or it has to
// wait for a handshake. It starts no work and calls no hook.
func (m *Manager) Orders(name string) bool {
	w := m.routing.wantOf(name)
	if !w.wanted || w.refusal != nil || w.kind == lazy {
		return false
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	return w.kind != covered || !m.wildReady(name)
}
