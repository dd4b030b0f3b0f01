package serve

import (
	"time"

	"github.com/hostproxy/hostproxy/internal/h2"
)

// An expense is what a connection of HTTP/2 has cost beyond what its requests cost. The
// conn2's mu guards it.
//
// Frames that ask for nothing are free as long as there are not many more of them than
// of requests and of frames that were sent. Each further one costs a token, and so does
// each stream that is reset, on either side. Tokens come back with time and with answers.
type expense struct {
	paid    float64 // tokens
	counted time.Time
	free    int   // frames that cost nothing
	opens   int64 // bytes of DATA that the client may open windows for again, at no cost
	heads   int   // bytes of the heads of streams
	calmed  bool  // the client has been told to go because of what it has spent
}

// What a client has.
const (
	mostTokens = 200
	perSecond  = 10
	perAnswer  = 0.5
	mostFree   = 200
	maxHeads   = 1 << 20
)

// What all connections of a client address have together, unless it is trusted to hold
// those of many clients.
const (
	clientTokens    = 10 * mostTokens
	clientPerSecond = 10 * perSecond
)

// Causes of what is refused over HTTP/2. Read-only.
var (
	causeMalformed = Cause{"requests", "malformed"}
	causeCalm      = Cause{"connections", "abuse"}
	causeLateHead  = Cause{"requests", "408"}
)

var (
	errCalm    = &h2.Fault{Code: h2.EnhanceYourCalm, Reason: "too many frames or resets"}
	errControl = &h2.Fault{Code: h2.EnhanceYourCalm, Reason: "answers to control frames are not read"}
)

// begin gives a new connection what it may spend.
func (e *expense) begin(now time.Time) { e.counted, e.free = now, mostFree }

// allow makes n frames free.
func (c *conn2) allow(n int) { c.free = max(c.free, min(c.free+n, mostFree)) }

// charge counts a frame that asks for nothing. mu is held.
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

// widened counts a WINDOW_UPDATE. Those for what was sent cost nothing, of which there are
// two: clients read in pieces, also when the answer has ended. mu is held.
func (c *conn2) widened(by uint32) error {
	if by >= fairPiece && int64(by) <= c.opens {
		c.opens -= int64(by)
		return nil
	}
	return c.charge()
}

// spend takes tokens. At three quarters of them, or when those of its address are spent,
// which may be others' doing, the client is told to go; when they are all spent the
// connection ends. mu is held.
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

// affords takes a token from those of the client's address.
func (c *conn2) affords() bool {
	o := &c.c.origin
	return o.trusted || !o.peer.Addr.IsValid() || c.c.s.Budget.calm.Allow(o.peer.Addr, time.Now()).OK
}

// account counts why the connection has ended, if that is the client's fault.
func (c *conn2) account(fault *h2.Fault) {
	switch {
	case fault == errLate2:
		c.c.s.Budget.refuse(causeLateHead, 0, c.c.peer.Addr)
	case c.calmed, fault != nil && fault.Code == h2.EnhanceYourCalm:
		c.c.s.Budget.refuse(causeCalm, 0, c.c.peer.Addr)
	}
}

// earn gives tokens back for an answer that has ended. mu is held.
func (c *conn2) earn() { c.paid = max(0, c.paid-perAnswer) }
