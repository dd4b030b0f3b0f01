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

// A localSigner is the local CA in use by one Manager: it tells the operator
// where its root is, makes certificates in handshakes, and follows the root in
// its storage. It is nil if the program has replaced the local CA.
type localSigner struct {
	ca      *LocalCA
	minted  *mint
	remedy  string          // what an operator can do if the root cannot be stored
	ctx     context.Context // its cancellation ends all work
	spawn   func(task func()) bool
	renewed func(before *root) // called when another root signs from now on
	log     *slog.Logger

	hello  sync.Once   // the operator is told once
	misfit atomic.Bool // there was no root, and that was logged
}

// newLocalSigner returns the local CA of m, nil if the program has replaced it.
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
		// The same authority, but a hanging storage does not block handshakes.
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

// keepRemedy returns what an operator can do if a local CA cannot write.
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
// there is none and what to do.
func (l *localSigner) introduce() {
	l.hello.Do(func() {
		l.spawn(func() {
			if !l.present() && l.ctx.Err() == nil {
				l.presentLater()
			}
		})
	})
}

// present logs where the root is. If there is none, it logs the reason and
// returns false.
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

// presentLater calls present again after each outage of storage, until it
// succeeds.
func (l *localSigner) presentLater() {
	s, ok := l.ca.Storage.(*boundedStorage)
	if !ok {
		return
	}
	done := false // the functions run one after another
	s.onReturn(func() { done = done || l.present() })
}

// follow makes the local CA use the root in its storage.
func (l *localSigner) follow(ctx context.Context) error {
	err := l.resigned(func() error { return l.ca.follow(ctx, l.log) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the witness handles a loss
	}
	return err
}

// writeBack makes the root in memory and the one in storage the same.
func (l *localSigner) writeBack(ctx context.Context) error {
	return l.resigned(func() error { return l.ca.restore(ctx, l.log) })
}

// resigned calls change. If the local CA has another root afterwards, the
// certificates that the previous root signed are replaced.
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

// renewSigned replaces the certificates that the local CA signed with the root
// before.
func (m *Manager) renewSigned(before *root) {
	m.each(func(h *host) {
		if cert := h.cert.Load(); cert != nil && h.chain() == m.issuers.internal && bytes.Equal(cert.Leaf.RawIssuer, before.cert.RawSubject) {
			_ = h.renew() // fails for certificates that the program provides; these stay
		}
	})
}

// orphaned reports whether s was signed by another root of the local CA than
// the current one: the operator has replaced it while no process was running.
func (l *localSigner) orphaned(ctx context.Context, s *stored) bool {
	if l == nil || s.by.template != certmagic.Issuer(l.ca) {
		return false
	}
	now, err := l.ca.load(ctx)
	leaf := s.cert.Leaf
	return err == nil && !(bytes.Equal(leaf.RawIssuer, now.cert.RawSubject) && bytes.Equal(leaf.AuthorityKeyId, now.cert.SubjectKeyId))
}
