package main

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"
)

// An operation is a command that takes time. It belongs to the manager. If its
// client disconnects, it continues, unless it can still be canceled.
type operation struct {
	app   *app
	what  string
	began time.Time
	phase string // guarded by manager.mu

	cancels bool // a rollback, stop or remove may cancel the operation
	undoes  bool // the operation is a rollback, which another rollback does not cancel

	ctx     context.Context // done when the operation is canceled
	cancel  context.CancelCauseFunc
	changed chan struct{} // closed when the operation no longer changes the state
	done    chan struct{} // closed at the end

	text string // the result; valid once done is closed
	err  error
}

// A busyError refuses a command because another one is in progress.
type busyError struct{ text string }

func (e *busyError) Error() string { return e.text }

// busy returns an error if an operation of a is in progress. m.mu is held.
func (m *manager) busy(a *app) error {
	if a.op == nil {
		return nil
	}
	remedy := "wait until it has ended"
	if a.op.cancels && !a.op.undoes {
		remedy += ", or cancel it by deploy rollback " + a.name
	}
	return &busyError{fmt.Sprintf("%s of %q is in progress since %s (%s): %s",
		a.op.what, a.name, a.op.began.Format(time.TimeOnly), a.op.phase, remedy)}
}

// begin starts an operation of a, which must not be busy. m.mu is held. do gets
// the operation. It must call settle before it waits for anything that does not
// concern other operations.
func (m *manager) begin(a *app, what string, do func(*operation) (string, error)) *operation {
	op := &operation{app: a, what: what, began: time.Now(), phase: "check", changed: make(chan struct{}), done: make(chan struct{})}
	op.ctx, op.cancel = context.WithCancelCause(context.Background())
	a.op = op
	m.work.Go(func() {
		defer close(op.done)
		defer m.settle(op)
		defer func() {
			if p := recover(); p != nil {
				op.err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			}
		}()
		op.text, op.err = do(op)
	})
	return op
}

// settle lets other operations of the app start.
func (m *manager) settle(op *operation) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if op.app.op != op {
		return
	}
	op.app.op = nil
	if op.app.Targets == nil { // its first deploy failed, or the app was removed
		delete(m.apps, op.app.name)
	}
	op.cancel(nil)
	close(op.changed)
}

// enter records the phase of op. It returns an error if op was canceled before.
func (m *manager) enter(op *operation, phase string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := context.Cause(op.ctx); err != nil {
		return &phaseError{op.phase, err}
	}
	op.phase = phase
	return nil
}

// waits reports whether op has changed nothing yet, so that it can be canceled
// without a trace. m.mu is held.
func (op *operation) waits() bool { return op.phase == "check" || op.phase == "health" }

// abandon cancels op if it has changed nothing yet. Its client has
// disconnected.
func (m *manager) abandon(op *operation) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if op.waits() {
		op.cancel(errHungUp)
	}
}

// interrupt cancels the operation in progress of a, if there is one, and waits
// until it no longer changes anything. It returns an error if the operation
// cannot be canceled, if commands are now refused, or if a was removed
// meanwhile. m.mu is held before and after, but not during the wait.
func (m *manager) interrupt(a *app, why error) error {
	op := a.op
	if op == nil {
		return nil
	}
	if !op.cancels {
		return m.busy(a)
	}
	op.cancel(why)
	existed := a.Targets != nil
	m.mu.Unlock()
	<-op.changed
	m.mu.Lock()
	switch {
	case m.frozen != nil:
		return m.frozen
	case existed && a.Targets == nil:
		return fmt.Errorf("%q was removed meanwhile", a.name)
	}
	return m.busy(a) // another operation may have started first
}
