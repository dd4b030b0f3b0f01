package certs

import (
	"context"
	"crypto/tls"
	"fmt"
	"sync"
	"time"
)

// A mint makes certificates for internal hosts without a pattern of their own:
// hosts under *.localhost, or under *, which matches any host. They are kept in
// memory only, a bounded number of them.
type mint struct {
	ca *LocalCA

	mu    sync.Mutex
	certs map[string]*tls.Certificate
}

func newMint(ca *LocalCA) *mint {
	return &mint{ca: ca, certs: make(map[string]*tls.Certificate)}
}

// held returns the certificate for host if there is one that stays valid for a
// while.
func (m *mint) held(host string) *tls.Certificate {
	m.mu.Lock()
	defer m.mu.Unlock()
	if cert := m.certs[host]; cert != nil && time.Until(cert.Leaf.NotAfter) > leafLifetime/3 && !time.Now().Before(cert.Leaf.NotBefore) {
		return cert
	}
	return nil
}

// forget forgets all certificates.
func (m *mint) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.certs)
}

// get makes a certificate for host, unless one was made meanwhile.
func (m *mint) get(ctx context.Context, host string) (*tls.Certificate, error) {
	if cert := m.held(host); cert != nil {
		return cert, nil
	}
	cert, err := m.ca.Mint(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("certificate for %q: %w", host, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for other := range m.certs {
		if len(m.certs) < maxMinted {
			break
		}
		delete(m.certs, other)
	}
	m.certs[host] = cert
	return cert, nil
}
