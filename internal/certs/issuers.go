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
)

// Orders that an account may start per ordersWindow. It is the same rate as
// certmagic's own limit per account. An order would wait for that one with a
// lock held, and the whole process shares it.
const (
	orders       = 10
	ordersWindow = 10 * time.Second
)

// A chain is a list of authorities in the order in which they are tried, and
// the queue of hosts that need them.
type chain struct {
	authorities []*authority
	queue       *queue
	once        sync.Once          // starts queue
	cancel      context.CancelFunc // ends queue

	users  int       // number of choices that have it; guarded by the choices' lock
	unused time.Time // since when it has no users and an empty queue; zero while used
}

// issue tries each authority once, and returns nil once storage has a
// certificate other than that of o.serial. The error contains the reason of
// each; it is a heldError if none was contacted.
func (c *chain) issue(ctx context.Context, o order) error {
	o.chain = c
	if c.renewed(ctx, o) {
		return nil
	}
	var errs []error
	var first *heldError
	asked, down := false, false
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
		var silent *downError
		switch {
		case errors.As(err, &held):
			if first == nil || held.until.Before(first.until) {
				first = held
			}
			err = &limitedError{until: held.until, err: held.err}
		case errors.As(err, &silent) && silent.unasked:
			down = true
		default:
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
	if !asked {
		c.queue.pace.back()
	}
	if !asked && !down && first != nil {
		return first
	}
	return errors.Join(errs...)
}

// renewed reports whether another process has already stored a new certificate.
func (c *chain) renewed(ctx context.Context, o order) bool {
	if o.serial == nil {
		return false
	}
	for _, a := range c.authorities {
		leaf := a.leaf(ctx, o.name)
		if leaf == nil || leaf.SerialNumber.Cmp(o.serial) == 0 {
			continue
		}
		now, err := c.whole(ctx, a.engine.storage, o.name)
		return err == nil && now.cert.Leaf.SerialNumber.Cmp(o.serial) != 0 && time.Now().Before(now.renewAt())
	}
	return false
}

// whole reads the certificate of name. If it is not complete, another process
// may be writing it: it is read again after a moment.
func (c *chain) whole(ctx context.Context, storage *boundedStorage, name string) (*stored, error) {
	for n := 1; ; n++ {
		now, err := readStored(ctx, storage, c.authorities, name)
		if !errors.Is(err, errUnusable) || n == unusableReads {
			return now, err
		}
		timer := time.NewTimer(time.Second)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
	}
}

// leaf returns the certificate in storage, nil if there is none.
func (a *authority) leaf(ctx context.Context, name string) *x509.Certificate {
	b, err := a.engine.storage.Load(ctx, a.siteKey(name, certFile))
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

// issuers are the chains of one Manager: for public names, for internal names,
// and those that the program sets for some hosts.
type issuers struct {
	engine           *engine
	public, internal *chain

	mu       sync.Mutex
	single   map[identity]*chain    // chains of one issuer
	accounts map[accountID]*account // the accounts of all chains
}

// newIssuers makes the chains for public and for internal names.
func newIssuers(e *engine, o *Options, local *localSigner) (*issuers, error) {
	s := &issuers{engine: e, single: make(map[identity]*chain), accounts: make(map[accountID]*account)}
	return s, errors.Join(s.newPublic(o.Public), s.newInternal(o.Internal, local))
}

// newPublic makes the chain for public names.
func (s *issuers) newPublic(given []certmagic.Issuer) error {
	s.public = &chain{}
	var errs []error
	for i, issuer := range given {
		d, err := draftOf(issuer)
		if i > 0 || errors.Is(err, errNilIssuer) {
			err = wrap(publicField(i), err)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		a := s.newAuthority(d)
		if slices.ContainsFunc(s.public.authorities, a.passesFor) {
			errs = append(errs, fmt.Errorf("%s: an earlier issuer has the same IssuerKey, %q: "+
				"each issuer requires a key of its own", publicField(i), a.key))
			continue
		}
		s.public.authorities = append(s.public.authorities, a)
	}
	s.public.queue = newQueue(maxPublicIssues, s.public.pace())
	return errors.Join(errs...)
}

// publicField names the setting from which an issuer for public names comes.
func publicField(i int) string {
	if i == 0 {
		return "Issuer"
	}
	return fmt.Sprintf("Fallbacks[%d]", i-1)
}

// passesFor reports whether a and b are different CAs with the same place in
// storage: a certificate of one would be taken for the other's.
func (a *authority) passesFor(b *authority) bool {
	x, y := a.identity.account, b.identity.account
	return a.key == b.key && (x.issuer != y.issuer || x.directory != y.directory)
}

// pace returns the pacer of the account that is tried first.
func (c *chain) pace() *pacer {
	if len(c.authorities) == 0 {
		return nil
	}
	return c.authorities[0].account.pace
}

// newInternal makes the chain for internal names, of the local CA or the issuer
// that the program has set instead.
func (s *issuers) newInternal(issuer certmagic.Issuer, local *localSigner) error {
	keyType := certmagic.KeyType("")
	if i, ok := issuer.(Issuer); ok {
		issuer, keyType = i.Issuer, i.KeyType
	}
	if local != nil {
		issuer = local.ca
	}
	d, err := draftOf(Issuer{Issuer: issuer, KeyType: keyType})
	if err != nil {
		return wrap("Internal", err)
	}
	a := s.newAuthority(d)
	s.internal = &chain{authorities: []*authority{a}, queue: newQueue(maxLocalIssues, a.account.pace)}
	return nil
}

// chainOfIssuer returns the chain of a single issuer. Issuers that are equal in
// all respects share one.
func (s *issuers) chainOfIssuer(d *draft) *chain {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.single[d.identity]
	if c == nil {
		a := s.newAuthority(d)
		c = &chain{authorities: []*authority{a}, queue: newQueue(maxPublicIssues, a.account.pace)}
		s.single[d.identity] = c
	}
	return c
}

// chains yields each chain once.
func (s *issuers) chains() iter.Seq[*chain] {
	s.mu.Lock()
	all := append([]*chain{s.public, s.internal}, slices.Collect(maps.Values(s.single))...)
	s.mu.Unlock()
	return slices.Values(all)
}
