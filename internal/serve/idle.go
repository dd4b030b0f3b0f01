package serve

import (
	"time"

	"github.com/hostproxy/hostproxy/internal/peek"
)

// quietAfter is how long a connection waits for its next request on the
// goroutine of the last one. Then it goes on on a new goroutine, since an
// exchange leaves a stack behind that is twice what waiting needs.
const quietAfter = 250 * time.Millisecond

// startAfresh reports whether the wait that ended without a request goes on on
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

// beginIdle begins the wait for the next request; false means that the server
// drains and no request is wanted any more. What TLS has read already is one
// that has begun: it is looked for, without waiting. A client that has sent its
// last request less than quietAfter ago may be sending the next one: it is
// waited for, also in a drain.
func (c *conn) beginIdle() bool {
	wait := c.s.limit().IdleTimeout
	switch {
	case !c.quiet && (wait <= 0 || wait > quietAfter):
		wait = quietAfter
	case c.quiet && wait > 0:
		wait = max(wait-quietAfter, 1) // it may have become shorter
	}
	if c.s.retiring.Err() != nil && c.s.draining.Err() == nil {
		c.quiet = true // the wait is short and does not go on
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

// endIdle ends it.
func (c *conn) endIdle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idling, c.brief = false, false
	if c.woken {
		c.woken = false
		c.readArmed = time.Time{}
		_ = c.Conn.SetReadDeadline(time.Time{})
	}
}

// hurry limits the wait for a request of a server that retires. mu is held.
func (c *conn) hurry() {
	defer c.contain() // as interrupt does
	c.woken, c.brief = true, false
	end := time.Now().Add(retiredIdle)
	c.leaves = end.UnixNano()
	_ = c.Conn.SetReadDeadline(end)
}

// overdue reports whether the wait that hurry has limited is over, and not an
// earlier one.
func (c *conn) overdue() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leaves != 0 && time.Now().UnixNano() >= c.leaves
}

// wake ends the wait for a request when the server drains, and limits it when
// the server retires. A wait that ends by itself within quietAfter goes on:
// closing the connection would cross the request of a busy client, and a client
// does not send every request again. The response to such a request says that
// it is the last.
func (c *conn) wake() {
	if h := c.two.Load(); h != nil {
		h.drain()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !c.idling:
	case c.s.draining.Err() == nil:
		c.hurry()
	case c.brief:
	default:
		c.woken = true
		c.interrupt()
	}
}

// waitsBriefly reports whether the connection has no request, and ends within
// quietAfter if none comes.
func (c *conn) waitsBriefly() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.idling && c.brief
}

// peekGone reports whether the client has closed its side or reset the
// connection, without taking any of its bytes. Under TLS there is an alert
// before the end of the stream, which cannot be told from the client's data;
// while that is still wanted, the end has to wait for it. But the body of an
// exchange that waits is not read, maybe for minutes, so that it is unread:
// then the end behind it counts.
func (c *conn) peekGone(unread bool) bool {
	switch {
	case c.endSeen():
		return true
	case c.socket == nil, c.raw == nil && unread: // what is above the socket may hold more
		return false
	case c.tls != nil && !unread:
		return c.HungUp()
	}
	return peek.Gone(c.socket)
}

// HungUp is [peek.HungUp] of the client's connection.
func (c *conn) HungUp() bool { return c.endSeen() || c.socket != nil && peek.HungUp(c.socket) }
