package certs

import (
	"crypto/tls"
	"fmt"
	"slices"

	"github.com/mholt/acmez/v3"
)

// TLSConfig returns the settings of a listener: a clone of Options.Config with
// the certificates of m and the client authentication of its realms.
func (m *Manager) TLSConfig() *tls.Config {
	c := &tls.Config{}
	if m.options.Config != nil {
		c = m.options.Config.Clone()
	}
	if c.MinVersion == 0 {
		c.MinVersion = tls.VersionTLS12
	}
	if len(c.NextProtos) == 0 {
		c.NextProtos = []string{"h2", "http/1.1"}
	}
	if !slices.Contains(c.NextProtos, acmez.ACMETLS1Protocol) {
		c.NextProtos = append(slices.Clone(c.NextProtos), acmez.ACMETLS1Protocol)
	}
	c.Certificates = nil                 // otherwise clients without SNI would get the first one
	c.DynamicRecordSizingDisabled = true // a response header and a small body fit one record
	c.GetCertificate = m.getCertificate(c.GetCertificate)
	shared := m.options.ShareTickets && !c.SessionTicketsDisabled && c.GetConfigForClient == nil
	if m.choices == nil && !shared {
		c.GetConfigForClient = m.greet(c.GetConfigForClient)
		return c
	}
	rc := m.choices.configs(c)
	if shared {
		// Servers clone the config that they get; this one stays ours to
		// change.
		rc.open = c.Clone()
		m.tickets.applyTo(rc.open)
	}
	c.GetConfigForClient = m.greet(m.configForClient(rc))
	return c
}

// greet passes hellos to the program's hook before next chooses their settings.
// The hellos of CAs that validate a challenge are not passed on.
func (m *Manager) greet(next func(*tls.ClientHelloInfo) (*tls.Config, error)) func(*tls.ClientHelloInfo) (*tls.Config, error) {
	if m.options.Hello == nil {
		return next
	}
	return func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if !isChallenge(hello) {
			if err := m.show(hello); err != nil {
				return nil, err
			}
		}
		if next == nil {
			return nil, nil
		}
		return next(hello)
	}
}

// show calls the program's hook. A panic in it ends only this handshake.
func (m *Manager) show(hello *tls.ClientHelloInfo) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in Hello: %v", p)
			m.options.Logger.Warn("handshake refused", "cause", err)
		}
	}()
	return m.options.Hello(hello)
}

// getCertificate first calls the program's function, for hosts of a route.
func (m *Manager) getCertificate(first func(*tls.ClientHelloInfo) (*tls.Certificate, error)) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if first == nil {
		return m.GetCertificate
	}
	return func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if !isChallenge(hello) && m.options.Knows(m.nameOf(hello)) {
			if cert, err := first(hello); cert != nil || err != nil {
				return cert, err
			}
		}
		return m.GetCertificate(hello)
	}
}

// configForClient chooses the settings of the realm that a client asks for. CAs
// that validate a challenge have no client certificate, so they get a config of
// their own.
func (m *Manager) configForClient(r *realmConfigs) func(*tls.ClientHelloInfo) (*tls.Config, error) {
	return func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if isChallenge(hello) {
			return r.challenge, nil
		}
		if _, err := m.decided(hello); err != nil {
			return nil, err
		}
		return r.of(m.nameOf(hello))
	}
}
