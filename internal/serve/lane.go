package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
	"unsafe"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/forward"
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
	"github.com/hostproxy/hostproxy/internal/hostname"
	"github.com/hostproxy/hostproxy/internal/limit"
)

// The fast lane: one goroutine reads a request, finds its route, asks the target and
// copies the response. An unusual request goes to the handler lane, with its bytes; a
// forbidden one is refused here.
//
// Hot path: no allocation per request; while a connection waits for its next
// request it holds no buffer.

// A Lane is what the fast lane needs to know of the router.
type Lane struct {
	// Route finds who serves a canonical host and a path. It reports false
	// for what the handler lane must serve, refusals included.
	Route func(host, path string, state *tls.ConnectionState) (Hit, bool)

	Name    string         // of the router in Via
	Trusted []netip.Prefix // peers whose forwarding fields count

	Numbering exchange.Numbering // of requests

	// Limit bounds the requests of each client; nil means no bound.
	Limit *limit.Rule

	// End is shown the record of each exchange, if Always, or of each failed
	// one. The record is valid only during the call.
	End    func(*exchange.Record)
	Always bool
}

// A Hit is a route that the fast lane can serve.
type Hit struct {
	Upstream *forward.Forwarder
	Pattern  string
	Life     context.Context // the route's
}

// A step is what a connection does after an exchange.
type step uint8

const (
	again  step = iota // wait for the next request
	end                // close
	linger             // close, after what the client still sends
	drain              // wait for the next request, if what is left of the body comes
	other              // the handler lane goes on with the exchange
	gone               // nothing: a handler has taken the connection over
)

// bufferSize is how much of what a client sends can be held.
const bufferSize = h1.DefaultMaxHead

// A fastExchange is everything that one exchange of the fast lane needs, in one piece
// that is lent to a connection while it is not idle.
type fastExchange struct {
	c *conn
	watched
	front front   // what it sees of its client
	f1    *front1 // likewise, of HTTP/1.x

	in     [bufferSize]byte
	r, w   int    // in[r:w] is unread
	headAt int    // where the head before begins
	size   int    // of it
	long   []byte // the head before, with what was read behind it, if it is longer than in
	odd    bool   // the head says what only the handler lane understands

	out       []byte     // the request on its way, with what of the body goes along
	fields    []h1.Field // of the response's head or trailer section
	final     head       // of the response
	nominated []byte     // what the response's Connection names, for its trailers
	host      []byte
	req       h1.Request
	res       h1.Response
	received  header.Received[[]byte]
	hop       header.Hop

	hit    Hit
	scheme string // the client's, as far as a trusted peer says it
	start  time.Time
	dial   time.Duration // of the attempt
	rec    exchange.Record
	names  [6]name // of the record: method, host, path, query, user agent, referer
	ids    exchange.IDs
	fail   *exchange.Failure
	known  *exchange.Handover // what the handler lane has to know that carries the exchange on; nil if nothing
	asked  bool               // something of the request has gone out
	sent   bool               // the response has begun
	lost   bool               // where the request ends is not known: the connection closes

	attempts forward.Attempts
	upload   upload
	chunks   h1.Chunks // of the response
	first    piece     // of these, what came with the head
}

var exchanges = sync.Pool{New: func() any {
	x := &fastExchange{out: make([]byte, 0, 2<<10)}
	x.renewFront()
	return x
}}

// renewFront gives x a front of its own.
func (x *fastExchange) renewFront() {
	x.f1 = &front1{out: make([]byte, 0, 4<<10)}
	x.front = x.f1
}

// maxKeptOut is the largest output buffer that goes back to the pool.
const maxKeptOut = 64 << 10

