package certs

import (
	"crypto/tls"
	"strings"

	"github.com/mholt/acmez/v3"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

// admits reports whether a connection may carry requests for a canonical host:
// it must be in the host's realm, and its client certificate must meet the
// realm's current requirements, which may have become stricter since the
// handshake. If the program has not set a host's realm yet, no connection is in
// it. The routes are those that has reports. c may be nil.
//
// Hot path: without a hook, one comparison; with one, a few look-ups under a
// read lock. No allocation.
func (c *choices) admits(has wants, state *tls.ConnectionState, host string) bool {
	if c == nil {
		return true
	}
	to, ok := c.realm(has, host)
	if !ok || !c.within(has, state.ServerName, host, to) {
		return false
	}
	return to == nil || to.loaded.Load().proved(state)
}

// within reports whether a connection with that SNI, as the client sent it, is
// in the realm of a canonical host.
func (c *choices) within(has wants, sni, host string, to *realm) bool {
	name := sni
	switch {
	case sni == host:
		return true
	case sni != "":
		var err error
		if name, err = hostname.Canonical(sni); err != nil {
			name = "" // in no realm
		}
	default:
		name = c.manager.options.DefaultHost
		if name == "" && isAddress(host) {
			// The handshake was for the address that the client connected to,
			// which is unknown here: what was proved then must suffice.
			return true
		}
	}
	from, ok := c.realm(has, name)
	return ok && from == to
}

// isAddress reports cheaply whether a canonical host is an IP address. The
// names that it gets wrong cannot have a certificate.
func isAddress(host string) bool {
	last := len(host) - 1
	return last >= 0 && '0' <= host[last] && host[last] <= '9' || strings.IndexByte(host, ':') >= 0
}

// realm returns the realm of a canonical host, nil for the one open to all
// clients. False means that it is not known yet.
func (c *choices) realm(has wants, host string) (*realm, bool) {
	ch, _, ok := c.under(has, host)
	if ok && ch.realm == nil && ch.demanded {
		ch, _, ok = c.above(has, ch.wild)
	}
	if !ok {
		return nil, false
	}
	return ch.realm, true
}

// realmConfigs holds the settings of each realm.
type realmConfigs struct {
	choices   *choices // nil means that all hosts are in one realm
	listener  *tls.Config
	open      *tls.Config // nil means the listener's own settings
	challenge *tls.Config
}

// configs derives realmConfigs from the listener's config. c may be nil.
func (c *choices) configs(listener *tls.Config) *realmConfigs {
	rc := &realmConfigs{choices: c, listener: listener.Clone(), challenge: listener.Clone()}
	rc.challenge.NextProtos = []string{acmez.ACMETLS1Protocol}
	rc.challenge.ClientAuth = tls.NoClientCert
	rc.challenge.GetConfigForClient = nil
	return rc
}

// of returns the settings for a handshake with a canonical host, or "" if
// unknown.
func (rc *realmConfigs) of(host string) (*tls.Config, error) {
	if rc.choices == nil {
		return rc.open, nil
	}
	to, ok := rc.choices.realm(rc.choices.manager.options.Wants, host)
	switch {
	case !ok:
		return nil, undecided(host, nil)
	case to == nil:
		return rc.open, nil
	}
	return to.config(rc.listener), nil
}

// allRealms returns all realms. c may be nil.
func (c *choices) allRealms() []*realm {
	if c == nil {
		return nil
	}
	c.realmMu.Lock()
	defer c.realmMu.Unlock()
	var all []*realm
	for _, some := range c.realms {
		all = append(all, some...)
	}
	return all
}
