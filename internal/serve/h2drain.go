package serve

import (
	"time"

	"github.com/hostproxy/hostproxy/internal/h2"
)

// A drainStage is a stage of the drain of an HTTP/2 connection (RFC 9113, 6.8).
type drainStage uint8

const (
	drainNot   drainStage = iota
	drainAsked            // first GOAWAY sent; new streams are still served
	drainLast             // last GOAWAY sent; new streams are ignored
)

// drainPing is the payload of a drain's PING.
const drainPing = "draining"

// drain starts the drain: it sends the first GOAWAY and a PING. Streams go on.
func (c *conn2) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stage != drainNot || c.over {
		return
	}
	c.stage, c.since = drainAsked, time.Now()
	c.out = h2.AppendGoAway(c.out, 1<<31-1, h2.NoError, "")
	c.control(h2.AppendPing(c.out, [8]byte([]byte(drainPing))))
}

// goAway sends the last GOAWAY, which names the last stream. mu is held.
func (c *conn2) goAway() { c.goAwayWith(h2.NoError, "") }

func (c *conn2) goAwayWith(code h2.Code, reason string) {
	if c.stage == drainLast {
		return
	}
	c.stage = drainLast
	if code == h2.NoError {
		c.free += 4 * maxStreams // frames that the client may send before it reads the GOAWAY
	}
	c.control(h2.AppendGoAway(c.out, c.opened, code, reason))
	c.conclude()
}

// conclude stops the reader if no stream runs and none can follow. mu is held.
func (c *conn2) conclude() {
	if c.running == 0 && (c.stage == drainLast || c.leaves) {
		c.judge(errServed2)
	}
}

// judge stops the reader because of err. mu is held.
func (c *conn2) judge(err error) {
	if c.verdict == nil && !c.over {
		c.verdict = err
		c.c.interrupt()
	}
}

// inspect checks all time limits of the connection, for the sweeper.
func (c *conn2) inspect(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.look(now)
	for _, st := range c.streams {
		st.inspect(now)
	}
	if c.over {
		return
	}
	if c.writes == c.swept && !c.writing && len(c.out) == 0 {
		c.out, c.spent = nil, nil // free memory: streams may wait for a long time
	}
	c.swept = c.writes
	c.keepTime(now)
}

// keepTime checks the time limits apart from those of streams. mu is held.
func (c *conn2) keepTime(now time.Time) {
	s := c.c.s.limit()
	switch idle := s.IdleTimeout; {
	case !c.owed.IsZero() && s.ReadHeaderTimeout > 0 && now.Sub(c.owed) > s.ReadHeaderTimeout:
		c.judge(errLate2)
	case c.stage == drainAsked && now.Sub(c.since) > drainPatience:
		c.goAway()
	case c.running == 0:
		since := now.Sub(c.quiet)
		if since > quietAfter && !c.rested {
			c.rest()
		}
		if idle > 0 && since > idle {
			c.judge(errIdle2)
		}
	case idle > 0:
		c.probe(now, idle)
	}
}

// rest frees workers, stack and buffers of an idle connection. mu is held.
func (c *conn2) rest() {
	c.rested, c.stale = true, true
	c.dismiss()
	c.c.interrupt()
}

// probe sends a PING if the client has been silent for idle, and stops the
// reader if it is not answered. mu is held.
func (c *conn2) probe(now time.Time, idle time.Duration) {
	switch {
	case now.Sub(time.Unix(0, c.heard.Load())) < idle:
		c.pinged = time.Time{}
	case c.pinged.IsZero():
		c.pinged = now
		c.control(h2.AppendPing(c.out, [8]byte{}))
	case c.writing || c.advances(): // the PING waits behind bytes for a slow client
		c.pinged = now
	case now.Sub(c.pinged) > pingPatience:
		c.judge(errDead2)
	}
}

// advances reports whether the client has read something since the last call.
// mu is held.
func (c *conn2) advances() bool {
	before := c.taken
	c.taken = c.c.Mark()
	return c.taken != before
}

// A worker serves streams, one after the other.
type worker struct {
	c    *conn2
	next chan *stream // nil ends the worker
}

// start gives st to an idle worker, or to a new one. mu is held.
func (c *conn2) start(st *stream) {
	if n := len(c.resting); n > 0 {
		w := c.resting[n-1]
		c.resting = c.resting[:n-1]
		w.next <- st
		return
	}
	c.workers.Add(1)
	w := &worker{c: c, next: make(chan *stream, 1)}
	go w.run(st)
}

func (w *worker) run(st *stream) {
	defer w.c.workers.Done()
	for st != nil {
		if st.serve() { // after a panic it may still be in use
			st.giveBack()
		}
		st = w.rest()
	}
}

// rest waits for the next stream.
func (w *worker) rest() *stream {
	c := w.c
	c.mu.Lock()
	if c.over {
		c.mu.Unlock()
		return nil
	}
	c.resting = append(c.resting, w)
	c.mu.Unlock()
	return <-w.next
}

// dismiss ends the idle workers. mu is held.
func (c *conn2) dismiss() {
	for _, w := range c.resting {
		w.next <- nil
	}
	c.resting = nil
}
