package certs

import (
	"bytes"
	"context"
	"log/slog"

	"github.com/caddyserver/certmagic"
)

// older reports whether clients have been able to trust r for longer than
// other.
func (r *root) older(other *root) bool { return r.cert.NotBefore.Before(other.cert.NotBefore) }

// putBack stores r in place of a younger root, unless that has changed
// meanwhile, and returns the root that is in storage then.
func (r *root) putBack(ctx context.Context, s certmagic.Storage, younger *root) (*root, error) {
	if err := s.Lock(ctx, rootLock); err != nil {
		return nil, err
	}
	defer func() { _ = s.Unlock(context.WithoutCancel(ctx), rootLock) }()
	now, err := readRoot(ctx, s)
	if err != nil || !now.cert.Equal(younger.cert) {
		return now, err
	}
	// Two files: a process that dies between them must not leave a pair that
	// does not match.
	if err := s.Delete(ctx, rootCertKey); err != nil {
		return nil, err
	}
	return r, r.store(ctx, s)
}

// follow takes the root of storage, if that is another than the one in memory:
// a member of the cluster has put an older one back, or the operator has.
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
