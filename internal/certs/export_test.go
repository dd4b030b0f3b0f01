package certs

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

// What tests need from inside.

// MaxLoaded makes m keep no more than n certificates in memory. Call it before Start.
func (m *Manager) MaxLoaded(n int) { m.memory.limit = n }

// Held returns how many certificates m keeps in memory.
func (m *Manager) Held() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.memory.ring)
}

// Bounded returns a storage like that of a Manager.
func Bounded(s certmagic.Storage, limit time.Duration) certmagic.Storage {
	return newBoundedStorage(s, limit)
}

// UnlockAll frees the locks of a storage from Bounded.
func UnlockAll(ctx context.Context, s certmagic.Storage) error {
	return s.(*boundedStorage).unlockAll(ctx)
}

// Settle waits for the operations of a storage from Bounded.
func Settle(ctx context.Context, s certmagic.Storage) { s.(*boundedStorage).settle(ctx) }

// Zap returns the logger that certmagic gets.
func Zap(l *slog.Logger) *zap.Logger { return newZap(l) }

// Backoff is backoff.
func Backoff(n int, err error, left time.Duration) time.Duration { return backoff(n, err, left) }

// RetryAfter is retryAfter.
func RetryAfter(detail string) (time.Time, bool) { return retryAfter(detail) }

// ReverseName is reverseName.
func ReverseName(name string) (string, bool) { return reverseName(name) }

// Refused returns how many refused names m remembers.
func (m *Manager) Refused() int {
	m.demands.mu.Lock()
	defer m.demands.mu.Unlock()
	return len(m.demands.refused)
}

// MaxRefused is how many refused names are remembered.
const MaxRefused = maxRefused

// Refuse remembers a refusal.
func (m *Manager) Refuse(name string) { m.demands.refuse(name) }

// Wait makes the part of a handshake that waits.
func (m *Manager) Wait(ctx context.Context, hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	m.mu.RLock()
	h := m.find(hello.ServerName)
	m.mu.RUnlock()
	return m.wait(ctx, h)
}

// ProxyHeader is appendProxyHeader.
func ProxyHeader(client, here net.Addr) []byte { return appendProxyHeader(nil, client, here) }

// OffersHTTP reports whether m offers HTTP-01 to CAs.
func (m *Manager) OffersHTTP() bool { return m.http.Load() }
