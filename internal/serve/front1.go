package serve

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/pool"
)

// A front1 is the front of HTTP/1.x: it spells heads and frames bodies. What it
// spells gathers in out.
type front1 struct {
	c        *conn
	x        *fastExchange // nil when the connection has been given away
	src      source
	out      []byte
	last     bool // the connection closes after the response
	minor    int  // of the request's version
	headOnly bool // the request is HEAD
	leaves   bool // the client wants the connection closed after the response
	stays    bool // a client of HTTP/1.0 wants it kept

	begun   bool // the final head has been spelled
	chunked bool
	open    bool  // the body ends with the connection
	err     error // of the first write that failed

	bounded atomic.Bool // writeBy has set a deadline
}

// Sizes of what is gathered.
const (
	gatherSize = 16 << 10 // what waits for more, or for a flush
	directSize = 4 << 10  // what goes out as it is, unless it is behind other bytes
)

// take makes f the front of the request that x has parsed.
func (f *front1) take(x *fastExchange) {
	r := &x.req
	f.c, f.x, f.minor, f.headOnly = x.c, x, r.Minor, string(r.Method) == http.MethodHead
	f.leaves, f.stays = r.Minor == 1 && r.Close, r.Minor == 0 && r.Persistent() && bounded(r)
	f.begun, f.chunked, f.open, f.err = false, false, false, nil
	f.bounded.Store(false)
	f.last, f.out = false, f.out[:0]
}

// bounded reports whether it is certain where a request of HTTP/1.0 ends; see
// exchange.CloseUnbounded.
func bounded(r *h1.Request) bool {
	return r.ContentLength >= 0 || string(r.Method) == http.MethodGet || string(r.Method) == http.MethodHead
}

func (f *front1) body() *source { return &f.src }

// interim implements front. HTTP/1.0 knows no interim responses (RFC 9110, 15.2).
func (f *front1) interim(status int, fields []h1.Field) error {
	if f.minor == 0 {
		return nil
	}
	f.out = h1.AppendFields(f.appendStatus(f.out, status), fields)
	f.out = append(f.out, "\r\n"...)
	return f.flush()
}

// head implements front.
func (f *front1) head(h *head) error {
	x := f.x
	f.begun = true
	f.frame(h)
	f.out = h1.AppendFields(f.appendStatus(f.out, h.status), h.fields)
	if !h.undated {
		f.out = append(append(append(f.out, "Date: "...), x.c.s.date()...), "\r\n"...)
	}
	if h.length >= 0 && (hasBody(h.status) || h.status == http.StatusNotModified) {
		f.out = h1.AppendContentLength(f.out, h.length)
	}
	f.out = f.appendConnection(f.out, h)
	if f.chunked {
		f.out = append(f.out, "Transfer-Encoding: chunked\r\n"...)
	}
	f.out = append(f.out, "\r\n"...)
	return f.err
}

// reuses implements front.
func (f *front1) reuses(h *head) bool {
	f.frame(h)
	return !f.last
}

// frame decides how the client finds the end of the body, and what becomes of the
// connection.
func (f *front1) frame(h *head) {
	x := f.x
	f.open, f.chunked = false, false
	bodiless := f.headOnly || !hasBody(h.status)
	known := bodiless || h.length >= 0
	switch {
	case known:
	case f.minor == 0, h.unframed:
		f.open = true
	default:
		f.chunked = true
	}
	f.last = h.last || f.leaves || f.open || f.minor == 0 && !(f.stays && known) ||
		names(h.connection, "close") || x.c.s.draining.Err() != nil ||
		h.status == http.StatusSwitchingProtocols // what follows is of the other protocol
}

// appendConnection appends the Connection field, if there is one.
func (f *front1) appendConnection(dst []byte, h *head) []byte {
	switch {
	case h.status == http.StatusSwitchingProtocols, names(h.connection, "close"), !f.last && len(h.connection) > 0:
		for _, v := range h.connection {
			dst = h1.AppendField(dst, "Connection", strings.Trim(v, " \t"))
		}
	case f.last && f.minor == 1:
		if names(h.connection, "upgrade") { // of a 426 (RFC 9110, 7.8)
			dst = append(dst, "Connection: Upgrade\r\n"...)
		}
		dst = append(dst, "Connection: close\r\n"...)
	case !f.last && f.minor == 0:
		dst = append(dst, "Connection: keep-alive\r\n"...)
	}
	return dst
}

// names reports whether the values of a Connection field have a member of that name.
func names(values []string, name string) bool {
	for _, v := range values {
		for member := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.Trim(member, " \t"), name) {
				return true
			}
		}
	}
	return false
}

