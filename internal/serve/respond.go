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
	"github.com/hostproxy/hostproxy/internal/header"
	"github.com/hostproxy/hostproxy/internal/pool"
)

// respond copies the answer on up, whose head of n bytes has been read, to the
// client.
func (x *fastExchange) respond(f *forward.Forwarder, up *pool.Conn, n int) step {
	x.rec.Status = x.res.Status
	if x.upload.running && !x.upload.nearlySent() {
		x.last = true // an early answer: the rest of the body is not for us to find the end of
		x.upload.answered.Store(true)
	}
	method := view(x.req.Method)
	framing := x.res.Framing(method)
	sent := framing
	if framing == h1.UntilClose {
		sent = h1.ChunkedBody
	}
	x.named = forward.AppendNominated(x.named[:0], &x.res)
	x.fields = x.attempts.AppendOwn(f.AppendFields(x.fields[:0], &x.res, x.shown()), x.scheme)
	if framing == h1.ChunkedBody {
		x.fields = f.AppendAnnounced(x.fields, &x.res)
	}
	x.fields = forward.AppendUpgrade(x.fields, &x.res)
	length := x.res.ContentLength
	if x.res.Chunked || x.res.Status == http.StatusNoContent {
		length = -1 // RFC 9112, 6.2
	}
	x.appendHead(x.res.Status, sent, length)
	if sent == h1.ChunkedBody && f.StreamGrace != 0 && forward.IsEventStream(&x.res) {
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

// appendHead makes x.out the head of a final response with x.fields. length is that
// of its body, for Content-Length; negative means that nothing is said of it.
func (x *fastExchange) appendHead(status int, framing h1.Framing, length int64) {
	dst := h1.AppendStatusLine(x.out[:0], status, http.StatusText(status))
	dst = h1.AppendFields(dst, x.fields)
	if !dated(x.fields) {
		dst = append(dst, "Date: "...)
		dst = time.Now().UTC().AppendFormat(dst, http.TimeFormat)
		dst = append(dst, "\r\n"...)
	}
	switch {
	case framing == h1.ChunkedBody:
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
	case length >= 0:
		dst = h1.AppendContentLength(dst, length)
	}
	if x.last {
		dst = append(dst, "Connection: close\r\n"...)
	}
	x.out = append(dst, "\r\n"...)
}

// appendInterim makes x.out the head of a 1xx with x.fields.
func (x *fastExchange) appendInterim(status int) {
	x.out = h1.AppendStatusLine(x.out[:0], status, http.StatusText(status))
	x.out = append(h1.AppendFields(x.out, x.fields), "\r\n"...)
}

func dated(fields []h1.Field) bool {
	for i := range fields {
		if n := fields[i].Name; len(n) == len("date") && header.EqualFold(n, "date") {
			return true
		}
	}
	return false
}

// conclude decides what becomes of both connections after a whole response.
func (x *fastExchange) conclude(up *pool.Conn, keep bool) step {
	x.unwatch() // before the connection can serve somebody else
	whole := x.upload.settle()
	if keep && whole {
		up.Put()
	} else {
		up.Close()
	}
	x.r += x.upload.took
	switch {
	case !whole, x.last && (x.r < x.w || len(x.upload.over) > 0):
		return linger
	case x.last:
		return end
	}
	return again
}

// readHead reads the head of the final response, whose length it returns, and
// relays interim ones before it.
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
			if x.res.Status != http.StatusContinue { // nobody asked: Expect is the handler lane's
				x.fields = f.AppendInterimFields(x.fields[:0], &x.res)
				x.appendInterim(x.res.Status)
				x.sent = true
				if _, err := x.c.stream().Write(x.out); err != nil {
					x.gone.Store(true)
					return 0, err
				}
			}
			up.Discard(n)
		}
	}
}

// copyBody sends x.out, which holds the head, and the body. An error comes
// with the side that caused it.
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
	return exchange.SideClient, x.flush()
}

// flush sends x.out.
func (x *fastExchange) flush() error {
	x.sent = true
	_, err := x.c.stream().Write(x.out)
	x.out = x.out[:0]
	return err
}

