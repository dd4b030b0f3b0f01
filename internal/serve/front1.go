package serve

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/pool"
)

// A front1 is the front of HTTP/1.x: it reads requests, writes heads and frames
// bodies. A connection has one, with an exchange, while it is not idle. Output
// gathers in out.
type front1 struct {
	c *conn
	x *fastExchange // nil if the connection has been given away

	in      *[bufferSize]byte // nil if the connection has been given away
	r, w    int               // in[r:w] is unread
	headAt  int               // start of the last parsed head
	headLen int
	long    []byte // the last parsed head with bytes read after it, if they do not fit in
	odd     bool   // only the handler lane can forward the head
	src     source1
	lookout *lookout // nil if none runs; guarded by the mu of the handler's body

	out      []byte
	last     bool // the connection closes after the response
	minor    int  // minor version of the request
	headOnly bool // the request is HEAD
	leaves   bool // the client wants the connection closed after the response
	stays    bool // a client of HTTP/1.0 wants the connection kept

	begun   bool // the final head was written to out
	chunked bool
	open    bool  // the body ends with the connection
	err     error // error of the first write that failed

	bounded atomic.Bool // writeBy has set a deadline
}

var fronts = sync.Pool{New: func() any {
	return newFront1(&fastExchange{out: make([]byte, 0, 2<<10)}, new([bufferSize]byte))
}}

func newFront1(x *fastExchange, in *[bufferSize]byte) *front1 {
	f := &front1{x: x, in: in, out: make([]byte, 0, 4<<10)}
	x.front = f
	return f
}

// lend makes f the front of c's requests until giveBack.
func (f *front1) lend(c *conn) {
	f.c, f.x.from = c, &c.origin
	c.serving.Store(&f.x.watched)
}

// giveBack puts f back into the pool.
func (f *front1) giveBack() {
	f.c.serving.Store(nil)
	f.x.release()
	f.c, f.src.f, f.long = nil, nil, nil
	if cap(f.out) > maxKeptOut {
		f.out = make([]byte, 0, 4<<10)
	}
	fronts.Put(f)
}

// Sizes of output.
const (
	gatherSize = 16 << 10 // output of this size is written
	directSize = 4 << 10  // a piece from this size on is written directly, unless other bytes wait
)

// begin prepares f for the request that it has parsed.
func (f *front1) begin() {
	r := &f.x.req
	f.minor, f.headOnly = r.Minor, string(r.Method) == http.MethodHead
	f.leaves, f.stays = r.Minor == 1 && r.Close, r.Minor == 0 && r.Persistent() && bounded(r)
	f.begun, f.chunked, f.open, f.err = false, false, false, nil
	f.bounded.Store(false)
	f.last, f.out = false, f.out[:0]
}

// bounded reports whether the end of an HTTP/1.0 request is certain; see
// exchange.CloseUnbounded.
func bounded(r *h1.Request) bool {
	return r.ContentLength >= 0 || string(r.Method) == http.MethodGet || string(r.Method) == http.MethodHead
}

// text implements front.
func (f *front1) text() []byte {
	if f.long != nil {
		return f.long[:f.headLen]
	}
	return f.in[f.headAt : f.headAt+f.headLen]
}

// major implements front.
func (f *front1) major() int { return 1 }

// handle implements front.
func (f *front1) handle(w *response) {
	if w != nil {
		w.since = f.c.s.now()
	}
	f.c.handling.Store(w)
}

// why implements front.
func (f *front1) why() error { return f.c.Why() }

// client implements front.
func (f *front1) client(*response) exchange.Client { return f.c }

func (f *front1) body() source { return &f.src }

// keeps reports whether the connection can carry another request after the
// response that has begun.
func (f *front1) keeps() bool { return !f.last }

// next implements front.
func (f *front1) next(whole bool) step {
	switch {
	case !whole, f.last && f.src.ahead():
		return linger
	case f.last:
		return end
	}
	return again
}

// patience implements front.
func (f *front1) patience(stall time.Duration) { f.c.stall = stall }

// hasLeft implements front.
func (f *front1) hasLeft(reads bool) bool {
	if !reads {
		f.c.lookAhead()
		return f.c.HungUp()
	}
	unread := f.x.unread.Load()
	if !unread { // otherwise the upload reads
		f.c.lookAhead()
	}
	return f.c.peekGone(unread)
}

// lookBack implements front.
func (f *front1) lookBack() { f.c.lookBack() }

// piece implements front.
func (f *front1) piece() int {
	if f.c.tls != nil {
		return tlsPiece
	}
	return pageSize
}

