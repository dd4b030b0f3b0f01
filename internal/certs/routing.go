package certs

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

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
	case m.local.mintable(zone) && m.chainOf(name) == m.internal && !strings.Contains(zone, "."):
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

// served reports whether the TLS of a canonical host ends here, by the most
// specific pattern with a route.
func (m *Manager) served(host string) bool {
	for _, pattern := range [...]string{host, wildcardOf(host), "*"} {
		switch {
		case pattern == "":
		case m.options.Wants(pattern):
			return true
		case m.passes(pattern):
			return false
		}
	}
	return false
}

// passed reports whether the connections of a canonical host, or of a pattern, are
// carried elsewhere.
func (m *Manager) passed(host string) bool {
	for _, pattern := range [...]string{host, wildcardOf(host), "*"} {
		switch {
		case pattern == "":
		case m.options.Wants(pattern):
			return false
		case m.passes(pattern):
			return true
		}
	}
	return false
}

// passes reports whether the connections of exactly that pattern's route are
// carried elsewhere.
func (m *Manager) passes(pattern string) bool {
	return m.options.Passes != nil && m.options.Passes(pattern)
}

// chainOf returns what issues for a host or wildcard.
func (m *Manager) chainOf(name string) *chain {
	if c := m.choices.chain(name); c != nil {
		return c
	}
	if hostname.IsInternal(strings.TrimPrefix(name, "*.")) {
		return m.internal
	}
	return m.public
}

// refusal says why nobody can issue for the host or wildcard, or nil.
func (m *Manager) refusal(name string) error {
	c := m.chainOf(name)
	if len(c.authorities) == 0 {
		return fmt.Errorf("no issuer for public names such as %q", name)
	}
	return c.refuses(name)
}

// brings reports whether the program brought the certificate of a canonical host
// or a wildcard.
func (m *Manager) brings(host string) bool {
	if ch, _, _ := m.choices.of(host); ch != nil && ch.cert != nil {
		return true
	}
	return m.static.Load().has(host)
}

// mints reports whether host gets its certificate in the handshake.
func (m *Manager) mints(host string) bool {
	return m.local.mintable(host) && m.chainOf(host) == m.internal && m.options.Knows(host) && !m.passed(host)
}
