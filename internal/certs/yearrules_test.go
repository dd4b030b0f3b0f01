package certs_test

import (
	"bytes"
	"crypto/tls"
	"runtime"
	"slices"
	"strings"
	"time"
)

// watch checks everything every third hour.
func (w *world) watch(done chan struct{}, goroutines int) {
	today := 0
	for {
		select {
		case <-done:
			return
		case <-time.After(3 * time.Hour):
		}
		running := w.running()
		allowed := goroutines + 50 + (len(running)+1)*workers + int(w.asking.Load())
		if n := runtime.NumGoroutine(); n > allowed {
			w.fail("goroutines", "", "there are %d, want at most %d", n, allowed)
		}
		w.lookAround()
		if d := int(time.Since(w.start).Hours()) / 24; d > today {
			today = d
			w.midnight()
		}
	}
}

// lookAround checks all hosts.
func (w *world) lookAround() {
	w.mu.Lock()
	all := slices.Clone(w.all)
	w.mu.Unlock()
	for _, s := range all {
		for _, i := range w.running() {
			w.look(i, s)
		}
		w.punctual(s)
		w.healthy(s)
	}
}

// midnight resets the daily counts.
func (w *world) midnight() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.warned, w.starts = 0, 0
	for _, s := range w.all {
		s.warned = 0
	}
}

// warn counts a log record and judges it.
func (w *world) warn(i *instance, host, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.tenants[host]
	if s == nil {
		if w.warned++; w.warned > chatter*max(1, len(w.instances)) {
			w.broken("log", "", "%d warnings about no host today: %s", w.warned, text)
		}
		return
	}
	s.say(w, "%s warns: %.200s", i.name, text)
	if s.warned++; s.warned > warnings+2*w.starts {
		w.broken("log", host, "%d warnings today, with %d starts", s.warned, w.starts)
	}
}

// ordered judges a new order.
func (w *world) ordered(i *instance, host string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.tenants[host]
	if s != nil {
		s.asked = time.Now()
	}
	switch {
	case s == nil:
		w.broken("removed", host, "%s orders for a host that never was", i.name)
	case s.wanted.IsZero() && time.Since(s.gone) > 2*time.Minute:
		w.broken("removed", host, "%s orders for it", i.name)
	case time.Until(s.stored.to) > s.life*36/100 && s.revoked.IsZero():
		w.broken("needless", host, "%s orders; there is one until %s, stored %s", i.name, w.stamp(s.stored.to), w.stamp(s.storedAt))
	}
}

// has returns the end of the certificate that i has last served for s.
func (i *instance) has(s *tenant) time.Time {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return i.served[s]
}

// warm reports whether an instance has had enough time to read its storage.
func (w *world) warm(i *instance) bool {
	return time.Since(i.begin) > warmUp && w.storage.fault.since() > warmUp
}

// look makes a handshake and judges it.
func (w *world) look(i *instance, s *tenant) {
	now := time.Now()
	w.mu.Lock()
	wanted, stored, by, at, covered := s.wanted, s.stored, s.storedBy, s.storedAt, s.covered != nil
	w.mu.Unlock()
	if wanted.IsZero() || now.Sub(wanted) < 3*time.Minute || i.closing.Load() {
		return
	}
	served := i.has(s)
	found := w.warm(i) && (by == i.name || at.Before(i.begin) || !s.demand && now.Sub(at) > chanceFor)
	switch {
	case now.Before(served), found && now.Before(stored.to):
		cert, took, err := i.shake(s.ask)
		w.judge(i, s, cert, took, err)
	case found && !covered && !s.demand && !stored.to.IsZero() && now.Sub(stored.to) < day(25):
		cert, took, err := i.shake(s.ask)
		if i.closing.Load() {
			return
		}
		if took > promptStale || cert == nil {
			w.fail("handshake", s.name, "%s has an expired certificate and answers after %s: %v", i.name, took, err)
		}
		i.note(s, cert)
	case s.demand || w.roll(8) == 0:
		go w.impatient(i, s)
	}
}

// judge judges the handshake of a host that has a good certificate.
func (w *world) judge(i *instance, s *tenant, cert *tls.Certificate, took time.Duration, err error) {
	w.samples.Add(1)
	w.mu.Lock()
	gone := s.wanted.IsZero()
	w.mu.Unlock()
	switch {
	case i.closing.Load() || gone:
		return
	case cert == nil:
		w.fail("handshake", s.name, "%s fails after %s: %v", i.name, took, err)
		i.forget(s)
		return
	case took > prompt:
		w.fail("handshake", s.name, "%s takes %s", i.name, took)
	case time.Now().After(cert.Leaf.NotAfter):
		w.fail("handshake", s.name, "%s serves one that expired %s", i.name, w.stamp(cert.Leaf.NotAfter))
	}
	i.note(s, cert)
}

