package serve

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/forward"
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/pool"
)

// respond copies the response on up to the client. Its head of n bytes has been
// read.
func (x *fastExchange) respond(f *forward.Forwarder, up *pool.Conn, n int) step {
	x.rec.Status = x.res.Status
	early := x.upload.running && !x.upload.nearlySent()
	if early {
		x.upload.answer()
	}
	method := view(x.req.Method)
	framing := x.res.Framing(method)
	x.nominated = forward.AppendNominated(x.nominated[:0], &x.res)
	if f.Translates() {
		x.translate(f)
	}
	x.fields = x.attempts.AppendOwn(x.edit.AppendFields(x.fields[:0], &x.res, x.shown()), x.scheme)
	if framing == h1.ChunkedBody {
		x.fields = x.edit.AppendAnnounced(x.fields, &x.res)
	}
	x.fields = forward.AppendUpgrade(x.fields, &x.res)
	length := x.res.ContentLength
	if x.res.Chunked {
		length = unknownLength
	}
	// After an early response the end of the request is not looked for.
	x.final = head{status: x.res.Status, fields: x.fields, undated: dated(x.fields), length: length, last: early}
	x.sent = true
	if err := x.front.head(&x.final); err != nil {
		return x.abort(up, exchange.SideClient, err)
	}
	if (framing == h1.ChunkedBody || framing == h1.UntilClose) && f.StreamGrace != 0 && forward.IsEventStream(&x.res) {
		x.remain(x.attempts.Stay(x.hit.Life), f)
	}
	keep := x.res.Persistent(method)
	up.Discard(n)

	side, err := x.copyBody(f, up, framing)
	if err != nil {
		return x.abort(up, side, err)
	}
	return x.conclude(up, keep)
}

// translate rewrites paths in the head to those that the client knows.
func (x *fastExchange) translate(f *forward.Forwarder) {
	host := view(x.req.Host)
	said := host
	if x.from.trusted {
		said = view(x.received.Host(x.req.Host)) // noted when the request's head was written
	}
	x.paths = f.Translate(&x.res, x.attempts.Target, x.paths[:0], host, said)
}

// conclude decides whether to keep both connections after a complete response.
func (x *fastExchange) conclude(up *pool.Conn, keep bool) step {
	x.unwatch() // before another exchange can use the connection
	whole := x.upload.settle()
	if keep && whole {
		up.Put()
	} else {
		up.Close()
	}
	return x.front.next(whole)
}

// readHead reads the head of the final response and returns its length. It
// relays interim responses.
func (x *fastExchange) readHead(f *forward.Forwarder, up *pool.Conn) (int, error) {
	x.res.Reset()
	x.res.MaxHead = pool.BufferSize
	for interim, sum := 0, 0; ; {
		n, err := x.res.Parse(up.Buffered())
		switch {
		case err == h1.ErrMore:
			if err := x.fill(f, up); err != nil {
				if errors.Is(err, pool.ErrBufferFull) {
					err = &exchange.ProtocolError{What: "response head too large"}
				}
				return 0, err
			}
		case err != nil:
			return 0, err
		case x.res.Status == http.StatusSwitchingProtocols:
			return 0, exchange.ErrUnasked
		case x.res.Status >= 200:
			return n, x.beginBody(up.Buffered()[n:])
		default:
			if interim++; interim > exchange.MaxInterim {
				return 0, exchange.ErrInterim
			}
			if sum += n; sum > exchange.MaxInterimSum {
				return 0, exchange.ErrInterim
			}
			if x.res.Status != http.StatusContinue { // not asked for: Expect takes the other lane
				x.fields = x.edit.AppendInterimFields(x.fields[:0], &x.res)
				x.sent = true
				if err := x.front.interim(x.res.Status, x.fields); err != nil {
					x.gone.Store(true)
					return 0, err
				}
			}
			up.Discard(n)
		}
	}
}

// copyBody sends the body after the head. It returns an error with the side
// that caused it.
func (x *fastExchange) copyBody(f *forward.Forwarder, up *pool.Conn, framing h1.Framing) (exchange.Side, error) {
	_ = up.SetReadDeadline(time.Time{})
	switch framing {
	case h1.SizedBody:
		return x.copySized(f, up)
	case h1.ChunkedBody:
		return x.copyChunked(f, up)
	case h1.UntilClose:
		return x.copyUntilClose(f, up)
	}
	return exchange.SideClient, x.front.end(nil)
}

// pages hold pieces of large bodies.
var pages = sync.Pool{New: func() any { return new([pageSize]byte) }}

// pageSize is how much of a large body is read at a time.
const pageSize = 64 << 10

// tlsPiece is how much of a body is read at a time for a client over TLS: two
// records. That much stays in the processor's cache; gathering more records for
// one write(2) costs more in copies than it saves in calls.
const tlsPiece = 32 << 10

// spliceMin is the size of a body that makes splice(2) worth its extra system
// calls.
const spliceMin = 32 << 10

