package certs

import (
	"context"
	"crypto/tls"
	"log/slog"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
	"go.uber.org/zap"
)

// What tests need from inside the package.

// MaxLoaded limits the certificates that m keeps in memory to n. Call it before
// Start.
func (m *Manager) MaxLoaded(n int) { m.memory.limit = n }

// Held returns the number of certificates that m keeps in memory.
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

// ErrNotAsked is errNotAsked.
var ErrNotAsked = errNotAsked

// Refused returns the number of refused names that m remembers.
func (m *Manager) Refused() int {
	m.demands.mu.Lock()
	defer m.demands.mu.Unlock()
	return len(m.demands.verdicts)
}

// MaxRefused is the maximum of that number.
const MaxRefused = maxRefused

// Refuse remembers a refusal.
func (m *Manager) Refuse(name string) {
	m.demands.remember(name, verdict{until: time.Now().Add(refusedFor)})
}

// Report reports s to the program.
func (m *Manager) Report(s Status) { m.reporter.add(s) }

// A Pacer is a pacer.
type Pacer struct{ p *pacer }

// NewPacer is newPacer.
func NewPacer(n int, window time.Duration) Pacer { return Pacer{newPacer(n, window)} }

// Take is take.
func (p Pacer) Take() time.Duration { return p.p.take(time.Now()) }

// Await is await.
func (p Pacer) Await(ctx context.Context) error { return p.p.await(ctx) }

// Back is back.
func (p Pacer) Back() { p.p.back() }

// LimitAbout returns what a rate limit applies to, for an order for name; "" if
// the problem is no rate limit.
func LimitAbout(p acme.Problem, name string) string {
	l, ok := readLimit(p, name)
	if !ok {
		return ""
	}
	scope := map[scope]string{hostScope: "host", domainScope: "domain", accountScope: "account", addressScope: "address"}[l.scope]
	return strings.TrimSpace(scope + " " + l.name)
}

// Explain is explain.
func Explain(err error, directory, name string) error { return explain(err, directory, name) }

// RefusedReplacing is refusedReplacing.
func RefusedReplacing(err error) bool { return refusedReplacing(err) }

// IsPublic is isPublic.
func IsPublic(i certmagic.Issuer) bool { return isPublic(i) }

// Looks returns the number of look-ups of challenges that m remembers.
func (m *Manager) Looks() int {
	l := m.solver.lookout
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.names)
}

// Preflight makes a preflight of a host.
func (m *Manager) Preflight(ctx context.Context, host string) error {
	return m.scout.check(ctx, host, m.routing.chainOf(host))
}

// Explain adds the finding of a preflight of a host to an error of a CA.
func (m *Manager) Explain(ctx context.Context, name string, err error) error {
	return (&host{manager: m, name: name}).explain(ctx, err)
}

// Preview makes the next preflight of a host come now.
func (m *Manager) Preview(host string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.table.get(host)
	h.put(m.scout.queue, preview, time.Now())
}

// Ordered returns the number of public orders that have started or wait.
func (m *Manager) Ordered() int {
	q := m.issuers.public.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	n := q.turn + q.waiting.Len()
	for l := range q.ripe {
		n += q.ripe[l].Len()
	}
	return n
}

// OnReturn makes m call f after each outage of its storage.
func (m *Manager) OnReturn(f func()) { m.storage.onReturn(f) }

// StorageFailed is storageFailed.
func StorageFailed(err error) bool { return storageFailed(err) }

// Look makes one operation in m's storage.
func (m *Manager) Look(ctx context.Context) { _ = m.Read(ctx, "look") }

// Read reads a key from m's storage.
func (m *Manager) Read(ctx context.Context, key string) error {
	_, err := m.storage.Load(ctx, key)
	return err
}

// RootPEM returns the root with which m's local CA signs.
func (m *Manager) RootPEM(ctx context.Context) ([]byte, error) { return m.local.ca.RootPEM(ctx) }

// HoldOrders keeps public orders in their queue.
func (m *Manager) HoldOrders() {
	q := m.issuers.public.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	q.width = 0
}

// OffersHTTP reports whether m offers HTTP-01 to CAs.
func (m *Manager) OffersHTTP() bool { return m.engine.http.Load() }

// SiteKey is siteKey for the first public authority.
func (m *Manager) SiteKey(name, suffix string) string {
	return m.issuers.public.authorities[0].siteKey(name, suffix)
}

// Holds is holds.
type Holds struct{ h *holds }

// NewHolds is newHolds.
func NewHolds() Holds { return Holds{newHolds()} }

// Set puts a limit of the account in force.
func (h Holds) Set(until time.Time) {
	h.h.set(limit{subject: subject{scope: accountScope}, until: until})
}

// Enter lets an order through and returns a function that ends it; nil if the
// order is held.
func (h Holds) Enter(name string) (leave func(error)) {
	entered, until := h.h.enter(name, true)
	if !until.IsZero() {
		return nil
	}
	return func(err error) { h.h.release(entered, err) }
}

// Admits reports whether a connection may carry requests for a host.
func (m *Manager) Admits(state *tls.ConnectionState, host string) bool {
	return m.choices.admits(m.options.Wants, state, host)
}

// Realms returns the number of realms that m keeps.
func (m *Manager) Realms() int { return len(m.choices.allRealms()) }

// Kept returns the numbers of chains and accounts that m keeps for issuers from
// the hook.
func (m *Manager) Kept() (chains, accounts int) {
	m.issuers.mu.Lock()
	defer m.issuers.mu.Unlock()
	return len(m.issuers.single), len(m.issuers.accounts)
}

// Choices returns the number of hosts whose settings m knows or asks for.
func (m *Manager) Choices() int {
	m.choices.mu.RLock()
	defer m.choices.mu.RUnlock()
	return len(m.choices.known) + len(m.choices.asked)
}

// Deactivated is deactivated.
func Deactivated(err error) bool { return deactivated(err) }

// SetBack simulates that the wall clock has been set back.
func (m *Manager) SetBack(by time.Duration) { m.setBack(by) }

// StepBack is stepBack.
func StepBack(then, now time.Time) time.Duration { return stepBack(then, now) }

// InTime is inTime.
func InTime(t time.Time) time.Time { return inTime(t) }

// AtMost is atMost.
func AtMost(t time.Time, most time.Duration) time.Time { return atMost(t, most) }
