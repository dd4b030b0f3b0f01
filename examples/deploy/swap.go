package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hostproxy/hostproxy/examples/deploy/guard"
)

// A change is a change of an app's targets.
type change struct {
	to      []string
	guard   time.Duration // 0 means none
	promote bool          // the targets are the canary's, and the canary ends
}

// swap changes the app's targets to c.to. The state file is true at each
// moment: before the switch, it has c.to as Next; afterwards, as the targets in
// use.
func (m *manager) swap(op *operation, c change) (string, error) {
	a := op.app
	if err := m.enter(op, "switch"); err != nil { // from now on, the operation cannot be canceled
		return "", fmt.Errorf("%w; %s", err, m.inUse(a))
	}
	old := m.of(a)
	if slices.Equal(c.to, old.Targets) {
		return fmt.Sprintf("%s: %s is in use already\n", a.name, list(c.to)), nil
	}
	w, b, err := m.watch(a, c.to, c.guard)
	if err != nil {
		return "", err
	}
	if w != nil {
		w.OnWorse(a.away(false))
		defer m.letGo(a)
		defer w.Stop()
	}
	if err := m.with(a, func(s *saved) { s.Next = c.to }); err != nil {
		return "", fmt.Errorf("%w; %s", err, m.inUse(a))
	}
	drained, err := m.switchTo(a, c.to)
	if err != nil {
		err = &phaseError{"switch", fmt.Errorf("%w; %s", err, m.inUse(a))}
		return "", errors.Join(err, m.note(a, func(s *saved) { s.Next = nil }))
	}
	if err := m.switched(a, c, old, b); err != nil {
		return "", err
	}
	text := fmt.Sprintf("%s: %s is in use in place of %s\n", a.name, list(c.to), list(old.Targets))
	if w != nil {
		verdict, err := m.guard(op, w)
		if err != nil {
			return "", err
		}
		text += verdict
	}
	m.settle(op)
	return text + cutOff(<-drained), nil
}

// of returns the stored state of a.
func (m *manager) of(a *app) saved {
	m.mu.Lock()
	defer m.mu.Unlock()
	return a.saved
}

// switchTo sends new requests to targets. Requests at the old ones continue.
func (m *manager) switchTo(a *app, targets []string) (<-chan error, error) {
	drained, err := guard.Swap(context.Background(), a.up, targets...)
	if err != nil {
		return nil, err
	}
	result := make(chan error, 1)
	m.work.Go(func() { result <- <-drained }) // the end of the process waits for this
	return result, nil
}

// switched stores that c is done. If that fails, it goes back to the old
// targets: a restart must find the targets that are in use.
func (m *manager) switched(a *app, c change, old saved, b guard.Baseline) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	err := m.change(a, func(s *saved) {
		s.Targets, s.Previous, s.Next, s.Guard = c.to, old.Targets, nil, nil
		if s.Hold != nil && s.Hold.Kind == kindStop {
			s.Hold = nil
		}
		if c.promote {
			s.Canary = nil
		}
		if c.guard > 0 {
			s.Guard = &watched{Until: time.Now().Add(c.guard), Baseline: b, Back: old.Targets, Before: old.Previous}
		}
	})
	if err != nil {
		a.Next = nil // stored with the next change
		_, failed := m.switchTo(a, old.Targets)
		if failed != nil {
			failed = fmt.Errorf("%s is in use, which a restart does not know: %w", list(c.to), failed)
		}
		return errors.Join(fmt.Errorf("%w; %s is in use again", err, list(old.Targets)), failed)
	}
	if c.promote {
		m.endCanary(a)
	}
	return a.held()
}

// cutOff describes what a drain has cut off; "" means nothing.
func cutOff(err error) string {
	if err == nil {
		return ""
	}
	return fmt.Sprintf("warning: drain: %v\n", err)
}

// rollback cancels a deploy that waits for health, ends a canary, or goes back
// to the previous targets. If there is nothing to wait for, it returns a text.
func (m *manager) rollback(q request, a *app) (*operation, string, error) {
	if op := a.op; op != nil {
		if op.undoes {
			return nil, "", m.busy(a)
		}
		waits, goesBack := op.waits(), op.phase == "back"
		if err := m.interrupt(a, errRolledBack); err != nil {
			return nil, "", err
		}
		switch {
		case waits:
			return nil, fmt.Sprintf("%s: %s was canceled; %s\n", a.name, op.what, a.inUse()), nil
		case goesBack:
			return nil, fmt.Sprintf("%s: the guard was faster; %s\n", a.name, a.inUse()), nil
		}
	}
	if a.Canary != nil {
		op, err := m.dropCanary(a)
		return op, "", err
	}
	if len(a.Previous) == 0 {
		return nil, "", fmt.Errorf("%q has no targets to go back to: nothing was deployed before %s", a.name, list(a.Targets))
	}
	q.Targets = a.Previous
	op := m.begin(a, "a rollback", func(op *operation) (string, error) {
		if err := m.awaitReady(op, q); err != nil {
			return "", err
		}
		return m.swap(op, change{to: q.Targets})
	})
	op.cancels, op.undoes = true, true
	return op, "", nil
}
