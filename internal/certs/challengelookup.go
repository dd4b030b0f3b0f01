package certs

import (
	"context"
	"encoding/json"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
)

// Limits of the look-ups of challenges in storage. One lane is for hosts that
// lack a certificate in this process, the other for all other names, which any
// client can make up.
const (
	lookPause    = 250 * time.Millisecond // between two reads for one name
	lookPatience = 5 * time.Second        // how long a request waits

	// reads per second; burst of reads; waiting requests
	wantedReads, wantedBurst, wantedWaiters = 500, 500, 256
	otherReads, otherBurst, otherWaiters    = 20, 50, 64
	otherSlots                              = 4 // reads at a time; see maxChallengeRead
)

// A lookout finds challenges that other members of the cluster have put into
// storage.
//
// Each request gets the outcome of a read that began after it arrived. An
// earlier read that found nothing proves nothing: the challenge may have been
// stored a moment later, and a CA asks only once. Requests for the same name
// share a read.
type lookout struct {
	manager *Manager

	mu     sync.Mutex
	keys   []string // keys of the ACME issuers; never changed in place
	names  map[string]*look
	wanted lane
	others lane
}

// A lane limits the look-ups of some names.
type lane struct {
	slots   chan struct{}
	rate    rate
	waiters int // maximum
	waiting int
}

// A look is one read, shared by the requests that arrived before it began.
type look struct {
	due   time.Time // earliest start
	begun bool
	done  chan struct{} // closed once found is set
	found []acme.Challenge
}

func newLookout(m *Manager, keys []string) *lookout {
	return &lookout{
		manager: m,
		keys:    keys,
		names:   make(map[string]*look),
		wanted:  lane{slots: make(chan struct{}, maxChallengeRead), rate: newRate(wantedReads, wantedBurst), waiters: wantedWaiters},
		others:  lane{slots: make(chan struct{}, otherSlots), rate: newRate(otherReads, otherBurst), waiters: otherWaiters},
	}
}

// issuers returns the keys of the ACME issuers.
func (l *lookout) issuers() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.keys
}

// learn adds the key of an ACME issuer.
func (l *lookout) learn(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Contains(l.keys, key) {
		l.keys = append(slices.Clone(l.keys), key)
	}
}

// find returns the challenges that are stored under name, which certmagic uses
// for host.
func (l *lookout) find(ctx context.Context, name, host string) []acme.Challenge {
	if len(l.issuers()) == 0 {
		return nil
	}
	lane := l.laneOf(host)
	x := l.join(lane, name)
	if x == nil {
		return nil
	}
	defer l.release(lane)
	ctx, cancel := context.WithTimeout(ctx, lookPatience)
	defer cancel()
	select {
	case <-x.done:
		return x.found
	case <-ctx.Done():
		return nil
	}
}

// laneOf returns the lane of a host. A flood of made-up names must not block
// the challenges of hosts that lack a certificate here.
func (l *lookout) laneOf(host string) *lane {
	m := l.manager
	m.mu.RLock()
	defer m.mu.RUnlock()
	h := m.table.get(host)
	if h == nil || h.state == valid && time.Until(time.Unix(h.summary.renewAt, 0)) > time.Hour {
		return &l.others
	}
	return &l.wanted
}

// join finds or starts a read for name that has not begun yet; nil if too many
// requests wait, or too many reads were made.
func (l *lookout) join(lane *lane, name string) *look {
	l.mu.Lock()
	defer l.mu.Unlock()
	if lane.waiting >= lane.waiters {
		return nil
	}
	x := l.names[name]
	if x == nil || x.begun {
		now := time.Now()
		if !lane.rate.take(now) {
			return nil
		}
		next := &look{due: now, done: make(chan struct{})}
		if x != nil {
			next.due = x.due.Add(lookPause)
		}
		if !l.manager.spawn(func() { l.run(lane, name, next) }) {
			return nil
		}
		l.names[name] = next
		x = next
	}
	lane.waiting++
	return x
}

func (l *lookout) release(lane *lane) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lane.waiting--
}

// run makes the read of x when it is due, and removes x a little later.
func (l *lookout) run(lane *lane, name string, x *look) {
	ctx := l.manager.ctx
	pause(ctx, time.Until(x.due))
	l.read(ctx, lane, name, x)
	close(x.done)
	pause(ctx, lookPause)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.names[name] == x {
		delete(l.names, name)
	}
}

// read sets x.found, unless no slot becomes free in time.
func (l *lookout) read(ctx context.Context, lane *lane, name string, x *look) {
	ctx, cancel := context.WithTimeout(ctx, lookPatience)
	defer cancel()
	select {
	case lane.slots <- struct{}{}:
		defer func() { <-lane.slots }()
	case <-ctx.Done():
	}
	l.mu.Lock()
	x.begun, x.due = true, time.Now()
	l.mu.Unlock()
	for _, key := range l.issuers() {
		if ctx.Err() != nil {
			return
		}
		if b, err := l.manager.storage.Load(ctx, challengeKey(key, name)); err == nil {
			var c acme.Challenge
			if json.Unmarshal(b, &c) == nil && isKeyAuthorization(c.KeyAuthorization, c.Token) {
				x.found = append(x.found, c)
			}
		}
	}
}

// challengeKey returns the key under which certmagic stores the challenge of an
// issuer for a name.
func challengeKey(issuer, name string) string {
	safe := certmagic.StorageKeys.Safe
	return path.Join("acme", safe(issuer), "challenge_tokens", safe(name)+".json")
}

// isKeyAuthorization reports whether s looks like the token followed by the
// thumbprint of a key (RFC 8555, 8.1). It checks only the characters: the
// length of a thumbprint depends on the CA.
func isKeyAuthorization(s, token string) bool {
	thumbprint, ok := strings.CutPrefix(s, token+".")
	return ok && isToken(token) && thumbprint != "" && len(thumbprint) <= maxToken && isBase64URL(thumbprint)
}

// pause waits for d, or until ctx is done.
func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// A rate allows a number of events per second, and a burst of them at once. It
// is used under the lock of its owner.
type rate struct {
	perSecond, burst float64
	left             float64
	last             time.Time
}

func newRate(perSecond, burst float64) rate {
	return rate{perSecond: perSecond, burst: burst, left: burst}
}

// take reports whether an event may happen now, and counts it.
func (r *rate) take(now time.Time) bool {
	if !r.last.IsZero() {
		r.left = min(r.burst, r.left+now.Sub(r.last).Seconds()*r.perSecond)
	}
	r.last = now
	if r.left < 1 {
		return false
	}
	r.left--
	return true
}
