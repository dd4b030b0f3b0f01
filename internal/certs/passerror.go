package certs

import (
	"crypto/tls"
	"fmt"
	"sync"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

// A PassError says that a Passthrough cannot be reached: the connection does
// not come from a listener that can carry it.
type PassError struct{ Pattern string }

// Error implements error.
func (e PassError) Error() string {
	return fmt.Sprintf("pattern %q: a Passthrough requires the connection before TLS: use a Server, Router.Listen or Router.Wrap instead of TLSConfig", e.Pattern)
}

// errPassed is why there is no certificate for a host whose TLS ends elsewhere.
func errPassed(host string) error {
	return fmt.Errorf("%q is the host of a Passthrough: its target has the certificate", host)
}

// maxPassErrors is how many patterns are reported at most.
const maxPassErrors = 1_000

// RefusePassed returns conf with the handshakes refused of hosts whose
// connections should be carried elsewhere, which route says as for NewPasser.
// report is called once a pattern. Both may be called concurrently.
func RefusePassed(conf *tls.Config, route func(host string) (Target, bool), report func(PassError)) *tls.Config {
	g := &passGuard{route: route, report: report, next: conf.GetConfigForClient, reported: make(map[string]bool)}
	conf.GetConfigForClient = g.configForClient
	return conf
}

// A passGuard stands before the handshakes of a listener that carries nothing.
type passGuard struct {
	route  func(host string) (Target, bool)
	report func(PassError)
	next   func(*tls.ClientHelloInfo) (*tls.Config, error)

	mu       sync.Mutex
	reported map[string]bool
}

func (g *passGuard) configForClient(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if host, err := hostname.Canonical(hello.ServerName); err == nil {
		if t, ok := g.route(host); ok {
			err := PassError{t.Pattern}
			if g.first(t.Pattern) {
				g.report(err)
			}
			return nil, err
		}
	}
	if g.next == nil {
		return nil, nil
	}
	return g.next(hello)
}

// first reports whether p has not been reported yet.
func (g *passGuard) first(p string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.reported[p] || len(g.reported) == maxPassErrors {
		return false
	}
	g.reported[p] = true
	return true
}
