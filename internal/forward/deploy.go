package forward

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
)

// The phases in which Replace can fail.
var (
	ErrNotReady   = errors.New("the new targets are not ready; the old ones stay in use")
	ErrNotDrained = errors.New("the new targets are in use; requests at the old ones have not finished")
)

// Replace makes es the endpoints of new exchanges, once the new targets among
// them are ready: they answer the health check or, without one, accept a
// connection. Then it waits until the exchanges at the old targets have
// finished. Streams there end politely; Replace does not wait for streams with
// a StreamGrace. Each wait ends with ctx, or with ReadyTimeout or DrainTimeout.
// If the first wait fails, the error is an ErrNotReady, and nothing has
// changed. If the second one fails, the error is an ErrNotDrained, and what is
// left at the old targets is cut off, except streams in their grace.
func (f *Forwarder) Replace(ctx context.Context, es []Endpoint) error {
	defer f.waker.busy()()
	wait, cancel := timed(ctx, f.ReadyTimeout, "ReadyTimeout")
	defer cancel()
	gone, err := f.change(wait, func([]Endpoint) ([]Endpoint, error) { return es, nil }, ready)
	if err != nil {
		return err
	}
	wait, cancel = timed(ctx, f.DrainTimeout, "DrainTimeout")
	defer cancel()
	if err := drained(wait, gone); err != nil {
		return fmt.Errorf("%w: %w", ErrNotDrained, err)
	}
	return nil
}

// timed limits ctx by d, which is the value of that field; zero means no limit.
func timed(ctx context.Context, d time.Duration, field string) (context.Context, context.CancelFunc) {
	if d == 0 {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("%s (%v): %w", field, d, context.DeadlineExceeded))
}

// Ready waits until there are targets, all of them are ready as for Replace,
// and none is down. It wakes sleeping targets, and begins health checks and
// discovery.
func (f *Forwarder) Ready(ctx context.Context) error {
	f.mayStart()
	if err := f.waker.wake(ctx); err != nil {
		return err
	}
	defer f.waker.busy()()
	f.background.start()
	for len(f.Targets()) == 0 {
		if !sleep(ctx, readyInterval) {
			return fmt.Errorf("no targets were found: %w", context.Cause(ctx))
		}
	}
	return all(ctx, f.Targets(), func(ctx context.Context, t *Target) error {
		if err := ready(ctx, t); err != nil {
			return err
		}
		for t.node.Suspended(time.Now()) {
			if !sleep(ctx, readyInterval) {
				return fmt.Errorf("target %s is down: %w: %s", t.Name, context.Cause(ctx), t.Health().Reason)
			}
		}
		return nil
	})
}

// update replaces the endpoints, immediately, by what change returns for them.
func (f *Forwarder) update(change func([]Endpoint) ([]Endpoint, error)) error {
	_, err := f.change(context.Background(), change, nil)
	return err
}

// Add adds es, immediately.
func (f *Forwarder) Add(es []Endpoint) error {
	return f.update(func(old []Endpoint) ([]Endpoint, error) {
		weighted := slices.ContainsFunc(old, func(e Endpoint) bool { return e.Weight > 0 })
		for i := range es {
			if weighted && es[i].Weight == 0 {
				es[i].Weight = 1
			}
		}
		return slices.Concat(old, es), nil
	})
}

// Remove removes es, immediately.
func (f *Forwarder) Remove(es []Endpoint) error {
	return f.update(func(old []Endpoint) ([]Endpoint, error) {
		left := slices.Clone(old)
		for i := range es {
			at := slices.IndexFunc(left, func(e Endpoint) bool { return e.key() == es[i].key() })
			if at < 0 {
				return nil, fmt.Errorf("%q is not a target of this upstream: Upstream.All lists them", es[i].URL)
			}
			left = slices.Delete(left, at, at+1)
		}
		if len(left) == 0 && len(old) > 0 && f.Discover == nil {
			return nil, errors.New("the last target cannot be removed: call Replace, or Maintain or Drain to stop serving")
		}
		return left, nil
	})
}

