package certs

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

// An account starts so many orders in so much time: the same rate as certmagic's
// own limit per account, in which an order would wait with a lock held, and which
// is one for all of the process.
const (
	orders       = 10
	ordersWindow = 10 * time.Second
)

// A chain is authorities in the order they are tried, and the queue of hosts
// that want something of them.
type chain struct {
	authorities []*authority
	queue       *queue
	once        sync.Once          // starts queue
	cancel      context.CancelFunc // ends queue

	users  int       // choices that have it; the choices' lock guards it
	unused time.Time // since when it has none and its queue is empty; zero if it is used
}

// issue tries each authority once, and returns nil once storage has a certificate
// other than that of o.serial. The error says why each refused; it is a heldError
// if none was asked.
func (c *chain) issue(ctx context.Context, o order) error {
	o.chain = c
	if c.renewed(ctx, o) {
		return nil
	}
	var errs []error
	var first *heldError
	asked := false
	for i, a := range c.authorities {
		if i > 0 && a.account != c.authorities[0].account {
			if err := a.account.pace.await(ctx); err != nil {
				return errors.Join(append(errs, err)...)
			}
		}
		err := a.refuses(o.name)
		if err == nil {
			err = a.issue(ctx, o)
		}
		if err == nil {
			return nil
		}
		var held *heldError
		if errors.As(err, &held) {
			if first == nil || held.until.Before(first.until) {
				first = held
			}
			err = &limitedError{until: held.until, err: held.err}
		} else {
			asked = true
		}
		if len(c.authorities) > 1 && !strings.Contains(err.Error(), "the CA ") {
			err = fmt.Errorf("%s: %w", a.key, err)
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	if !asked && first != nil {
		c.queue.pace.back()
		return first
	}
	return errors.Join(errs...)
}

// renewed reports whether storage has a certificate by now that another process
// has obtained.
func (c *chain) renewed(ctx context.Context, o order) bool {
	if o.serial == nil {
		return false
	}
	for _, a := range c.authorities {
		leaf := a.leaf(ctx, o.name)
		if leaf == nil || leaf.SerialNumber.Cmp(o.serial) == 0 {
			continue
		}
		now, err := readStored(ctx, a.manager.storage, c.authorities, o.name)
		return err == nil && now.cert.Leaf.SerialNumber.Cmp(o.serial) != 0 && time.Now().Before(now.renewAt())
	}
	return false
}

// leaf returns the certificate in storage, nil if there is none.
func (a *authority) leaf(ctx context.Context, name string) *x509.Certificate {
	b, err := a.manager.storage.Load(ctx, a.siteKey(name, certFile))
	if err != nil {
		return nil
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	return leaf
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
	m.public = &chain{}
	var errs []error
	for i, issuer := range m.options.Public {
		d, err := draftOf(issuer)
		if i > 0 || errors.Is(err, errNilIssuer) {
			err = wrap(publicField(i), err)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		a := m.newAuthority(d)
		if slices.ContainsFunc(m.public.authorities, a.passesFor) {
			errs = append(errs, fmt.Errorf("%s: an earlier issuer has the same IssuerKey, %q: "+
				"each issuer requires a key of its own", publicField(i), a.key))
			continue
		}
		m.public.authorities = append(m.public.authorities, a)
	}
	m.public.queue = newQueue(maxPublicIssues, m.public.pace())
	return errors.Join(errs...)
}

// publicField names the setting that an issuer for public names comes from.
func publicField(i int) string {
	if i == 0 {
		return "Issuer"
	}
	return fmt.Sprintf("Fallbacks[%d]", i-1)
}

// passesFor reports whether a is another CA than b, but has the same place in
// storage: what one has issued would pass for the other's.
func (a *authority) passesFor(b *authority) bool {
	x, y := a.identity.account, b.identity.account
	return a.key == b.key && (x.issuer != y.issuer || x.directory != y.directory)
}

// pace is that of the account that is asked first.
func (c *chain) pace() *pacer {
	if len(c.authorities) == 0 {
		return nil
	}
	return c.authorities[0].account.pace
}

// newInternal makes the chain for internal names.
func (m *Manager) newInternal() error {
	issuer, keyType := m.options.Internal, certmagic.KeyType("")
	if i, ok := issuer.(Issuer); ok {
		issuer, keyType = i.Issuer, i.KeyType
	}
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
		issuer = m.local
	}
	d, err := draftOf(Issuer{Issuer: issuer, KeyType: keyType})
	if err != nil {
		return wrap("Internal", err)
	}
	a := m.newAuthority(d)
	m.internal = &chain{authorities: []*authority{a}, queue: newQueue(maxLocalIssues, a.account.pace)}
	return nil
}

// chainOfIssuer returns the chain of an issuer alone. Issuers that are the same in all
// respects are one.
func (m *Manager) chainOfIssuer(d *draft) *chain {
	m.chainMu.Lock()
	defer m.chainMu.Unlock()
	c := m.single[d.identity]
	if c == nil {
		a := m.newAuthority(d)
		c = &chain{authorities: []*authority{a}, queue: newQueue(maxPublicIssues, a.account.pace)}
		m.single[d.identity] = c
	}
	return c
}

// chainFor is chainOfIssuer while m runs.
func (m *Manager) chainFor(d *draft) *chain {
	c := m.chainOfIssuer(d)
	m.begin(c)
	for _, a := range c.authorities {
		for _, key := range a.challengeKeys() {
			m.solver.lookout.learn(key)
		}
	}
	return c
}

// chains yields each chain once.
func (m *Manager) chains() iter.Seq[*chain] {
	m.chainMu.Lock()
	all := append([]*chain{m.public, m.internal}, slices.Collect(maps.Values(m.single))...)
	m.chainMu.Unlock()
	return slices.Values(all)
}

// refusal says why nobody can issue for the host or wildcard, or nil.
func (m *Manager) refusal(name string) error {
	c := m.chainOf(name)
	if len(c.authorities) == 0 {
		return fmt.Errorf("no issuer for public names such as %q", name)
	}
	return c.refuses(name)
}

// mintable reports whether a host can have a certificate that is kept in
// memory only.
func (m *Manager) mintable(host string) bool { return m.local != nil && hostname.IsInternal(host) }

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
