package guard

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/hostproxy/hostproxy"
)

// swapInterval is how often Swap checks whether the targets have changed.
const swapInterval = 5 * time.Millisecond

// Swap calls u.Replace, but returns as soon as new requests go to the new
// targets. Requests in flight at the old targets continue; drained then yields
// the result of Replace. If Swap returns an error, the old targets stay in use.
func Swap(ctx context.Context, u *hostproxy.Upstream, targets ...string) (drained <-chan error, err error) {
	want, err := hostproxy.NewUpstream(targets...)
	if err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	go func() { done <- u.Replace(ctx, targets...) }()
	tick := time.NewTicker(swapInterval)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			if err != nil && !errors.Is(err, hostproxy.ErrNotDrained) {
				return nil, err
			}
			done <- err
			return done, nil
		case <-tick.C:
			if maps.Equal(set(u), set(want)) {
				return done, nil
			}
		}
	}
}

func set(u *hostproxy.Upstream) map[string]bool {
	names := map[string]bool{}
	for t := range u.All() {
		names[t.String()] = true
	}
	return names
}

// Names returns the targets of u as written in Exchange.Target.
func Names(u *hostproxy.Upstream) []string {
	var names []string
	for t := range u.All() {
		names = append(names, t.String())
	}
	return names
}

// Replace replaces the targets of u like u.Replace. u must serve the route of
// pattern. Then it watches the new targets. If they are worse, it restores the
// old ones, which must still run, and returns a *WorseError. If that fails too,
// the error says so, and the new targets stay in use. Weights of the old
// targets are lost. When ctx is done, the targets stay as they are. Do not call
// Replace concurrently.
func (m *Meter) Replace(ctx context.Context, pattern string, u *hostproxy.Upstream, l Limits, targets ...string) error {
	next, err := hostproxy.NewUpstream(targets...)
	if err != nil {
		return err
	}
	old := Names(u)
	w, err := m.Watch(pattern, l, m.Baseline(pattern, old...), fresh(next, old)...)
	if err != nil {
		return err
	}
	defer w.Stop()
	drained, err := Swap(ctx, u, targets...)
	if err != nil {
		return err
	}
	err = w.Wait(ctx)
	if _, worse := errors.AsType[*WorseError](err); worse {
		back, failed := Swap(ctx, u, old...)
		if failed != nil {
			err = fmt.Errorf("%w; going back failed: %w", err, failed)
		} else {
			err = errors.Join(err, <-back)
		}
	}
	return errors.Join(err, <-drained)
}

// fresh returns the targets of u that are not among old.
func fresh(u *hostproxy.Upstream, old []string) []string {
	names := set(u)
	for _, name := range old {
		delete(names, name)
	}
	var rest []string
	for name := range names {
		rest = append(rest, name)
	}
	return rest
}

// Canary sends a share of u's clients to next, like u.Canary. u must serve the
// route of pattern. Then it watches the targets of next. If they are worse, it
// ends the canary and returns a *WorseError. Otherwise the canary continues.
func (m *Meter) Canary(ctx context.Context, pattern string, u, next *hostproxy.Upstream, share float64, l Limits) error {
	old := Names(u)
	w, err := m.Watch(pattern, l, m.Baseline(pattern, old...), fresh(next, old)...)
	if err != nil {
		return err
	}
	defer w.Stop()
	w.OnWorse(func() { _ = u.Canary(nil, 0) })
	if err := u.Canary(next, share); err != nil {
		return err
	}
	return w.Wait(ctx)
}
