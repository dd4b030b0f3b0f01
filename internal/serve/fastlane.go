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

// The fast lane: one goroutine reads a request, finds its route, sends it to
// the target and copies the response. An unusual request goes to the handler
// lane with all its bytes; a forbidden one is refused here.
//
// Hot path: no allocation per request. A connection that waits for its next
// request holds no buffer.

// A Lane holds what the fast lane needs from the router.
type Lane struct {
	// Route finds the upstream for a canonical host and a path. It reports
	// false if the handler lane must serve the request or refuse it.
	Route func(host, path string, state *tls.ConnectionState) (Hit, bool)

	Name    string         // the router's name in Via
	Trusted []netip.Prefix // peers whose forwarding fields are believed

	Numbering exchange.Numbering // request identifiers
	Hooks     *exchange.Hooks    // called at the start of exchanges and attempts; may be nil

	Heads *forward.Outers // edits of all final responses; nil edits nothing

	// Limit bounds the requests of each client; nil means no bound.
	Limit *limit.Rule

	// Retired is called with the exchange's route if that was removed while the
	// exchange was served.
	Retired func(route any)

	// End gets the record of each exchange if Always is set, otherwise of each
	// failed one. The record is valid only during the call.
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
// piece. A connection has one while it is not idle.
type fastExchange struct {
	watched

	out       []byte     // the outgoing request, with the part of the body that is sent with it
	fields    []h1.Field // fields of the response's head or trailer section
	final     head       // head of the response
	paths     []byte     // values of the response's fields that contain paths
	nominated []byte     // named by the response's Connection: dropped from its trailers
	host      []byte
	req       h1.Request
	res       h1.Response
	received  header.Received[[]byte]
	hop       header.Hop

	hit    Hit
	scheme string        // the client's scheme, from a trusted peer if there is one
	edit   *forward.Edit // of the response
	start  time.Time
	dial   time.Duration // duration of the attempt's dial
	rec    exchange.Record
	names  [6]name // strings of the record: method, host, path, query, user agent, referer
	ids    exchange.IDs
	fail   *exchange.Failure
	// passed on to the handler lane if that continues the exchange; otherwise
	// nil
	known *exchange.Handover
	asked bool // a part of the request has been sent
	sent  bool // the response has begun
	lost  bool // the end of the request is not known: the connection closes

	// a kept connection must have been opened for it, if the target's pool
	// separates clients
	origin    proxyproto.Header
	beginning exchange.Beginning
	set       []header.Replacement // set by the Begin hook

	attempts forward.Attempts
	upload   upload
	chunks   h1.Chunks // of the response
	first    piece     // the part that came with the head
}

// maxKeptOut is the largest output buffer that goes back to the pool.
const maxKeptOut = 64 << 10

// release clears what belongs to the last exchange.
func (x *fastExchange) release() {
	x.from, x.hit, x.fail, x.known, x.set, x.hop.Set, x.edit = nil, Hit{}, nil, nil, nil, nil, nil
	x.rec, x.first = exchange.Record{}, piece{}
	x.attempts.Reset()
	if cap(x.out) > maxKeptOut {
		x.out = make([]byte, 0, 2<<10)
	}
}

// named sets x.host to the canonical form of the requested host, and reports
// whether that is valid. HTTP/1.0 may have no host.
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

// route finds the upstream for the request. It returns false if the handler
// lane must serve it.
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

// proto returns the request's version of HTTP as in records.
func (x *fastExchange) proto() string {
	if x.front.major() == 2 {
		return "HTTP/2.0"
	}
	return "HTTP/1.1"
}

// view returns b as a string, valid only until b is changed.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
