package certs

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"path"
	"time"

	"github.com/caddyserver/certmagic"
)

const (
	holdingPatience = 5 * time.Second // for the lock of one host
	leaseBatch      = 50              // certificates between two renewals of the lease
	leaseTime       = 10 * time.Minute
)

// A holding is a certificate in memory, with its host and authority.
type holding struct {
	name string
	by   *authority
	cert *tls.Certificate
}

// holdings returns the certificates in memory that have not expired.
func (m *Manager) holdings() []holding {
	var all []holding
	m.each(func(h *host) {
		if cert := h.cert.Load(); cert != nil && h.summary != nil && time.Now().Before(cert.Leaf.NotAfter) {
			all = append(all, holding{h.name, h.summary.by, cert})
		}
	})
	return all
}

// A restorer writes what this process holds into the Manager's storage after
// that has lost it.
type restorer struct {
	storage  *boundedStorage
	local    *localSigner // nil if there is none
	shapes   *shapes
	tickets  *tickets
	holdings func() []holding // returns the certificates in memory
	log      *slog.Logger
}

// restore writes what storage lacks, beginning with what cannot be obtained
// again. Existing values are not touched, unless they are older. The lock of
// the identity is held.
func (r *restorer) restore(ctx context.Context) error {
	if r.local != nil && r.local.ca.Storage == r.storage {
		if err := r.local.writeBack(ctx); err != nil {
			return err
		}
	}
	if err := r.shapes.writeBack(ctx); err != nil {
		return err
	}
	if err := r.certificates(ctx); err != nil {
		return err
	}
	if err := r.accounts(ctx); err != nil {
		return err
	}
	return r.tickets.writeBack(ctx)
}

func (r *restorer) certificates(ctx context.Context) error {
	written, all := 0, r.holdings()
	for i, c := range all {
		if i%leaseBatch == 0 {
			if err := r.storage.RenewLockLease(ctx, identityLock, leaseTime); err != nil {
				return err
			}
		}
		done, err := c.write(ctx, r.storage)
		if err != nil {
			return fmt.Errorf("certificate of %q: %w", c.name, err)
		}
		if done {
			written++
		}
	}
	if written > 0 {
		r.log.Info("certificates written back to storage", "written", written, "held", len(all))
	}
	return nil
}

// write stores the certificate unless storage has a good one that is at least
// as new. If another process holds the host's lock, it is skipped.
func (c holding) write(ctx context.Context, s *boundedStorage) (done bool, err error) {
	patience, cancel := context.WithTimeout(ctx, holdingPatience)
	defer cancel()
	if err := s.Lock(patience, issueLock(c.name)); err != nil {
		if patience.Err() != nil && ctx.Err() == nil {
			return false, nil
		}
		return false, err
	}
	defer func() { _ = s.Unlock(context.WithoutCancel(ctx), issueLock(c.name)) }()
	there, err := findStored(ctx, s, []*authority{c.by}, c.name)
	switch {
	case err == nil && !there.cert.Leaf.NotBefore.Before(c.cert.Leaf.NotBefore):
		return false, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errUnusable):
		return false, err
	}
	return true, c.store(ctx, s)
}

// store stores the certificate, its key and metadata in certmagic's order.
func (c holding) store(ctx context.Context, s *boundedStorage) error {
	keyPEM, err := certmagic.PEMEncodePrivateKey(c.cert.PrivateKey)
	if err != nil {
		return err
	}
	var certPEM []byte
	for _, der := range c.cert.Certificate {
		certPEM = append(certPEM, encodeCert(der)...)
	}
	meta, err := c.by.metadata(&stored{cert: c.cert, by: c.by}, c.name)
	if err != nil {
		return err
	}
	keys := certmagic.StorageKeys
	return errors.Join(
		s.put(ctx, keys.SitePrivateKey(c.by.key, c.name), keyPEM),
		s.put(ctx, keys.SiteCert(c.by.key, c.name), certPEM),
		s.put(ctx, keys.SiteMeta(c.by.key, c.name), meta),
	)
}

// accounts stores the ACME accounts that were seen. An account of which any
// part exists is skipped.
func (r *restorer) accounts(ctx context.Context) error {
	all := r.storage.accounts.all()
	there := make(map[string]bool) // by folder, one per account
	for key := range all {
		_, err := r.storage.Load(ctx, key)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		there[path.Dir(key)] = there[path.Dir(key)] || err == nil
	}
	for key, value := range all {
		if there[path.Dir(key)] {
			continue
		}
		if err := r.storage.put(ctx, key, value); err != nil {
			return err
		}
	}
	return nil
}

// writeBack stores the known shapes of issuers that have none in storage.
func (x *shapes) writeBack(ctx context.Context) error {
	x.mu.Lock()
	known := maps.Clone(x.known)
	x.mu.Unlock()
	for folder, s := range known {
		if _, err := x.load(ctx, folder); !errors.Is(err, fs.ErrNotExist) || s.guessed {
			continue
		}
		text, err := json.Marshal(s)
		if err != nil {
			return err
		}
		if err := x.storage.put(ctx, shapeKey(folder), text); err != nil {
			return err
		}
	}
	return nil
}
