// Package client asks one target over HTTP/1.1: an http.RoundTripper's work,
// with interim responses, for the handler lane.
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

// A Client reaches one target over HTTP/1.1, plain or TLS, on the goroutine of
// its caller: it writes the request and reads the response itself. Only while a
// request body is still to be sent, a second goroutine sends it.
type Client struct {
	pool     *pool.Pool
	timeouts Timeouts
}

// Timeouts limit an attempt. Zero means no limit.
type Timeouts struct {
	Dial   time.Duration // of a connection, its TLS handshake included
	Header time.Duration // from the end of the request to the head of the final response
	Stall  time.Duration // without a byte of the request that the target takes
}

// New returns a client that connects by p.
func New(p *pool.Pool, limits Timeouts) *Client { return &Client{p, limits} }

// Dialing is a context of a request that is told how long a connection took to
// open.
type Dialing interface{ Dialed(took time.Duration) }

// A Binder is the context of a request that is told of its connection, which
// costs less than [context.AfterFunc].
type Binder interface {
	context.Context
	Dialing

	// Bind makes the end of the context one of the lease. The returned function
	// undoes it and reports whether it came in time.
	Bind(l pool.Lease) (unbind func() bool)
}

// CloseIdleConnections closes the connections that carry no exchange.
func (c *Client) CloseIdleConnections() { c.pool.CloseIdle() }

// Start returns a Try of req whose head the caller writes to Out. req has no
// body, and ctx ends the Try. Interim responses go to on1xx, 100 included; an
// error from it ends the Try. room is the response's until its body is closed.
func (c *Client) Start(ctx context.Context, req *http.Request, on1xx func(int, http.Header) error, room *Room) Try {
	t := Try{c: c, req: req, ctx: ctx, on1xx: on1xx, room: room, scratch: scratches.Get().(*scratch)}
	t.Out = t.Out[:0]
	return t
}

// Do performs one attempt, see Doer.
//
// The fields of req.Header are sent as they are, but for Host and the framing,
// which follow from req.Host, Body, ContentLength and Trailer; an empty
// User-Agent is left out, unless the Order says otherwise, and none is
// invented. They are sent in the [exchange.Order] of the context, or else
// sorted. req.Body is read until the attempt ends, maybe after Do returned, and
// is not closed. When req.Context() is done, whatever goes on fails.
//
// The response's body is an io.ReadWriteCloser with CloseWrite after a 101.
// Otherwise it may tell by a method Buffered how many bytes can be read without
// waiting; its end fills in Response.Trailer; closing it before its end closes
// the connection unless the rest has arrived already.
//
// A kept connection that turns out dead is replaced when nothing was written to
// it; and once, after a write, when the request is idempotent, whole and
// unanswered (RFC 9110, 9.2.2).
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

// Exchange sends the request over one connection, or another, until it is
// answered. It returns the length of the response's head.
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
		fresh = err.Wrote // the other kept connections are probably as dead
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

// take takes a kept connection, nil if there is none.
func (t *Try) take() *pool.Conn {
	if !t.c.pool.Apart {
		return t.c.pool.Take()
	}
	return t.c.pool.TakeFor(proxyproto.FromContext(t.ctx))
}

// again reports whether the request may be sent once more after err.
func (t *Try) again(err *exchange.AttemptError) bool {
	switch {
	case !t.conn.Reused() || t.answered || t.ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded):
		return false
	case t.upload != nil && t.upload.started:
		return false
	}
	return !err.Wrote || exchange.Idempotent(t.req.Method)
}

// Fail closes the connection and says how far the attempt came.
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
