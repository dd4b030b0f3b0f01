package serve

import (
	"context"
	"fmt"
	"net/http"
	"path"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/h1"
)

// An adapter serves one request of a front by an http.Handler, on the
// connection's own goroutine: the handler lane. What a handler may keep (the
// request, its header map and the response writer) is made anew for each
// request; the rest comes from a pool.
//
// Handlers see what net/http documents. These points differ from net/http:
//
//   - HTTP/1.0 gets no interim responses; its Expect and Upgrade are ignored
//   - HTTP/1.0 loses its connection after a request that may have a body but
//     gives no length
//   - a 304 keeps the Content-Length and Content-Type that the handler gave it
//   - a body that the handler leaves unread does not delay the response: see
//     source.settle. Its Close reads nothing
//   - a body that has been read to its end still returns io.EOF after the
//     response has begun
//   - a client that was sent 100 Continue keeps its connection if the rest of
//     its body comes in time
//   - a response body that ends with the connection ends with a reset if it is
//     cut off
//   - io.ReaderFrom sends no more than the Content-Length
//   - control characters in header values become blanks
//   - Content-Length, Transfer-Encoding and Connection are recognised however
//     the handler spells their keys; http.TrailerPrefix cannot make a trailer
//     of a field that may not be one
//   - a 101 whose connection the handler does not take over is the last
//     response
//   - Pragma is not turned into Cache-Control
//   - a client that has closed its side has a second to get its response before
//     the request's context ends
//   - http.MaxBytesReader does not close the connection by itself
//   - over HTTP/2, a request's trailers need no announcement, there is no
//     http.Pusher, and a body that stalls before the response fails after
//     exchange.BodyStall, except for gRPC and extended CONNECT
type adapter struct {
	c      *conn
	f      front
	one    *front1 // f on HTTP/1.x, for what HTTP/2 does not have; else nil
	w      *response
	writer http.ResponseWriter // w, as the handler sees it
	q      *http.Request
	texts  text

	keys   []string   // sorted keys of the handler's header
	fields []h1.Field // fields of the head, as they were at WriteHeader
	out    head
	given  given

	order exchange.Order // field order of the next head; see Ordered

	relayed bool   // fields were set by Relay
	relay   []byte // memory of the relayed fields

	headOnly bool  // the request is HEAD
	wrote    bool  // the final status is known
	sent     bool  // the head has been given to the front
	done     bool  // the handler has returned
	duplex   bool  // see EnableFullDuplex
	hijacked bool  // the handler has taken over the connection
	written  int64 // bytes of the body that the handler has written
	buf      [bufferBefore]byte
	n        int // bytes of buf in use

	// the request waited for 100 Continue at first; if not, the fields below
	// are unused
	expects bool
	asking  sync.Mutex // guards asks, and is held to write 100 Continue
	asks    bool       // the first read of the body sends 100 Continue
}

// bufferBefore is how much of a body is held back until its length is known.
const bufferBefore = 2 << 10

var adapters = sync.Pool{New: func() any { return new(adapter) }}

// adapt serves the parsed request, which came by c, with the server's Handler.
// If it returns an error, it has called no handler and the request must be
// refused.
func (x *fastExchange) adapt(c *conn) (step, error) {
	// needed whatever the handler does with an exchange that was handed over
	defer x.attempts.Kept().Free()
	x.attempts.Reset()
	x.front.patience(0)
	x.renew()
	a := adapters.Get().(*adapter)
	if err := a.begin(x, c); err != nil {
		a.release()
		return end, err
	}
	a.f.handle(a.w)
	if !a.c.peeks() {
		a.w.body.lookOut()
	}
	returned := a.call(a.c.s.Handler)
	a.w.life.end()
	next := end
	switch {
	case a.hijacked:
		next = gone
	case returned:
		next = a.finish()
	}
	a.release()
	return next, nil
}

// begin makes the request and its response writer.
func (a *adapter) begin(x *fastExchange, c *conn) error {
	a.c, a.f = c, x.front
	asks, unknown := expects(&x.req)
	if unknown {
		return errExpectation
	}
	a.f.body().expect(asks)
	a.asks, a.expects = asks, asks
	a.headOnly = string(x.req.Method) == http.MethodHead
	a.texts.take(a.f.text())
	var w http.ResponseWriter
	if a.one, _ = a.f.(*front1); a.one != nil {
		h := new(hijackable)
		w, a.w = h, &h.response
	} else {
		a.w = new(response)
		w = a.w
	}
	a.writer = w
	a.w.a.Store(a)
	life := &a.w.life
	life.Context = a.c.context()
	life.slot.Client, life.slot.Drain, life.slot.Known = a.f.client(a.w), a.c.s.draining, x.known
	x.known = nil
	var err error
	a.q, err = a.request(life, &x.req)
	return err
}

// call runs the handler, and reports whether it returned, rather than panicked.
func (a *adapter) call(h http.Handler) (returned bool) {
	defer func() {
		if !returned {
			a.abandon(recover())
		}
	}()
	h.ServeHTTP(a.writer, a.q)
	a.w.shut()
	return true
}

