package certs

import (
	"bytes"
	"context"
	"log/slog"

	"github.com/caddyserver/certmagic"
)

// older reports whether r was issued before other, so clients have been able to
// trust it for longer.
func (r *root) older(other *root) bool { return r.cert.NotBefore.Before(other.cert.NotBefore) }

// putBack stores r in place of a younger root, unless the stored root has
// changed meanwhile, and returns the root that is then in storage.
func (r *root) putBack(ctx context.Context, s certmagic.Storage, younger *root) (*root, error) {
	if err := s.Lock(ctx, rootLock); err != nil {
		return nil, err
	}
	defer func() { _ = s.Unlock(context.WithoutCancel(ctx), rootLock) }()
	now, err := readRoot(ctx, s)
	if err != nil || !now.cert.Equal(younger.cert) {
		return now, err
	}
	// Two files: if the process dies between them, the pair must not mismatch.
	if err := s.Delete(ctx, rootCertKey); err != nil {
		return nil, err
	}
	return r, r.store(ctx, s)
}

// follow adopts the root in storage if it differs from the one in memory:
// another member of the cluster, or the operator, has put an older one back.
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

// adopt makes found the root that signs from now on.
func (c *LocalCA) adopt(found *root, log *slog.Logger) {
	log.Error("storage has a different root of the local CA; clients must trust that one", "root", found.cert.Subject.CommonName)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.root = found
}