// interim implements front. HTTP/1.0 has no interim responses (RFC 9110, 15.2).
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
	f.begun = true
	f.frame(h)
	f.out = h1.AppendFields(f.appendStatus(f.out, h.status), h.fields)
	if !h.undated {
		f.out = append(append(append(f.out, "Date: "...), f.c.s.date()...), "\r\n"...)
	}
	if v := f.c.altSvc(h); v != "" {
		f.out = append(append(append(f.out, "Alt-Svc: "...), v...), "\r\n"...)
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

// reuses reports whether the connection can carry another request after a
// response with that head.
func (f *front1) reuses(h *head) bool {
	f.frame(h)
	return !f.last
}

// frame decides how the client finds the end of the body, and whether the
// connection is kept.
func (f *front1) frame(h *head) {
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
		names(h.connection, "close") || f.c.s.retiring.Err() != nil ||
		h.status == http.StatusSwitchingProtocols // the bytes after it belong to the other protocol
}

// appendConnection appends the Connection field, if there is one.
func (f *front1) appendConnection(dst []byte, h *head) []byte {
	switch {
	case h.status == http.StatusSwitchingProtocols, names(h.connection, "close"), !f.last && len(h.connection) > 0:
		for _, v := range h.connection {
			dst = h1.AppendField(dst, "Connection", strings.Trim(v, " \t"))
		}
	case f.last && f.minor == 1:
		if names(h.connection, "upgrade") { // for a 426 (RFC 9110, 7.8)
			dst = append(dst, "Connection: Upgrade\r\n"...)
		}
		dst = append(dst, "Connection: close\r\n"...)
	case !f.last && f.minor == 0:
		dst = append(dst, "Connection: keep-alive\r\n"...)
	}
	return dst
}

// names reports whether the values of a Connection field contain name.
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

// appendStatus appends a status line in the client's version of HTTP.
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
		n, f.err = f.c.stream().Write(p)
	}
	if f.chunked {
		f.out = append(f.out, "\r\n"...)
	}
	if gathers && len(f.out) >= gatherSize && f.flush() != nil {
		n = 0
	}
	return n, f.err
}

// sendFile sends r as the next part of the body, by the system's sendfile. It
// reads nothing if the system cannot, or if r is no file: reading it could
// wait.
func (f *front1) sendFile(r io.Reader) (int64, error) {
	if f.c.tls != nil || f.chunked || f.headOnly || f.err != nil || f.flush() != nil {
		return 0, f.err
	}
	n, _, err := f.c.trySendFile(r)
	return n, err
}

// splices implements splicer.
func (f *front1) splices(up *pool.Conn) bool {
	return f.c.spliced && up.TLS() == nil && !f.chunked && !f.headOnly
}

// splice implements splicer.
func (f *front1) splice(up *pool.Conn, n int64, idle time.Duration) (int64, error) {
	return up.SpliceTo(f.c, n, idle)
}

// flush implements front.
func (f *front1) flush() error {
	if f.err == nil && len(f.out) > 0 {
		_, f.err = f.c.stream().Write(f.out)
	}
	f.out = f.out[:0]
	return f.err
}

// trails implements front.
func (f *front1) trails() bool { return f.chunked }

// end implements front.
func (f *front1) end(trailers []h1.Field) error {
	if f.chunked {
		f.out = h1.AppendFields(append(f.out, "0\r\n"...), trailers)
		f.out = append(f.out, "\r\n"...)
	}
	return f.flush()
}

// cut implements front. After an ordinary close, a body that ends with the
// connection would look complete.
func (f *front1) cut() {
	if f.begun {
		_ = f.flush()
	}
	if f.open || f.err != nil {
		f.c.cut()
		return
	}
	f.c.Close() // under TLS without close_notify: the body is incomplete
}

// sever implements front.
func (f *front1) sever() { f.c.cut() }

func (f *front1) writeBy(t time.Time) error {
	f.bounded.Store(true)
	return f.c.stream().SetWriteDeadline(t)
}

// release implements front.
func (f *front1) release() {
	if f.bounded.Load() {
		_ = f.c.stream().SetWriteDeadline(time.Time{})
	}
}

// conn implements front.
func (f *front1) conn() *conn { return f.c }

// hijack gives the connection away, with the bytes that were read ahead. It
// returns the exchange and the input buffer to the pool, since the handler does
// not need them. The handler keeps f.
func (f *front1) hijack() (net.Conn, *bufio.ReadWriter) {
	c := f.c
	ahead := f.src.unread()
	_ = c.stream().SetDeadline(time.Time{})
	c.readArmed = time.Time{}
	var nc net.Conn = c
	if c.tls != nil {
		nc = &secured{c.tls, c}
	}
	other := newFront1(f.x, f.in)
	other.c = c
	other.giveBack()
	f.x, f.in, f.out = nil, nil, nil // f.src stays, for deadlines
	r := bufio.NewReaderSize(&replay{nc, ahead}, max(gatherSize, len(ahead)))
	_, _ = r.Peek(len(ahead))
	return nc, bufio.NewReadWriter(r, bufio.NewWriterSize(nc, gatherSize))
}

// A replay first returns the bytes that were read ahead, then reads from the
// connection.
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

// Close sends no close_notify to a client that does not read: crypto/tls would
// try for five seconds.
func (s *secured) Close() error {
	defer s.under.contain() // a panic in the close_notify
	if s.under.discards.Load() {
		return s.under.Close()
	}
	return s.Conn.Close()
}
