package serve

import "time"

// Bounds are the limits of servers that may change while the servers run. Zero
// means no bound.
type Bounds struct {
	ReadHeaderTimeout, IdleTimeout, HandshakeTimeout, DrainTimeout, HandOverTimeout time.Duration

	MaxHeaderBytes, MaxConns, MaxHandshakes, MaxPerClient int
}

// Change applies n to all servers that share b, including those that join
// later.
func (b *Budget) Change(n Bounds) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changed.Store(&n)
	b.shakes.bound(n.MaxHandshakes)
	for _, s := range b.servers {
		s.bounds.Store(&n)
	}
}

// perClient returns how many connections a client may have; zero means no
// limit.
func (b *Budget) perClient() int {
	if n := b.changed.Load(); n != nil {
		return n.MaxPerClient
	}
	return b.MaxPerClient
}

// limit returns the bounds that are in force.
//
// Hot path: one atomic load.
func (s *Server) limit() *Bounds { return s.bounds.Load() }

// given returns the bounds that are set in the fields of s.
func (s *Server) given() *Bounds {
	return &Bounds{s.ReadHeaderTimeout, s.IdleTimeout, s.HandshakeTimeout, s.DrainTimeout, s.HandOverTimeout,
		s.MaxHeaderBytes, s.MaxConns, s.MaxHandshakes, 0}
}
