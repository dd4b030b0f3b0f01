package forward

import (
	"errors"
	"fmt"
	"net"
	"net/http"
)

// Serve lets f forward q, and writes the answer to w. It completes x, except for
// Finish. When the response is cut off it panics with http.ErrAbortHandler,
// as net/http demands.
func Serve(f *Forwarder, w http.ResponseWriter, q *http.Request, x *Exchange) {
	a := &fullExchange{f: f, w: w, q: q, x: x}
	if f.Shows() || f.Diverts() {
		a.introduce()
	}
	a.attempts.Take(f)
	defer a.attempts.End()
	if fail := a.run(); fail != nil {
		a.fail(fail)
	}
}

// fail records the failure and answers it, or cuts the client off when the
// response has begun.
func (a *fullExchange) fail(fail *Failure) {
	if a.wrote {
		a.x.Fail(fail)
		if !a.q.ProtoAtLeast(1, 1) {
			sever(a.w)
		}
		panic(http.ErrAbortHandler)
	}
	a.closeAfter()
	refuse(a.attempts.Forwarder(), a.w, a.q, a.x, fail)
}

// sever resets the connection of an HTTP/1.0 client, for whom an end like any
// other would be that of a body without a length.
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
func refuse(f *Forwarder, out http.ResponseWriter, q *http.Request, x *Exchange, fail *Failure) {
	w := Watch(out, x)
	x.refused = true
	if fail.Err != nil {
		x.Fail(fail)
	}
	if f.ErrorHandler != nil && fail.Err != nil {
		tell(f, w, q, x, fail)
		return
	}
	if fail.Status == StatusClientClosed {
		x.Status = fail.Status
		panic(http.ErrAbortHandler)
	}
	fail.addFields(w.Header())
	if x.asker != nil {
		q = x.asker
	}
	if fail.Page != nil && !awaitsTrailers(q) {
		fail.Page.reply(w, q)
		return
	}
	Reply(w, q, fail.Status, fail.Reason)
}

// hookStatus is what the client is answered when a hook has failed: what it
// refused is no good answer of the target's, and a panic is a fault of ours.
func hookStatus(err error) int {
	var p *PanicError
	if errors.As(err, &p) {
		return http.StatusInternalServerError
	}
	return http.StatusBadGateway
}

// tell lets the user's ErrorHandler answer. What it panics with is answered like
// the failure of any hook, if the answer has not begun, and becomes the
// exchange's failure.
func tell(f *Forwarder, w *watcher, q *http.Request, x *Exchange, fail *Failure) {
	var err error
	func() {
		defer Contain("ErrorHandler", &err)
		f.ErrorHandler(w, q, fail)
	}()
	if err == nil {
		return
	}
	x.Err = &Failure{Op: fail.Op, Target: fail.Target, Side: SideProxy, Err: fmt.Errorf("%w, about: %w", err, fail.Err)}
	if w.wrote {
		panic(http.ErrAbortHandler)
	}
	Reply(w, q, hookStatus(err), "proxy_internal_error")
}
