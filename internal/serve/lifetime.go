package serve

import (
	"context"
	"sync"

	"github.com/hostproxy/hostproxy/internal/exchange"
)

// A lifetime is the context of a request: that of its connection, until the handler
// has returned or the client has left. It is a part of the response. Its channel and
// its functions are allocated only when they are used.
type lifetime struct {
	context.Context // the connection's, which never ends
	arrival         exchange.Slot

	mu   sync.Mutex
	done chan struct{} // nil until somebody asks
	err  error
	then map[*func()]struct{} // see AfterFunc; nil without any
}

// Done implements context.Context.
func (l *lifetime) Done() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done == nil {
		l.done = make(chan struct{})
		if l.err != nil {
			close(l.done)
		}
	}
	return l.done
}

// Err implements context.Context.
func (l *lifetime) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Value implements context.Context.
func (l *lifetime) Value(key any) any {
	if v := l.arrival.Value(key); v != nil {
		return v
	}
	return l.Context.Value(key)
}

// AfterFunc is what package context looks for, so that contexts below this one need no
// goroutine: f is called, on a goroutine of its own, when the lifetime has ended. stop
// reports whether it has prevented that.
func (l *lifetime) AfterFunc(f func()) (stop func() bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		go f()
		return func() bool { return false }
	}
	if l.then == nil {
		l.then = make(map[*func()]struct{})
	}
	l.then[&f] = struct{}{}
	return func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		_, waits := l.then[&f]
		delete(l.then, &f)
		return waits
	}
}

// end ends the lifetime. It may be called several times, and concurrently.
func (l *lifetime) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return
	}
	l.err = context.Canceled
	if l.done != nil {
		close(l.done)
	}
	for f := range l.then {
		go (*f)()
	}
	l.then = nil
}
