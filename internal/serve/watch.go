package serve

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/forward"
	"github.com/hostproxy/hostproxy/internal/peek"
	"github.com/hostproxy/hostproxy/internal/pool"
)

// watched is the part of a conn that its sweeper and the drain look at.
type watched struct {
	gone atomic.Bool // the client left
	over atomic.Bool // the server, the route or the upstream ended the exchange

	unread atomic.Bool // some of the request's body is still to be read

	mu       sync.Mutex // guards what follows
	resting  bool       // waits for a request
	handling *response  // what a handler is writing; nil if none is
	woken    bool       // wake set a read deadline
	busy     bool       // an exchange waits for its target
	lease    pool.Lease
	since    time.Time
	life     context.Context
	span     span
	around   *forward.Forwarder // nil if there is none
	waiting  chan<- struct{}    // closed when the exchange becomes pointless; nil when it waits for lease
	doomed   time.Time          // when life was first seen to have ended
	stay     *forward.Stay      // of an event stream that outlives its route and its target; nil if it does not

	streaming atomic.Bool // the response has no known end
}

// quietAfter is how long a connection waits for its next request on the
// goroutine of the last one. Then it goes on on a new goroutine, since an
// exchange leaves a stack behind that is twice what waiting needs.
const quietAfter = 250 * time.Millisecond

// doze reports whether the wait that ended without a request is to go on on a
// new goroutine.
func (c *conn) doze() bool {
	if c.quiet || !c.timedOut || c.s.draining.Err() != nil || 0 < c.s.IdleTimeout && c.s.IdleTimeout <= quietAfter {
		return false
	}
	c.quiet = true
	return true
}

// rest begins the wait for the next request; false means that the server
// drains and no request is wanted any more.
func (c *conn) rest() bool {
	wait := c.s.IdleTimeout
	switch {
	case !c.quiet && (wait <= 0 || wait > quietAfter):
		wait = quietAfter
	case c.quiet && wait > 0:
		wait -= quietAfter
	}
	c.timedOut = false
	c.readBy(wait)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.resting = true
	return c.s.draining.Err() == nil
}

// unrest ends it.
func (c *conn) unrest() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.resting = false
	if c.woken {
		c.woken = false
		c.readArmed = time.Time{}
		_ = c.Conn.SetReadDeadline(time.Time{})
	}
}

// wake ends the wait for a request when the server drains.
func (c *conn) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.resting {
		c.woken = true
		c.interrupt()
	}
}

// A span is how long what an exchange is bound to lasts: a target, or its
// upstream while there is none.
type span interface {
	Killed() bool
	Ending() bool
}

// watch lets the sweeper end an exchange that waits for its target.
// around is who has diverted it there, nil if nobody has.
func (c *conn) watch(l pool.Lease, life context.Context, s span, around *forward.Forwarder) {
	c.mu.Lock()
	c.busy, c.lease, c.life, c.span, c.around = true, l, life, s, around
	c.since, c.doomed, c.stay = c.s.now(), time.Time{}, nil
	c.mu.Unlock()
}

// wait is watch for an exchange that waits on gone.
func (c *conn) wait(gone chan<- struct{}, life context.Context, s span, around *forward.Forwarder) {
	c.watch(pool.Lease{}, life, s, around)
	c.mu.Lock()
	c.waiting = gone
	c.mu.Unlock()
}

// unwatch ends watch and wait.
func (c *conn) unwatch() {
	c.mu.Lock()
	c.busy, c.waiting, c.stay = false, nil, nil
	c.mu.Unlock()
}

// remain lets the event stream that the exchange has become have the grace of s:
// the server and f are what it is bound to now.
func (c *conn) remain(s *forward.Stay, f *forward.Forwarder) {
	c.mu.Lock()
	c.stay, c.life, c.span = s, c.s.draining, f
	c.mu.Unlock()
	s.Count()
}

// peekGone reports whether the client has closed its side or reset the
// connection, without taking any of its bytes. Under TLS there is an alert
// before the end of the stream, which cannot be told from the client's data;
// while that is still wanted, the end has to wait for it. But the body of an
// exchange that waits is not read, maybe for minutes: then the end behind it
// counts. c.mu is held.
func (c *conn) peekGone() bool {
	switch {
	case c.waiting != nil:
		return c.HungUp()
	case c.socket == nil, c.raw == nil && c.unread.Load(): // what is above the socket may hold more
		return false
	case c.tls != nil && !c.unread.Load():
		return c.HungUp()
	}
	return peek.Gone(c.socket)
}

// HungUp is [peek.HungUp] of the client's connection.
func (c *conn) HungUp() bool { return c.socket != nil && peek.HungUp(c.socket) }

// renew forgets what ended the last exchange: that its target was killed says
// nothing of the next one's.
func (c *conn) renew() {
	if c.over.Load() {
		c.over.Store(false)
	}
}

func (c *conn) left() bool  { return c.gone.Load() }
func (c *conn) ended() bool { return c.over.Load() }

// sweep is the server's sweeper goroutine: it looks at exchanges older than
// exchange.SweepInterval, and ends those whose client left or whose route went
// exchange.StreamGrace ago. It takes at most a hundredth of one
// processor: after a sweep of many connections it waits longer.
func (s *Server) sweep(done <-chan struct{}) {
	defer s.sweeper.Done()
	timer := time.NewTimer(exchange.SweepInterval)
	defer timer.Stop()
	var conns []*conn
	var pace exchange.SweepPace
	for {
		select {
		case <-done:
			return
		case <-timer.C:
		}
		start := time.Now()
		s.clock.Store(start.UnixNano())
		conns = s.snapshot(conns[:0])
		for _, c := range conns {
			c.inspect(start)
		}
		clear(conns)
		timer.Reset(pace.Next(time.Since(start)))
	}
}

func (s *Server) snapshot(conns []*conn) []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		conns = append(conns, c)
	}
	return conns
}

// now is the coarse time of the sweeper.
func (s *Server) now() time.Time { return time.Unix(0, s.clock.Load()) }

// inspect ends the exchange of c if it has become pointless.
func (c *conn) inspect(now time.Time) {
	c.mu.Lock()
	if c.handling != nil {
		c.inspectHandler(now)
		return
	}
	defer c.mu.Unlock()
	if !c.busy || now.Sub(c.since) < exchange.SweepInterval {
		return
	}
	switch {
	case c.peekGone():
		c.gone.Store(true)
	case c.span.Killed() || c.around != nil && c.around.Killed() || c.expired(now):
		c.over.Store(true)
	default:
		return
	}
	c.lease.Abort()
	if c.waiting != nil {
		close(c.waiting)
		c.waiting = nil
	}
}

// expired reports whether a response without a known end has gone on for the
// grace after its server or its route ended. c.mu is held.
func (c *conn) expired(now time.Time) bool {
	if c.stay.Over(now) {
		return true
	}
	if !c.streaming.Load() || c.life.Err() == nil && c.s.draining.Err() == nil && !c.span.Ending() && (c.around == nil || !c.around.Ending()) {
		return false
	}
	if c.doomed.IsZero() {
		c.doomed = now
	}
	return now.Sub(c.doomed) >= exchange.StreamGrace
}
