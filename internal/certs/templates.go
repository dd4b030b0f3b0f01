package certs

import (
	"sync"

	"github.com/caddyserver/certmagic"
)

// Templates gives ACME templates a DNS provider. One issuer stays one issuer:
// all get the same solver, and a template with functions, which cannot be
// compared, is copied only once. Its methods may be called concurrently.
type Templates struct {
	solves *certmagic.DNS01Solver // nil without a provider

	mu     sync.Mutex
	gave   bool
	copies map[*certmagic.ACMEIssuer]*certmagic.ACMEIssuer
}

// NewTemplates returns Templates with a DNS provider; with nil, templates stay
// as they are.
func NewTemplates(dns certmagic.DNSProvider) *Templates {
	g := &Templates{copies: make(map[*certmagic.ACMEIssuer]*certmagic.ACMEIssuer)}
	if dns != nil {
		g.solves = &certmagic.DNS01Solver{DNSManager: certmagic.DNSManager{DNSProvider: dns}}
	}
	return g
}

// Solver returns the issuer; if it is a template without a solver, a copy with
// the provider.
func (g *Templates) Solver(issuer certmagic.Issuer) certmagic.Issuer {
	if i, ok := issuer.(Issuer); ok {
		return Issuer{Issuer: g.Solver(i.Issuer), KeyType: i.KeyType}
	}
	a, ok := issuer.(*certmagic.ACMEIssuer)
	if !ok || a == nil || g.solves == nil || a.DNS01Solver != nil {
		return issuer
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gave = true
	if solving := g.copies[a]; solving != nil {
		return solving
	}
	solving := *a
	solving.DNS01Solver = g.solves
	if a.HTTPProxy != nil || a.NewAccountFunc != nil { // copies of others are equal issuers
		g.copies[a] = &solving
	}
	return &solving
}

// Idle reports whether there is a provider that no template has used.
func (g *Templates) Idle() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.solves != nil && !g.gave
}
