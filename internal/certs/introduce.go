package certs

import (
	"fmt"

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
		return fmt.Sprintf("make the directory %q (%s) writable for this process", s.Path, field)
	default:
		return fmt.Sprintf("make %s (%T) writable for this process", field, s)
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
		m.log.Info("a local CA signs internal hosts; pass its root to curl --cacert or add it to trust stores", "root", path)
	case err == nil:
		m.log.Info("a local CA signs internal hosts", "cause", nowhere)
	case m.ctx.Err() != nil || m.misfit.Swap(true):
		return false
	default:
		m.log.Error("the local CA cannot store its root; internal hosts have no certificates", "cause", err, "remedy", m.keepRemedy())
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
