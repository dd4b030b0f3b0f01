package exchange

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/hostproxy/hostproxy/internal/header"
)

// exchanges holds released exchanges.
var exchanges = sync.Pool{New: func() any { return new(Exchange) }}

// Begin starts the exchange of q. trusted are the peers whose forwarding fields
// are believed.
func Begin(q *http.Request, trusted []netip.Prefix) *Exchange {
	x := exchanges.Get().(*Exchange)
	x.Start, x.Scheme = time.Now(), "http"
	x.Proto, x.Method, x.Host, x.Path, x.Query = Proto(q), q.Method, q.Host, WirePath(q), q.URL.RawQuery
	x.UserAgent, x.Referer = Bounded(q.Header.Get("User-Agent")), Bounded(q.Header.Get("Referer"))
	x.Secured(q.TLS)
	if q.TLS != nil {
		x.Scheme = "https"
	}
	x.Via = header.ParsePeer(q.RemoteAddr)
	x.Peer = x.Via.Addr
	x.Trusted = x.Via.TrustedBy(trusted)
	x.ClientScheme, x.ClientHost = x.Scheme, x.Host
	if x.Trusted {
		x.readForwarded(q.Header)
	}
	x.Client = header.ClientIP(x.Via, trusted, q.Header["X-Forwarded-For"])
	x.Lives[0], x.client = DrainFrom(q.Context()), clientOf(q.Context())
	if x.client == nil {
		x.cut, _ = q.Context().Value(cutKey{}).(context.Context)
	}
	x.takeOver(q)
	AwaitTrailers(q)
	return x
}

// Live makes the streams of x end with its route, whose life is given. If ctx,
// the context of its request, is that of a handler in another Router, they end
// with the route there, too. The caller calls end after the exchange.
func (x *Exchange) Live(ctx, route context.Context) (end func()) {
	x.Lives[RouteLife] = route
	around := FromContext(ctx)
	if around == nil || around.Lives[RouteLife] == nil {
		return func() {}
	}
	both, cancel := context.WithCancel(route)
	x.Lives[RouteLife] = both
	stop := context.AfterFunc(around.Lives[RouteLife], cancel)
	return func() {
		stop()
		cancel()
	}
}

// Release returns the memory of x, which is finished, to a pool. It does
// nothing if the handler has panicked or if something may still hold x.
func (x *Exchange) Release() {
	if x.Returned && !x.Shared {
		if p := x.told; p != nil {
			*p = progress{}
			progresses.Put(p)
		}
		b := x.beginning
		*x = Exchange{beginning: b}
		exchanges.Put(x)
	}
}

// AwaitTrailers makes trailers visible in copies of q, too. Without a map in q,
// net/http stores trailers that were not announced only in q itself.
func AwaitTrailers(q *http.Request) {
	if q.Trailer == nil && q.ContentLength < 0 {
		q.Trailer = make(http.Header)
	}
}

// readForwarded notes what a trusted peer reports about the client's request.
func (x *Exchange) readForwarded(h http.Header) {
	var received header.Received[string]
	for _, said := range h["X-Forwarded-Proto"] {
		received.Note(header.ForwardedProto, said)
	}
	for _, said := range h["X-Forwarded-Host"] {
		received.Note(header.ForwardedHost, said)
	}
	x.ClientScheme, x.ClientHost = received.Scheme(x.Scheme), received.Host(x.Host)
}

// Finish sets the fields that are known only at the end.
func (x *Exchange) Finish() {
	switch {
	case x.Status != 0:
	case x.Returned:
		x.Status = http.StatusOK // the status of a handler that writes nothing
	default:
		x.Status = http.StatusInternalServerError
	}
	if !x.Returned { // Fail keeps an earlier failure
		x.Fail(&Failure{Op: "read", Side: SideProxy, Err: errPanic})
	}
	if f, ok := x.Err.(*Failure); ok {
		x.Because(f, x.why())
	}
	x.Conclude(time.Now())
}

// Left ends the exchange of q, whose context has ended with err before the
// response began. If a handler of the program has ended it, Left responds with
// that. Otherwise the client has left, and Left panics with
// http.ErrAbortHandler, as net/http requires.
func Left(w http.ResponseWriter, q *http.Request, err error) {
	if why := Revoked(q.Context()); why != nil {
		f := &Failure{Op: "read", Side: SideProxy, Err: why}
		f.Status, f.Reason = Reason(f.Op, why)
		f.Handler().ServeHTTP(w, q)
		return
	}
	if l := loanOf(q.Context()); l != nil {
		l.note(notes{status: StatusClientClosed, fail: &Failure{Op: "read", Side: SideClient, Status: StatusClientClosed, Err: err}})
	}
	panic(http.ErrAbortHandler)
}

var errPanic = errors.New("a handler panicked")

// Proto returns the version of HTTP that q is processed as. A later minor
// version of HTTP/1 counts as HTTP/1.1 (RFC 9110, 2.5). With HTTP/3, q.Proto
// may be the protocol of an extended CONNECT; see Protocol.
func Proto(q *http.Request) string {
	switch {
	case q.ProtoMajor == 1 && q.ProtoMinor > 1:
		return "HTTP/1.1"
	case q.ProtoMajor == 3:
		return "HTTP/3.0"
	}
	return q.Proto
}

// Protocol returns the protocol of q if it is an extended CONNECT (RFC 8441 and
// 9220), else "". Our front and net/http keep it among the fields; quic-go puts
// it in place of the version.
func Protocol(q *http.Request) string {
	if q.Method != http.MethodConnect {
		return ""
	}
	if p := q.Header.Get(":protocol"); p != "" || q.ProtoMajor < 3 || strings.HasPrefix(q.Proto, "HTTP/") {
		return p
	}
	return q.Proto
}

// IsHTTP10 reports whether q uses HTTP/1.0, which has no Upgrade, no Expect and
// no interim responses.
func IsHTTP10(q *http.Request) bool { return q.ProtoMajor == 1 && q.ProtoMinor == 0 }

// CloseUnbounded makes the response to q the last one of its connection if the
// bytes after q may be its body. HTTP/1.0 requires a length for every body, but
// not every sender gives one (RFC 1945, 7.2.2 and 8.3). net/http reads those
// bytes as another request.
func CloseUnbounded(w http.ResponseWriter, q *http.Request) {
	if IsHTTP10(q) && q.Method != http.MethodGet && q.Method != http.MethodHead && q.Header["Content-Length"] == nil {
		w.Header().Set("Connection", "close")
	}
}
