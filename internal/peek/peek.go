// Package peek notices what the peer of a connection does, without reading from
// the connection: that it has left, and that it takes bytes.
//
//   - peek.go, peek_unix.go, peek_other.go: whether the peer has left
//   - hungup_linux.go, hungup_nolinux.go: the same with bytes unread
//   - mark.go, queued_linux.go, queued_other.go: whether bytes move
//   - socket.go: the socket below a connection
package peek

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// ErrLeft is the cause of a context of Context whose peer has left.
var ErrLeft = errors.New("the client has disconnected")

// interval is the time between two looks at a connection.
const interval = 250 * time.Millisecond

// Context returns a context that ends with parent, and soon after the peer of c
// has closed its side or reset the connection, even if some of what it sent has
// not been read. Only sockets show that, and what has a method HungUp that says
// so: with any other c the context ends with parent alone. Nobody may read from
// c meanwhile. The caller calls cancel when it waits no longer; no goroutine is
// kept for the wait.
func Context(parent context.Context, c net.Conn) (ctx context.Context, cancel context.CancelFunc) {
	ctx, end := context.WithCancelCause(parent)
	left := hungUpOf(c)
	if left == nil {
		return ctx, func() { end(nil) }
	}
	w := &watch{left: left, end: end}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(interval, w.look)
	return ctx, w.stop
}

// hungUpOf returns what says whether the peer of c has left, nil if there is
// nothing.
func hungUpOf(c net.Conn) func() bool {
	if c, ok := c.(interface{ HungUp() bool }); ok {
		return c.HungUp
	}
	raw := Raw(c)
	if raw == nil {
		return nil
	}
	return func() bool { return HungUp(raw) }
}

// A watch looks at a connection again and again.
type watch struct {
	left func() bool
	end  context.CancelCauseFunc

	mu    sync.Mutex
	timer *time.Timer
	over  bool
}

// look is what the timer runs.
func (w *watch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.over:
	case w.left():
		w.over = true
		w.end(ErrLeft)
	default:
		w.timer.Reset(interval)
	}
}

func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.timer.Stop()
	w.end(nil)
}
