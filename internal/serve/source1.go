package serve

import (
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/h1"
)

// A source1 is the source of HTTP/1.x. It first reads the bytes that came with
// the head from the front's input buffer, then reads from the connection. It
// overwrites nothing in the input buffer before release.
type source1 struct {
	f       *front1
	framing h1.Framing
	left    int64     // bytes to come of a sized body
	chunks  h1.Chunks // decoder of a chunked body
	raw     []byte    // bytes of a chunked body that are not decoded yet
	page    *[bufferSize]byte
	data    []byte    // decoded, but not read yet; in the input buffer or in page
	back    []byte    // to be read again before all other bytes
	asks    bool      // the client waits for 100 Continue before it sends the body
	until   time.Time // read deadline of settle; zero if there is none
	err     error     // returned by all further reads; io.EOF at the end of the body

	arming sync.Mutex // held while the read deadline is set
	// how long the client may send nothing until the response begins, at most
	// exchange.BodyStall, which 0 means, too
	stall    time.Duration
	stop     atomic.Bool // set before the read deadline that wakes the reader
	bound    atomic.Bool // a handler has set the read deadline
	answered atomic.Bool // the response has begun: the client may pause
}

// sourcePages hold the part of a chunked body that is being decoded, and the
// input of HTTP/2. Bytes after a chunked body fit the input buffer.
var sourcePages = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// take makes s the body of the request that f has parsed.
func (s *source1) take(f *front1) {
	s.dropPage()
	req := &f.x.req
	s.f, s.framing, s.left = f, req.Framing(), req.ContentLength
	s.raw, s.data, s.back, s.err = nil, nil, s.back[:0], nil
	s.asks, s.stall = false, 0
	s.stop.Store(false)
	s.bound.Store(false)
	s.answered.Store(false)
	switch s.framing {
	case h1.NoBody:
		s.err = io.EOF
	case h1.ChunkedBody:
		s.chunks.Reset()
		s.raw, f.r = f.in[f.r:f.w], f.w
	}
	if pending := s.err == nil; f.x.unread.Load() != pending {
		f.x.unread.Store(pending)
	}
}

// release implements source. Bytes read after the body begin the next request.
func (s *source1) release() {
	f := s.f
	if s.page == nil {
		f.r -= len(s.raw) // raw is the end of the input buffer
	} else {
		f.r, f.w = 0, copy(f.in[:], s.raw)
		s.dropPage()
	}
	s.raw, s.data = nil, nil
}

func (s *source1) dropPage() {
	if s.page != nil {
		sourcePages.Put(s.page)
		s.page = nil
	}
}

// ahead reports whether bytes after the body have been read.
func (s *source1) ahead() bool { return s.f.r < s.f.w || len(s.raw) > 0 }

// length implements source.
func (s *source1) length() int64 {
	switch s.framing {
	case h1.NoBody:
		return 0
	case h1.SizedBody:
		return s.f.x.req.ContentLength
	}
	return unknownLength
}

// whole implements source.
func (s *source1) whole() bool { return s.err == io.EOF }

// pending implements source.
func (s *source1) pending() bool { return s.f.x.unread.Load() }

// expect implements source.
func (s *source1) expect(asks bool) { s.asks = asks }

// expected implements source.
func (s *source1) expected() bool { return s.asks }

// hurry implements source.
func (s *source1) hurry(stall time.Duration) { s.stall = stall }

// answer implements source.
func (s *source1) answer() { s.answered.Store(true) }

// trailers implements source.
func (s *source1) trailers() []h1.Field {
	if s.framing != h1.ChunkedBody {
		return nil
	}
	return s.chunks.Trailers
}

// first implements source.
func (s *source1) first() ([]byte, error) {
	switch f := s.f; s.framing {
	case h1.SizedBody:
		data := f.in[f.r : f.r+int(min(int64(f.w-f.r), s.left))]
		f.r += len(data)
		return data, s.took(len(data))
	case h1.ChunkedBody:
		s.decode()
		data := s.data
		s.data = nil
		return data, s.err
	}
	return nil, s.err
}

// giveBack implements source.
func (s *source1) giveBack(data []byte) { s.back = append(s.back[:0], data...) }

// took counts n bytes of a sized body, and returns io.EOF at its end.
func (s *source1) took(n int) error {
	if s.left -= int64(n); s.left == 0 {
		s.end(io.EOF)
		return io.EOF
	}
	return nil
}

// Read implements source.
func (s *source1) Read(p []byte) (n int, err error) {
	switch {
	case len(s.back) > 0:
		n = copy(p, s.back)
		s.back = s.back[n:]
	case s.err != nil && len(s.data) == 0:
	case len(p) == 0:
		return 0, nil
	case s.framing == h1.SizedBody:
		return s.readSized(p)
	default:
		for len(s.data) == 0 && s.err == nil {
			if s.decode(); len(s.data) > 0 || s.err != nil {
				break
			}
			if err := s.fill(); err != nil {
				return 0, err
			}
		}
		n = copy(p, s.data)
		s.data = s.data[n:]
	}
	if len(s.back) == 0 && len(s.data) == 0 && (n == 0 || s.err == io.EOF) {
		return n, s.err
	}
	return n, nil
}