// note records what was served.
func (i *instance) note(s *tenant, cert *tls.Certificate) {
	if cert == nil {
		return
	}
	i.mu.Lock()
	i.served[s] = cert.Leaf.NotAfter
	i.mu.Unlock()
	if s.life > 12*time.Hour {
		return
	}
	w := i.world
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.localRoot == nil {
		w.localRoot = cert.Leaf.AuthorityKeyId
	}
	if !bytes.Equal(w.localRoot, cert.Leaf.AuthorityKeyId) {
		w.broken("root", s.name, "%s serves one of another root", i.name)
		w.localRoot = cert.Leaf.AuthorityKeyId
	}
}

// forget makes sure that a failed handshake is judged once, not again until the
// previous certificate expires.
func (i *instance) forget(s *tenant) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.served, s)
}

// impatient is a client of a host that may not have a certificate yet. A host
// on demand is ordered only when clients request it, and here all are requested
// at once: a client that is refused because of that retries.
func (w *world) impatient(i *instance, s *tenant) {
	w.asking.Add(1)
	defer w.asking.Add(-1)
	var cert *tls.Certificate
	for range tries {
		var took time.Duration
		var err error
		if cert, took, err = i.shake(s.ask); took > patience {
			w.fail("wait", s.name, "a handshake waits for %s", took)
		}
		if err == nil || !strings.Contains(err.Error(), "too many new hosts") || i.closing.Load() {
			break
		}
		w.pass(w.between(time.Minute, 5*time.Minute))
	}
	if cert != nil && time.Now().Before(cert.Leaf.NotAfter) && !i.closing.Load() {
		i.note(s, cert)
	}
}

// punctual judges whether a due renewal has been ordered.
func (w *world) punctual(s *tenant) {
	w.mu.Lock()
	asked, to := s.asked, s.stored.to
	off := s.wanted.IsZero() || s.demand || s.covered != nil || time.Until(to) < 0 || time.Until(to) > s.life/3
	w.mu.Unlock()
	if off {
		return
	}
	for _, i := range w.running() {
		status, _ := i.manager.Status(s.name)
		if !status.NotAfter.Equal(to) || !asked.Before(status.RenewAt) || i.closing.Load() {
			continue
		}
		w.mu.Lock()
		if since := latest(latest(s.wanted, status.RenewAt), i.begin.Add(warmUp)); s.asked.Equal(asked) && w.hadChance(s, since, heldFor, nil) {
			w.broken("held", s.name, "%s wants to renew it since %s; last order %s", i.name, w.stamp(status.RenewAt), w.stamp(asked))
		}
		w.mu.Unlock()
	}
}

// healthy judges whether a host without a certificate should have one, and
// whether a revoked certificate should have been replaced.
func (w *world) healthy(s *tenant) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if s.wanted.IsZero() || s.covered != nil {
		return
	}
	if !s.revoked.IsZero() && now.Sub(s.revoked) > day(7) && w.hadChance(s, latest(s.revoked.Add(askAgain), s.wanted), chanceFor, nil) {
		w.broken("revoked", s.name, "it has been since %s", w.stamp(s.revoked))
	}
	w.good(s)
}

// good judges a host without a good certificate: has it had enough time to get
// one? w.mu is held.
func (w *world) good(s *tenant) {
	if s.wanted.IsZero() || s.covered != nil || time.Now().Before(s.stored.to) {
		return
	}
	since, chance := s.wanted, w.first
	if !s.stored.to.IsZero() {
		since, chance = latest(s.wanted, s.stored.to.Add(-s.life/3)), min(w.fair, s.life/6)
	} else if s.excused {
		return
	}
	if w.hadChance(s, since, chance, w.ca.orders) {
		w.broken("expired", s.name, "its last certificate was good until %s; wanted since %s", w.stamp(s.stored.to), w.stamp(s.wanted))
	}
}

// backlog returns the number of due renewals that count for the account's
// limit. w.mu is held.
func (w *world) backlog() (n int) {
	for _, s := range w.all {
		if !s.wanted.IsZero() && s.covered == nil && !s.stored.to.IsZero() && time.Until(s.stored.to) < s.life/3 && !s.ari {
			n++
		}
	}
	return n
}

// hadChance reports whether everything that a tenant needs has worked for the
// given time in one piece since then. limit is the account's: after a trouble
// it adds time if more renewals are due than the limit allows at once: 1,300
// renewals at 300 in 3 hours take at least 12 hours, whatever a client does.
// w.mu is held.
func (w *world) hadChance(s *tenant, since time.Time, chance time.Duration, limit *window) bool {
	now := time.Now()
	if now.Sub(since) < chance {
		return false
	}
	var catchUp time.Duration
	all := slices.Clone(s.troubles)
	for _, x := range w.troubles {
		if s.demand || x.what != "database" {
			all = append(all, x)
		}
	}
	slices.SortFunc(all, func(a, b trouble) int { return a.from.Compare(b.from) })
	for _, x := range all {
		if x.from.Sub(since) >= chance+catchUp {
			return true
		}
		if x.to.IsZero() {
			return false
		}
		if x.to.After(since) {
			since, catchUp = x.to, limit.least(x.backlog)
		}
	}
	return now.Sub(since) >= chance+catchUp
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
