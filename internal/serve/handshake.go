package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/peek"
)

var (
	errNoSlot   = errors.New("too many handshakes are in flight")
	errDraining = errors.New("the server is shutting down")
)

// alertTime is how long a client may take to read the alert that ends a
// handshake.
const alertTime = time.Second

// shakeFarewell is how long the client has for each step of its handshake once
// the server drains. A client that has connected before may just be doing so.
const shakeFarewell = 3 * time.Second

// A handshake is a TLS handshake in flight. It takes one of the
// Bounds.MaxHandshakes places when the ClientHello has been read, and gives it
// back while it waits for a certificate. Only the connection's goroutine uses
// it, except for until, and changes conn.shake.
type handshake struct {
	conn      *conn
	deadline  time.Time // zero means none
	heard     time.Time // when the ClientHello was complete
	challenge bool      // a CA validates an ACME challenge
	leave     func()    // gives the place back; nil if there is none
	until     time.Time // what conn's deadline is set to; zero means none; guarded by conn.mu
}

// shakeHands does the TLS handshake within its limits.
func (c *conn) shakeHands() bool {
	h := &handshake{conn: c}
	defer c.endShake() // also after a panic in a hook
	if t := c.s.limit().HandshakeTimeout; t > 0 {
		// Not a context: a handshake that waits for a certificate may get more
		// time.
		h.deadline = time.Now().Add(t)
	}
	h.setDeadline()
	c.tls = tls.Server(c, c.s.TLS)
	err := c.tls.HandshakeContext(context.Background())
	if err == nil {
		c.endShake() // first: wake must not set a deadline that remains
		state := c.tls.ConnectionState()
		c.state = &state
		return c.SetDeadline(time.Time{}) == nil
	}
	var plain tls.RecordHeaderError
	if errors.As(err, &plain) && plain.Conn != nil && looksLikeHTTP(plain.RecordHeader) {
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = c.Write(c.s.refusePlain())
	}
	c.countShake(err)
	c.s.Log.Debug("handshake failed", "remote", c.RemoteAddr(), "cause", err)
	return false
}

// refusePlain returns the response to a plain request at a listener for TLS.
func (s *Server) refusePlain() []byte {
	p := []byte("HTTP/1.0 400 Bad Request\r\nConnection: close\r\n")
	p = h1.AppendFields(p, s.Lane.Heads.For("http").EditReply(nil))
	return append(p, "\r\nthis port speaks HTTPS\n"...)
}

// endShake ends what belongs to the handshake. It may be called more than once.
func (c *conn) endShake() {
	h := c.shake
	if h == nil {
		return
	}
	c.mu.Lock()
	c.shake = nil
	c.mu.Unlock()
	h.giveBack()
}

// setDeadline sets the deadline of the connection to that of the handshake, or
// to an earlier one if the server drains.
func (h *handshake) setDeadline() {
	c := h.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.until = h.deadline; !h.until.IsZero() {
		_ = c.SetDeadline(h.until)
	}
	c.shake = h // from now on wake sees it
	if c.s.draining.Err() != nil {
		h.hasten()
	}
}

// hasten limits the wait for the client's next step when the server drains.
// conn.mu is held.
func (h *handshake) hasten() {
	defer h.conn.contain() // contains panics, as interrupt does
	end := time.Now().Add(shakeFarewell)
	if !h.until.IsZero() && h.until.Before(end) {
		end = h.until
	}
	_ = h.conn.Conn.SetReadDeadline(end)
}

// writes is called when the server takes a step: it may have waited for a
// certificate or a key for longer than the client has.
func (h *handshake) writes() {
	c := h.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.s.draining.Err() != nil {
		h.hasten()
	}
}

// greet takes a place for each handshake, then calls next, which chooses the
// TLS settings.
func greet(next func(*tls.ClientHelloInfo) (*tls.Config, error)) func(*tls.ClientHelloInfo) (*tls.Config, error) {
	return func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if c, ok := hello.Conn.(*conn); ok && c.shake != nil {
			if err := c.shake.begin(hello); err != nil {
				return nil, err
			}
		}
		if next == nil {
			return nil, nil
		}
		return next(hello)
	}
}

// begin takes a place for a handshake whose ClientHello has been read.
func (h *handshake) begin(hello *tls.ClientHelloInfo) error {
	h.heard = time.Now()
	// A CA that validates a challenge offers only this protocol (RFC 8737, 3).
	p := hello.SupportedProtos
	h.challenge = len(p) == 1 && p[0] == "acme-tls/1" && hello.ServerName != ""
	return h.takePlace()
}

// takePlace waits for a place among the handshakes in flight. Challenges have
// places of their own and do not wait.
func (h *handshake) takePlace() error {
	if h.challenge {
		h.leave = h.conn.s.challenges.enter(h.conn)
		return nil
	}
	places := &h.conn.s.Budget.shakes
	if err := places.take(h.deadline, h.conn.s.draining.Done()); err != nil {
		return err
	}
	h.leave = places.leave
	return nil
}

func (h *handshake) giveBack() {
	if h.leave != nil {
		h.leave()
		h.leave = nil
	}
}

// Pause gives the handshake's place back while it waits for a certificate. ctx
// ends when the client disconnects, when the server drains, and at the
// handshake's deadline, which becomes at least atLeast after the ClientHello.
// The caller calls end after the wait, with nil or the error that ends the
// handshake. With nil, end waits for a place again, and returns an error if
// there is none in time. Pause runs on the handshake's goroutine only.
func (c *conn) Pause(atLeast time.Duration) (ctx context.Context, end func(error) error) {
	h := c.shake
	h.giveBack()
	if limit := h.heard.Add(atLeast); !h.deadline.IsZero() && limit.After(h.deadline) {
		h.deadline = limit
	}
	ctx, stop := c.s.draining, context.CancelFunc(func() {})
	if !h.deadline.IsZero() {
		ctx, stop = context.WithDeadline(ctx, h.deadline)
	}
	c.lookAhead()
	ctx, cancel := peek.Context(ctx, c)
	return ctx, func(err error) error {
		cancel()
		stop()
		c.lookBack()
		return h.resume(err)
	}
}

// resume continues a handshake after a wait if err is nil. Otherwise it gives
// the handshake time to send an alert.
func (h *handshake) resume(err error) error {
	if err == nil {
		err = h.takePlace()
	}
	if err == nil {
		h.setDeadline()
	} else if !h.deadline.IsZero() {
		_ = h.conn.SetDeadline(time.Now().Add(alertTime))
	}
	return err
}

// maxChallenges limits the simultaneous handshakes of CAs that validate
// challenges. A CA validates each order from several places.
const maxChallenges = 128

// challenges are the handshakes of CAs that validate challenges. They do not
// wait for each other: beyond the limit, the oldest is cut off.
type challenges struct {
	mu   sync.Mutex
	open []*conn // the oldest first
}

func (p *challenges) enter(c *conn) (leave func()) {
	p.mu.Lock()
	var oldest net.Conn
	if len(p.open) == maxChallenges {
		oldest = p.open[0]
		p.open = slices.Delete(p.open, 0, 1)
	}
	p.open = append(p.open, c)
	p.mu.Unlock()
	if oldest != nil {
		oldest.Close()
	}
	return func() { p.remove(c) }
}

func (p *challenges) remove(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.open, c); i >= 0 {
		p.open = slices.Delete(p.open, i, i+1)
	}
}

// looksLikeHTTP reports whether head begins with an HTTP method.
func looksLikeHTTP(head [5]byte) bool {
	switch string(head[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "PATCH", "DELET":
		return true
	}
	return false
}
