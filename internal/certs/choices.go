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

// A choices is what the program says of each host pattern that has a route, and
// of each host that came on demand. A pattern of which nothing is known yet is
// closed: its handshakes wait, its requests are refused.
//
// The hook runs on goroutines of its own, a bounded number of them. What it
// said of a pattern stays until it says something else.
type choices struct {
	manager *Manager
	hook    func(pattern string) (Choice, error)
	plain   *choice // of all patterns of which the program wishes nothing

	mu     sync.RWMutex
	known  map[string]*choice
	passed map[string]struct{}  // patterns whose TLS ends elsewhere, once they are asked about
	files  map[string]*pairFile // by pattern
	asked  map[string]*inquiry
	ready  []string // whose inquiries may run
	// of the hook under way, those that hang included; closed at their end
	calls   map[string]chan struct{}
	workers int

	realmMu sync.Mutex
	realms  map[realmKey][]*realm
}

// newChoices returns nil without a hook.
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
// nothing ever is, and nothing needs to be. c may be nil.
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
// What was said of it when it had no route, or when its TLS ended elsewhere, is
// forgotten: it may want something else now. c may be nil.
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

// of returns what counts for a canonical host, that of the most specific
// pattern with a route. False means that the program has not answered for
// pattern. c may be nil.
//
// The routes are asked each time: what is known follows them later, and a
// request that has a new route by now must not pass by what counted for the old
// one.
func (c *choices) of(host string) (ch *choice, pattern string, ok bool) {
	if c == nil {
		return nil, "", true
	}
	return c.under(c.manager.options.Wants, host)
}

// wants says which host patterns have a route whose TLS ends here, as
// Options.Wants: by the routes of now, or by those that serve a request.
type wants func(pattern string) bool

// under is of by the routes that has knows.
//
// Hot path: map look-ups under a read lock; no allocation for hosts of which
// something is known by name or by their wildcard.
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

// inherit returns a choice, or that of the pattern if the choice is of a host
// on demand whose pattern brings a certificate, or wants none, by now.
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

// heirs returns the hosts on demand that have the issuer of a pattern, for
// which ch counts.
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

// above returns what counts for a host without a route of its own: that of the
// wildcard above it, "" if there can be none, or that of "*".
func (c *choices) above(has wants, wild string) (ch *choice, pattern string, ok bool) {
	for _, pattern := range [...]string{wild, "*"} {
		if pattern != "" && has(pattern) {
			ch, ok = c.exact(pattern)
			return ch, pattern, ok
		}
	}
	return c.plain, "", true
}

// wildcard returns what is known of the wildcard above a host, nil if nothing.
func (c *choices) wildcard(host string) *choice {
	i := strings.IndexByte(host, '.')
	if i <= 0 {
		return nil
	}
	var buf [256]byte
	wild := append(append(buf[:0], '*'), host[i:]...)
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.known[string(wild)] // no allocation: a map index
}

// chain returns what issues for a host or wildcard by the program's wish, nil
// if it has none. c may be nil.
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

// issuing is above for the issuer: a job under way keeps that of a pattern
// whose route has gone, rather than place its order elsewhere.
func (c *choices) issuing(wild string) *choice {
	if ch, ok := c.exact(wild); ok {
		return ch
	}
	ch, _ := c.exact("*")
	return ch
}

// apart reports whether a host is to have a certificate of its own though the
// wildcard above it has one: the program says so, wants another issuer for it,
// or fails to answer for the wildcard. Before its first answer for the wildcard
// no host is apart: one that orders too early has an order too many. c may be
// nil.
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

// decided waits until the program has said how TLS is done for the host of a
// handshake.
func (m *Manager) decided(hello *tls.ClientHelloInfo) (*choice, error) {
	if m.choices == nil {
		return nil, nil
	}
	name := m.nameOf(hello)
	ch, pattern, ok := m.choices.of(name)
	if ok || !m.options.Knows(name) {
		return ch, nil
	}
	m.choices.settled(pattern) // its route may be newer than what is known
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

// ReloadTLS asks the program again how TLS is done for the given patterns;
// without arguments, for all. It does not wait for the answers. It returns an
// error for each argument that is not a pattern, or that has no route.
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
