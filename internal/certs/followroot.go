package certs

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"

	"github.com/caddyserver/certmagic"
)

// older reports whether clients have been able to trust r for longer than other.
func (r *root) older(other *root) bool { return r.cert.NotBefore.Before(other.cert.NotBefore) }

// putBack stores r in place of a younger root, unless that has changed meanwhile,
// and returns the root that is in storage then.
func (r *root) putBack(ctx context.Context, s certmagic.Storage, younger *root) (*root, error) {
	if err := s.Lock(ctx, rootLock); err != nil {
		return nil, err
	}
	defer func() { _ = s.Unlock(context.WithoutCancel(ctx), rootLock) }()
	now, err := readRoot(ctx, s)
	if err != nil || !now.cert.Equal(younger.cert) {
		return now, err
	}
	// Two files: a process that dies between them must not leave a pair that does not match.
	if err := s.Delete(ctx, rootCertKey); err != nil {
		return nil, err
	}
	return r, r.store(ctx, s)
}

// follow takes the root of storage, if that is another than the one in memory: a
// member of the cluster has put an older one back, or the operator has.
func (c *LocalCA) follow(ctx context.Context, log *slog.Logger) error {
	held := c.held()
	if held == nil {
		return nil
	}
	s, err := c.storage()
	if err != nil {
		return err
	}
	certPEM, err := s.Load(ctx, rootCertKey)
	if err != nil || bytes.Equal(certPEM, held.pem) {
		return err
	}
	found, err := readRoot(ctx, s)
	if err == nil && !found.cert.Equal(held.cert) {
		c.adopt(found, log)
	}
	return err
}

// adopt signs with another root from now on.
func (c *LocalCA) adopt(found *root, log *slog.Logger) {
	log.Error("storage has a different root of the local CA; clients must trust that one", "root", found.cert.Subject.CommonName)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.root = found
}

// followRoot makes the local CA follow its storage.
func (m *Manager) followRoot(ctx context.Context) error {
	err := m.resigned(func() error { return m.local.follow(ctx, m.log) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the witness knows what to do
	}
	return err
}

// writeBackRoot makes the root in memory and the one in storage the same.
func (m *Manager) writeBackRoot(ctx context.Context) error {
	return m.resigned(func() error { return m.local.restore(ctx, m.log) })
}

// resigned calls change, and if the local CA has another root after it, has the
// certificates replaced that it has signed with the one before.
func (m *Manager) resigned(change func() error) error {
	before := m.local.held()
	err := change()
	after := m.local.held()
	if before == nil || after == nil || before.cert.Equal(after.cert) {
		return err
	}
	m.minted.forget()
	m.each(func(h *host) {
		if cert := h.cert.Load(); cert != nil && h.chain() == m.internal && bytes.Equal(cert.Leaf.RawIssuer, before.cert.RawSubject) {
			_ = h.renew() // hosts whose certificates only the program can change keep theirs
		}
	})
	return err
}

// orphaned reports whether the local CA has signed s with another root than that it
// has now: the operator has replaced it while no process was there to see it.
func (m *Manager) orphaned(ctx context.Context, s *stored) bool {
	if m.local == nil || s.by != m.internal.authorities[0] {
		return false
	}
	now, err := m.local.load(ctx)
	leaf := s.cert.Leaf
	return err == nil && !(bytes.Equal(leaf.RawIssuer, now.cert.RawSubject) && bytes.Equal(leaf.AuthorityKeyId, now.cert.SubjectKeyId))
}
