package certs

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// maxProofs limits the client certificates that a realm remembers.
const maxProofs = 4_096

// A ClientAuth says which clients a realm accepts.
type ClientAuth struct {
	CAs     *x509.CertPool
	CAFiles []string           // PEM, added to CAs
	Mode    tls.ClientAuthType // 0 means RequireAndVerifyClientCert
}

// A realm is a set of hosts that share their client authentication. Its
// requirements change when its CA files do.
type realm struct {
	given  ClientAuth
	loaded atomic.Pointer[auth]
	users  int   // number of choices that have it; guarded by the choices' lock
	fault  fault // of the CA files

	mu      sync.Mutex
	configs map[*tls.Config]*tls.Config // by the listener's config; all made from loaded
}

// An auth is a realm's client authentication, with the CA files as they were at
// one time.
type auth struct {
	ClientAuth
	times []time.Time // modification times of the files, taken before reading

	proofs sync.Map // set of *x509.Certificate that verified
	mu     sync.Mutex
	count  int
}

// A realmKey tells most realms apart; CAs are compared separately.
type realmKey struct {
	mode  tls.ClientAuthType
	files string
}

func newRealm(given ClientAuth) (*realm, error) {
	a, err := given.load()
	if err != nil {
		return nil, err
	}
	given.CAFiles = slices.Clone(given.CAFiles)
	if given.CAs != nil {
		given.CAs = given.CAs.Clone()
	}
	r := &realm{given: given, configs: make(map[*tls.Config]*tls.Config)}
	r.loaded.Store(a)
	return r, nil
}

// realmFor returns the realm of all hosts with these settings.
func (c *choices) realmFor(given ClientAuth) (*realm, error) {
	key := realmKey{cmp.Or(given.Mode, tls.RequireAndVerifyClientCert), strings.Join(given.CAFiles, "\x00")}
	c.realmMu.Lock()
	defer c.realmMu.Unlock()
	for _, r := range c.realms[key] {
		if (r.given.CAs == nil) == (given.CAs == nil) && (given.CAs == nil || r.given.CAs.Equal(given.CAs)) {
			return r, nil
		}
	}
	r, err := newRealm(given)
	if err != nil {
		return nil, err
	}
	c.realms[key] = append(c.realms[key], r)
	return r, nil
}

// reread reads the CA files again if they have changed, and reports whether
// they had. On an error the old CAs stay.
func (r *realm) reread() (bool, error) {
	old := r.loaded.Load()
	if slices.EqualFunc(r.given.CAFiles, old.times, func(file string, t time.Time) bool { return modified(file).Equal(t) }) {
		return false, nil
	}
	a, err := r.given.load()
	if err != nil {
		return false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loaded.Store(a)
	clear(r.configs)
	return true, nil
}

// config derives the realm's settings from those of a listener. Session tickets
// are disabled: Go resumes a session of one host for another, and a certificate
// that was valid then may not be now.
func (r *realm) config(listener *tls.Config) *tls.Config {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.configs[listener]; c != nil {
		return c
	}
	a := r.loaded.Load()
	c := listener.Clone()
	c.ClientAuth, c.ClientCAs = a.Mode, a.CAs
	c.SessionTicketsDisabled = true
	c.GetConfigForClient = nil
	r.configs[listener] = c
	return c
}

// proved reports whether a client's handshake has proved what the realm
// requires now.
//
// Hot path: one look-up without a lock for each request after the first of a
// connection.
func (a *auth) proved(state *tls.ConnectionState) bool {
	certs := state.PeerCertificates
	switch {
	case a.Mode == tls.RequestClientCert, a.Mode == tls.VerifyClientCertIfGiven && len(certs) == 0:
		return true
	case len(certs) == 0:
		return false
	case a.Mode == tls.RequireAnyClientCert:
		return true
	case len(state.VerifiedChains) == 0: // the program may rely on verified chains
		return false
	}
	if _, ok := a.proofs.Load(certs[0]); ok {
		return true
	}
	return a.verify(certs)
}

// verify verifies a chain as crypto/tls does, and remembers it.
func (a *auth) verify(certs []*x509.Certificate) bool {
	opts := x509.VerifyOptions{Roots: a.CAs, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, c := range certs[1:] {
		opts.Intermediates.AddCert(c)
	}
	if _, err := certs[0].Verify(opts); err != nil {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.count++; a.count > maxProofs {
		a.proofs.Clear()
		a.count = 1
	}
	a.proofs.Store(certs[0], nil)
	return true
}

// load reads the CA files and fills in the mode.
func (a ClientAuth) load() (*auth, error) {
	a.Mode = cmp.Or(a.Mode, tls.RequireAndVerifyClientCert)
	pool := x509.NewCertPool()
	if a.CAs != nil {
		pool = a.CAs.Clone()
	}
	var errs []error
	if a.Mode < tls.NoClientCert || a.Mode > tls.RequireAndVerifyClientCert {
		errs = append(errs, fmt.Errorf("ClientAuth.Mode is %d: want one of the constants of tls.ClientAuthType", a.Mode))
	}
	times := make([]time.Time, len(a.CAFiles))
	for i, file := range a.CAFiles {
		times[i] = modified(file)
		pem, err := os.ReadFile(file)
		switch {
		case err != nil:
			errs = append(errs, err)
		case !pool.AppendCertsFromPEM(pem):
			errs = append(errs, fmt.Errorf("file %q has no certificate: want PEM", file))
		}
	}
	if a.CAs == nil && a.CAFiles == nil && a.Mode >= tls.VerifyClientCertIfGiven {
		errs = append(errs, fmt.Errorf("ClientAuth.Mode %v requires CAs: set ClientAuth.CAs or CAFiles", a.Mode))
	}
	a.CAs = pool
	return &auth{ClientAuth: a, times: times}, errors.Join(errs...)
}
