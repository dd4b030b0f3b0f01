package serve

import (
	"time"

	"github.com/hostproxy/hostproxy/internal/peek"
)

// quietAfter is how long a connection waits for its next request on the
// goroutine of the last one. It then waits on a new goroutine: after an
// exchange the stack is twice as large as the wait needs.
const quietAfter = 250 * time.Millisecond

// startAfresh reports whether a wait that ended without a request continues on
// a new goroutine.
func (c *conn) startAfresh() bool {
	if c.quiet || !c.timedOut || c.s.draining.Err() != nil || c.overdue() {
		return false
	}
	if idle := c.s.limit().IdleTimeout; 0 < idle && idle <= quietAfter {
		return false
	}
	c.quiet = true
	return true
}

// beginIdle begins the wait for the next request. It returns false if the
// server drains and the connection should close. In a drain it still looks for
// bytes that TLS has already read, without waiting: they belong to a request
// that has begun. A client whose last request ended less than quietAfter ago
// may be sending the next one, so beginIdle waits for it even in a drain.
func (c *conn) beginIdle() bool {
	wait := c.s.limit().IdleTimeout
	switch {
	case !c.quiet && (wait <= 0 || wait > quietAfter):
		wait = quietAfter
	case c.quiet && wait > 0:
		wait = max(wait-quietAfter, 1) // the limit may have become shorter
	}
	if c.s.retiring.Err() != nil && c.s.draining.Err() == nil {
		c.quiet = true // the wait is short and does not continue
		if wait = c.s.IdleTimeout; wait <= 0 || wait > retiredIdle {
			wait = retiredIdle
		}
	}
	c.timedOut = false
	c.readBy(wait)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idling, c.brief = true, !c.quiet
	if c.s.draining.Err() == nil {
		if c.s.retiring.Err() != nil {
			c.hurry()
		}
		return true
	}
	if c.brief { // see wake
		return true
	}
	if c.woken = c.tls != nil; c.woken {
		c.interrupt()
	}
	return c.woken
}

// headFarewell is how long the client has to complete a head of HTTP/1.x once
// the server drains.
const headFarewell = 3 * time.Second

// beginHead limits the rest of a head that has arrived in part.
func (c *conn) beginHead() {
	c.readBy(c.s.limit().ReadHeaderTimeout)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.heads = true; c.s.draining.Err() != nil {
		c.hastenHead()
	}
}

// endHead removes the limit that a drain has set for a head, if there is one.
func (c *conn) endHead() {
	if c.heads { // only the goroutine of the connection sets it
		c.endIdle()
	}
}

// hastenHead limits the rest of a head when the server drains. mu is held.
func (c *conn) hastenHead() {
	defer c.contain() // contains panics, as interrupt does
	if end := time.Now().Add(headFarewell); c.readArmed.IsZero() || end.Before(c.readArmed) {
		c.woken = true
		_ = c.Conn.SetReadDeadline(end)
	}
}

// endIdle ends the wait.
func (c *conn) endIdle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idling, c.brief, c.heads = false, false, false
	if c.woken {
		c.woken = false
		c.readArmed = time.Time{}
		_ = c.Conn.SetReadDeadline(time.Time{})
	}
}

// hurry limits the wait for a request while the server retires. mu is held.
func (c *conn) hurry() {
	defer c.contain() // contains panics, as interrupt does
	c.woken, c.brief = true, false
	end := time.Now().Add(retiredIdle)
	c.leaves = end.UnixNano()
	_ = c.Conn.SetReadDeadline(end)
}

// overdue reports whether the wait that hurry has limited is over.
func (c *conn) overdue() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leaves != 0 && time.Now().UnixNano() >= c.leaves
}

// wake ends the wait for a request when the server drains, and limits it when
// the server retires. A wait that ends by itself within quietAfter continues: a
// busy client may just be sending a request when the connection closes, and a
// client does not retry every request. The response to such a request tells the
// client that it is the last. A drain also limits a handshake and the rest of a
// head.
func (c *conn) wake() {
	if h := c.two.Load(); h != nil {
		h.drain()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.shake != nil && c.s.draining.Err() != nil:
		c.shake.hasten()
	case c.heads && c.s.draining.Err() != nil:
		c.hastenHead()
	case !c.idling:
	case c.s.draining.Err() == nil:
		c.hurry()
	case c.brief:
	default:
		c.woken = true
		c.interrupt()
	}
}

// waitsBriefly reports whether the connection waits for a request and stops
// waiting within quietAfter.
func (c *conn) waitsBriefly() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.idling && c.brief
}

// peekGone reports whether the client has closed its side or reset the
// connection, without reading any of its bytes. Under TLS an alert comes before
// the end of the stream, and a peek cannot tell it from data. As long as data
// is wanted, the end is seen only after that is read. But while an exchange
// waits, maybe for minutes, its body stays unread. Then, with unread set, an
// end after other bytes counts, too.
func (c *conn) peekGone(unread bool) bool {
	switch {
	case c.endSeen():
		return true
	case c.socket == nil, c.raw == nil && unread: // the layers above the socket may hold more bytes
		return false
	case c.tls != nil && !unread:
		return c.HungUp()
	}
	return peek.Gone(c.socket)
}

// HungUp is [peek.HungUp] of the client's connection.
func (c *conn) HungUp() bool { return c.endSeen() || c.socket != nil && peek.HungUp(c.socket) }
