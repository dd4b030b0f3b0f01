package certs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/caddyserver/certmagic"
)

// keepRemedy is what an operator can do for a local CA that cannot write.
func (m *Manager) keepRemedy() string {
	given, field := m.options.Storage, "TLS.Storage"
	if ca, ok := m.options.Internal.(*LocalCA); ok {
		given, field = ca.Storage, "LocalCA.Storage"
	}
	switch s := given.(type) {
	case nil:
		return "set XDG_DATA_HOME to a directory that this process can write to, or " + field
	case *certmagic.FileStorage:
		return fmt.Sprintf("let this process write to the directory %q, which is %s", s.Path, field)
	default:
		return fmt.Sprintf("let this process write to %s, a %T", field, s)
	}
}

// introduce tells the operator, once, where the root of the local CA is, or why
// there is none and what helps.
func (m *Manager) introduce() {
	m.hello.Do(func() {
		m.spawn(func() {
			if !m.present() && m.ctx.Err() == nil {
				m.presentLater()
			}
		})
	})
}

// present logs where the root is. It reports false, having logged the reason,
// if there is none.
func (m *Manager) present() bool {
	path, nowhere := m.local.RootFile(m.ctx)
	_, err := m.local.RootPEM(m.ctx)
	switch {
	case err == nil && nowhere == nil:
		m.log.Info("a local CA signs internal hosts, its root is for curl --cacert and trust stores", "root", path)
	case err == nil:
		m.log.Info("a local CA signs internal hosts", "cause", nowhere)
	case m.ctx.Err() != nil || m.misfit.Swap(true):
		return false
	default:
		m.log.Error("the local CA cannot keep its root, so internal hosts have no certificates", "cause", err, "remedy", m.keepRemedy())
		return false
	}
	return true
}

// presentLater has present called again after each outage of storage, until it
// succeeds.
func (m *Manager) presentLater() {
	s, ok := m.local.Storage.(*boundedStorage)
	if !ok {
		return
	}
	done := false // the functions run one after the other
	s.onReturn(func() { done = done || m.present() })
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
