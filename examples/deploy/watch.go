package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hostproxy/hostproxy/examples/deploy/guard"
)

// watch starts to watch those targets that the app does not use yet, for d. It
// returns nil if d is zero.
func (m *manager) watch(a *app, targets []string, d time.Duration) (*guard.Watch, guard.Baseline, error) {
	if d <= 0 {
		return nil, guard.Baseline{}, nil
	}
	next, err := build(a.conf, targets)
	if err != nil {
		return nil, guard.Baseline{}, err
	}
	old := guard.Names(a.up)
	b := m.meter.Baseline(a.host, old...)
	fresh := slices.DeleteFunc(guard.Names(next), func(t string) bool { return slices.Contains(old, t) })
	w, err := m.meter.Watch(a.host, guard.Limits{For: d}, b, fresh...)
	return w, b, err
}

// away returns a function that keeps requests away from worse targets until
// goBack has restored the old ones. Without a canary, requests wait: the old
// targets must first show that they serve.
func (a *app) away(canary bool) func() {
	up, side := a.up, a.side
	if !canary {
		return func() { _ = up.Pause(2 * swapTimeout) }
	}
	return func() {
		_ = up.Canary(nil, 0)
		if side != nil {
			_ = side.Canary(nil, 0)
		}
	}
}

// letGo ends the pause of away. Requests are held as the state says.
func (m *manager) letGo(a *app) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := a.held(); err != nil {
		m.log.Error("requests are held", "app", a.name, "cause", err)
	}
}

// watchAgain resumes the watches that were in progress before a restart, or
// before a hand-over that failed.
func (m *manager) watchAgain() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range m.apps {
		if a.Guard == nil || a.op != nil {
			continue
		}
		g := *a.Guard
		targets := a.up
		if g.Back == nil {
			targets = a.next
		}
		limits := guard.Limits{For: max(time.Until(g.Until), time.Millisecond)}
		w, err := m.meter.Watch(a.host, limits, g.Baseline, guard.Names(targets)...)
		if err != nil {
			m.log.Error("the guard cannot go on", "app", a.name, "cause", err)
			continue
		}
		w.OnWorse(a.away(g.Back == nil))
		op := m.begin(a, "the watch of a deploy", func(op *operation) (string, error) {
			defer m.letGo(a)
			defer w.Stop()
			text, err := m.guard(op, w)
			if err != nil && !errors.Is(err, errOver) {
				m.log.Warn("the watch of a deploy has ended", "app", a.name, "cause", err)
			}
			return text, err
		})
		op.cancels = true
	}
}

// guard waits for the verdict of w, and goes back if the targets are worse.
func (m *manager) guard(op *operation, w *guard.Watch) (string, error) {
	a := op.app
	err := m.enter(op, "guard")
	if err == nil {
		err = w.Wait(op.ctx)
	}
	g := m.of(a).Guard
	_, worse := errors.AsType[*guard.WorseError](err)
	switch {
	case worse && m.enter(op, "back") == nil:
		return "", m.goBack(a, *g, err)
	case err != nil && errors.Is(context.Cause(op.ctx), errOver):
		return "", &phaseError{"guard", fmt.Errorf("%w; %s is in use, and is watched again afterwards", errOver, list(m.of(a).Targets))}
	case err != nil && !worse:
		err = fmt.Errorf("the watch was %w", context.Cause(op.ctx))
	case err != nil:
		err = fmt.Errorf("%w; %w", err, context.Cause(op.ctx))
	}
	stored := m.note(a, func(s *saved) { s.Guard = nil })
	if err != nil {
		return "", errors.Join(&phaseError{"guard", err}, stored)
	}
	if stored != nil {
		return "", fmt.Errorf("%w; %s is in use, and a restart would watch it again", stored, list(m.of(a).Targets))
	}
	if n := w.Requests(); n < enough {
		return fmt.Sprintf("guard: %d requests, which are too few to be sure; not worse than before so far\n", n), nil
	}
	return fmt.Sprintf("guard: %d requests, and not worse than before\n", w.Requests()), nil
}

// enough is how many requests a guard requires.
const enough = 50

// goBack undoes the deploy or the canary that the guard watched.
func (m *manager) goBack(a *app, g watched, why error) error {
	if g.Back == nil {
		targets := list(m.of(a).Canary.Targets)
		err := m.note(a, func(s *saved) { s.Canary, s.Guard = nil, nil })
		m.mu.Lock()
		defer m.mu.Unlock()
		m.endCanary(a)
		return errors.Join(&phaseError{"guard", fmt.Errorf("%w; the canary at %s was ended", why, targets)}, err)
	}
	bad := m.of(a).Targets
	_, err := m.switchTo(a, g.Back) // requests in flight at the bad targets may finish
	m.letGo(a)
	if err != nil {
		err = fmt.Errorf("%w; %s stays in use, because going back failed: %w", why, list(bad), err)
		return errors.Join(&phaseError{"guard", err}, m.note(a, func(s *saved) { s.Guard = nil }))
	}
	err = m.note(a, func(s *saved) { s.Targets, s.Previous, s.Guard = g.Back, g.Before, nil })
	return errors.Join(&phaseError{"guard", fmt.Errorf("%w; %s is in use again", why, list(g.Back))}, err)
}
