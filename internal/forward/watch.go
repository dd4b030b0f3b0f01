package forward

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/hostproxy/hostproxy/internal/header"
)

// Begin starts the exchange of q. trusted are the peers whose forwarding
// fields count.
func Begin(q *http.Request, trusted []netip.Prefix) *Exchange {
	x := &Exchange{Record: Record{
		Start:  time.Now(),
		Proto:  q.Proto,
		Scheme: "http",
		Method: q.Method,
		Host:   q.Host,
		Path:   WirePath(q),
		Query:  q.URL.RawQuery,
	}}
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
		x.hear(q.Header)
	}
	x.Client = header.ClientIP(x.Via, trusted, q.Header["X-Forwarded-For"])
	x.Lives[0] = DrainFrom(q.Context())
	x.takeOver(q)
	awaitTrailers(q)
	return x
}

// awaitTrailers lets copies of q get the trailers too: net/http gives those that
// were not announced to this very request, unless there is a map for them.
func awaitTrailers(q *http.Request) {
	if q.Trailer == nil && q.ContentLength < 0 {
		q.Trailer = make(http.Header)
	}
}

// hear notes what a trusted peer says of the client's request.
func (x *Exchange) hear(h http.Header) {
	var received header.Received[string]
	for _, said := range h["X-Forwarded-Proto"] {
		received.Note(header.ForwardedProto, said)
	}
	for _, said := range h["X-Forwarded-Host"] {
		received.Note(header.ForwardedHost, said)
	}
	x.ClientScheme, x.ClientHost = received.Scheme(x.Scheme), received.Host(x.Host)
}

// Finish sets what is known only at the end.
func (x *Exchange) Finish() {
	x.Duration = time.Since(x.Start)
	switch {
	case x.Status != 0:
	case x.Returned:
		x.Status = http.StatusOK // a handler that writes nothing says so
	default:
		x.Status = http.StatusInternalServerError
		x.Fail(&Failure{Op: "read", Side: SideProxy, Err: errPanic})
	}
}

// Left ends the exchange of q, whose client left before it was answered, because
// of err. It panics with http.ErrAbortHandler, as net/http demands.
func Left(q *http.Request, err error) {
	if x := FromContext(q.Context()); x != nil {
		x.Status = StatusClientClosed
		x.Fail(&Failure{Op: "read", Side: SideClient, Status: StatusClientClosed, Err: err})
	}
	panic(http.ErrAbortHandler)
}

var errPanic = errors.New("a handler panicked")

// Watch returns w noting status and body bytes in x.
func Watch(w http.ResponseWriter, x *Exchange) http.ResponseWriter { return watch(w, x) }

func watch(w http.ResponseWriter, x *Exchange) *watcher {
	inner := x.watched
	x.watched = true
	return &watcher{ResponseWriter: w, x: x, inner: inner}
}

// A watcher is a ResponseWriter that notes in the record what the client got. The
// bytes are those of the first watcher of an exchange, which is the nearest to the
// client: handlers may change what the others are given.
type watcher struct {
	http.ResponseWriter
	x     *Exchange
	wrote bool
	inner bool // there is one nearer to the client
}

// WriteHeader notes the first final status.
func (w *watcher) WriteHeader(status int) {
	if !w.wrote && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.wrote = true
		w.x.Status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write counts p.
func (w *watcher) Write(p []byte) (int, error) {
	w.implicit()
	n, err := w.ResponseWriter.Write(p)
	w.count(int64(n))
	return n, err
}

// ReadFrom keeps the inner writer's fast path.
func (w *watcher) ReadFrom(src io.Reader) (int64, error) {
	w.implicit()
	n, err := io.Copy(w.ResponseWriter, src)
	w.count(n)
	return n, err
}

func (w *watcher) count(n int64) {
	if !w.inner {
		w.x.ResponseBytes += n
	}
}

func (w *watcher) implicit() {
	if !w.wrote {
		w.wrote = true
		w.x.Status = http.StatusOK
	}
}

// Flush is for handlers that assert http.Flusher.
func (w *watcher) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }

// Hijack is for handlers that assert http.Hijacker.
func (w *watcher) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

// Unwrap lets http.ResponseController find the rest.
func (w *watcher) Unwrap() http.ResponseWriter { return w.ResponseWriter }
