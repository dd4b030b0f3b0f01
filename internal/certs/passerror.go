package certs

import (
	"crypto/tls"
	"fmt"
	"sync"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

// A PassError says that a Passthrough cannot be reached: the connection came
// from a listener that cannot forward it.
type PassError struct{ Pattern string }

// Error implements error.
func (e PassError) Error() string {
	return fmt.Sprintf("pattern %q: a Passthrough requires the connection before TLS: use a Server, Router.Listen or Router.Wrap instead of TLSConfig", e.Pattern)
}

// errPassed is the reason why a host has no certificate: its TLS ends
// elsewhere.
func errPassed(host string) error {
	return fmt.Errorf("%q is the host of a Passthrough: its target has the certificate", host)
}

// maxPassErrors limits the patterns that are reported.
const maxPassErrors = 1_000

// RefusePassed makes conf refuse handshakes for hosts whose connections should
// be forwarded, as told by route, which works as for NewPasser. report is
// called once per pattern. Both may be called concurrently.
func RefusePassed(conf *tls.Config, route func(host string) (Target, bool), report func(PassError)) *tls.Config {
	g := &passGuard{route: route, report: report, next: conf.GetConfigForClient, reported: make(map[string]bool)}
	conf.GetConfigForClient = g.configForClient
	return conf
}

// A passGuard checks the handshakes of a listener that cannot forward
// connections.
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
