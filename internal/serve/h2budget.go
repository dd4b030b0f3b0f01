package serve

import (
	"time"

	"github.com/hostproxy/hostproxy/internal/h2"
)

// An expense limits the frames and resets of an HTTP/2 connection. The conn2's
// mu guards it.
//
// Frames without use for a request, such as PING, are free while their number
// stays in proportion to requests and to frames sent. Each further one costs a
// token, and so does each stream that the client resets, that is malformed, or
// that exceeds a limit. Tokens come back with time and with complete responses.
type expense struct {
	paid    float64 // tokens spent
	counted time.Time
	free    int   // further frames that cost nothing
	opens   int64 // bytes that WINDOW_UPDATE frames may give back at no cost
	heads   int   // bytes of the heads of all streams
	calmed  bool  // GOAWAY was sent because too many tokens were spent
}

// Limits of a connection. perSecond and perAnswer are tokens that come back.
const (
	mostTokens = 200
	perSecond  = 10
	perAnswer  = 0.5
	mostFree   = 200
	maxHeads   = 1 << 20
)

// Limits of all connections of a client address together. A trusted proxy has
// none.
const (
	clientTokens    = 10 * mostTokens
	clientPerSecond = 10 * perSecond
)

// Causes that count refused requests and closed connections. Read-only.
var (
	causeMalformed = Cause{"requests", "malformed"}
	causeCalm      = Cause{"connections", "abuse"}
	causeLateHead  = Cause{"requests", "408"}
)

var (
	errCalm    = &h2.Fault{Code: h2.EnhanceYourCalm, Reason: "too many frames or resets"}
	errControl = &h2.Fault{Code: h2.EnhanceYourCalm, Reason: "answers to control frames are not read"}
)

// begin gives a new connection its tokens and free frames.
func (e *expense) begin(now time.Time) { e.counted, e.free = now, mostFree }

// allow makes n further frames free, up to mostFree.
func (c *conn2) allow(n int) { c.free = max(c.free, min(c.free+n, mostFree)) }

// charge counts a frame without use for a request. mu is held.
func (c *conn2) charge() error {
	switch {
	case c.queued > mostControl:
		return errControl
	case c.free > 0:
		c.free--
		return nil
	}
	return c.spend(1)
}

// widened counts a WINDOW_UPDATE. It is free if it gives back DATA that was
// sent, in pieces of at least fairPiece, also after the response has ended. mu
// is held.
func (c *conn2) widened(by uint32) error {
	if by >= fairPiece && int64(by) <= c.opens {
		c.opens -= int64(by)
		return nil
	}
	return c.charge()
}

// spend takes n tokens. If three quarters of the connection's tokens are spent,
// or all tokens of the client's address (which other connections share), it
// sends GOAWAY and lets streams go on. If all of the connection's tokens are
// spent, it ends the connection. mu is held.
func (c *conn2) spend(n float64) error {
	now := c.c.s.now()
	if past := now.Sub(c.counted); past > 0 {
		c.paid = max(0, c.paid-perSecond*past.Seconds())
		c.counted = now
	}
	c.paid += n
	switch affords := c.affords(); {
	case c.paid > mostTokens:
		return errCalm
	case (c.paid > mostTokens*3/4 || !affords) && c.stage != drainLast:
		c.calmed = true
		c.goAwayWith(h2.EnhanceYourCalm, errCalm.Reason)
	}
	return nil
}

// affords takes a token of the client's address, and reports whether there was
// one.
func (c *conn2) affords() bool {
	o := &c.c.origin
	return o.trusted || !o.peer.Addr.IsValid() || c.c.s.Budget.calm.Allow(o.peer.Addr, time.Now()).OK
}

// account counts a connection that has ended because of the client.
func (c *conn2) account(fault *h2.Fault) {
	switch {
	case fault == errLate2:
		c.c.s.Budget.refuse(causeLateHead, 0, c.c.peer.Addr)
	case c.calmed, fault != nil && fault.Code == h2.EnhanceYourCalm:
		c.c.s.Budget.refuse(causeCalm, 0, c.c.peer.Addr)
	}
}

// earn gives tokens back for a complete response. mu is held.
func (c *conn2) earn() { c.paid = max(0, c.paid-perAnswer) }
