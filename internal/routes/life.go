package routes

import (
	"context"
	"sync/atomic"
	"time"
)

// A Life is a context that is done when End was called. It takes one word until
// a caller waits for its end, which never happens for most routes. The zero
// value is ready to use. It must not be copied.
type Life struct {
	waited atomic.Pointer[waited] // nil until the first wait, or the end
}

// A waited context is the one on which callers wait for the end of a Life.
type waited struct {
	context.Context
	cancel context.CancelFunc
}

// ended is the context of a Life that ended before any wait. Read-only.
var ended = func() *waited {
	w := newWaited()
	w.cancel()
	return w
}()

func newWaited() *waited {
	w := new(waited)
	w.Context, w.cancel = context.WithCancel(context.Background())
	return w
}

// End makes l done. It may be called more than once.
func (l *Life) End() {
	if !l.waited.CompareAndSwap(nil, ended) {
		l.waited.Load().cancel()
	}
}

// Continue makes l, which is new, end together with old: the end of either ends
// both.
func (l *Life) Continue(old *Life) { l.waited.Store(old.wait()) }

// Continues reports whether l ends with old.
func (l *Life) Continues(old *Life) bool {
	w := l.waited.Load()
	return w != nil && w == old.waited.Load()
}

// Deadline implements context.Context: there is none.
func (l *Life) Deadline() (deadline time.Time, ok bool) { return time.Time{}, false }

// Done implements context.Context.
func (l *Life) Done() <-chan struct{} { return l.wait().Done() }

// Err implements context.Context. It allocates nothing.
func (l *Life) Err() error {
	if w := l.waited.Load(); w != nil {
		return w.Err()
	}
	return nil
}

// Value implements context.Context. Package context uses it to find the context
// below, which saves a goroutine.
func (l *Life) Value(key any) any { return l.wait().Value(key) }

func (l *Life) wait() *waited {
	if w := l.waited.Load(); w != nil {
		return w
	}
	l.waited.CompareAndSwap(nil, newWaited())
	return l.waited.Load()
}
