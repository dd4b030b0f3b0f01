// Package peek notices what the peer of a connection does, without reading from
// the connection: whether it has left, and whether it reads.
//
//   - peek.go, peek_unix.go, peek_other.go: whether the peer has left
//   - hungup_linux.go, hungup_nolinux.go: the same with unread bytes
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

// ErrLeft is the cause of a context made by Context whose peer has left.
var ErrLeft = errors.New("the client has disconnected")

// interval is the time between two checks of a connection.
const interval = 250 * time.Millisecond

// Context returns a context that ends with parent, and soon after the peer of c
// has closed its side or reset the connection, even if bytes that it sent are
// unread. That works for sockets, and for a c with a method HungUp that reports
// it; otherwise the context ends only with parent. Nothing may read from c
// meanwhile. The caller calls cancel after the wait. Context starts no
// goroutine that waits.
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

// hungUpOf returns a function that reports whether the peer of c has left, or
// nil if that cannot be known.
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

// A watch checks a connection repeatedly.
type watch struct {
	left func() bool
	end  context.CancelCauseFunc

	mu    sync.Mutex
	timer *time.Timer
	over  bool
}

// look is the function of the timer.
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