func (x *fastExchange) release() {
	x.forget()
	x.c, x.hit, x.fail, x.known, x.long = nil, Hit{}, nil, nil, nil
	x.f1.c, x.f1.x, x.f1.src.x = nil, nil, nil
	x.rec, x.first = exchange.Record{}, piece{}
	x.attempts.Reset()
	if cap(x.out) > maxKeptOut {
		x.out = make([]byte, 0, 2<<10)
	}
	if cap(x.f1.out) > maxKeptOut {
		x.f1.out = make([]byte, 0, 4<<10)
	}
	exchanges.Put(x)
}

// run serves requests until the connection ends or a handler takes it over.
func (c *conn) run() {
	defer c.contain()
	var x *fastExchange
	for {
		if x == nil || x.r == x.w {
			if x != nil {
				x.release()
			}
			if x = c.await(); x == nil {
				if c.startAfresh() {
					go c.run()
					return
				}
				c.shut()
				return
			}
		}
		switch x.serve() {
		case again:
		case end:
			x.release()
			c.shut()
			return
		case linger:
			x.release()
			c.lingerClose()
			return
		case gone: // and x with it
			return
		}
	}
}

// await waits for the first bytes of a request without holding a buffer, and
// returns them in an exchange; nil when the connection is to end.
func (c *conn) await() *fastExchange {
	if !c.beginIdle() {
		return nil
	}
	if c.opaque {
		c.bare()
	}
	var x *fastExchange
	if c.tls != nil {
		x = c.awaitTLS()
	} else if c.readable != nil {
		c.x = nil
		err := c.raw.Read(c.readable)
		c.timedOut = isTimeout(err)
		x, c.x = c.x, nil
	} else {
		x = exchanges.Get().(*fastExchange)
		n, err := c.Conn.Read(x.in[:])
		c.timedOut = isTimeout(err)
		x.r, x.w = 0, n
		if err != nil && n == 0 {
			x.release()
			x = nil
		}
	}
	c.endIdle()
	if x != nil {
		x.c, c.quiet = c, false
	}
	return x
}

// awaitTLS waits for one byte, into the connection itself; the rest of the
// record is then read without waiting.
func (c *conn) awaitTLS() *fastExchange {
	n, err := c.tls.Read(c.first[:])
	c.timedOut = isTimeout(err)
	if n == 0 || err != nil {
		return nil
	}
	x := exchanges.Get().(*fastExchange)
	x.in[0] = c.first[0]
	x.r, x.w = 0, 1
	return x
}

// more reads more of the client's bytes behind those in the buffer.
func (x *fastExchange) more() error {
	if x.r > 0 {
		x.w = copy(x.in[:], x.in[x.r:x.w])
		x.r = 0
	}
	if x.w == len(x.in) {
		return errBufferFull
	}
	n, err := x.c.stream().Read(x.in[x.w:])
	x.w += n
	if n > 0 {
		return nil
	}
	return err
}

var errBufferFull = errors.New("buffer full")

// serve reads a request head and serves it.
func (x *fastExchange) serve() step {
	x.hop.ID = header.RequestID{}
	n, what := x.head()
	if what != again {
		return what
	}
	x.behead(n)
	x.f1.take(x)
	x.f1.src.take(x)
	if !x.named() {
		return x.refuse(errHost)
	}
	if !x.odd && x.route() {
		if next := x.run(); next != other {
			return next
		}
	}
	return x.adapt()
}

// named makes x.host the canonical form of the host that the client wants, and
// reports whether there is one. HTTP/1.0 may do without.
func (x *fastExchange) named() (ok bool) {
	if len(x.req.Host) == 0 {
		x.host = x.host[:0]
		return true
	}
	if x.host, ok = hostname.AppendCanonical(x.host[:0], x.req.Host); ok {
		return true
	}
	host, _, err := hostname.Split(string(x.req.Host)) // the unusual ones
	x.host = append(x.host[:0], host...)
	return err == nil
}

// behead steps over the head of n bytes.
func (x *fastExchange) behead(n int) {
	x.headAt, x.size = x.r, n
	if x.long != nil {
		x.r, x.w = 0, copy(x.in[:], x.long[n:])
		return
	}
	x.r += n
}

