package forward

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
)

// A transport lets an http.RoundTripper be a Doer.
type transport struct {
	http.RoundTripper
	foreign       bool          // the user's: it is bounded from outside
	dialTimeout   time.Duration // of a foreign one; 0 means none
	headerTimeout time.Duration // likewise, from the end of the request to the response
}

var errNoResponse = errors.New("Upstream.Transport returned no response with a body and no error: return one of them")

// Do implements Doer. It contains what a user's RoundTripper may do wrong,
// since probes and hedges call it on goroutines where a panic ends the program.
func (t transport) Do(req *http.Request, on1xx func(int, http.Header) error) (res *http.Response, err error) {
	defer exchange.Contain("Transport", &err)
	var wrote atomic.Bool
	early := earlyResponses{pass: on1xx}
	defer early.end()
	trace := &httptrace.ClientTrace{WroteHeaders: func() { wrote.Store(true) }, Got1xxResponse: early.got}
	ctx := httptrace.WithClientTrace(req.Context(), trace)
	if t.foreign {
		res, err = t.bounded(req.WithContext(ctx))
	} else {
		res, err = t.RoundTripper.RoundTrip(req.WithContext(ctx))
	}
	switch {
	case err == nil && (res == nil || res.Body == nil):
		err = errNoResponse
	case err == nil:
		return res, nil
	}
	ae := &exchange.AttemptError{Op: "read", Wrote: wrote.Load(), Err: err}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		ae.Op, ae.Wrote = "dial", false
	}
	return nil, ae
}

// Unseen reports whether err of net/http's client of HTTP/2 says that the
// target has refused the request unseen, so that any request may be sent again
// (RFC 9113, 8.7). The client has no other word for it, and the same one for
// PROTOCOL_ERROR, with which targets end what they have served. If its text
// changes, nothing is sent again.
func Unseen(err error) bool {
	text := err.Error()
	return strings.Contains(text, "cannot retry err [") &&
		(strings.Contains(text, "graceful shutdown GOAWAY]") || strings.Contains(text, "REFUSED_STREAM; received from peer]"))
}

// earlyResponses passes the interim responses of an attempt on. A transport may
// tell of them on a goroutine of its own, also when it has given the attempt
// up: then whoever gets them has gone on.
type earlyResponses struct {
	mu    sync.Mutex // held while one is passed on
	pass  func(int, http.Header) error
	ended bool
}

// got is httptrace.ClientTrace.Got1xxResponse. A panic of what the response is
// written to is the attempt's failure.
func (e *earlyResponses) got(status int, h textproto.MIMEHeader) (err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended {
		return errEnded
	}
	defer exchange.Contain("ResponseWriter", &err)
	return e.pass(status, http.Header(h))
}

var errEnded = errors.New("the attempt has ended")

// end drops those that are still to come. It waits for the one that is passed
// on.
func (e *earlyResponses) end() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended = true
}

// CloseIdleConnections passes the call on where it is understood.
func (t transport) CloseIdleConnections() {
	if c, ok := t.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
