package certs

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/mholt/acmez/v3"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

// Realms are sets of hosts that share their client authentication. A connection
// belongs to one: what it proved to one realm counts for no other. A nil Realms
// is one realm, open to all.
type Realms struct {
	hosts    map[string]*realm // by host, wildcard, or "*"
	fallback string            // the host of clients that send no SNI; "" means all others
	choices  *choices          // go before; nil if the program has no say at run time
}

// NewRealms makes each pattern a realm: a host, a wildcard, or "*" for all
// others. Clients that send no SNI are in that of fallback, a canonical host, or
// in that of all others if it is "". It reads the CA files. The error says all
// that is wrong: a CA that is missing must neither open a host to everybody nor
// close it unnoticed.
func NewRealms(auths map[string]ClientAuth, fallback string) (*Realms, error) {
	r := &Realms{hosts: make(map[string]*realm), fallback: fallback}
	var errs []error
	for pattern, a := range auths {
		key, err := canonicalPattern(pattern)
		if err == nil && r.hosts[key] != nil {
			err = fmt.Errorf("host %q is there twice", key)
		}
		var made *realm
		if err == nil {
			made, err = newRealm(a)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("client authentication of %q: %w", pattern, err))
			continue
		}
		r.hosts[key] = made
	}
	return r, errors.Join(errs...)
}

func canonicalPattern(pattern string) (string, error) {
	if pattern == "*" {
		return pattern, nil
	}
	base, wild := strings.CutPrefix(pattern, "*.")
	host, err := hostname.Canonical(base)
	if err != nil {
		return "", err
	}
	if wild {
		host = "*." + host
	}
	return host, nil
}

// Same reports whether a connection with that SNI, as the client sent it, is in
// the realm of a canonical host. No connection is in that of a host of which the
// program has not said yet what it is.
//
// Hot path: without realms, one comparison; no allocation.
func (r *Realms) Same(sni, host string) bool {
	_, same := r.shared(sni, host)
	return same
}

// shared returns the realm of a host, and whether a connection with that SNI is
// in it.
func (r *Realms) shared(sni, host string) (*realm, bool) {
	if r.empty() {
		return nil, true
	}
	to, ok := r.find(host)
	if !ok || sni == host {
		return to, ok
	}
	from, ok := r.shaken(sni)
	return to, ok && from == to
}

// Admits reports whether a connection may carry requests for a canonical host:
// it is in the host's realm, and has proved what that asks for now, which may be
// more than at its handshake.
//
// Hot path: as for Same.
func (r *Realms) Admits(state *tls.ConnectionState, host string) bool {
	to, same := r.shared(state.ServerName, host)
	if !same || to == nil || r.choices == nil && !to.changed.Load() {
		return same
	}
	return to.loaded.Load().proved(state)
}

// shaken returns the realm that a handshake with that SNI is for: the one
// function for the handshake and for what comes over its connection. False means
// that it is not known yet.
func (r *Realms) shaken(sni string) (*realm, bool) {
	if r == nil {
		return nil, true
	}
	if sni == "" {
		return r.find(r.fallback)
	}
	name, err := hostname.Canonical(sni)
	if err != nil {
		name = "" // is none of anybody's
	}
	return r.find(name)
}

func (r *Realms) empty() bool { return r == nil || len(r.hosts) == 0 && r.choices == nil }

// find returns the realm of a canonical host, nil for the open one. False means
// that it is not known yet.
func (r *Realms) find(host string) (*realm, bool) {
	ch, _, ok := r.choices.of(host)
	switch {
	case !ok:
		return nil, false
	case ch != nil && ch.realm != nil:
		return ch.realm, true
	}
	return r.of(host), true
}

// of returns the realm of a canonical host that Options say.
func (r *Realms) of(host string) *realm {
	if realm, ok := r.hosts[host]; ok {
		return realm
	}
	if i := strings.IndexByte(host, '.'); i > 0 {
		var buf [256]byte
		wild := append(append(buf[:0], '*'), host[i:]...)
		if realm, ok := r.hosts[string(wild)]; ok { // no allocation: a map index
			return realm
		}
	}
	return r.hosts["*"]
}

// realmConfigs are the settings of each realm.
type realmConfigs struct {
	realms    *Realms
	listener  *tls.Config
	open      *tls.Config // nil means the listener's own settings
	challenge *tls.Config
}

// configs derives them from the listener's.
func (r *Realms) configs(listener *tls.Config) *realmConfigs {
	rc := &realmConfigs{realms: r, listener: listener.Clone(), challenge: listener.Clone()}
	rc.challenge.NextProtos = []string{acmez.ACMETLS1Protocol}
	rc.challenge.ClientAuth = tls.NoClientCert
	rc.challenge.GetConfigForClient = nil
	return rc
}

// of returns the settings for a handshake.
func (rc *realmConfigs) of(sni string) (*tls.Config, error) {
	to, ok := rc.realms.shaken(sni)
	switch {
	case !ok:
		return nil, undecided(sni, nil)
	case to == nil:
		return rc.open, nil
	}
	return to.config(rc.listener), nil
}

// all returns all realms.
func (r *Realms) all() []*realm {
	all := slices.Collect(maps.Values(r.hosts))
	if c := r.choices; c != nil {
		c.realmMu.Lock()
		defer c.realmMu.Unlock()
		for _, some := range c.realms {
			all = append(all, some...)
		}
	}
	return all
}
