package certs

import (
	"context"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/hostproxy/hostproxy/internal/yield"
)

// syncPause is the minimum time between two scans of the routes, so that ten
// thousand changes in a row cost only a few scans.
const syncPause = 50 * time.Millisecond

// changes are the host patterns whose routes have changed since the table was
// last updated.
type changes struct {
	mu    sync.Mutex
	all   bool
	names []string
	wake  chan struct{}
}

// add notes changes; no names means that anything may have changed.
func (c *changes) add(names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = c.all || len(names) == 0
	if c.names == nil {
		c.names = slices.Clip(names)
	} else {
		c.names = append(c.names, names...)
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *changes) take() (all bool, names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all, names = c.all, c.names
	c.all, c.names = false, nil
	return all, names
}

func (c *changes) empty() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.all && len(c.names) == 0
}

// A follower makes the table follow the routes: all changes in their order, but
// the host of a handshake first.
type follower struct {
	ctx     context.Context // its cancellation ends the work
	changes changes
	hosts   func() iter.Seq[string]            // Options.Hosts
	decide  func(name string) want             // returns what the routes want of a name now
	apply   func(names []string, wants []want) // makes the table follow the wants
	known   func() []string                    // the names in the table
	// the names to check when a wildcard changes; all for "*"
	below func(wild string) []string

	syncing sync.Mutex // one sync at a time
	mu      sync.Mutex // one decision about a name at a time
	wants   []want     // buffer for decideAll, reused; guarded by mu
}

func newFollower(m *Manager) *follower {
	return &follower{
		ctx:     m.ctx,
		changes: changes{wake: make(chan struct{}, 1)},
		hosts:   m.options.Hosts,
		decide:  m.routing.decide,
		apply:   m.applyAll,
		known:   m.names,
		below:   m.namesBelow,
	}
}

// Changed reports that the routes of some host patterns were added, removed or
// changed; no names means that any may have. It is cheap and does not block:
// the work depends on the hosts named, not on the number of all hosts. It keeps
// the slice.
func (m *Manager) Changed(hosts ...string) { m.follower.changes.add(hosts) }

// watch follows the routes once grace is over. It calls followed each time the
// table has caught up with them.
func (f *follower) watch(grace time.Duration, followed func()) {
	timer := time.NewTimer(grace)
	defer timer.Stop()
	for {
		select {
		case <-f.ctx.Done():
			return
		case <-timer.C:
		}
		f.sync()
		followed()
		select {
		case <-f.ctx.Done():
			return
		case <-f.changes.wake:
		}
		timer.Reset(syncPause)
	}
}

// sync makes the table follow the routes. When it returns, the table shows all
// earlier calls of Changed.
func (f *follower) sync() {
	f.syncing.Lock()
	defer f.syncing.Unlock()
	all, names := f.changes.take()
	if all {
		f.all()
	}
	f.follow(names)
}

// syncHost makes the table follow the routes of one host, ahead of all other
// changes.
func (f *follower) syncHost(name string) {
	if f.changes.empty() && f.syncing.TryLock() {
		f.syncing.Unlock() // no sync is running either
		return
	}
	if wild := wildcardOf(name); wild != "" {
		f.decideAll([]string{wild})
	}
	f.decideAll([]string{name})
}

// all decides about every host of a route, and every host of the table.
func (f *follower) all() {
	names := make([]string, 0, batch)
	var turn yield.Turn
	for name := range f.hosts() {
		if names = append(names, name); len(names) == batch {
			f.decideAll(names)
			names = names[:0]
			turn.Check()
		}
	}
	f.decideAll(names)
	f.follow(append(f.known(), f.below("*")...))
}

// follow decides about names, and about those below the wildcards among them.
func (f *follower) follow(names []string) {
	var turn yield.Turn
	for len(names) > 0 && f.ctx.Err() == nil {
		n := min(len(names), batch)
		f.decideAll(names[:n])
		for _, name := range names[:n] {
			if isPattern(name) {
				f.follow(f.below(name)) // these are hosts, so the recursion ends
			}
		}
		names = names[n:]
		turn.Check() // a million changes must not starve handshakes of CPU time
	}
}

// decideAll decides about a batch of names, and makes the table follow.
func (f *follower) decideAll(names []string) {
	f.mu.Lock() // each decision is applied before the next one is made
	defer f.mu.Unlock()
	wants := f.wants[:0]
	for _, name := range names {
		wants = append(wants, f.decide(name))
	}
	defer clear(wants)
	f.wants = wants
	f.apply(names, wants)
}