// change is Replace without the second wait: it returns the targets that were
// removed. ready waits for a new target; nil does not wait.
func (f *Forwarder) change(ctx context.Context, to func([]Endpoint) ([]Endpoint, error), ready func(context.Context, *Target) error) ([]*Target, error) {
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotReady, context.Cause(ctx))
	}
	select {
	case f.changing <- struct{}{}:
		defer func() { <-f.changing }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: another change is in progress: %w", ErrNotReady, context.Cause(ctx))
	}
	old := f.set.Load()
	es, err := to(old.endpoints)
	if err != nil {
		return nil, err
	}
	s, err := f.newSet(es, old)
	if err != nil {
		return nil, err
	}
	came, gone := s.without(old), old.without(s)
	if ready != nil {
		if err := all(ctx, came, ready); err != nil {
			for _, t := range came {
				t.close()
			}
			return nil, fmt.Errorf("%w: %w", ErrNotReady, err)
		}
	}
	f.background.use(s, came)
	for _, t := range gone {
		t.retire()
	}
	f.queue.Wake() // there may be room now
	return gone, nil
}

// without returns the targets that other does not have.
func (s *set) without(other *set) (rest []*Target) {
	has := make(map[*Target]bool, len(other.targets))
	for _, t := range other.targets {
		has[t] = true
	}
	for _, t := range s.targets {
		if !has[t] {
			rest = append(rest, t)
		}
	}
	return rest
}

// all calls do for all targets at the same time, and joins the errors. A panic
// of the user's Transport becomes an error.
func all(ctx context.Context, ts []*Target, do func(context.Context, *Target) error) error {
	errs := make(chan error, len(ts))
	for _, t := range ts {
		go func() {
			var err error
			defer func() { errs <- err }()
			defer exchange.Contain("Transport", &err)
			err = do(ctx, t)
		}()
	}
	var joined error
	for range ts {
		joined = errors.Join(joined, <-errs)
	}
	return joined
}

// The intervals at which a new target is probed, and at which the exchanges at
// an old one are counted.
const (
	readyInterval   = 100 * time.Millisecond
	drainedInterval = 10 * time.Millisecond
)

// ready waits until t serves. The error has the reason of the last check that
// ctx did not cut short.
func ready(ctx context.Context, t *Target) error {
	var why error
	for {
		err := t.probe(ctx)
		if err == nil {
			return nil
		}
		if why == nil || ctx.Err() == nil {
			why = err
		}
		if !sleep(ctx, readyInterval) {
			return fmt.Errorf("target %s is not ready: %w: %w", t.Name, context.Cause(ctx), why)
		}
	}
}

// drained waits until no exchange is left at any of ts, except streams that
// stay. When ctx is done it cuts off the rest.
func drained(ctx context.Context, ts []*Target) error {
	defer func() {
		for _, t := range ts {
			t.die()
		}
	}()
	for {
		left, streams := work(ts)
		switch {
		case left == 0:
			return nil
		case !sleep(ctx, drainedInterval):
			return cutOff(left, streams, context.Cause(ctx))
		}
	}
}

// work counts the exchanges at ts, except streams that stay, and how many of
// them are streams.
func work(ts []*Target) (left, streams int64) {
	for _, t := range ts {
		left += t.InFlight() // first: each stream that stays is one of them
		staying := t.staying.Load()
		left -= staying
		streams += max(t.Streams()-staying, 0)
	}
	return left, streams
}

// cutOff returns the error of a drain that has cut off exchanges, for the
// reason why.
func cutOff(left, streams int64, why error) error {
	what := counted(left, "request")
	switch {
	case streams >= left:
		what = counted(left, "stream")
	case streams == 1:
		what += ", 1 of them a stream"
	case streams > 1:
		what += fmt.Sprintf(", %d of them streams", streams)
	}
	return fmt.Errorf("cut off %s: %w", what, why)
}

// counted returns the number and the noun, in the plural unless n is 1.
func counted(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// sleep waits for d, or reports that ctx was done first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
