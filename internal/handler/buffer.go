package handler

import (
	"errors"
	"net/http"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/forward"
)

// bufferBody reads the client's body, or its beginning, before f chooses a
// target. It does not hold back a conversation with the target.
func (a *roundTrip) bufferBody(f *forward.Forwarder) *exchange.Failure {
	q := a.q
	if !a.hasBody() || q.Method == http.MethodConnect || !exchange.TakesPage(q.Header.Get("Content-Type")) || f.UpgradeProtocol(q) != "" {
		return nil
	}
	if a.body == nil {
		a.openBody()
	}
	a.body.Bound(a.attempts.MaxBody())
	a.flight.aim(&f.Span, a.attempts.Around())
	a.flight.reads.Store(true)
	a.body.Buffer(int(f.BufferRequests), func(n int) bool { return a.take(f, int64(n)) })
	a.flight.reads.Store(false)
	a.buffered = true
	if a.body.Failed() != nil || a.flight.why() != nil {
		return a.unbuffered()
	}
	return nil
}

// take takes n bytes of f's memory for the body, until leaveBody.
func (a *roundTrip) take(f *forward.Forwarder, n int64) bool {
	if a.memory != nil && a.memory != &f.Memory || !f.Memory.Take(n) {
		return false
	}
	a.memory, a.taken = &f.Memory, a.taken+n
	return true
}

// unbuffered returns the failure of a request whose body could not be read.
func (a *roundTrip) unbuffered() *exchange.Failure {
	err := a.body.Failed()
	fail := &exchange.Failure{Op: "read", Side: exchange.SideClient, Reason: "http_request_error", Err: err}
	var hook *exchange.PanicError
	switch cut := a.flight.why(); {
	case errors.As(cut, &hook):
		fail.Side, fail.Status, fail.Reason, fail.Err = exchange.SideProxy, http.StatusInternalServerError, "proxy_internal_error", cut
	case cut == exchange.ErrCut:
		fail.Side, fail.Status, fail.Reason, fail.Err = exchange.SideDrain, http.StatusServiceUnavailable, "destination_unavailable", cut
	case cut == exchange.ErrIdle:
		fail.Status, fail.Err = http.StatusRequestTimeout, cut
	case errors.As(err, &hook), err == exchange.ErrSpoiled:
		fail.Side, fail.Status, fail.Reason = exchange.SideProxy, http.StatusInternalServerError, "proxy_internal_error"
	case exchange.Revoked(a.q.Context()) != nil:
		fail.Side, fail.Err = exchange.SideProxy, exchange.Revoked(a.q.Context())
		fail.Status, fail.Reason = exchange.Reason(fail.Op, fail.Err)
	case cut != nil || a.q.Context().Err() != nil:
		fail.Status, fail.Reason, fail.Err = exchange.StatusClientClosed, "connection_terminated", exchange.ErrClientGone
	default:
		fail.Status = exchange.BodyStatus(err)
	}
	return fail
}
