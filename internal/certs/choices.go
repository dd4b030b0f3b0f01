package certs

import (
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// A choices holds the program's TLS settings for each host pattern that has a
// route, and for each host that came on demand. A pattern without settings yet
// is closed: its handshakes wait, and its requests are refused.
//
// The hook runs on its own goroutines, a bounded number of them. Settings stay
// in force until the hook returns others.
type choices struct {
	manager *Manager
	hook    func(pattern string) (Choice, error)
	plain   *choice // of all patterns without special settings

	mu     sync.RWMutex
	known  map[string]*choice
	passed map[string]struct{}  // patterns with Passthrough that the hook was asked about
	files  map[string]*pairFile // certificate files by pattern
	asked  map[string]*inquiry
	ready  []string // patterns whose inquiries may run
	// calls of the hook in flight, including hanging ones; closed when they
	// return
	calls   map[string]chan struct{}
	workers int

	realmMu sync.Mutex
	realms  map[realmKey][]*realm
}

// newChoices returns nil if there is no hook.
func newChoices(m *Manager, hook func(string) (Choice, error)) *choices {
	if hook == nil {
		return nil
	}
	return &choices{
		manager: m,
		hook:    hook,
		plain:   new(choice),
		known:   make(map[string]*choice),
		passed:  make(map[string]struct{}),
		files:   make(map[string]*pairFile),
		asked:   make(map[string]*inquiry),
		calls:   make(map[string]chan struct{}),
		realms:  make(map[realmKey][]*realm),
	}
}

// exact returns what is known of exactly that pattern or host. Without a hook
// nothing is known, and nothing needs to be. c may be nil.
func (c *choices) exact(name string) (ch *choice, ok bool) {
	if c == nil {
		return nil, true
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	ch, ok = c.known[name]
	return ch, ok
}

// settled reports whether something is known of a pattern whose TLS ends here.
// Settings from a time when it had no route, or when its TLS ended elsewhere,
// are forgotten: the program may want others now. c may be nil.
func (c *choices) settled(name string) bool {
	if c == nil {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := c.known[name]
	if _, passed := c.passed[name]; passed || ch != nil && ch.demanded {
		c.forget(name)
		return false
	}
	return ch != nil
}

// of returns the choice for a canonical host: that of the most specific pattern
// with a route. False means that the program has not answered for pattern. c
// may be nil.
//
// The routes are read each time. What is known follows them later, and a
// request for a route that has just been added must not use the choice of the
// old route.
func (c *choices) of(host string) (ch *choice, pattern string, ok bool) {
	if c == nil {
		return nil, "", true
	}
	return c.under(c.manager.options.Wants, host)
}

// wants reports which host patterns have a route whose TLS ends here, like
// Options.Wants: by the current routes, or by those that serve a request.
type wants func(pattern string) bool

// under is like of, with the routes that has reports.
//
// Hot path: map look-ups under a read lock; no allocation for hosts that are
// known by name or by their wildcard.
func (c *choices) under(has wants, host string) (ch *choice, pattern string, ok bool) {
	ch, known := c.exact(host)
	switch here := has(host); {
	case known && ch.demanded != here:
		return c.inherit(has, ch)
	case here:
		return nil, host, false
	}
	if ch := c.wildcard(host); ch != nil && has(ch.pattern) {
		return ch, "", true
	}
	return c.above(has, wildcardOf(host))
}

// inherit returns ch itself, or the choice of its pattern if ch is of a host on
// demand and the pattern now provides a certificate, or wants none.
func (c *choices) inherit(has wants, ch *choice) (_ *choice, pattern string, ok bool) {
	if !ch.demanded || ch.cert != nil {
		return ch, "", true
	}
	up, pattern, ok := c.above(has, ch.wild)
	if !ok || up.cert != nil || up.none {
		return up, pattern, ok
	}
	return ch, "", true
}

// heirs returns the hosts on demand that use the issuer of a pattern. ch is the
// pattern's choice.
func (c *choices) heirs(pattern string, ch *choice) []string {
	if !isPattern(pattern) {
		return nil
	}
	m := c.manager
	return slices.DeleteFunc(m.namesBelow(pattern), func(name string) bool {
		h, _ := c.exact(name)
		if h == nil || !h.demanded || h.chain != nil {
			return true
		}
		up, _, _ := c.above(m.options.Wants, h.wild)
		return up != ch
	})
}

// above returns the choice for a host without a route of its own: that of wild,
// the wildcard above it ("" if there can be none), or that of "*".
func (c *choices) above(has wants, wild string) (ch *choice, pattern string, ok bool) {
	for _, pattern := range [...]string{wild, "*"} {
		if pattern != "" && has(pattern) {
			ch, ok = c.exact(pattern)
			return ch, pattern, ok
		}
	}
	return c.plain, "", true
}

// wildcard returns the choice of the wildcard above a host, nil if there is
// none.
func (c *choices) wildcard(host string) *choice {
	i := strings.IndexByte(host, '.')
	if i <= 0 {
		return nil
	}
	var buf [256]byte
	wild := append(append(buf[:0], '*'), host[i:]...)
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.known[string(wild)] // a map index does not allocate
}

// chain returns the issuers that the program has set for a host or wildcard,
// nil if it has set none. c may be nil.
func (c *choices) chain(name string) *chain {
	ch, _ := c.exact(name)
	if ch != nil && ch.chain == nil && ch.demanded {
		ch = c.issuing(ch.wild)
	}
	if ch == nil {
		return nil
	}
	return ch.chain
}

// issuing is like above, for the issuer: a running job keeps the issuer of a
// pattern whose route has been removed, instead of ordering elsewhere.
func (c *choices) issuing(wild string) *choice {
	if ch, ok := c.exact(wild); ok {
		return ch
	}
	ch, _ := c.exact("*")
	return ch
}

// apart reports whether a host gets its own certificate although the wildcard
// above it has one: the program says so, sets another issuer for the host, or
// fails to answer for the wildcard. While its first answer for the wildcard is
// pending, no host is apart: an early order could be an unnecessary one. c may
// be nil.
func (c *choices) apart(name, wild string) bool {
	ch, _ := c.exact(name)
	if ch != nil && ch.own {
		return true
	}
	if _, known := c.exact(wild); !known {
		return c.failure(wild) != nil
	}
	return ch != nil && ch.chain != nil && c.manager.routing.chainOf(wild) != ch.chain
}

// names returns all patterns and hosts that have been asked about.
func (c *choices) names() []string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	all := slices.AppendSeq(slices.Collect(maps.Keys(c.known)), maps.Keys(c.asked))
	all = slices.AppendSeq(all, maps.Keys(c.passed))
	slices.Sort(all)
	return slices.Compact(all)
}

// drop forgets a pattern or host. c may be nil.
func (c *choices) drop(name string) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(name)
}

// forget is drop with c.mu held.
func (c *choices) forget(name string) {
	if q := c.asked[name]; q != nil {
		q.err = errDropped
		close(q.done)
		delete(c.asked, name)
	}
	c.known[name].count(-1)
	delete(c.known, name)
	delete(c.files, name)
	delete(c.passed, name)
}

// decided waits for the program's TLS settings for the host of a handshake.
func (m *Manager) decided(hello *tls.ClientHelloInfo) (*choice, error) {
	if m.choices == nil {
		return nil, nil
	}
	name := m.nameOf(hello)
	ch, pattern, ok := m.choices.of(name)
	if ok || !m.options.Knows(name) {
		return ch, nil
	}
	m.choices.settled(pattern) // its route may be newer than its settings
	_, err := m.lobby.pause(hello, name, 0, func(ctx context.Context, w *waiter) (*tls.Certificate, error) {
		return nil, m.choices.await(ctx, w, pattern)
	})
	if err != nil {
		return nil, err
	}
	if ch, pattern, ok = m.choices.of(name); !ok {
		return nil, undecided(pattern, nil)
	}
	return ch, nil
}

// ReloadTLS asks the program again for the TLS settings of the given patterns;
// without arguments, of all. It does not wait for the answers. It returns an
// error for each argument that is not a pattern or has no route.
func (m *Manager) ReloadTLS(patterns ...string) (strange []error) {
	if m.choices == nil {
		return nil
	}
	if len(patterns) == 0 {
		patterns = m.choices.names()
	}
	for _, pattern := range patterns {
		name, err := canonicalPattern(pattern)
		if err == nil && !m.choices.reload(name) {
			err = fmt.Errorf("no route serves %q", name)
		}
		if err != nil {
			strange = append(strange, err)
		}
	}
	return strange
}
