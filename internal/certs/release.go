package certs

import (
	"context"
	"slices"
	"time"
)

// chainRest is how long an unused chain is kept: longer than any step takes
// that may have chosen it.
const chainRest = 15 * time.Minute

// begin starts the queue of a chain, once. After Start it also looks for
// on-demand certificates that an earlier process obtained from its issuers.
func (m *Manager) begin(c *chain) {
	c.once.Do(func() {
		var ctx context.Context
		ctx, c.cancel = context.WithCancel(m.ctx)
		m.spawn(func() { c.queue.loop(ctx) })
		if m.open.Load() && m.options.Policy != nil {
			m.recaller.recall(ctx, slices.Values([]*chain{c}))
		}
	})
}

// chainFor returns the started chain of a single issuer.
func (m *Manager) chainFor(d *draft) *chain {
	c := m.issuers.chainOfIssuer(d)
	m.begin(c)
	for _, a := range c.authorities {
		for _, key := range a.challengeKeys() {
			m.solver.lookout.learn(key)
		}
	}
	return c
}

// sweep removes what no choice uses any more: realms immediately, issuers after
// a while. c may be nil.
func (c *choices) sweep() {
	if c == nil {
		return
	}
	m := c.manager
	c.realmMu.Lock() // meanwhile no realm or chain is found or made
	defer c.realmMu.Unlock()
	m.issuers.mu.Lock()
	defer m.issuers.mu.Unlock()
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, q := range c.asked {
		if q.running { // it may be about to use one
			return
		}
	}
	c.sweepRealms()
	m.issuers.sweep(time.Now())
}

// sweepRealms removes unused realms. c.realmMu and c.mu are held.
func (c *choices) sweepRealms() {
	for key, some := range c.realms {
		kept := some[:0]
		for _, r := range some {
			if r.users > 0 {
				kept = append(kept, r)
			}
		}
		clear(some[len(kept):])
		if c.realms[key] = kept; len(kept) == 0 {
			delete(c.realms, key)
		}
	}
}

// sweep releases unused chains. s.mu and the choices' lock are held.
func (s *issuers) sweep(now time.Time) {
	released := false
	for id, c := range s.single {
		switch {
		case c.users > 0 || !c.queue.idle():
			c.unused = time.Time{}
		case c.unused.IsZero():
			c.unused = now
		case now.Sub(c.unused) >= chainRest:
			c.cancel()
			delete(s.single, id)
			for _, a := range c.authorities {
				a.closeIdle()
			}
			released = true
		}
	}
	if released {
		s.sweepAccounts(now)
	}
}

// sweepAccounts removes accounts that no authority uses, except those with a
// limit in force: if the account is used again, its limit must be known. s.mu
// is held.
func (s *issuers) sweepAccounts(now time.Time) {
	used := make(map[*account]bool)
	note := func(c *chain) {
		for _, a := range c.authorities {
			for ; a != nil; a = a.staging {
				used[a.account] = true
			}
		}
	}
	note(s.public)
	note(s.internal)
	for _, c := range s.single {
		note(c)
	}
	for id, a := range s.accounts {
		if !used[a] && a.holds.none(now) {
			delete(s.accounts, id)
		}
	}
}

// none reports whether no limit is in force.
func (h *holds) none(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range h.by {
		if now.Before(l.until) {
			return false
		}
	}
	return true
}

// idle reports whether no host is in q and no job is running.
func (q *queue) idle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := q.running + q.waiting.Len()
	for l := range q.ripe {
		n += q.ripe[l].Len()
	}
	return n == 0
}
