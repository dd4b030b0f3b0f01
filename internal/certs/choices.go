package certs

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	choosers    = 16               // calls of the hook at a time
	maxChoosing = 64               // likewise, with those that hang
	choicePause = 2 * time.Second  // after the first failure of the hook for a host; doubles
	choiceLast  = 5 * time.Minute  // the longest such pause
	choiceTime  = 10 * time.Second // of one call
)

var (
	errManyChoices = errors.New("TLS.Host has not answered too many calls")
	errNoChoice    = errors.New("TLS.Host does not answer in time")
	errDropped     = errors.New("its route is gone")
)

// A choices is what the program says of each host pattern that has a route, and
// of each host that came on demand. A pattern of which nothing is known yet is
// closed: its handshakes wait, its requests are refused.
//
// The hook runs on goroutines of its own, a bounded number of them. What it said
// of a pattern stays until it says something else.
type choices struct {
	manager *Manager
	hook    func(pattern string) (Choice, error)
	slots   chan struct{} // a slot per call under way
	plain   *choice       // of all patterns of which the program wishes nothing

	mu      sync.RWMutex
	known   map[string]*choice
	files   map[string]*pairFile // by pattern
	asked   map[string]*inquiry
	ready   []string // whose inquiries may run
	workers int
	left    bool // a host may have left its realm since the last sweep

	realmMu sync.Mutex
	realms  map[realmKey][]*realm
}

// An inquiry is a question to the hook that has no answer yet.
type inquiry struct {
	done     chan struct{} // closed at the next outcome
	err      error         // the last outcome
	failures int
	running  bool
	again    bool // asked once more meanwhile
	demanded bool // for a host that comes on demand
}