// copySized copies a body of known length.
func (x *fastExchange) copySized(f *forward.Forwarder, up *pool.Conn) (exchange.Side, error) {
	left := x.res.ContentLength
	first := up.Buffered()
	first = first[:min(int64(len(first)), left)]
	_, _ = x.front.data(first) // flush returns the error
	up.Discard(len(first))
	left -= int64(len(first))
	x.rec.ResponseBytes = int64(len(first))
	if err := x.front.flush(); err != nil {
		return exchange.SideClient, err
	}
	if s, ok := x.front.(splicer); ok && left >= spliceMin && s.splices(up) {
		n, err := s.splice(up, left, f.IdleTimeout)
		left -= n
		x.rec.ResponseBytes += n
		if err != nil {
			return x.blame(up, err), err
		}
	}
	if left == 0 {
		return "", nil
	}
	return x.copyLarge(f, up, left)
}

// copyLarge copies the remaining left bytes of a body of known length.
func (x *fastExchange) copyLarge(f *forward.Forwarder, up *pool.Conn, left int64) (exchange.Side, error) {
	page := pages.Get().(*[pageSize]byte)
	defer pages.Put(page)
	size, room := int64(x.front.piece()), 0
	inPlace, _ := x.front.(framer)
	if inPlace != nil {
		room = inPlace.room()
	}
	for left > 0 {
		x.idle(f, up)
		n, err := up.Read(page[room:][:min(size, left)])
		if n == 0 {
			return exchange.SideUpstream, early(err)
		}
		left -= int64(n)
		x.rec.ResponseBytes += int64(n)
		if inPlace != nil {
			err = inPlace.framed(page[:], n)
		} else if _, err = x.front.data(page[:n]); err == nil {
			err = x.front.flush()
		}
		if err != nil {
			return exchange.SideClient, err
		}
	}
	return "", nil
}

// A framer is a front that frames a body in place. framed sends the n bytes
// after the first room bytes of page, and overwrites page.
type framer interface {
	room() int
	framed(page []byte, n int) error
}

// A splicer is a front that can splice a body from a target's connection.
type splicer interface {
	splices(up *pool.Conn) bool
	splice(up *pool.Conn, n int64, idle time.Duration) (int64, error)
}

// blame returns the side that caused a failed splice. A timeout is the client's
// fault only if the target has more bytes to send.
func (x *fastExchange) blame(up *pool.Conn, err error) exchange.Side {
	if x.left() || x.closed() {
		return exchange.SideClient
	}
	if isTimeout(err) {
		_ = up.SetReadDeadline(time.Now().Add(time.Millisecond))
		if !isTimeout(up.Fill()) {
			return exchange.SideClient
		}
	}
	return exchange.SideUpstream
}

// A piece is the result of one decoding step of a chunked body.
type piece struct {
	data []byte
	n    int   // encoded bytes consumed
	err  error // io.EOF at the end of the body
}

// beginBody decodes the part of a chunked body that came with the head. An
// error in that part can still be answered with an error response.
func (x *fastExchange) beginBody(b []byte) error {
	if x.res.Framing(view(x.req.Method)) != h1.ChunkedBody {
		return nil
	}
	x.chunks.Reset()
	x.chunks.Padded = true
	if x.first = x.decode(b); x.first.err != io.EOF {
		return x.first.err
	}
	return nil
}

func (x *fastExchange) decode(b []byte) (p piece) {
	p.data, p.n, p.err = x.chunks.Decode(b)
	return p
}

// copyChunked copies a chunked body, each chunk as it arrives.
func (x *fastExchange) copyChunked(f *forward.Forwarder, up *pool.Conn) (exchange.Side, error) {
	x.streaming.Store(true)
	defer x.streaming.Store(false)
	for p := x.first; ; p = x.decode(up.Buffered()) {
		x.data(p.data)
		if p.err == io.EOF {
			x.fields = x.edit.AppendTrailers(x.fields[:0], x.chunks.Trailers, x.nominated)
			err := x.front.end(x.fields)
			up.Discard(p.n) // only now: the trailers are in its buffer
			return exchange.SideClient, err
		}
		up.Discard(p.n)
		if p.err != nil {
			return exchange.SideUpstream, p.err
		}
		if err := x.front.flush(); err != nil {
			return exchange.SideClient, err
		}
		x.idle(f, up)
		if err := up.Fill(); err != nil {
			return exchange.SideUpstream, early(err)
		}
	}
}

// copyUntilClose copies a body that ends with its connection, as chunks.
func (x *fastExchange) copyUntilClose(f *forward.Forwarder, up *pool.Conn) (exchange.Side, error) {
	x.streaming.Store(true)
	defer x.streaming.Store(false)
	for {
		data := up.Buffered()
		x.data(data)
		up.Discard(len(data))
		if err := x.front.flush(); err != nil {
			return exchange.SideClient, err
		}
		x.idle(f, up)
		err := up.Fill()
		if err == io.EOF {
			return exchange.SideClient, x.front.end(nil)
		}
		if err != nil {
			return exchange.SideUpstream, err
		}
	}
}

// data sends a part of the body. The next flush returns the error, if any.
func (x *fastExchange) data(p []byte) {
	x.rec.ResponseBytes += int64(len(p))
	_, _ = x.front.data(p)
}

// idle limits the next wait for bytes from the target.
func (x *fastExchange) idle(f *forward.Forwarder, up *pool.Conn) {
	if f.IdleTimeout > 0 {
		_ = up.SetReadDeadline(time.Now().Add(f.IdleTimeout))
	}
}

// early returns the error for a body that ended too early.
func early(err error) error {
	if err == nil || err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
