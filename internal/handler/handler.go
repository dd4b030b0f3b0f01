// Package handler is the handler lane: it carries an exchange between an
// http.ResponseWriter and the targets of a Forwarder, for requests that come
// through middleware, over HTTP/2, or with a wish that the fast lane does not
// know. The writer is that of the Server's front, or of any other server.
//
//   - handler.go: the way in, and how failures are answered
//   - roundtrip.go: from target to target until one answers
//   - request.go, body.go: what a target is sent
//   - response.go, upgrade.go: what the client gets
//   - order.go: in which order fields are written
//   - direct.go: the short way, without an http.Request of its own
//   - race.go: two attempts at once
//   - buffer.go, ahead.go: bodies that are read ahead
//   - flight.go: what the sweeper sees, and the context of attempts
//   - copied.go: what a mirror gets
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

// Serve lets f forward q, and writes the answer to w. It completes x, except
// for Finish. When the response is cut off it panics with http.ErrAbortHandler,
// as net/http demands.
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

// carry carries the exchange out, and reports whether it ended alone.
func (a *roundTrip) carry() (alone bool) {
	defer a.attempts.End()
	if fail := a.run(); fail != nil {
		a.fail(fail)
		return false
	}
	return a.alone()
}

// fail records the failure and answers it, or cuts the client off when the
// response has begun and cannot end by a status.
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

// sever resets the connection of an HTTP/1.0 client: it would take a normal
// close for the end of a body without a length.
func sever(w http.ResponseWriter) {
	nc, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer func() { nc.Close() }() // under TLS without a goodbye: below it
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

// refuse answers with the failure.
func refuse(f *forward.Forwarder, out http.ResponseWriter, q *http.Request, x *exchange.Exchange, fail *exchange.Failure) {
	w := exchange.Watch(out, x)
	x.Refused = true
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

// pageable reports whether a page of the program can be the answer.
func pageable(x *exchange.Exchange) bool { return !x.Mirrored && !x.Paged }

// servePage lets a page of the program answer q, or the client's request that q
// is a question about.
func servePage(a *exchange.Answer, w http.ResponseWriter, q *http.Request, x *exchange.Exchange) {
	if x.Asker != nil {
		q = x.Asker
	}
	a.Serve(w, q, x)
}

// hookStatus is what the client is answered when a hook has failed: what it
// refused is no good answer of the target's, and a panic is a fault of ours, as
// is a header that it cannot set.
func hookStatus(err error) int {
	var p *exchange.PanicError
	var field *exchange.FieldError
	if errors.As(err, &p) || errors.As(err, &field) {
		return http.StatusInternalServerError
	}
	return http.StatusBadGateway
}

// serveErrorHandler lets the user's ErrorHandler answer. What it panics with is
// answered like the failure of any hook, if the answer has not begun, and
// becomes the exchange's failure.
func serveErrorHandler(f *forward.Forwarder, w *exchange.Watcher, q *http.Request, x *exchange.Exchange, fail *exchange.Failure) {
	var err error
	func() {
		defer exchange.Contain("ErrorHandler", &err)
		f.ErrorHandler(w, q, fail)
	}()
	if err == nil {
		w.Conclude()
		return
	}
	x.Err = &exchange.Failure{Op: fail.Op, Target: fail.Target, Side: exchange.SideProxy, Err: fmt.Errorf("%w, called for: %w", err, fail.Err)}
	if w.Wrote {
		panic(http.ErrAbortHandler)
	}
	exchange.Reply(w, q, hookStatus(err), "proxy_internal_error")
}
