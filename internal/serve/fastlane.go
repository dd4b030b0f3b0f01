package serve

import (
	"context"
	"crypto/tls"
	"net/netip"
	"time"
	"unsafe"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/forward"
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
	"github.com/hostproxy/hostproxy/internal/hostname"
	"github.com/hostproxy/hostproxy/internal/limit"
	"github.com/hostproxy/hostproxy/internal/proxyproto"
)

// The fast lane: one goroutine reads a request, finds its route, asks the
// target and copies the response. An unusual request goes to the handler lane,
// with its bytes; a forbidden one is refused here.
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
	Hooks     *exchange.Hooks    // at the beginning of exchanges and attempts; nil has none

	Heads *forward.Outers // edits of all final responses; nil edits nothing

	// Limit bounds the requests of each client; nil means no bound.
	Limit *limit.Rule

	// Retired is told of an exchange's route that has gone while it was served.
	Retired func(route any)

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
	Route    any             // for Retired
}

// A fastExchange is everything that one exchange of the fast lane needs, in one
// piece that is lent to a connection while it is not idle.
type fastExchange struct {
	watched

	out       []byte     // the request on its way, with what of the body goes along
	fields    []h1.Field // of the response's head or trailer section
	final     head       // of the response
	paths     []byte     // values of the response's fields that name some
	nominated []byte     // what the response's Connection names, for its trailers
	host      []byte
	req       h1.Request
	res       h1.Response
	received  header.Received[[]byte]
	hop       header.Hop

	hit    Hit
	scheme string        // the client's, as far as a trusted peer says it
	edit   *forward.Edit // of the response
	start  time.Time
	dial   time.Duration // of the attempt
	rec    exchange.Record
	names  [6]name // of the record: method, host, path, query, user agent, referer
	ids    exchange.IDs
	fail   *exchange.Failure
	// what the handler lane has to know that carries the exchange on; nil if
	// nothing
	known *exchange.Handover
	asked bool // something of the request has gone out
	sent  bool // the response has begun
	lost  bool // where the request ends is not known: the connection closes

	// that a kept connection must have been opened for, where that matters
	origin    proxyproto.Header
	beginning exchange.Beginning
	set       []header.Replacement // by the hook Begin

	attempts forward.Attempts
	upload   upload
	chunks   h1.Chunks // of the response
	first    piece     // of these, what came with the head
}

// maxKeptOut is the largest output buffer that goes back to the pool.
const maxKeptOut = 64 << 10

// release forgets whose exchange x was.
func (x *fastExchange) release() {
	x.from, x.hit, x.fail, x.known, x.set, x.hop.Set, x.edit = nil, Hit{}, nil, nil, nil, nil, nil
	x.rec, x.first = exchange.Record{}, piece{}
	x.attempts.Reset()
	if cap(x.out) > maxKeptOut {
		x.out = make([]byte, 0, 2<<10)
	}
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

// route finds who serves the request; false means the handler lane.
func (x *fastExchange) route() (ok bool) {
	x.hit, ok = x.from.s.Lane.Route(view(x.host), view(x.req.Path), x.from.state)
	if !ok {
		return false
	}
	f := x.hit.Upstream
	if f.NeedsBody() && x.req.Framing() != h1.NoBody {
		return false
	}
	x.attempts.Take(f)
	x.attempts.Pooled = true
	if f.Diverts() {
		to := f.For(x.client())
		return f.Plain() && to.Fast() && (!to.NeedsBody() || x.req.Framing() == h1.NoBody)
	}
	return f.Fast()
}

// proto returns the request's version of HTTP, as records name it.
func (x *fastExchange) proto() string {
	if x.front.major() == 2 {
		return "HTTP/2.0"
	}
	return "HTTP/1.1"
}

// view is b as a string, valid as long as b is not changed.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
