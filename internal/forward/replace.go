package forward

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Replace makes es the endpoints of exchanges to come, once the targets among
// them that are new have shown that they serve: they answer the health check or,
// without one, take a connection. Then it waits until those that go have carried
// what they had begun to its end; their streams end politely. When ctx is done
// first, it returns an error: before the swap everything stays as it was, and
// after it what is left of the old targets is cut off.
func (f *Forwarder) Replace(ctx context.Context, es []Endpoint) error {
	gone, err := f.change(ctx, func([]Endpoint) ([]Endpoint, error) { return es, nil }, ready)
	if err != nil {
		return err
	}
	return drained(ctx, gone)
}

// update changes the endpoints at once, to what change makes of them.
func (f *Forwarder) update(change func([]Endpoint) ([]Endpoint, error)) error {
	_, err := f.change(context.Background(), change, nil)
	return err
}

// Add adds es, at once.
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

// Remove removes es, at once.
func (f *Forwarder) Remove(es []Endpoint) error {
	return f.update(func(old []Endpoint) ([]Endpoint, error) {
		left := slices.Clone(old)
		for i := range es {
			at := slices.IndexFunc(left, func(e Endpoint) bool { return e.key() == es[i].key() })
			if at < 0 {
				return nil, fmt.Errorf("%s is no target", es[i].URL)
			}
			left = slices.Delete(left, at, at+1)
		}
		return left, nil
	})
}

// change is Replace without the end: it returns the targets that go. ready waits
// for a new one; nil does not.
func (f *Forwarder) change(ctx context.Context, to func([]Endpoint) ([]Endpoint, error), ready func(context.Context, *Target) error) ([]*Target, error) {
	select {
	case f.changing <- struct{}{}:
		defer func() { <-f.changing }()
	case <-ctx.Done():
		return nil, ctx.Err()
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
			return nil, err
		}
	}
	f.set.Store(s)
	f.watchThese(came)
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

// all calls do for each target at the same time, and joins the errors. A panic
// of the user's Transport is one.
func all(ctx context.Context, ts []*Target, do func(context.Context, *Target) error) error {
	errs := make(chan error, len(ts))
	for _, t := range ts {
		go func() {
			var err error
			defer func() { errs <- err }()
			defer Contain("Transport", &err)
			err = do(ctx, t)
		}()
	}
	var joined error
	for range ts {
		joined = errors.Join(joined, <-errs)
	}
	return joined
}

// How often a new target is asked whether it serves, and an old one whether it
// is done.
const (
	readyInterval   = 100 * time.Millisecond
	drainedInterval = 10 * time.Millisecond
)

// ready waits until t serves.
func ready(ctx context.Context, t *Target) error {
	for {
		err := t.probe(ctx)
		if err == nil {
			return nil
		}
		if !sleep(ctx, readyInterval) {
			return fmt.Errorf("target %s does not serve: %w: %w", t.Name, ctx.Err(), err)
		}
	}
}

// drained waits until no exchange is left at any of ts, and cuts off what is
// left when ctx is done.
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
			return cutOff(left, streams, ctx.Err())
		}
	}
}

// work counts the exchanges at ts, and how many of them are streams.
func work(ts []*Target) (left, streams int64) {
	for _, t := range ts {
		left += t.InFlight()
		streams += t.Streams()
	}
	return left, streams
}

// cutOff is the error of a drain that could not wait any longer.
func cutOff(left, streams int64, why error) error {
	return fmt.Errorf("cut off %d exchanges, of which %d streams: %w", left, streams, why)
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
