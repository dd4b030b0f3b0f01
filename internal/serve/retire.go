package serve

import (
	"context"
	"net"
	"time"
)

const (
	// retiredIdle is how long a connection waits for its next request after
	// another process has taken over the listener: long enough for a client
	// that is about to send one.
	retiredIdle = 5 * time.Second

	// farewell is how long upgraded connections have to close politely after a
	// hand-over, once HandOverTimeout has passed.
	farewell = 6 * time.Second
)

// handed reports whether another process serves the listener.
func (s *Server) handed() bool { return s.Handed != nil && s.Handed.Err() != nil }

// accepting returns a context that ends with ctx or with Handed, and closes ln.
func (s *Server) accepting(ctx context.Context, ln net.Listener) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	unhand := func() bool { return true }
	if s.Handed != nil {
		unhand = context.AfterFunc(s.Handed, cancel)
	}
	return ctx, func() {
		unhand()
		stop()
		cancel()
	}
}

// retire keeps the connections that the process had at the hand-over, until ctx
// is done or HandOverTimeout has passed. They serve the next request, and no
// other. Upgraded connections and streaming responses run to their own end, and
// connections without a first request may still send it. No connection is lost:
// both processes have the listener's file descriptor. retire returns the limit
// of the drain that follows.
func (s *Server) retire(ctx context.Context, begin context.CancelFunc) time.Duration {
	begin()
	s.wakeAll()
	late, stop := after(s.limit().HandOverTimeout)
	defer stop()
	select {
	case <-s.gone:
	case <-ctx.Done():
	case <-late:
		return farewell
	}
	return s.limit().DrainTimeout
}

// wakeAll tells all connections that the server drains or retires.
func (s *Server) wakeAll() {
	for _, c := range s.snapshot(nil) {
		c.wake()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) == 0 {
		s.goneOnce()
	}
}