// headBytes is the head that was parsed last.
func (x *fastExchange) headBytes() []byte {
	if x.long != nil {
		return x.long[:x.size]
	}
	return x.in[x.headAt : x.headAt+x.size]
}

// head parses the head at the start of the buffer, reading more as needed.
// again means that it is complete and n bytes long.
func (x *fastExchange) head() (n int, next step) {
	x.req.MaxHead = x.c.s.MaxHeaderBytes
	x.long = nil
	slow := false
	for {
		n, err := x.req.Parse(x.unparsed())
		switch err {
		case nil:
			x.odd = x.req.Nominates
			return n, again
		case h1.ErrUnusual:
			x.odd = true
			if err := unusual(&x.req); err != nil {
				return 0, x.refuse(err)
			}
			return n, again
		case h1.ErrMore:
			if !slow {
				slow = true
				x.c.readBy(x.c.s.ReadHeaderTimeout)
			}
			if err := x.moreHead(); err != nil {
				x.req.Reset()
				return 0, x.lateHead(err)
			}
		default:
			x.req.Reset()
			return 0, x.refuse(err)
		}
	}
}

// unparsed is what has come of the next head.
func (x *fastExchange) unparsed() []byte {
	if x.long != nil {
		return x.long
	}
	return x.in[x.r:x.w]
}

// moreHead reads more of a head, which may be as long as the server's MaxHeaderBytes
// says. What is read behind it fits the buffer.
func (x *fastExchange) moreHead() error {
	if x.long == nil {
		if err := x.more(); err != errBufferFull {
			return err
		}
		x.long = append(make([]byte, 0, 4*bufferSize), x.in[:]...)
		x.r, x.w = 0, 0
	}
	n, err := x.c.stream().Read(x.in[:])
	x.long = append(x.long, x.in[:n]...)
	if n > 0 {
		return nil
	}
	return err
}

// unusual returns why an unusual head is refused, nil if it is not.
func unusual(r *h1.Request) error {
	switch {
	case r.Unusual&h1.UnusualPreface != 0:
		return errPreface
	case r.Unusual&h1.UnusualTarget != 0 && !hostValid(r):
		return errHost
	}
	return nil
}

var errPreface = &h1.Refusal{Status: 505, Reason: "HTTP/2 without TLS is not supported"}

var errHost = &h1.Refusal{Status: 400, Reason: "invalid Host"}

// hostValid reports whether the Host field names a host. It has to, where the
// target decides over it, too (RFC 9112, 3.2).
func hostValid(req *h1.Request) bool {
	host, ok := req.Value("host")
	if !ok {
		return true // of HTTP/1.0
	}
	_, _, err := hostname.Split(string(host))
	return err == nil
}

// lateHead answers a head that did not come to its end.
func (x *fastExchange) lateHead(err error) step {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		x.reject(408, errLateHead, nil) // the buffer has moved
	}
	return end
}

var errLateHead = errors.New("the head of the request was not complete in time")

// refuse answers a head that must not be forwarded by any lane.
func (x *fastExchange) refuse(err error) step {
	status := 400
	var refusal *h1.Refusal
	if errors.As(err, &refusal) {
		status = refusal.Status
	}
	x.reject(status, err, &x.req)
	return linger
}

// route finds who serves the request; false means the handler lane.
func (x *fastExchange) route() (ok bool) {
	x.hit, ok = x.c.s.Lane.Route(view(x.host), view(x.req.Path), x.c.state)
	if !ok {
		return false
	}
	f := x.hit.Upstream
	x.attempts.Take(f)
	x.attempts.Pooled = true
	if f.Diverts() {
		return f.Plain() && f.For(x.client()).Fast()
	}
	return f.Fast()
}

// view is b as a string, valid as long as b is not changed.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
