package forward

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hostproxy/hostproxy/internal/discover"
	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/health"
)

// A lookout is what goes on in the background of a Forwarder: checks of its
// targets, and the search for others. It begins with the first exchange and
// ends with CloseIdle.
type lookout struct {
	ctx  context.Context
	stop context.CancelFunc
	work sync.WaitGroup
}

// watch begins the lookout, if it has not begun.
func (f *Forwarder) watch() {
	f.looking.Lock()
	defer f.looking.Unlock()
	if f.lookout.Load() != nil || f.Ending() {
		return
	}
	l := new(lookout)
	l.ctx, l.stop = context.WithCancel(context.Background())
	f.lookout.Store(l)
	if f.Discover != nil {
		l.work.Go(func() { f.discover(l.ctx) })
	}
	for _, t := range f.Targets() {
		f.watchTarget(l, t)
	}
}

// watchTarget checks t until it goes, or the lookout ends. f.looking is held.
func (f *Forwarder) watchTarget(l *lookout, t *Target) {
	if f.Health == nil || f.Health.Check.Interval <= 0 {
		return
	}
	ctx, stop := context.WithCancel(l.ctx)
	bound := context.AfterFunc(t.life, stop)
	l.work.Go(func() {
		defer bound()
		defer stop()
		health.Watch(ctx, t.monitor, t.probe)
	})
}

// watchThese checks targets that came, if others are checked.
func (f *Forwarder) watchThese(ts []*Target) {
	f.looking.Lock()
	defer f.looking.Unlock()
	if l := f.lookout.Load(); l != nil {
		for _, t := range ts {
			f.watchTarget(l, t)
		}
	}
}

// stopWatching ends the lookout, and returns when nothing of it goes on. It does
// not wait for ever for a source, a hook or a transport that does not heed its
// context.
func (f *Forwarder) stopWatching() {
	f.looking.Lock()
	l := f.lookout.Swap(nil)
	f.looking.Unlock()
	if l == nil {
		return
	}
	l.stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.work.Wait()
	}()
	late := time.NewTimer(endPatience)
	defer late.Stop()
	select {
	case <-ended:
	case <-late.C:
	}
}

// discover runs Discover until ctx is done.
func (f *Forwarder) discover(ctx context.Context) {
	discover.Run(ctx, f.Discover, func(found []discover.Endpoint) error { return f.find(ctx, found) }, f.notFound)
}

func (f *Forwarder) notFound(err error) {
	if f.NotFound != nil {
		f.NotFound(err)
	}
}

// find makes what was discovered the endpoints. What is no target is left out.
func (f *Forwarder) find(ctx context.Context, found []discover.Endpoint) error {
	var es []Endpoint
	for _, e := range found {
		u, err := ParseTarget(e.Target)
		if err == nil && e.Weight < 0 {
			err = fmt.Errorf("target %s has a negative weight", e.Target)
		}
		if err != nil {
			f.notFound(err)
			continue
		}
		es = append(es, Endpoint{URL: u, Addr: e.Addr, Weight: e.Weight})
	}
	if len(es) == 0 {
		return errors.New("none of the endpoints is a target: those of before stay")
	}
	_, err := f.change(ctx, func([]Endpoint) ([]Endpoint, error) { return es, nil }, nil)
	if err == nil {
		f.foundOnce.Do(func() { close(f.found) })
	}
	return err
}

// findPatience is how long the first exchanges wait for targets to be found.
const findPatience = 10 * time.Second

// search waits until there are targets.
func (a *Attempts) search() *exchange.Failure {
	h := hold{over: a.f.found, late: time.Now().Add(findPatience)}
	if err := a.heldBy(&h); err != nil && err != errPaused {
		return a.unserved(err)
	}
	a.searched = true
	return nil
}

// newMonitor returns what is known of t's health.
func (f *Forwarder) newMonitor(t *Target) *health.Monitor {
	if f.Health == nil {
		return nil
	}
	return health.New(f.Health, t.node, t.Face, time.Now())
}
