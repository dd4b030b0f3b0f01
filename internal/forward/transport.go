package forward

import (
	"context"
	"errors"
	"io"
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

// A transport makes an http.RoundTripper a Doer.
type transport struct {
	http.RoundTripper
	foreign       bool          // it is the user's: a timekeeper limits it
	dialTimeout   time.Duration // limit for a foreign one; 0 means none
	headerTimeout time.Duration // the same, from the end of the request to the response
}

var errNoResponse = errors.New("Upstream.Transport returned no response with a body and no error: return one of them")

// Do implements Doer. It turns faults and panics of a user's RoundTripper into
// errors: probes and hedges call it on goroutines where a panic would end the
// program.
func (t transport) Do(req *http.Request, on1xx func(int, http.Header) error) (res *http.Response, err error) {
	defer exchange.Contain("Transport", &err)
	var wrote, sent atomic.Bool
	sent.Store(req.Body == nil || req.Body == http.NoBody)
	early := earlyResponses{pass: on1xx}
	defer early.end()
	trace := &httptrace.ClientTrace{WroteHeaders: func() { wrote.Store(true) }, Got1xxResponse: early.got,
		WroteRequest: func(httptrace.WroteRequestInfo) { sent.Store(true) }}
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
		if !t.foreign && !sent.Load() {
			res.Body = abortable(req.Context(), res.Body)
		}
		return res, nil
	}
	ae := &exchange.AttemptError{Op: "read", Wrote: wrote.Load(), Err: err}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		ae.Op, ae.Wrote = "dial", false
	}
	return nil, ae
}

// abortable makes a response body end when ctx is done. net/http's client of
// HTTP/2 does not do so while the target's window for the request's body is
// used up.
func abortable(ctx context.Context, body io.ReadCloser) io.ReadCloser {
	return &abortableBody{body, context.AfterFunc(ctx, func() { body.Close() })}
}

type abortableBody struct {
	io.ReadCloser
	stop func() bool
}

// Close implements io.Closer.
func (b *abortableBody) Close() error {
	b.stop()
	return b.ReadCloser.Close()
}

// Unseen reports whether err, from net/http's HTTP/2 client, says that the
// target has not processed the request, so that any request may be sent again
// (RFC 9113, 8.7). Only the text of the error shows that. With PROTOCOL_ERROR
// it does not count, since targets also end requests with it that they have
// served. If net/http changes its text, no request is sent again.
func Unseen(err error) bool {
	text := err.Error()
	if strings.Contains(text, "cannot rewind body after connection loss") {
		return true // no connection was left that could take the request
	}
	return strings.Contains(text, "cannot retry err [") &&
		(strings.Contains(text, "graceful shutdown GOAWAY]") || strings.Contains(text, "REFUSED_STREAM; received from peer]"))
}

// earlyResponses passes on the interim responses of an attempt. A transport may
// deliver them on its own goroutine, even after it has given up the attempt:
// then they must be dropped.
type earlyResponses struct {
	mu    sync.Mutex // held while a response is passed on
	pass  func(int, http.Header) error
	ended bool
}

// got implements httptrace.ClientTrace.Got1xxResponse. A panic of the
// ResponseWriter fails the attempt.
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

// end drops interim responses from now on. It waits for one that is being
// passed on.
func (e *earlyResponses) end() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended = true
}

// CloseIdleConnections calls the RoundTripper's method of that name, if it has
// one.
func (t transport) CloseIdleConnections() {
	if c, ok := t.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
