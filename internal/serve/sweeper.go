package serve

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/forward"
	"github.com/hostproxy/hostproxy/internal/pool"
)

// watched is the part of an exchange that the sweeper looks at. The sweeper
// ends exchanges that have become pointless.
type watched struct {
	from  *origin
	front front

	gone      atomic.Bool // the client left
	over      atomic.Bool // the server, the route or the upstream ended the exchange
	unread    atomic.Bool // a part of the request's body is still unread
	streaming atomic.Bool // the end of the response is not known

	mu     sync.Mutex // guards the fields below
	busy   bool       // the exchange waits for its target
	lease  pool.Lease
	since  time.Time
	life   context.Context
	span   span
	around *forward.Forwarder // nil if there is none
	// closed when the exchange becomes pointless; nil when it waits for lease
	waiting chan<- struct{}
	goodbye goodbye
	doomed  time.Time // when the end of life was first seen
	// for an event stream that outlives its route and its target; otherwise nil
	stay *forward.Stay
}

// A span is the lifetime of what an exchange depends on: its target, or its
// upstream while it has no target.
type span interface {
	Killed() bool
	Ending() bool
}

// renew prepares w for a new exchange. A stream has only one: it stays gone if
// its client has left.
func (w *watched) renew() {
	w.goodbye = goodbye{}
	if w.gone.Load() && w.front.major() == 1 {
		w.gone.Store(false)
	}
	if w.over.Load() && (w.front.major() == 2 || w.front.why() != exchange.ErrCut) {
		w.over.Store(false)
	}
}

// watch lets the sweeper end an exchange that waits for its target.
// around is the upstream that has diverted it there, or nil.
func (w *watched) watch(l pool.Lease, life context.Context, s span, around *forward.Forwarder) {
	w.mu.Lock()
	w.busy, w.lease, w.life, w.span, w.around = true, l, life, s, around
	w.since, w.doomed, w.stay = w.from.s.now(), time.Time{}, nil
	if w.gone.Load() || w.over.Load() { // before watch
		w.abort()
	}
	w.mu.Unlock()
}

// wait is watch for an exchange that waits for gone instead of a target.
func (w *watched) wait(gone chan<- struct{}, life context.Context, s span, around *forward.Forwarder) {
	w.watch(pool.Lease{}, life, s, around)
	w.mu.Lock()
	if w.waiting = gone; w.gone.Load() || w.over.Load() {
		w.abort()
	}
	w.mu.Unlock()
}

// unwatch ends watch and wait.
func (w *watched) unwatch() {
	w.mu.Lock()
	w.busy, w.waiting, w.stay = false, nil, nil
	w.mu.Unlock()
	if !canTry {
		w.front.lookBack()
	}
}

// remain gives an event stream the grace of s: from now on it depends only on
// the server and on f.
func (w *watched) remain(s *forward.Stay, f *forward.Forwarder) {
	w.mu.Lock()
	w.stay, w.life, w.span = s, w.from.s.draining, f
	w.mu.Unlock()
	s.Count()
}

// left reports whether the client has left.
func (w *watched) left() bool { return w.gone.Load() }

// ended reports whether the server, the route or the upstream ended the
// exchange.
func (w *watched) ended() bool { return w.over.Load() }

// closed reports whether the client has closed its side. w.mu is held, or the
// exchange has ended.
func (w *watched) closed() bool {
	return w.front.hasLeft(w.waiting == nil)
}

// sweep is the server's sweeper goroutine. It looks at exchanges older than
// exchange.SweepInterval. It ends those whose client has left, or whose route
// was removed exchange.StreamGrace ago. It takes at most a hundredth of one
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

// inspect checks the connection, for the sweeper. A panic closes this
// connection only.
func (c *conn) inspect(now time.Time) {
	defer c.contain()
	if w := c.serving.Load(); w != nil {
		w.inspect(now)
	}
	if w := c.handling.Load(); w != nil {
		w.inspect(c, now)
	}
	if h := c.two.Load(); h != nil {
		h.inspect(now)
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

// now returns the sweeper's coarse time.
func (s *Server) now() time.Time { return time.Unix(0, s.clock.Load()) }

// inspect ends the exchange if it has become pointless. The exchange may
// meanwhile belong to another connection; the same rules hold for it.
func (w *watched) inspect(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.busy || now.Sub(w.since) < exchange.SweepInterval {
		return
	}
	switch {
	case w.leaves(now):
		w.gone.Store(true)
	case w.span.Killed() || w.around != nil && w.around.Killed() || w.expired(now):
		w.over.Store(true)
	default:
		return
	}
	w.abort()
}

// goodbyeTime is how long a client that has closed its side can still get its
// response.
const goodbyeTime = time.Second

// A goodbye is when the client was first seen to have closed its side; zero if
// it has not.
type goodbye struct{ since time.Time }

// over notes whether the client's side is closed now, and reports whether the
// time for a response is over.
func (g *goodbye) over(closed bool, now time.Time) bool {
	switch {
	case !closed:
		g.since = time.Time{}
	case g.since.IsZero():
		g.since = now
	}
	return closed && now.Sub(g.since) >= goodbyeTime
}

// leaves reports whether the client has left: its side is closed before its
// request was complete, or for goodbyeTime. w.mu is held.
func (w *watched) leaves(now time.Time) bool {
	closed := w.closed()
	return w.goodbye.over(closed, now) || closed && (w.unread.Load() || w.front.major() == 2)
}

// forsake ends the exchange because the client has left. It may be called
// concurrently.
func (w *watched) forsake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone.Store(true); w.busy {
		w.abort()
	}
}

// oust closes the connection because DrainTimeout has passed, and ends its
// exchange.
func (c *conn) oust() {
	c.ousted.Store(true)
	c.Close()
	if w := c.serving.Load(); w != nil {
		w.cutOff()
	}
	if w := c.handling.Load(); w != nil {
		w.leave()
	}
}

// cutOff ends the exchange because the server's drain is over. It may be called
// concurrently.
func (w *watched) cutOff() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over.Store(true); w.busy {
		w.abort()
	}
}

// abort wakes the goroutine that waits in the exchange. w.mu is held.
func (w *watched) abort() {
	w.lease.Abort()
	if w.waiting != nil {
		close(w.waiting)
		w.waiting = nil
	}
}

// expired reports whether a response without a known end has outlasted the
// grace after the end of its server or route. w.mu is held.
func (w *watched) expired(now time.Time) bool {
	if w.stay.Over(now) {
		return true
	}
	if !w.streaming.Load() || w.life.Err() == nil && w.from.s.draining.Err() == nil && !w.span.Ending() && (w.around == nil || !w.around.Ending()) {
		return false
	}
	if w.doomed.IsZero() {
		w.doomed = now
	}
	return now.Sub(w.doomed) >= exchange.StreamGrace
}