// newChoices returns nil without a hook.
func newChoices(m *Manager, hook func(string) (Choice, error)) *choices {
	if hook == nil {
		return nil
	}
	return &choices{
		manager: m,
		hook:    hook,
		slots:   make(chan struct{}, maxChoosing),
		plain:   new(choice),
		known:   make(map[string]*choice),
		files:   make(map[string]*pairFile),
		asked:   make(map[string]*inquiry),
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

// of returns what counts for a canonical host, that of the most specific pattern
// with a route. False means that the program has not answered for pattern. c may
// be nil.
//
// Hot path: a map look-up under a read lock; no allocation for hosts of which
// something is known by name or by their wildcard.
func (c *choices) of(host string) (ch *choice, pattern string, ok bool) {
	if c == nil {
		return nil, "", true
	}
	if ch, ok := c.exact(host); ok {
		return ch, "", true
	}
	if c.manager.options.Wants(host) {
		return nil, host, false
	}
	if ch := c.wildcard(host); ch != nil {
		return ch, "", true
	}
	for _, pattern := range []string{wildcardOf(host), "*"} {
		if pattern == "" {
			continue
		}
		if ch, ok := c.exact(pattern); ok {
			return ch, "", true
		}
		if c.manager.options.Wants(pattern) {
			return nil, pattern, false
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

// apart reports whether a host has an issuer of its own that is not that of the
// wildcard above it. c may be nil.
func (c *choices) apart(name, wild string) bool {
	ch, _ := c.exact(name)
	if ch == nil || ch.chain == nil {
		return false
	}
	return c.manager.chainOf(wild) != ch.chain
}

// names returns all patterns and hosts that have been asked about.
func (c *choices) names() []string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.AppendSeq(slices.Collect(maps.Keys(c.known)), maps.Keys(c.asked))
}

// reload asks the hook again about a pattern, and reports whether there is a
// route of it, or a host on demand.
func (c *choices) reload(name string) bool {
	if _, known := c.exact(name); !known && !c.manager.options.Wants(name) {
		return false
	}
	c.ask(name, true)
	return true
}

// ask makes sure that the hook is asked about a pattern, and returns what is
// closed at the outcome and the error of the last one; neither if it is known.
// again asks also where it is known, under way, or has failed and waits.
func (c *choices) ask(name string, again bool) (done <-chan struct{}, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.known[name]; known && !again {
		return nil, nil
	}
	q := c.inquire(name)
	switch {
	case again && q.running:
		q.again = true
	case again && q.err != nil:
		q.err = nil
		c.push(name)
	}
	return q.done, q.err
}

// demand asks about a host that comes on demand, unless something is known of it.
func (c *choices) demand(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.known[name]; !known {
		c.inquire(name).demanded = true
	}
}

// inquire returns the inquiry about a name, and begins one at need. c.mu is held.
func (c *choices) inquire(name string) *inquiry {
	q := c.asked[name]
	if q == nil {
		q = &inquiry{done: make(chan struct{})}
		c.asked[name] = q
		c.push(name)
	}
	return q
}

// push lets the inquiry about a name run. c.mu is held.
func (c *choices) push(name string) {
	c.ready = append(c.ready, name)
	if c.workers < choosers && c.manager.spawn(c.work) {
		c.workers++
	}
}

// work runs inquiries until none is ready.
func (c *choices) work() {
	for {
		name, q := c.take()
		if q == nil {
			return
		}
		given, err := c.consult(name)
		var ch *choice
		var file *pairFile
		if err == nil {
			ch, file, err = c.compile(name, given)
		}
		c.settle(name, q, ch, file, err)
	}
}

// take returns the next inquiry; nil ends the worker.
func (c *choices) take() (string, *inquiry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.ready) > 0 && c.manager.ctx.Err() == nil {
		name := c.ready[0]
		c.ready = c.ready[1:]
		if q := c.asked[name]; q != nil && !q.running {
			q.running = true
			return name, q
		}
	}
	c.workers--
	return "", nil
}

// consult calls the hook, on a goroutine of its own: one that hangs keeps that,
// and a slot.
func (c *choices) consult(name string) (Choice, error) {
	select {
	case c.slots <- struct{}{}:
	default:
		return Choice{}, errManyChoices
	}
	type answer struct {
		given Choice
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		defer func() { <-c.slots }()
		var a answer
		func() {
			defer rescue("TLS.Host", &a.err)
			a.given, a.err = c.hook(name)
		}()
		answers <- a
	}()
	timer := time.NewTimer(choiceTime)
	defer timer.Stop()
	select {
	case a := <-answers:
		return a.given, a.err
	case <-timer.C:
		return Choice{}, errNoChoice
	case <-c.manager.ctx.Done():
		return Choice{}, errClosed
	}
}

// An outcome is what came of an inquiry.
type outcome struct {
	name     string
	old, now *choice // before, nil if none, and from now on
	err      error   // then old counts
	failures int
	next     time.Time // the next try after err
	demanded bool
}

// settle notes what came of an inquiry and makes it count.
func (c *choices) settle(name string, q *inquiry, ch *choice, file *pairFile, err error) {
	c.mu.Lock()
	if c.asked[name] != q || c.manager.ctx.Err() != nil {
		c.mu.Unlock()
		return // its route has gone meanwhile
	}
	o := outcome{name: name, old: c.known[name], now: ch, err: err, demanded: q.demanded}
	if err == nil {
		c.publish(name, ch, file)
	}
	q.running, q.err = false, err
	close(q.done)
	switch {
	case q.again:
		c.asked[name] = &inquiry{done: make(chan struct{}), failures: q.failures, demanded: q.demanded}
		c.push(name)
	case err == nil:
		delete(c.asked, name)
	default:
		q.done = make(chan struct{})
		q.failures++
		o.next = c.retry(name, q)
	}
	o.failures = q.failures
	c.mu.Unlock()
	c.apply(o)
}

// publish makes a choice the one that counts. c.mu is held.
func (c *choices) publish(name string, ch *choice, file *pairFile) {
	if old := c.known[name]; old != nil && old.realm != ch.realm {
		c.left = true
	}
	c.known[name] = ch
	delete(c.files, name)
	if file != nil {
		c.files[name] = file
	}
}

// apply makes the table follow an outcome.
func (c *choices) apply(o outcome) {
	m := c.manager
	switch {
	case o.err != nil && o.old == nil:
		m.undecidable(o.name, undecided(o.name, o.err), o.next, o.failures == 1)
		return
	case o.err != nil:
		level := slog.LevelDebug
		if o.failures == 1 {
			level = slog.LevelWarn
		}
		m.log.Log(m.ctx, level, "TLS.Host failed, the host keeps its settings", "host", o.name, "cause", o.err)
		return
	case o.old != nil && o.old.chain != o.now.chain:
		m.reissue(o.name)
	}
	switch {
	case m.options.Wants(o.name):
		m.follow([]string{o.name})
	case !o.demanded && !m.onDemand(o.name):
		c.drop(o.name) // its route went at the moment of the question
	}
}

// retry plans another try and returns its time. c.mu is held.
func (c *choices) retry(name string, q *inquiry) time.Time {
	wait := choiceLast
	if q.failures < 8 {
		wait = choicePause << (q.failures - 1)
	}
	wait = time.Duration(float64(wait) * (0.8 + 0.4*rand.Float64()))
	time.AfterFunc(wait, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.asked[name] == q && !q.running && q.err != nil {
			c.push(name)
		}
	})
	return time.Now().Add(wait)
}

// drop forgets a pattern or host. c may be nil.
func (c *choices) drop(name string) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if q := c.asked[name]; q != nil {
		q.err = errDropped
		close(q.done)
		delete(c.asked, name)
	}
	if old := c.known[name]; old != nil && old.realm != nil {
		c.left = true
	}
	delete(c.known, name)
	delete(c.files, name)
}

// await waits until the program has answered for a name, and returns an error as
// soon as it is clear that it will not do so soon.
func (c *choices) await(ctx context.Context, w *waiter, name string) error {
	done, err := c.ask(name, false)
	switch {
	case err != nil:
		return undecided(name, err)
	case done == nil:
		return nil
	}
	if err := c.manager.until(ctx, w, done); err != nil {
		return undecided(name, err)
	}
	if _, known := c.exact(name); known {
		return nil
	}
	_, err = c.ask(name, false)
	return undecided(name, err)
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
	_, err := m.pause(hello, name, 0, func(ctx context.Context, w *waiter) (*tls.Certificate, error) {
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

// undecidable notes that the hook has failed for a host that waits for it.
func (m *Manager) undecidable(name string, err error, next time.Time, news bool) {
	m.mu.Lock()
	h := m.table.get(name)
	if h == nil || h.motion == nil || !h.motion.undecided {
		m.mu.Unlock()
		if news && name == "*" { // which has no status
			m.log.Warn("TLS.Host failed", "host", name, "cause", err)
		}
		return
	}
	h.state = failed
	o := h.motion
	o.err, o.why, o.looked, o.next, o.awaited = err, ofChoice, time.Now(), next, false
	status := h.status()
	h.settle()
	m.mu.Unlock()
	m.reporter.failed(status, ofChoice, news)
}

// onDemand reports whether a host came on demand.
func (m *Manager) onDemand(name string) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	h := m.table.get(name)
	return h != nil && h.kind == onDemand
}

// reissue makes a host follow its new issuer.
func (m *Manager) reissue(name string) {
	refusal := m.refusal(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.table.get(name)
	switch {
	case h == nil || h.motion != nil && h.motion.undecided:
	case refusal == nil:
		h.switched()
	case h.summary == nil:
		h.hopeless(refusal)
	}
}

// ReloadTLS asks the program again how TLS is done for patterns, or for all if
// there are none. It does not wait. It returns an error for each pattern that
// is none, or that no route has.
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
			err = fmt.Errorf("no route has the host %q", name)
		}
		if err != nil {
			strange = append(strange, err)
		}
	}
	return strange
}