func (s *source1) readSized(p []byte) (int, error) {
	p = p[:min(int64(len(p)), s.left)]
	n, err := s.readAhead(p), error(nil)
	if n == 0 {
		n, err = s.receive(p)
	}
	if n == 0 {
		return 0, err
	}
	return n, s.took(n)
}

// readAhead reads a part of a sized body from the input buffer.
func (s *source1) readAhead(p []byte) int {
	f := s.f
	n := copy(p, f.in[f.r:f.w])
	f.r += n
	return n
}

// ReadNow is Read without waiting, for a sized body whose rest fits in p. n is
// 0 if nothing has arrived.
func (s *source1) ReadNow(p []byte) (n int, err error) {
	if s.framing != h1.SizedBody || s.err != nil || s.left > int64(len(p)) {
		return 0, nil
	}
	if n = max(0, s.f.c.readNow(p[:s.left])); n == 0 {
		return 0, nil
	}
	return n, s.took(n)
}

// decode decodes what has arrived of a chunked body.
func (s *source1) decode() {
	data, n, err := s.chunks.Decode(s.raw)
	s.raw, s.data = s.raw[n:], data
	if err != nil {
		s.end(err)
	}
}

// fill reads more of a chunked body.
func (s *source1) fill() error {
	if s.page == nil {
		s.page = sourcePages.Get().(*[bufferSize]byte)
	}
	w := copy(s.page[:], s.raw)
	n, err := s.receive(s.page[w:]) // there is room: a trailer section is shorter
	if s.raw = s.page[:w+n]; n > 0 {
		return nil
	}
	return err
}

// receive reads from the connection.
func (s *source1) receive(p []byte) (int, error) {
	c, hurries := s.f.c, s.arm()
	if s.stop.Load() { // otherwise the new deadline would undo interrupt
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := c.stream().Read(p)
	switch {
	case n > 0:
		return n, nil
	case s.stop.Load():
		return 0, http.ErrBodyReadAfterClose
	case isTimeout(err) && hurries && s.answered.Load():
		return s.receive(p)
	case isTimeout(err):
		return 0, err
	}
	s.end(exchange.ErrClientGone)
	return 0, s.err
}

// arm sets the deadline of the next read, unless a handler has set one. It
// reports whether answer removes that deadline.
func (s *source1) arm() (hurries bool) {
	s.arming.Lock()
	defer s.arming.Unlock()
	c := s.f.c
	switch {
	case !s.until.IsZero():
		s.bound.Store(true)
		_ = c.Conn.SetReadDeadline(s.until)
	case s.bound.Load():
	case s.answered.Load():
		c.readBy(0)
	default:
		c.readBy(atMost(exchange.BodyStall, s.stall))
		return true
	}
	return false
}

// end notes how the body ended.
func (s *source1) end(err error) {
	s.err = err
	if err == io.EOF {
		s.f.x.unread.Store(false)
	}
}

// readBy implements source.
func (s *source1) readBy(t time.Time) error {
	s.arming.Lock() // otherwise a deadline that is being set now would replace it
	defer s.arming.Unlock()
	s.bound.Store(true)
	return s.f.c.stream().SetReadDeadline(t)
}

// interrupt implements source.
func (s *source1) interrupt() {
	s.stop.Store(true)
	s.f.c.interrupt()
}

// stopped implements source.
func (s *source1) stopped() bool { return s.stop.Load() }

// bounded implements source.
func (s *source1) bounded() bool { return s.bound.Load() }

// resume implements source.
func (s *source1) resume() {
	if !s.stop.Load() && !s.bound.Load() {
		return
	}
	s.stop.Store(false)
	s.bound.Store(false)
	s.f.c.readArmed = time.Time{}
	_ = s.f.c.Conn.SetReadDeadline(time.Time{})
}

// maxSettle limits the total time that settle waits.
const maxSettle = 5 * time.Second

// settle implements source. It reads up to exchange.SettleBytes, and waits up
// to patience for each read. It does not wait if the client expects 100
// Continue, or if the body is known to be longer.
func (s *source1) settle(patience time.Duration) bool {
	if s.err == nil && !s.short() {
		return false
	}
	s.data, s.back = nil, s.back[:0]
	if s.err != nil {
		return s.whole()
	}
	page := pages.Get().(*[pageSize]byte)
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
	s.resume()
	return s.whole()
}

// short implements source. It is false for a body that is known to be too long,
// and for a client that waits for 100 Continue.
func (s *source1) short() bool {
	return !s.asks && (s.framing != h1.SizedBody || s.left <= exchange.SettleBytes)
}

// unread returns the bytes that were read, but not used: those of the body and
// those after it.
func (s *source1) unread() []byte {
	return slices.Concat(s.back, s.data, s.raw, s.f.in[s.f.r:s.f.w])
}
