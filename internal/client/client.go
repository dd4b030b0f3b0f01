// Package client sends requests to one target over HTTP/1.1, as an
// http.RoundTripper with interim responses, for the handler lane.
//
//   - client.go: one request, over a kept connection or a new one
//   - try.go: one attempt over one connection
//   - head.go: heads from and to an http.Header
//   - body.go: the response's body, which owns the connection
//   - upload.go: the request's body, on a goroutine of its own
package client

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/pool"
	"github.com/hostproxy/hostproxy/internal/proxyproto"
)

// A Client reaches one target over HTTP/1.1, plain or TLS. It writes the
// request and reads the response on the goroutine of its caller. A second
// goroutine runs only to send a longer request body.
type Client struct {
	pool     *pool.Pool
	timeouts Timeouts
}

// Timeouts limit an attempt. Zero means no limit.
type Timeouts struct {
	Dial   time.Duration // to open a connection, including its TLS handshake
	Header time.Duration // from the end of the request to the head of the final response
	Stall  time.Duration // without progress in sending the request
}

// New returns a client that uses the connections of p.
func New(p *pool.Pool, limits Timeouts) *Client { return &Client{p, limits} }

// Dialing is a request context that is notified of how long a connection took
// to open.
type Dialing interface{ Dialed(took time.Duration) }

// A Binder is a request context that gets the request's connection. That is
// cheaper than [context.AfterFunc].
type Binder interface {
	context.Context
	Dialing

	// Bind makes the end of the context abort the lease. The returned function
	// undoes that, and reports whether the context had not ended before.
	Bind(l pool.Lease) (unbind func() bool)
}

// CloseIdleConnections closes the connections that are not in use.
func (c *Client) CloseIdleConnections() { c.pool.CloseIdle() }

// Start returns a Try of req; the caller writes the request's head to Out. req
// has no body. The end of ctx ends the Try. Interim responses, including 100,
// go to on1xx; an error from it ends the Try. room belongs to the response
// until its body is closed.
func (c *Client) Start(ctx context.Context, req *http.Request, on1xx func(int, http.Header) error, room *Room) Try {
	t := Try{c: c, req: req, ctx: ctx, on1xx: on1xx, room: room, scratch: scratches.Get().(*scratch)}
	t.Out = t.Out[:0]
	return t
}

// Do performs one attempt, see Doer.
//
// The fields of req.Header are sent as they are, except Host and the framing,
// which follow from req.Host, Body, ContentLength and Trailer. An empty
// User-Agent is left out, unless the Order keeps it, and none is added. Fields
// are sent in the [exchange.Order] of the context, or else sorted. req.Body is
// read until the attempt ends, maybe after Do has returned, and is not closed.
// When req.Context() is done, everything in progress fails.
//
// After a 101 the response's body is an io.ReadWriteCloser with CloseWrite.
// Otherwise it may have a method Buffered, which returns how many bytes can be
// read without waiting. Its end fills in Response.Trailer. Closing it before
// its end closes the connection, unless the rest has already arrived.
//
// A kept connection that turns out dead is replaced if nothing was written to
// it. After a write it is replaced only once, and only if the request is
// idempotent, whole and unanswered (RFC 9110, 9.2.2).
func (c *Client) Do(req *http.Request, on1xx func(int, http.Header) error) (*http.Response, error) {
	t := &Try{c: c, req: req, ctx: req.Context(), on1xx: on1xx}
	if err := t.prepare(); err != nil {
		return nil, &exchange.AttemptError{Op: "write", Err: err}
	}
	defer t.Free()
	n, err := t.Exchange()
	switch {
	case err != nil:
		return nil, err
	case t.Head.Status == http.StatusSwitchingProtocols:
		return t.switched(n)
	}
	return t.final(n), nil
}

// Exchange sends the request over one connection after another until there is a
// response. It returns the length of the response's head.
func (t *Try) Exchange() (int, error) {
	for fresh := false; ; {
		if err := t.connect(fresh); err != nil {
			return 0, err
		}
		n, err := t.run()
		if err == nil {
			return n, nil
		}
		if !t.again(err) {
			return 0, err
		}
		fresh = err.Wrote // the other kept connections are probably dead, too
	}
}

// connect takes a kept connection or opens one.
func (t *Try) connect(fresh bool) error {
	t.conn = nil
	if !fresh {
		t.conn = t.take()
	}
	if t.conn == nil {
		ctx := t.ctx
		if d := t.c.timeouts.Dial; d > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, d)
			defer cancel()
		}
		start := time.Now()
		conn, err := t.c.pool.Open(ctx)
		if b, ok := t.ctx.(Dialing); ok {
			b.Dialed(time.Since(start))
		}
		var handshake *pool.HandshakeError
		switch {
		case errors.As(err, &handshake):
			return &exchange.AttemptError{Op: "handshake", Err: handshake.Err}
		case err != nil:
			return &exchange.AttemptError{Op: "dial", Err: err}
		}
		t.conn = conn
	}
	switch ctx := t.ctx.(type) {
	case Binder:
		t.stop = ctx.Bind(t.conn.Lease())
	default:
		t.stop = func() bool { return true }
		if ctx.Done() != nil {
			t.stop = context.AfterFunc(ctx, t.conn.Lease().Abort)
		}
	}
	return nil
}

// take takes a kept connection, or returns nil if there is none.
func (t *Try) take() *pool.Conn {
	if !t.c.pool.Apart {
		return t.c.pool.Take()
	}
	return t.c.pool.TakeFor(proxyproto.FromContext(t.ctx))
}

// again reports whether the request may be sent again after err.
func (t *Try) again(err *exchange.AttemptError) bool {
	switch {
	case !t.conn.Reused() || t.answered || t.ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded):
		return false
	case t.upload != nil && t.upload.started:
		return false
	}
	return !err.Wrote || exchange.Idempotent(t.req.Method)
}

// Fail closes the connection and returns how far the attempt came.
func (t *Try) Fail(op string, err error) *exchange.AttemptError {
	t.stop()
	wrote := t.conn.Wrote()
	t.conn.Close()
	if t.upload != nil {
		if uploadErr := t.upload.failure(); uploadErr != nil {
			op, err = "write", uploadErr
		}
	}
	if cause := t.ctx.Err(); cause != nil && errors.Is(err, pool.ErrAborted) {
		err = cause
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return &exchange.AttemptError{Op: op, Wrote: wrote, Err: err}
}
