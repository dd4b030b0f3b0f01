package certs

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/mholt/acmez/v3"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

// A ClientAuth says which clients a realm lets in.
type ClientAuth struct {
	CAs     *x509.CertPool
	CAFiles []string           // PEM, added to CAs
	Mode    tls.ClientAuthType // 0 means RequireAndVerifyClientCert
}

// Realms are sets of hosts that share their client authentication. A connection
// belongs to one: what it proved to one realm counts for no other. A nil Realms
// is one realm, open to all.
type Realms struct {
	auths   []ClientAuth   // by realm, from 1; 0 is the open realm
	hosts   map[string]int // by host, wildcard, or "*"
	unnamed int            // the realm of clients that send no SNI
}

// NewRealms makes each pattern a realm: a host, a wildcard, or "*" for all
// others. Clients that send no SNI are in that of fallback, a canonical host, or
// in that of all others if it is "". It reads the CA files. The error says all
// that is wrong: a CA that is missing must neither open a host to everybody nor
// close it unnoticed.
func NewRealms(auths map[string]ClientAuth, fallback string) (*Realms, error) {
	r := &Realms{auths: []ClientAuth{{}}, hosts: make(map[string]int)}
	var errs []error
	for pattern, a := range auths {
		key, err := canonicalPattern(pattern)
		if err == nil && r.hosts[key] != 0 {
			err = fmt.Errorf("host %q is there twice", key)
		}
		if err == nil {
			a, err = a.load()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("client authentication of %q: %w", pattern, err))
			continue
		}
		r.hosts[key] = len(r.auths)
		r.auths = append(r.auths, a)
	}
	r.unnamed = r.of(fallback)
	return r, errors.Join(errs...)
}

// load reads the CA files and fills in the mode.
func (a ClientAuth) load() (ClientAuth, error) {
	a.Mode = cmp.Or(a.Mode, tls.RequireAndVerifyClientCert)
	pool := x509.NewCertPool()
	if a.CAs != nil {
		pool = a.CAs.Clone()
	}
	var errs []error
	for _, file := range a.CAFiles {
		pem, err := os.ReadFile(file)
		switch {
		case err != nil:
			errs = append(errs, err)
		case !pool.AppendCertsFromPEM(pem):
			errs = append(errs, fmt.Errorf("no certificate in %q, want PEM", file))
		}
	}
	if a.CAs == nil && a.CAFiles == nil && a.Mode >= tls.VerifyClientCertIfGiven {
		errs = append(errs, errors.New("no CA that the clients' certificates may come from"))
	}
	a.CAs = pool
	return a, errors.Join(errs...)
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

// Same reports whether a connection with that SNI, as the client sent it, may
// carry requests for a canonical host.
//
// Hot path: without realms, one comparison; no allocation.
func (r *Realms) Same(sni, host string) bool {
	return r.empty() || sni == host || r.shaken(sni) == r.of(host)
}

// shaken returns the realm that a handshake with that SNI is for: the one
// function for the handshake and for what comes over its connection.
func (r *Realms) shaken(sni string) int {
	if sni == "" && r != nil {
		return r.unnamed
	}
	name, err := hostname.Canonical(sni)
	if err != nil {
		name = "" // is none of anybody's
	}
	return r.of(name)
}

func (r *Realms) empty() bool { return r == nil || len(r.hosts) == 0 }

// of returns the realm of a canonical host.
func (r *Realms) of(host string) int {
	if r == nil {
		return 0
	}
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
	byRealm   []*tls.Config // nil for the open realm: the listener's own settings
	challenge *tls.Config
}

// configs derives them from the listener's. Go resumes a session of one host
// for another, and a certificate that was good then may not be now: a realm
// with client authentication has no session tickets.
func (r *Realms) configs(listener *tls.Config) *realmConfigs {
	rc := &realmConfigs{realms: r, byRealm: make([]*tls.Config, 1)}
	if r == nil {
		return rc
	}
	for _, a := range r.auths[1:] {
		c := listener.Clone()
		c.ClientAuth, c.ClientCAs = a.Mode, a.CAs
		c.SessionTicketsDisabled = true
		c.GetConfigForClient = nil
		rc.byRealm = append(rc.byRealm, c)
	}
	rc.challenge = listener.Clone()
	rc.challenge.NextProtos = []string{acmez.ACMETLS1Protocol}
	rc.challenge.ClientAuth = tls.NoClientCert
	rc.challenge.GetConfigForClient = nil
	return rc
}