// abandon cuts off a response whose handler has panicked or has ended its
// goroutine.
func (a *adapter) abandon(p any) {
	if p != nil && p != http.ErrAbortHandler {
		a.logf("http: panic serving %v: %v\n%s", a.c.remote(), p, debug.Stack())
	}
	a.w.life.end()
	if a.hijacked {
		a.w.shut()
		return
	}
	if !a.w.mu.TryLock() { // another goroutine writes, maybe for a long time
		a.f.sever()
		a.w.mu.Lock()
	}
	a.w.mu.Unlock()
	a.w.shut()
	a.leaveBody()
	a.f.handle(nil)
	a.f.cut()
}

// finish ends the response of a handler that has returned, and returns the
// connection's next step.
func (a *adapter) finish() step {
	a.done = true
	a.stopAsking()
	if !a.wrote {
		a.setStatus(http.StatusOK)
	}
	_, err := a.emit(a.buf[:a.n])
	short := a.out.length >= 0 && a.written != a.out.length && hasBody(a.out.status) && !a.headOnly
	if err == nil && !short {
		err = a.f.end(a.trailers())
	}
	if err != nil || short {
		a.leaveBody()
		a.f.handle(nil)
		a.f.cut()
		return end
	}
	whole := a.closeBody()
	a.f.body().release()
	a.f.handle(nil)
	return a.f.next(whole)
}

// release puts the adapter back into the pool.
func (a *adapter) release() {
	if a.w != nil && a.w.a.Load() != nil { // the handler has not been called
		a.w.shut()
		a.w.life.end()
	}
	if a.q != nil && a.q.MultipartForm != nil {
		_ = a.q.MultipartForm.RemoveAll()
	}
	if !a.hijacked {
		a.f.release()
	}
	clear(a.keys)
	clear(a.fields)
	a.c, a.f, a.one, a.w, a.writer, a.q, a.texts = nil, nil, nil, nil, nil, nil, text{}
	a.keys, a.fields, a.out, a.given = a.keys[:0], a.fields[:0], head{}, given{trailers: a.given.trailers[:0]}
	a.relayed, a.relay, a.order = false, a.relay[:0], exchange.Order{}
	a.wrote, a.sent, a.done, a.duplex, a.hijacked, a.asks, a.expects = false, false, false, false, false, false, false
	a.written, a.n = 0, 0
	adapters.Put(a)
}

// logf logs a handler's mistake, as net/http does.
func (a *adapter) logf(format string, args ...any) {
	a.c.s.http.ErrorLog.Printf(format, args...)
}

// caller returns the place from which a handler called this package.
func caller() string {
	var pcs [16]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs[:])])
	for {
		frame, more := frames.Next()
		if !more || !strings.Contains(frame.Function, "internal/serve.") {
			return fmt.Sprintf("%s (%s:%d)", frame.Function, path.Base(frame.File), frame.Line)
		}
	}
}

// context returns the context of all requests of the connection.
func (c *conn) context() context.Context {
	if c.ctx == nil {
		c.ctx = context.WithValue(c.s.base, http.LocalAddrContextKey, c.LocalAddr())
	}
	return c.ctx
}

// context2 returns the context of all requests of an HTTP/2 connection.
func (c *conn) context2() context.Context {
	return context.WithValue(c.s.base, http.LocalAddrContextKey, c.LocalAddr())
}

// remote returns the peer's address as requests have it.
func (c *conn) remote() string {
	if c.peerText == "" {
		if a := c.RemoteAddr(); a != nil {
			c.peerText = a.String()
		}
	}
	return c.peerText
}

// Left implements exchange.Client.
func (c *conn) Left() bool {
	w := c.handling.Load()
	return w != nil && w.left.Load()
}

// Excused implements exchange.Client. HTTP/1.x has no windows.
func (c *conn) Excused() time.Duration { return 0 }

// Why implements exchange.Client. HTTP/1.x responds to faults of the client.
func (c *conn) Why() error {
	if c.ousted.Load() {
		return exchange.ErrCut
	}
	return nil
}

// inspect ends the handler's context if the client has left. Only the sweeper
// calls it.
func (w *response) inspect(c *conn, now time.Time) {
	unread := false
	if x := c.serving.Load(); x != nil {
		unread = x.unread.Load()
	}
	if now.Sub(w.since) >= exchange.SweepInterval && !w.left.Load() && w.goodbye.over(c.peekGone(unread), now) {
		w.leave()
	}
}

// leave ends the handler's context, since the client has left. It may be called
// concurrently.
func (w *response) leave() {
	w.left.Store(true)
	w.life.end()
}

// A given is what the handler's header says about framing, and about fields
// that the server adds if they are missing.
type given struct {
	length    string // Content-Length
	coding    string // Transfer-Encoding
	kind      bool   // Content-Type
	encoded   bool   // Content-Encoding
	unsized   bool   // see Unsized
	date      bool
	trailers  []string // announced
	trails    bool     // there are trailers, announced or by http.TrailerPrefix
	untrailed bool     // see Untrailed
}

var errTarget = &h1.Refusal{Status: http.StatusBadRequest, Reason: "invalid request target"}
