package serve

import (
	"io"
	"net/http"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/forward"
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/pool"
)

// The program's pages are http.Handlers, so the handler lane writes them.
// Requests with a body that may be answered by a page take the handler lane
// from the start, so that none of the body is lost on the way there.

// pageOf returns the page for a response with that status, or nil if there is
// none.
func (x *fastExchange) pageOf(f *forward.Forwarder, status int) http.Handler {
	// a request with a body is here only if f has changed meanwhile
	if len(f.Pages) == 0 || x.req.Framing() != h1.NoBody {
		return nil
	}
	return f.Page(status, view(x.said("Content-Type")))
}

// failBy answers for fail, with a page if there is one.
func (x *fastExchange) failBy(f *forward.Forwarder, fail *exchange.Failure) step {
	page := x.pageOf(f, fail.Status)
	if page == nil || fail.Page != nil || fail.Status == exchange.StatusClientClosed || fail.Err == forward.ErrOtherLane {
		return x.answer(fail)
	}
	own := *fail // fail may be the exchange's memory
	return x.handPage(&exchange.Answer{Status: fail.Status, Header: fail.Header(), Page: page, Failure: &own})
}

// respondBy sends a page in place of the response body on up. The response's
// head of n bytes has been read.
func (x *fastExchange) respondBy(f *forward.Forwarder, up *pool.Conn, n int, page http.Handler) step {
	forward.Bare(&x.res)
	if f.Translates() {
		x.translate(f)
	}
	a := &exchange.Answer{Status: x.res.Status, Header: make(http.Header), Page: page, Spared: x.edit.Spared()}
	x.fields = x.attempts.AppendOwn(x.edit.AppendFields(x.fields[:0], &x.res, x.shown()), x.scheme)
	a.AddFields(forward.AppendUpgrade(x.fields, &x.res))
	x.unwatch()
	x.skipBody(up, n)
	if f.Mirrors() {
		x.mirror()
	}
	return x.handPage(a)
}

// skipBody returns up to its pool if the rest of the response has arrived, and
// otherwise closes it.
func (x *fastExchange) skipBody(up *pool.Conn, n int) {
	method := view(x.req.Method)
	keep := x.res.Persistent(method)
	switch x.res.Framing(method) {
	case h1.NoBody:
	case h1.SizedBody:
		left := x.res.ContentLength
		keep = keep && left <= int64(len(up.Buffered())-n)
		n += int(min(left, int64(len(up.Buffered())-n)))
	case h1.ChunkedBody:
		keep = keep && x.first.err == io.EOF
		n += x.first.n
	default:
		keep = false
	}
	if !keep {
		up.Close()
		return
	}
	up.Discard(n)
	up.Put()
}

// handPage passes the exchange on to the handler lane, which only writes the
// response.
func (x *fastExchange) handPage(a *exchange.Answer) step {
	x.rec.Pattern = x.hit.Pattern
	next := x.handOver()
	x.known.Answer = a
	if x.hit.Life.Err() != nil {
		x.from.s.Lane.Retired(x.hit.Route)
	}
	return next
}
