package certs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

// A chain starts so many orders in so much time: the same rate as certmagic's
// own limit per account, in which an order would wait with a lock held.
const (
	orders       = 10
	ordersWindow = 10 * time.Second
)

// A chain is authorities in the order they are tried, and the queue of hosts
// that want something of them.
type chain struct {
	authorities []*authority
	queue       *queue
}

// issue tries each authority once. The error says why each refused.
func (c *chain) issue(ctx context.Context, name string) error {
	var errs []error
	for _, a := range c.authorities {
		err := a.issue(ctx, name)
		if err == nil {
			return nil
		}
		if len(c.authorities) > 1 {
			err = fmt.Errorf("%s: %w", a.key, err)
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

func (c *chain) wildcards() bool {
	for _, a := range c.authorities {
		if a.wildcards() {
			return true
		}
	}
	return false
}

// newPublic makes the chain for public names.
func (m *Manager) newPublic() error {
	m.public = &chain{queue: newQueue(maxPublicIssues, newPacer(orders, ordersWindow))}
	var errs []error
	for _, issuer := range m.options.Public {
		a, err := newAuthority(m, issuer)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		m.public.authorities = append(m.public.authorities, a)
	}
	return errors.Join(errs...)
}

// newInternal makes the chain for internal names.
func (m *Manager) newInternal() error {
	issuer, pace := m.options.Internal, newPacer(orders, ordersWindow)
	if issuer == nil {
		m.local = &LocalCA{Storage: m.storage}
	} else if ca, ok := issuer.(*LocalCA); ok {
		storage, err := orFiles(ca.Storage)
		if err != nil {
			return err
		}
		// The same authority, but handshakes do not hang with its storage.
		bounded := newBoundedStorage(storage, m.storage.limit)
		bounded.watch(m.ctx, m.spawn, m.log)
		m.local = &LocalCA{Storage: bounded}
	}
	if m.local != nil {
		issuer, pace = m.local, nil
	}
	a, err := newAuthority(m, issuer)
	if err != nil {
		return err
	}
	m.internal = &chain{authorities: []*authority{a}, queue: newQueue(maxLocalIssues, pace)}
	return nil
}

// newSpecial makes the chains of the hosts that have an issuer of their own.
// An issuer for several hosts is one chain: what has the same key is the same.
func (m *Manager) newSpecial() error {
	m.special = make(map[string]*chain)
	chains := make(map[string]*chain)
	var errs []error
	for pattern, issuer := range m.options.Issuers {
		key, err := canonicalPattern(pattern)
		if err == nil && m.special[key] != nil {
			err = fmt.Errorf("host %q is there twice", key)
		}
		var a *authority
		if err == nil {
			a, err = newAuthority(m, issuer)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("issuer for %q: %w", pattern, err))
			continue
		}
		c := chains[a.key]
		if c == nil {
			c = &chain{authorities: []*authority{a}, queue: newQueue(maxPublicIssues, newPacer(orders, ordersWindow))}
			chains[a.key] = c
		}
		m.special[key] = c
	}
	return errors.Join(errs...)
}

// chains yields each chain once.
func (m *Manager) chains() iter.Seq[*chain] {
	return func(yield func(*chain) bool) {
		seen := make(map[*chain]bool)
		for _, c := range append([]*chain{m.public, m.internal}, slices.Collect(maps.Values(m.special))...) {
			if !seen[c] && !yield(c) {
				return
			}
			seen[c] = true
		}
	}
}

// refusal says why nobody can issue for the host or wildcard, or nil.
func (m *Manager) refusal(name string) error {
	c := m.chainOf(name)
	switch {
	case len(c.authorities) == 0:
		return fmt.Errorf("no issuer for public names such as %q", name)
	case c == m.internal && m.local != nil && isIP(name):
		return checkInternal(nil, ipList(name))
	}
	return nil
}

// mintable reports whether a host can have a certificate that is kept in
// memory only.
func (m *Manager) mintable(host string) bool { return m.local != nil && hostname.IsInternal(host) }

// chainOf returns who issues for a host or wildcard.
func (m *Manager) chainOf(name string) *chain {
	if len(m.special) > 0 {
		if c := m.special[name]; c != nil {
			return c
		}
		if i := strings.IndexByte(name, '.'); i > 0 {
			if c := m.special["*"+name[i:]]; c != nil {
				return c
			}
		}
	}
	if hostname.IsInternal(strings.TrimPrefix(name, "*.")) {
		return m.internal
	}
	return m.public
}
