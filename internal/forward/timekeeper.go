package forward

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"sync"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
)

// A timekeeper ends a round trip of the user's transport that takes too long to
// connect or, after the request is sent, to respond. The times begin at the
// transport's calls of httptrace and at the end of the request's body.
type timekeeper struct {
	t      transport
	cancel context.CancelCauseFunc

	mu    sync.Mutex
	timer *time.Timer
	body  bool // a part of the request's body is still to be read
	over  bool
}

// bounded is RoundTrip within the limits of t. If the transport ignores the
// context of its request, bounded returns without it, and closes the response
// when it comes.
func (t transport) bounded(req *http.Request) (*http.Response, error) {
	parent := req.Context()
	ctx, cancel := context.WithCancelCause(parent)
	k := &timekeeper{t: t, cancel: cancel, body: req.Body != nil && req.Body != http.NoBody}
	trace := &httptrace.ClientTrace{
		GetConn:      func(string) { k.dialing() },
		GotConn:      func(httptrace.GotConnInfo) { k.asking() },
		WroteRequest: func(httptrace.WroteRequestInfo) { k.asked() },
	}
	req = req.WithContext(httptrace.WithClientTrace(ctx, trace))
	if k.body {
		req.Body = timedBody{req.Body, k}
	}
	k.asking()
	res, err := attend(ctx, func() (res *http.Response, err error) {
		defer exchange.Contain("Transport", &err)
		return t.RoundTrip(req)
	}, closeResponse)
	k.end()
	late := context.Cause(ctx)
	switch {
	case err == nil:
		return res, nil // its body ends with the parent of ctx
	case late != nil && parent.Err() == nil:
		err = late
	}
	cancel(nil)
	return nil, err
}

func closeResponse(res *http.Response) {
	if res != nil && res.Body != nil {
		res.Body.Close()
	}
}

// dialing starts the time to connect.
func (k *timekeeper) dialing() {
	k.set(k.t.dialTimeout, &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded})
}

// asking starts the time for the response, unless a part of the body is still
// to be read.
func (k *timekeeper) asking() {
	k.mu.Lock()
	body := k.body
	k.mu.Unlock()
	if body {
		k.set(0, nil)
		return
	}
	k.set(k.t.headerTimeout, os.ErrDeadlineExceeded)
}

// asked notes that the request is sent, and starts the time for the response.
func (k *timekeeper) asked() {
	k.mu.Lock()
	k.body = false
	k.mu.Unlock()
	k.asking()
}

func (k *timekeeper) set(limit time.Duration, late error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.timer != nil {
		k.timer.Stop()
	}
	if limit > 0 && !k.over {
		k.timer = time.AfterFunc(limit, func() { k.cancel(late) })
	}
}

func (k *timekeeper) end() {
	k.mu.Lock()
	k.over = true
	k.mu.Unlock()
	k.set(0, nil)
}

// A timedBody tells its timekeeper when it was read or closed.
type timedBody struct {
	io.ReadCloser
	k *timekeeper
}

// Read implements io.Reader.
func (b timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.k.asked()
	}
	return n, err
}

// Close implements io.Closer.
func (b timedBody) Close() error {
	b.k.asked()
	return b.ReadCloser.Close()
}
