package serve

import (
	"context"
	"net"
	"time"
)

const (
	// retiredIdle is how long a connection waits for its next request once
	// another process serves the listener: long enough for a client that was
	// about to send one.
	retiredIdle = 5 * time.Second

	// farewell is how long upgraded connections have to end politely after they
	// have gone on for DrainTimeout in a process that has handed over.
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

// retire lets the connections go on that the process had when it handed over,
// until ctx is done or DrainTimeout has passed. They serve the request that is
// about to come, and no other; what is upgraded or streams goes on to its own
// end, and so does what has yet to send its first request. No connection is
// lost in between: the listener is a file descriptor of both processes. It
// returns the limit of the drain that follows.
func (s *Server) retire(ctx context.Context, begin context.CancelFunc) time.Duration {
	begin()
	s.wakeAll()
	var late <-chan time.Time
	if d := s.limit().DrainTimeout; d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		late = timer.C
	}
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
