package serve

import (
	"context"
	"sync"

	"github.com/hostproxy/hostproxy/internal/exchange"
)

// A lifetime is the context of a request: that of its connection, until the
// handler has returned or the client has left. It is a part of the response.
// What it needs to tell others of its end is allocated when it is asked for.
type lifetime struct {
	context.Context // the connection's, which never ends
	slot            exchange.Slot

	mu     sync.Mutex
	err    error
	inner  context.Context // below Context, with the same end; nil until it is asked for
	cancel context.CancelFunc
}

// Done implements context.Context.
func (l *lifetime) Done() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inner == nil {
		l.inner, l.cancel = context.WithCancel(l.Context)
		if l.err != nil {
			l.cancel()
		}
	}
	return l.inner.Done()
}

// Err implements context.Context.
func (l *lifetime) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Value implements context.Context. Package context asks for the cancelable
// context above one that it makes: the inner one, so that no goroutine waits
// for its end.
func (l *lifetime) Value(key any) any {
	if v, ok := l.slot.Value(key); ok {
		return v
	}
	l.mu.Lock()
	inner := l.inner
	l.mu.Unlock()
	if inner != nil {
		return inner.Value(key)
	}
	return l.Context.Value(key)
}

// end ends the lifetime. It may be called several times, and concurrently.
func (l *lifetime) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return
	}
	l.err = context.Canceled
	if l.cancel != nil {
		l.cancel()
	}
}
