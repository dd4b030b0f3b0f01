package serve

import (
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
)

// A source is the body of a request of HTTP/1.x: what of it has been read already,
// which is in the exchange's input buffer, and then what the connection brings. It
// reads nothing behind the body that it does not leave in that buffer.
//
// One goroutine reads at a time. Others may call interrupt.
type source struct {
	x       *fastExchange
	framing h1.Framing
	left    int64     // of a sized body: bytes to come
	chunks  h1.Chunks // of a chunked one
	data    []byte    // decoded and not read yet; in the input buffer
	ahead   []byte    // of a sized body, behind what the input buffer has; see received
	asks    bool      // the client waits for 100 Continue before it sends the body
	until   time.Time // when settle loses its patience; zero without it
	err     error     // what all further reads return; io.EOF is the end of the body

	stop     atomic.Bool // set before the read deadline that wakes the reader
	bound    atomic.Bool // the read deadline is somebody else's
	answered atomic.Bool // the response has begun: the client owes no haste any more
}

// take makes s the body of the request that x has parsed.
func (s *source) take(x *fastExchange) {
	s.x, s.framing, s.left = x, x.req.Framing(), x.req.ContentLength
	s.data, s.ahead, s.err, x.ahead = nil, x.ahead, nil, nil
	s.asks = false
	s.stop.Store(false)
	s.bound.Store(false)
	s.answered.Store(false)
	switch s.framing {
	case h1.NoBody:
		s.err = io.EOF
	case h1.ChunkedBody:
		s.chunks.Reset()
	}
	if pending := s.err == nil; x.unread.Load() != pending {
		x.unread.Store(pending)
	}
}

// whole reports whether the body has been read to its end.
func (s *source) whole() bool { return s.err == io.EOF }

// trailers are those behind the body, once it is whole; valid until the exchange ends.
func (s *source) trailers() []h1.Field {
	if s.framing != h1.ChunkedBody {
		return nil
	}
	return s.chunks.Trailers
}

// Read implements io.Reader. The end comes with the last bytes, if it is known. A
// connection that ends before is an io.ErrUnexpectedEOF; what is malformed is an
// *h1.Refusal. After a timeout reading may go on.
func (s *source) Read(p []byte) (int, error) {
	switch {
	case s.err != nil && len(s.data) == 0:
		return 0, s.err
	case len(p) == 0:
		return 0, nil
	case s.framing == h1.SizedBody:
		return s.readSized(p)
	}
	for len(s.data) == 0 {
		if err := s.decode(); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.data)
	if s.data = s.data[n:]; len(s.data) == 0 && s.err == io.EOF {
		return n, io.EOF
	}
	return n, nil
}

func (s *source) readSized(p []byte) (n int, err error) {
	p = p[:min(int64(len(p)), s.left)]
	switch x := s.x; {
	case x.r < x.w:
		n = copy(p, x.in[x.r:x.w])
		x.r += n
	case len(s.ahead) > 0:
		n = copy(p, s.ahead)
		s.ahead = s.ahead[n:]
	default:
		n, err = s.receive(p)
	}
	if s.left -= int64(n); s.left == 0 {
		s.end(io.EOF)
		return n, io.EOF
	}
	if n > 0 {
		return n, nil
	}
	return 0, err
}

// decode decodes what the input buffer has of a chunked body, after reading more if
// that is nothing.
func (s *source) decode() error {
	x := s.x
	if s.err != nil {
		return s.err
	}
	data, n, err := s.chunks.Decode(x.in[x.r:x.w])
	x.r += n
	s.data = data
	switch {
	case err != nil:
		s.end(err)
		if len(data) > 0 {
			return nil
		}
		return err
	case len(data) > 0:
		return nil
	}
	if x.r > 0 {
		x.r, x.w = 0, copy(x.in[:], x.in[x.r:x.w])
	}
	n, err = s.receive(x.in[x.w:]) // there is room: a trailer section is shorter
	x.w += n
	if n > 0 {
		return nil
	}
	return err
}

// receive reads from the connection.
func (s *source) receive(p []byte) (int, error) {
	c := s.x.c
	switch {
	case !s.until.IsZero():
		s.bound.Store(true)
		_ = c.Conn.SetReadDeadline(s.until)
	case s.bound.Load():
	case s.answered.Load():
		c.readBy(0)
	default:
		c.readBy(exchange.BodyStall)
	}
	if s.stop.Load() { // or else the deadline just armed undoes interrupt
		return 0, errStopped
	}
	n, err := c.stream().Read(p)
	switch {
	case n > 0:
		return n, nil
	case s.stop.Load():
		return 0, errStopped
	case isTimeout(err):
		return 0, err
	}
	s.end(io.ErrUnexpectedEOF)
	return 0, s.err
}

// end notes how the body ended.
func (s *source) end(err error) {
	s.err = err
	if err == io.EOF {
		s.x.unread.Store(false)
	}
}

// interrupt wakes the reader, who gets an error, as does everybody until resume.
func (s *source) interrupt() {
	s.stop.Store(true)
	s.x.c.interrupt()
}

// resume ends interrupt, and any bound that was set on reads.
func (s *source) resume() {
	s.stop.Store(false)
	s.bound.Store(false)
	s.x.c.readArmed = time.Time{}
	_ = s.x.c.Conn.SetReadDeadline(time.Time{})
}

// maxSettle is how long settle waits in all.
const maxSettle = 5 * time.Second

// settle reads what is left of an unwanted body, up to exchange.SettleBytes, while
// something comes within patience each time. It reports whether that was all. It does
// not wait for a client that waits to be asked, nor for a body that is known to be too
// long.
func (s *source) settle(patience time.Duration) bool {
	if s.err == nil && !s.short() {
		return false
	}
	s.data = nil
	if s.err != nil {
		return s.whole()
	}
	page := pages.Get().(*[64 << 10]byte)
	defer pages.Put(page)
	last := time.Now().Add(maxSettle)
	for total := 0; s.err == nil && total <= exchange.SettleBytes; {
		if s.until = time.Now().Add(patience); s.until.After(last) {
			s.until = last
		}
		n, err := s.Read(page[:])
		if total += n; err != nil {
			break
		}
	}
	s.until = time.Time{}
	if s.bound.Load() {
		s.resume()
	}
	return s.whole()
}

// short reports whether it can be worth while to wait for the rest of the body: it is
// not known to be too long, and its client does not wait to be asked.
func (s *source) short() bool {
	return !s.asks && (s.framing != h1.SizedBody || s.left <= exchange.SettleBytes)
}

// unread returns what was read of the body, and behind it, and not used.
func (s *source) unread() []byte {
	x := s.x
	return append(append(append([]byte(nil), s.data...), x.in[x.r:x.w]...), s.ahead...)
}

// expects reports what becomes of the Expect fields of a request: whether its
// client waits for 100 Continue, or wants what nobody knows (RFC 9110, 10.1.1).
func expects(r *h1.Request) (asks, unknown bool) {
	if r.Unusual&h1.UnusualExpect == 0 || r.Minor == 0 {
		return false, false
	}
	for i := range r.Fields {
		if f := &r.Fields[i]; len(f.Name) == len("Expect") && header.EqualFold(f.Name, "expect") {
			asks = true
			unknown = unknown || !header.EqualFold(f.Value, "100-continue")
		}
	}
	return asks && r.Framing() != h1.NoBody, unknown
}

var errExpectation = &h1.Refusal{Status: http.StatusExpectationFailed, Reason: "Expect is not 100-continue"}