// pages hold what of a large body is on its way.
var pages = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// tlsPiece is how much of a body is read at a time when it goes out over TLS:
// two records. It stays in the processor's cache on its way through; collecting
// records for one write(2) costs more in copies than it saves in calls.
const tlsPiece = 32 << 10

// spliceMin is the size from which a body is worth the extra system calls of
// splice(2).
const spliceMin = 32 << 10

// copySized copies a body of known length.
func (x *fastExchange) copySized(f *forward.Forwarder, up *pool.Conn) (exchange.Side, error) {
	left := x.res.ContentLength
	first := up.Buffered()
	first = first[:min(int64(len(first)), left)]
	x.out = append(x.out, first...)
	up.Discard(len(first))
	left -= int64(len(first))
	x.rec.ResponseBytes = int64(len(first))
	if err := x.flush(); err != nil {
		return exchange.SideClient, err
	}
	if left >= spliceMin && x.c.spliced && up.TLS() == nil {
		n, err := up.SpliceTo(x.c, left, f.IdleTimeout)
		left -= n
		x.rec.ResponseBytes += n
		if err != nil {
			return x.blame(up, err), err
		}
	}
	if left == 0 {
		return "", nil
	}
	page := pages.Get().(*[64 << 10]byte)
	defer pages.Put(page)
	size := int64(len(page))
	if x.c.tls != nil {
		size = tlsPiece
	}
	for left > 0 {
		x.idle(f, up)
		n, err := up.Read(page[:min(size, left)])
		if n == 0 {
			return exchange.SideUpstream, early(err)
		}
		left -= int64(n)
		x.rec.ResponseBytes += int64(n)
		if _, err := x.c.stream().Write(page[:n]); err != nil {
			return exchange.SideClient, err
		}
	}
	return "", nil
}

// blame says whose fault a failed splice is. When it took too long, the target
// has to have more to say for it to be the client's.
func (x *fastExchange) blame(up *pool.Conn, err error) exchange.Side {
	if x.left() || x.peekGone() {
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

// A piece is what was decoded of a chunked body at once.
type piece struct {
	data []byte
	n    int   // bytes that it took
	err  error // io.EOF at the end of the body
}

// beginBody decodes what of a chunked body has come with its head. What is wrong with
// that can still be answered.
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

// copyChunked copies a chunked body, chunk by chunk as it comes.
func (x *fastExchange) copyChunked(f *forward.Forwarder, up *pool.Conn) (exchange.Side, error) {
	x.streaming.Store(true)
	defer x.streaming.Store(false)
	for p := x.first; ; p = x.decode(up.Buffered()) {
		x.appendChunk(p.data)
		done := p.err == io.EOF
		if done {
			x.fields = f.AppendTrailers(x.fields[:0], x.chunks.Trailers, x.named)
			x.out = h1.AppendLastChunk(x.out, x.fields)
		}
		up.Discard(p.n)
		if p.err != nil && !done {
			return exchange.SideUpstream, p.err
		}
		if len(x.out) > 0 {
			if err := x.flush(); err != nil {
				return exchange.SideClient, err
			}
		}
		if done {
			return "", nil
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
		x.appendChunk(data)
		up.Discard(len(data))
		if err := x.flush(); err != nil {
			return exchange.SideClient, err
		}
		x.idle(f, up)
		err := up.Fill()
		if err == io.EOF {
			x.out = h1.AppendLastChunk(x.out, nil)
			return exchange.SideClient, x.flush()
		}
		if err != nil {
			return exchange.SideUpstream, err
		}
	}
}

// appendChunk appends data, unless empty, as one chunk to x.out.
func (x *fastExchange) appendChunk(data []byte) {
	if len(data) == 0 {
		return
	}
	x.rec.ResponseBytes += int64(len(data))
	x.out = h1.AppendChunkHeader(x.out, len(data))
	x.out = append(x.out, data...)
	x.out = append(x.out, "\r\n"...)
}

// idle bounds the next wait for the target's bytes.
func (x *fastExchange) idle(f *forward.Forwarder, up *pool.Conn) {
	if f.IdleTimeout > 0 {
		_ = up.SetReadDeadline(time.Now().Add(f.IdleTimeout))
	}
}

// early is the error of a body that ended before its time.
func early(err error) error {
	if err == nil || err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
