package certs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/certmagic"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

// A localSigner is the local CA at work in one Manager: it introduces itself to
// the operator, makes certificates in handshakes, and follows the root in its
// storage. A nil one is that of a Manager whose program has replaced it.
type localSigner struct {
	ca      *LocalCA
	minted  *mint
	remedy  string          // what an operator can do if it cannot keep its root
	ctx     context.Context // ends all
	spawn   func(task func()) bool
	renewed func(before *root) // told when it signs with another root than before
	log     *slog.Logger

	hello  sync.Once   // it introduces itself
	misfit atomic.Bool // it could not, and has said so
}

// newLocalSigner makes the local CA of m, nil if the program has replaced it.
func newLocalSigner(m *Manager) (*localSigner, error) {
	issuer := m.options.Internal
	if i, ok := issuer.(Issuer); ok {
		issuer = i.Issuer
	}
	s := m.storage
	if issuer != nil {
		given, ok := issuer.(*LocalCA)
		if !ok {
			return nil, nil
		}
		backend, err := orFiles(given.Storage)
		if err != nil {
			return nil, err
		}
		// The same authority, but handshakes do not hang with its storage.
		s = newBoundedStorage(backend, m.storage.limit)
		s.watch(m.ctx, m.spawn, m.log)
	}
	ca := &LocalCA{Storage: s}
	return &localSigner{
		ca:      ca,
		minted:  newMint(ca),
		remedy:  keepRemedy(&m.options),
		ctx:     m.ctx,
		spawn:   m.spawn,
		renewed: m.renewSigned,
		log:     m.log,
	}, nil
}

// mintable reports whether a host can have a certificate that is kept in memory
// only.
func (l *localSigner) mintable(host string) bool { return l != nil && hostname.IsInternal(host) }

// keepRemedy is what an operator can do for a local CA that cannot write.
func keepRemedy(o *Options) string {
	given, field := o.Storage, "TLS.Storage"
	if ca, ok := o.Internal.(*LocalCA); ok {
		given, field = ca.Storage, "LocalCA.Storage"
	}
	switch s := given.(type) {
	case nil:
		return "set XDG_DATA_HOME to a directory that this process can write to, or " + field
	case *certmagic.FileStorage:
		return fmt.Sprintf("make the directory %q (%s) writable for this process", s.Path, field)
	default:
		return fmt.Sprintf("make %s (%T) writable for this process", field, s)
	}
}

// introduce tells the operator, once, where the root of the local CA is, or why
// there is none and what helps.
func (l *localSigner) introduce() {
	l.hello.Do(func() {
		l.spawn(func() {
			if !l.present() && l.ctx.Err() == nil {
				l.presentLater()
			}
		})
	})
}

// present logs where the root is. It reports false, having logged the reason,
// if there is none.
func (l *localSigner) present() bool {
	path, nowhere := l.ca.RootFile(l.ctx)
	_, err := l.ca.RootPEM(l.ctx)
	switch {
	case err == nil && nowhere == nil:
		l.log.Info("a local CA signs internal hosts; pass its root to curl --cacert or add it to trust stores", "root", path)
	case err == nil:
		l.log.Info("a local CA signs internal hosts", "cause", nowhere)
	case l.ctx.Err() != nil || l.misfit.Swap(true):
		return false
	default:
		l.log.Error("the local CA cannot store its root; internal hosts have no certificates", "cause", err, "remedy", l.remedy)
		return false
	}
	return true
}

// presentLater has present called again after each outage of storage, until it
// succeeds.
func (l *localSigner) presentLater() {
	s, ok := l.ca.Storage.(*boundedStorage)
	if !ok {
		return
	}
	done := false // the functions run one after the other
	s.onReturn(func() { done = done || l.present() })
}

// follow makes the local CA take the root of its storage.
func (l *localSigner) follow(ctx context.Context) error {
	err := l.resigned(func() error { return l.ca.follow(ctx, l.log) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the witness knows what to do
	}
	return err
}

// writeBack makes the root in memory and the one in storage the same.
func (l *localSigner) writeBack(ctx context.Context) error {
	return l.resigned(func() error { return l.ca.restore(ctx, l.log) })
}

// resigned calls change, and if the local CA has another root after it, has the
// certificates replaced that it has signed with the one before.
func (l *localSigner) resigned(change func() error) error {
	before := l.ca.held()
	err := change()
	after := l.ca.held()
	if before == nil || after == nil || before.cert.Equal(after.cert) {
		return err
	}
	l.minted.forget()
	l.renewed(before)
	return err
}

// renewSigned replaces the certificates that the local CA has signed with the
// root before.
func (m *Manager) renewSigned(before *root) {
	m.each(func(h *host) {
		if cert := h.cert.Load(); cert != nil && h.chain() == m.issuers.internal && bytes.Equal(cert.Leaf.RawIssuer, before.cert.RawSubject) {
			_ = h.renew() // hosts whose certificates only the program can change keep theirs
		}
	})
}

// orphaned reports whether the local CA has signed s with another root than
// that it has now: the operator has replaced it while no process was there to
// see it.
func (l *localSigner) orphaned(ctx context.Context, s *stored) bool {
	if l == nil || s.by.template != certmagic.Issuer(l.ca) {
		return false
	}
	now, err := l.ca.load(ctx)
	leaf := s.cert.Leaf
	return err == nil && !(bytes.Equal(leaf.RawIssuer, now.cert.RawSubject) && bytes.Equal(leaf.AuthorityKeyId, now.cert.SubjectKeyId))
}
