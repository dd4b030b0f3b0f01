package client

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"

	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
	"github.com/hostproxy/hostproxy/internal/pool"
)

// A body is the body of a response. It owns its connection until its end. Only
// one goroutine may use it.
type body struct {
	conn    *pool.Conn
	stop    func() bool // unbinds conn from ctx
	ctx     context.Context
	upload  *upload // may still send the request; nil if there is no upload
	res     *http.Response
	framing h1.Framing
	keep    bool // both sides keep the connection open

	left    int64     // remaining bytes of a sized body
	chunks  h1.Chunks // decoder of a chunked body
	decoded []byte    // decoded data of a chunked body, in the connection's buffer
	ahead   int       // bytes of a chunked body that were decoded before Attach
	behind  error     // what follows decoded in a chunked body
	err     error     // sticky; set once the connection is gone
}

// A Room is memory for the body of one response.
type Room struct{ body body }

// Read implements io.Reader. It returns the last bytes together with io.EOF.
func (b *body) Read(p []byte) (int, error) {
	switch {
	case b.err != nil || len(p) == 0:
		return 0, b.err
	case b.framing == h1.ChunkedBody:
		return b.readChunked(p)
	case b.framing == h1.SizedBody:
		p = p[:min(int64(len(p)), b.left)]
	}
	n, err := b.conn.Read(p)
	b.left -= int64(n)
	switch {
	case b.framing == h1.SizedBody && b.left == 0, b.framing == h1.UntilClose && err == io.EOF:
		b.finish()
	case err != nil:
		b.fail(err)
	}
	return n, b.err
}

func (b *body) readChunked(p []byte) (int, error) {
	for !b.decode() {
		if err := b.conn.Fill(); err != nil {
			b.fail(err)
			return 0, b.err
		}
	}
	n := copy(p, b.decoded)
	b.decoded = b.decoded[n:]
	switch {
	case len(b.decoded) > 0 || b.behind == nil:
	case b.behind == io.EOF:
		b.trailers()
		b.finish()
	default:
		b.fail(protocolError(b.behind))
	}
	return n, b.err
}

// decode decodes what has arrived, if no decoded data is left. It reports
// whether there now is data, or the end or error after it.
func (b *body) decode() bool {
	if len(b.decoded) == 0 && b.behind == nil {
		data, n, err := b.chunks.Decode(b.conn.Buffered())
		b.decoded, b.behind = data, err
		b.conn.Discard(n)
	}
	return len(b.decoded) > 0 || b.behind != nil
}

func (b *body) trailers() {
	for _, f := range b.chunks.Trailers {
		if header.ForbiddenTrailer(string(f.Name)) {
			continue
		}
		if b.res.Trailer == nil {
			b.res.Trailer = make(http.Header)
		}
		b.res.Trailer.Add(string(f.Name), string(f.Value))
	}
}

// Buffered returns how many bytes Read returns without waiting; the end counts
// as one byte.
func (b *body) Buffered() int {
	if b.err != nil {
		return 0
	}
	switch n := len(b.conn.Buffered()); b.framing {
	case h1.ChunkedBody:
		if b.decode() {
			return max(1, len(b.decoded))
		}
		return 0
	case h1.SizedBody:
		return int(min(int64(n), b.left))
	default:
		return n
	}
}

// Close returns the connection to the pool if the rest of the body has already
// arrived, and closes it otherwise.
func (b *body) Close() error {
	if b.err != nil {
		return nil
	}
	switch b.framing {
	case h1.SizedBody:
		if int64(len(b.conn.Buffered())) >= b.left {
			b.conn.Discard(int(b.left))
			b.finish()
		}
	case h1.ChunkedBody:
		b.decoded = nil
		if b.decode(); b.behind == io.EOF {
			b.decoded = nil
			b.finish()
		}
	}
	if b.err == nil {
		b.stop()
		b.conn.Close()
	}
	b.err = http.ErrBodyReadAfterClose
	return nil
}

// finish ends the exchange at the end of its response. If the request has not
// been sent completely, it never will be (RFC 9112, 9.3): its connection
// closes.
func (b *body) finish() {
	b.err = io.EOF
	unbound := b.stop()
	if sent := b.upload == nil || b.upload.sentWhole(); sent && unbound && b.keep {
		b.conn.Put()
		return
	}
	b.conn.Close()
}

// fail ends the exchange before the end of its response.
func (b *body) fail(err error) {
	b.stop()
	b.conn.Close()
	switch cause := b.ctx.Err(); {
	case cause != nil && errors.Is(err, pool.ErrAborted):
		err = cause
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	case b.upload != nil && b.upload.failure() != nil:
		err = b.upload.failure()
	}
	b.err = err
}

// A switchedBody is the connection after a 101, with the bytes that came with
// the head.
type switchedBody struct {
	net.Conn
	ahead []byte
	stop  func() bool // unbinds Conn from its context
}

func newSwitchedBody(ctx context.Context, conn *pool.Conn) *switchedBody {
	s := &switchedBody{}
	s.Conn, s.ahead = conn.Detach()
	s.stop = context.AfterFunc(ctx, s.cancel)
	return s
}

// NetConn returns the connection.
func (s *switchedBody) NetConn() net.Conn { return s.Conn }

func (s *switchedBody) cancel() { s.Conn.Close() }

// Read first returns the bytes that came with the head.
func (s *switchedBody) Read(p []byte) (int, error) {
	if len(s.ahead) == 0 {
		return s.Conn.Read(p)
	}
	n := copy(p, s.ahead)
	s.ahead = s.ahead[n:]
	return n, nil
}

// CloseWrite closes our half of the connection.
func (s *switchedBody) CloseWrite() error {
	if c, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Close closes the connection.
func (s *switchedBody) Close() error {
	s.stop()
	return s.Conn.Close()
}
