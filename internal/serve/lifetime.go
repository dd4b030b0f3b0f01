package serve

import (
	"context"
	"sync"

	"github.com/hostproxy/hostproxy/internal/exchange"
)

// A lifetime is the context of a request: that of its connection, until the
// handler has returned or the client has left. It is a part of the response.
// The channel that signals its end is allocated on the first call of Done.
type lifetime struct {
	context.Context // the connection's, which never ends
	slot            exchange.Slot

	mu     sync.Mutex
	err    error
	inner  context.Context // child of Context with the same end; nil until Done is called
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

// Value implements context.Context. Package context looks for the cancelable
// parent of a context that it makes. Value gives it inner, so that no goroutine
// has to wait for the end.
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