// appendStatus appends a status line of the client's version.
func (f *front1) appendStatus(dst []byte, status int) []byte {
	start := len(dst)
	reason := http.StatusText(status)
	if reason == "" {
		reason = "status code " + strconv.Itoa(status)
	}
	dst = h1.AppendStatusLine(dst, status, reason)
	if f.minor == 0 {
		dst[start+len("HTTP/1.")] = '0'
	}
	return dst
}

// data implements front.
func (f *front1) data(p []byte) (n int, err error) {
	if f.err != nil {
		return 0, f.err
	}
	if len(p) == 0 || f.headOnly {
		return len(p), nil
	}
	if f.chunked {
		f.out = h1.AppendChunkHeader(f.out, len(p))
	}
	gathers := len(p) < directSize || len(f.out) > 0 && len(p) <= gatherSize
	if gathers {
		f.out = append(f.out, p...)
		n = len(p)
	} else if f.flush() == nil {
		n, f.err = f.x.c.stream().Write(p)
	}
	if f.chunked {
		f.out = append(f.out, "\r\n"...)
	}
	if gathers && len(f.out) >= gatherSize && f.flush() != nil {
		n = 0
	}
	return n, f.err
}

// readFrom implements front, with the system's sendfile. Other sources may let their
// reader wait.
func (f *front1) readFrom(r io.Reader) (int64, bool, error) {
	if f.x.c.tls != nil || f.chunked || f.headOnly || f.err != nil || f.flush() != nil {
		return 0, false, f.err
	}
	return f.x.c.trySendFile(r)
}

// splices implements splicer.
func (f *front1) splices(up *pool.Conn) bool {
	return f.x.c.spliced && up.TLS() == nil && !f.chunked && !f.headOnly
}

// splice implements splicer.
func (f *front1) splice(up *pool.Conn, n int64, idle time.Duration) (int64, error) {
	return up.SpliceTo(f.x.c, n, idle)
}

// flush implements front.
func (f *front1) flush() error {
	x := f.x
	if f.err == nil && len(f.out) > 0 {
		_, f.err = x.c.stream().Write(f.out)
	}
	f.out = f.out[:0]
	return f.err
}

// end implements front.
func (f *front1) end(trailers []h1.Field) error {
	if f.chunked {
		f.out = h1.AppendFields(append(f.out, "0\r\n"...), trailers)
		f.out = append(f.out, "\r\n"...)
	}
	return f.flush()
}

// cut implements front. A body that ends with the connection would look whole
// behind an ordinary close.
func (f *front1) cut() {
	if f.begun {
		_ = f.flush()
	}
	if f.open || f.err != nil {
		f.x.c.cut()
		return
	}
	f.x.c.Close() // under TLS without a close_notify: the body is not whole
}

func (f *front1) readBy(t time.Time) error {
	f.src.bound.Store(true)
	return f.c.stream().SetReadDeadline(t)
}

func (f *front1) writeBy(t time.Time) error {
	f.bounded.Store(true)
	return f.c.stream().SetWriteDeadline(t)
}

// release undoes writeBy.
func (f *front1) release() {
	if f.bounded.Load() {
		_ = f.c.stream().SetWriteDeadline(time.Time{})
	}
}

// hijack implements front. It gives the exchange back, whose buffers are not needed for
// as long as the handler has the connection. The handler keeps f.
func (f *front1) hijack() (net.Conn, *bufio.ReadWriter) {
	x, c := f.x, f.x.c
	ahead := f.src.unread()
	_ = c.stream().SetDeadline(time.Time{})
	c.readArmed = time.Time{}
	var nc net.Conn = c
	if c.tls != nil {
		nc = &secured{c.tls, c}
	}
	f.x, f.src.x, f.out = nil, nil, nil
	x.renewFront()
	x.release()
	r := bufio.NewReaderSize(&replay{nc, ahead}, max(gatherSize, len(ahead)))
	_, _ = r.Peek(len(ahead))
	return nc, bufio.NewReadWriter(r, bufio.NewWriterSize(nc, gatherSize))
}

// A replay reads what was read ahead, then from the connection.
type replay struct {
	net.Conn
	ahead []byte
}

// Read implements io.Reader.
func (r *replay) Read(p []byte) (int, error) {
	if len(r.ahead) > 0 {
		n := copy(p, r.ahead)
		r.ahead = r.ahead[n:]
		return n, nil
	}
	return r.Conn.Read(p)
}

// A secured is a TLS connection that a handler has taken over.
type secured struct {
	*tls.Conn
	under *conn
}

// Close does not say goodbye to a client that takes nothing: crypto/tls would
// try for five seconds.
func (s *secured) Close() error {
	if s.under.discards.Load() {
		return s.under.Close()
	}
	return s.Conn.Close()
}
