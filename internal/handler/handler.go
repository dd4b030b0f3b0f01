// Package handler is the handler lane: it carries an exchange between an
// http.ResponseWriter and the targets of a Forwarder. It serves requests that
// come through middleware or another server, and requests that the fast lane
// does not support. The writer is that of the Server's front or of any other
// server.
//
//   - handler.go: the way in, and responses to failures
//   - roundtrip.go: attempts at targets until one responds
//   - request.go, body.go: the request for a target
//   - response.go, upgrade.go: the response for the client
//   - order.go: the order of fields
//   - direct.go: the short way, without an http.Request of its own
//   - race.go: two attempts at once
//   - buffer.go, ahead.go: bodies that are read ahead
//   - flight.go: what the sweeper sees, and the context of attempts
//   - copied.go: copies for a mirror
//   - ask.go, redirect.go: the handlers of ForwardAuth and Redirect
package handler

import (
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/forward"
	"github.com/hostproxy/hostproxy/internal/proxyproto"
)

// Serve lets f forward q, and writes the response to w. It completes x, except
// for Finish. If the response is cut off, it panics with http.ErrAbortHandler,
// as net/http requires.
func Serve(f *forward.Forwarder, w http.ResponseWriter, q *http.Request, x *exchange.Exchange) {
	a := roundTrips.Get().(*roundTrip)
	a.f, a.w, a.q, a.x, a.edit = f, w, q, x, f.EditIn(outer(x))
	if f.Shows() || f.Diverts() {
		a.introduce()
	}
	if f.Introduces() {
		a.q = a.q.WithContext(proxyproto.NewContext(a.q.Context(), x.OriginOf(q)))
	}
	a.attempts.Take(f)
	if a.carry() {
		a.release()
	} else {
		x.Shared = true
	}
}

// outer returns the edit of x's Router; nil without one.
func outer(x *exchange.Exchange) *forward.OuterEdit {
	o, _ := x.Head.(*forward.OuterEdit)
	return o
}

// carry executes the exchange, and reports whether it ended alone.
func (a *roundTrip) carry() (alone bool) {
	defer a.attempts.End()
	if fail := a.run(); fail != nil {
		a.fail(fail)
		return false
	}
	return a.alone()
}

// fail records the failure and responds with it. If the response has begun and
// cannot end with a status, it cuts off the client.
func (a *roundTrip) fail(fail *exchange.Failure) {
	if a.wrote {
		a.x.Fail(fail)
		if exchange.EndGRPC(a.w, a.q, a.x, fail) {
			return
		}
		if !a.q.ProtoAtLeast(1, 1) {
			sever(a.w)
		}
		panic(http.ErrAbortHandler)
	}
	a.closeAfter()
	refuse(a.attempts.Forwarder(), a.w, a.q, a.x, fail)
}

// sever resets the connection of an HTTP/1.0 client, which would take a normal
// close for the end of a body without a length.
func sever(w http.ResponseWriter) {
	nc, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer func() { nc.Close() }() // the connection below TLS, so without close_notify
	for {
		switch c := nc.(type) {
		case interface{ SetLinger(int) error }:
			_ = c.SetLinger(0)
			return
		case interface{ NetConn() net.Conn }:
			nc = c.NetConn()
		default:
			return
		}
	}
}

// refuse sends the response for the failure.
func refuse(f *forward.Forwarder, out http.ResponseWriter, q *http.Request, x *exchange.Exchange, fail *exchange.Failure) {
	w := exchange.Watch(out, x)
	x.Refused = true
	x.Own()
	if fail.Err != nil {
		x.Fail(fail)
	}
	if f.ErrorHandler != nil && fail.Err != nil {
		serveErrorHandler(f, w, q, x, fail)
		return
	}
	if fail.Status == exchange.StatusClientClosed {
		x.Status = fail.Status
		panic(http.ErrAbortHandler)
	}
	if page := f.Page(fail.Status, q.Header.Get("Content-Type")); page != nil && fail.Page == nil && pageable(x) {
		servePage(&exchange.Answer{Status: fail.Status, Header: fail.Header(), Page: page, Failure: fail}, w, q, x)
		return
	}
	fail.Tell(w)
	if x.Asker != nil {
		q = x.Asker
	}
	if fail.Page != nil && !exchange.AwaitsTrailers(q) {
		fail.Page.Reply(w, q)
		return
	}
	exchange.Reply(w, q, fail.Status, fail.Reason)
}

// pageable reports whether a page of the program may be the response.
func pageable(x *exchange.Exchange) bool { return !x.Mirrored && !x.Paged }

// servePage lets a page of the program answer q. If q asks an authentication
// server, the page answers the client's request.
func servePage(a *exchange.Answer, w http.ResponseWriter, q *http.Request, x *exchange.Exchange) {
	if x.Asker != nil {
		q = x.Asker
	}
	a.Serve(w, q, x)
}

// hookStatus returns the client's status after a hook has failed. It is 502 if
// the hook rejected the target's response. A panic, or a header that the hook
// may not set, is our fault: 500.
func hookStatus(err error) int {
	var p *exchange.PanicError
	var field *exchange.FieldError
	if errors.As(err, &p) || errors.As(err, &field) {
		return http.StatusInternalServerError
	}
	return http.StatusBadGateway
}

// serveErrorHandler lets the user's ErrorHandler respond. A panic in it becomes
// the exchange's failure. If no response has begun, the client gets one as for
// any failed hook.
func serveErrorHandler(f *forward.Forwarder, w *exchange.Watcher, q *http.Request, x *exchange.Exchange, fail *exchange.Failure) {
	err := x.ServeHook("ErrorHandler", q.Context(), func(l *exchange.Loan) { f.ErrorHandler(w, q.WithContext(l), fail) })
	if err == nil {
		w.Conclude()
		return
	}
	x.Err = &exchange.Failure{Op: fail.Op, Target: fail.Target, Side: exchange.SideProxy, Err: fmt.Errorf("%w, called for: %w", err, fail.Err)}
	if w.Wrote() {
		panic(http.ErrAbortHandler)
	}
	exchange.Reply(w, q, hookStatus(err), "proxy_internal_error")
}
