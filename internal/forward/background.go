package forward

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/discover"
	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/health"
)

// background is the background work of a Forwarder: health checks and
// discovery. It begins with the first exchange and ends with CloseIdle.
type background struct {
	f *Forwarder

	current   atomic.Pointer[run] // nil while no work runs
	mu        sync.Mutex          // serialises writers of current
	found     chan struct{}       // closed when Discover has found targets
	foundOnce sync.Once
}

// A run is the work from one first exchange to the next CloseIdle.
type run struct {
	ctx   context.Context
	stop  context.CancelFunc
	tasks sync.WaitGroup
}

// needed reports whether there is something to do.
func (b *background) needed() bool { return b.f.Discover != nil || b.checks() }

// checks reports whether targets are checked.
func (b *background) checks() bool { return b.f.Health != nil && b.f.Health.Check.Interval > 0 }

// start begins the work, unless it runs already or there is none.
func (b *background) start() {
	if !b.needed() || b.current.Load() != nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.current.Load() != nil || b.f.Ending() {
		return
	}
	w := new(run)
	w.ctx, w.stop = context.WithCancel(context.Background())
	b.current.Store(w)
	if b.f.Discover != nil {
		w.tasks.Go(func() { b.discover(w.ctx) })
	}
	for _, t := range b.f.Targets() {
		b.watchTarget(w, t)
	}
}

// watchTarget checks t until t is removed or the work ends. b.mu is held.
func (b *background) watchTarget(w *run, t *Target) {
	if !b.checks() {
		return
	}
	ctx, stop := context.WithCancel(w.ctx)
	bound := context.AfterFunc(t.life, stop)
	w.tasks.Go(func() {
		defer bound()
		defer stop()
		health.Watch(ctx, t.monitor, t.probe)
	})
}

// use makes s the set and, if the work runs, begins to check the targets that
// came with s. It holds mu for both, since start in between would check them
// too.
func (b *background) use(s *set, came []*Target) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.f.set.Store(s)
	if w := b.current.Load(); w != nil {
		for _, t := range came {
			b.watchTarget(w, t)
		}
	}
}

// stop ends the work and waits until it has ended, but at most endPatience: a
// source, a hook or a transport may ignore its context.
func (b *background) stop() {
	w := b.cancel()
	if w == nil {
		return
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.tasks.Wait()
	}()
	late := time.NewTimer(endPatience)
	defer late.Stop()
	select {
	case <-ended:
	case <-late.C:
	}
}

// cancel is stop without the wait, for callers that may be a part of the work.
// It returns the run that ends, or nil if there is none.
func (b *background) cancel() *run {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.current.Swap(nil)
	if w != nil {
		w.stop()
	}
	return w
}

// discover runs Discover until ctx is done.
func (b *background) discover(ctx context.Context) {
	discover.Run(ctx, b.f.Discover, func(found []discover.Endpoint) error { return b.find(ctx, found) }, b.notFound)
}

func (b *background) notFound(err error) {
	if b.f.NotFound != nil {
		b.f.NotFound(err)
	}
}

// find makes the discovered endpoints those of the Forwarder. It skips invalid
// ones.
func (b *background) find(ctx context.Context, found []discover.Endpoint) error {
	var es []Endpoint
	for _, e := range found {
		u, err := ParseTarget(e.Target)
		if err == nil && e.Weight < 0 {
			err = fmt.Errorf("target %q: weight is %d: want 0 or more", e.Target, e.Weight)
		}
		if err != nil {
			b.notFound(err)
			continue
		}
		es = append(es, Endpoint{URL: u, Addr: e.Addr, Weight: e.Weight})
	}
	if len(es) == 0 {
		return errors.New("none of the endpoints found is a valid target; keeping the previous ones")
	}
	_, err := b.f.change(ctx, func([]Endpoint) ([]Endpoint, error) { return es, nil }, nil)
	if err == nil {
		b.foundOnce.Do(func() { close(b.found) })
	}
	return err
}

// findPatience is how long the first exchanges wait for targets to be found.
const findPatience = 10 * time.Second

// search waits until there are targets.
func (a *Attempts) search() *exchange.Failure {
	h := hold{over: a.f.background.found, late: time.Now().Add(findPatience)}
	if err := a.heldBy(&h); err != nil && err != errPaused {
		return a.unserved(err)
	}
	a.searched = true
	return nil
}

// newMonitor returns the Monitor of t's health, or nil without health checks.
func (f *Forwarder) newMonitor(t *Target) *health.Monitor {
	if f.Health == nil {
		return nil
	}
	return health.New(f.Health, t.node, t.Face, time.Now())
}
