package serve

import (
	"time"

	"github.com/hostproxy/hostproxy/internal/h2"
)

// A drainStage is how far a connection of HTTP/2 is on its way to its end.
type drainStage uint8

const (
	drainNot   drainStage = iota
	drainAsked            // the client knows, and may have opened streams before it did
	drainLast             // it opens none that is served
)

// drainPing is what the PING of a drain carries.
const drainPing = "draining"

// drain begins the end of the connection: streams go on, and no others are to come.
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

// goAway says which stream is the last. mu is held.
func (c *conn2) goAway() { c.goAwayWith(h2.NoError, "") }

func (c *conn2) goAwayWith(code h2.Code, reason string) {
	if c.stage == drainLast {
		return
	}
	c.stage = drainLast
	if code == h2.NoError {
		c.free += 4 * maxStreams // a client that does not know yet may have so much on its way
	}
	c.control(h2.AppendGoAway(c.out, c.opened, code, reason))
	c.conclude()
}

// conclude ends the reader if nothing is left to serve. mu is held.
func (c *conn2) conclude() {
	if c.running == 0 && (c.stage == drainLast || c.leaves) {
		c.judge(errServed2)
	}
}

// judge ends the reader because of err. mu is held.
func (c *conn2) judge(err error) {
	if c.verdict == nil && !c.over {
		c.verdict = err
		c.c.interrupt()
	}
}

// inspect is the sweeper's: it keeps the time of everything.
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
		c.out, c.spent = nil, nil // streams may wait for long
	}
	c.swept = c.writes
	c.keepTime(now)
}

// keepTime ends what takes too long. mu is held.
func (c *conn2) keepTime(now time.Time) {
	s := c.c.s
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

// rest makes a quiet connection small. mu is held.
func (c *conn2) rest() {
	c.rested, c.stale = true, true
	c.dismiss()
	c.c.interrupt()
}

// probe looks for the end of a client that sends nothing. mu is held.
func (c *conn2) probe(now time.Time, idle time.Duration) {
	switch {
	case now.Sub(time.Unix(0, c.heard.Load())) < idle:
		c.pinged = time.Time{}
	case c.pinged.IsZero():
		c.pinged = now
		c.control(h2.AppendPing(c.out, [8]byte{}))
	case now.Sub(c.pinged) > pingPatience:
		c.judge(errDead2)
	}
}

// A worker serves streams, one after the other.
type worker struct {
	c    *conn2
	next chan *stream // nil ends the worker
}

// start lets a worker serve st. mu is held.
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
		if st.serve() { // or else something may still hold it
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

// dismiss ends the workers that have no stream. mu is held.
func (c *conn2) dismiss() {
	for _, w := range c.resting {
		w.next <- nil
	}
	c.resting = nil
}
