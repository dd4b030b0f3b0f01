package serve

import (
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/h1"
)

// A source2 is the source of a stream. Pages hold what has arrived. Bytes that
// were read are given back to the flow-control windows at the next read, when
// the target has taken them. The conn2's mu guards it.
type source2 struct {
	st   *stream
	none bool  // there is no body
	size int64 // length of the body, or unknownLength
	sum  int64 // bytes that have arrived

	pages, last *bodyPage // arrived, but not read
	held        *bodyPage // returned by first
	buffered    int64     // bytes in pages
	lent        int64     // bytes that were read, but not yet given back to the windows

	back  []byte     // bytes to be read again before all others
	ended bool       // the body has ended or failed
	err   error      // returned after the last byte; io.EOF at the end of the body; nil until ended
	tail  []h1.Field // trailers

	asks    bool
	hurried time.Duration
	replied bool // the client may pause
	stop    bool // see interrupt
	bound   bool // readBy has set until; a zero until is then no deadline
	until   time.Time
	late    bool // the deadline, or the client's time limit, has passed
	waiting bool // a reader waits; its wait began at since
	since   time.Time

	excused atomic.Int64 // how long reads have waited for a client that was not free to send
}

// A bodyPage holds a part of a body.
type bodyPage struct {
	next *bodyPage
	r, w int
	b    [bufferSize]byte
}

var bodyPages = sync.Pool{New: func() any { return new(bodyPage) }}

// open prepares s for a body of that size. none means that the request has no
// body. The conn2's mu is held.
func (s *source2) open(size int64, none bool) {
	*s = source2{st: s.st, none: none, size: size, back: s.back[:0], ended: none}
	if none {
		s.size, s.err = 0, io.EOF
	}
	s.st.x.unread.Store(!none)
}

// arrive stores the next part of the body, which came with pad bytes of
// padding. mu is held.
func (s *source2) arrive(p []byte, pad int64) {
	if pad > 0 {
		s.st.credit(pad)
	}
	s.sum += int64(len(p))
	if s.size >= 0 && s.sum > s.size {
		s.st.credit(int64(len(p)))
		s.fail(errLonger)
		return
	}
	s.buffered += int64(len(p))
	for len(p) > 0 {
		if s.last == nil || s.last.w == len(s.last.b) {
			page := bodyPages.Get().(*bodyPage)
			page.next, page.r, page.w = nil, 0, 0
			if s.last == nil {
				s.pages = page
			} else {
				s.last.next = page
			}
			s.last = page
		}
		n := copy(s.last.b[s.last.w:], p)
		s.last.w += n
		p = p[n:]
	}
	s.rouse()
}

var (
	errLonger  = &h1.Refusal{Status: http.StatusBadRequest, Reason: "body longer than Content-Length"}
	errShorter = &h1.Refusal{Status: http.StatusBadRequest, Reason: "body shorter than Content-Length"}
)

// finish notes the end of the body, or the error that ended it. mu is held.
func (s *source2) finish(trailers []h1.Field, err error) {
	if s.ended {
		return
	}
	if err == nil && s.size >= 0 && s.sum != s.size {
		s.fail(errShorter)
		return
	}
	if err == nil {
		err = io.EOF
		s.st.x.unread.Store(false)
	}
	s.ended, s.tail, s.err = true, trailers, err
	s.rouse()
}

// fail ends a malformed body. Its stream will be reset. mu is held.
func (s *source2) fail(err *h1.Refusal) {
	s.st.broken = true
	s.finish(nil, err)
}

// sent reports whether the client has ended the body, as it should. mu is held.
func (s *source2) sent() bool { return s.err == io.EOF }

// rouse wakes the reader. mu is held.
func (s *source2) rouse() {
	if s.waiting {
		s.waiting = false
		s.st.reads.Signal()
	}
}

// Read implements source.
func (s *source2) Read(p []byte) (int, error) { return s.read(p, true) }

// ReadNow is Read without waiting; n is 0 if nothing has arrived.
func (s *source2) ReadNow(p []byte) (n int, err error) { return s.read(p, false) }

func (s *source2) read(p []byte, waits bool) (n int, err error) {
	c := s.st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(s.back) > 0 {
		n = copy(p, s.back)
		s.back = s.back[n:]
	}
	if n == len(p) {
		return n, s.ending()
	}
	if n == 0 {
		s.settleUp()
	}
	for n == 0 && s.buffered == 0 {
		if s.ended || !waits {
			return 0, s.err
		}
		if err := s.await(); err != nil {
			return 0, err
		}
	}
	return n + s.take(p[n:]), s.ending()
}

// ending returns io.EOF if the last bytes of the body have been read.
func (s *source2) ending() error {
	if s.buffered == 0 && len(s.back) == 0 && s.err == io.EOF {
		return io.EOF
	}
	return nil
}

// take copies bytes that have arrived to p. mu is held.
func (s *source2) take(p []byte) (n int) {
	for s.pages != nil && n < len(p) {
		page := s.pages
		k := copy(p[n:], page.b[page.r:page.w])
		page.r += k
		n += k
		if page.r == page.w {
			if s.pages = page.next; s.pages == nil {
				s.last = nil
			}
			bodyPages.Put(page)
		}
	}
	s.buffered -= int64(n)
	s.lent += int64(n)
	return n
}

// settleUp gives the bytes that were read back to the flow-control windows. mu
// is held.
func (s *source2) settleUp() {
	if n := s.lent; n > 0 {
		s.lent = 0
		s.st.credit(n)
	}
}

// await waits for more. mu is held, and released meanwhile.
func (s *source2) await() error {
	c := s.st.c
	switch {
	case s.stop:
		return http.ErrBodyReadAfterClose
	case s.late, s.bound && !s.until.IsZero() && !s.until.After(time.Now()):
		s.late = false
		return os.ErrDeadlineExceeded
	}
	s.waiting, s.since = true, c.c.s.now()
	for s.waiting {
		s.st.reads.Wait()
	}
	return nil
}

// inspect wakes a reader that has waited too long. mu is held.
func (s *source2) inspect(now time.Time) {
	switch {
	case !s.waiting:
		return
	case s.bound:
		if s.until.IsZero() || now.Before(s.until) {
			return
		}
	case s.st.c.inflow.Open() == 0: // other bodies have used up the connection's window
		s.excused.Add(int64(now.Sub(s.since)))
		s.since = now
		return
	case s.replied || now.Sub(s.since) <= atMost(exchange.BodyStall, s.hurried):
		return
	}
	s.late = true
	s.rouse()
}

// Excused returns the same as in exchange.Client, also while a read waits.
func (s *source2) Excused() time.Duration {
	return time.Duration(s.excused.Load())
}

// length implements source.
func (s *source2) length() int64 { return s.size }

// first implements source.
func (s *source2) first() ([]byte, error) {
	if s.none {
		return nil, io.EOF
	}
	c := s.st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	page := s.pages
	if page == nil {
		return nil, s.err
	}
	if s.pages = page.next; s.pages == nil {
		s.last = nil
	}
	s.held = page
	data := page.b[page.r:page.w]
	s.buffered -= int64(len(data))
	s.lent += int64(len(data))
	if s.buffered > 0 {
		return data, nil
	}
	return data, s.err
}

// giveBack implements source.
func (s *source2) giveBack(data []byte) { s.back = append(s.back[:0], data...) }

// whole implements source.
func (s *source2) whole() bool {
	if s.none {
		return true
	}
	s.st.c.mu.Lock()
	defer s.st.c.mu.Unlock()
	return len(s.back) == 0 && s.buffered == 0 && s.err == io.EOF
}

// pending implements source.
func (s *source2) pending() bool { return s.st.x.unread.Load() }

// trailers implements source.
func (s *source2) trailers() []h1.Field { return s.tail }

// expect implements source.
func (s *source2) expect(asks bool) { s.asks = asks }

// expected implements source.
func (s *source2) expected() bool { return s.asks }

// hurry implements source.
func (s *source2) hurry(stall time.Duration) {
	if s.none {
		return
	}
	s.st.c.mu.Lock()
	defer s.st.c.mu.Unlock()
	s.hurried = stall
}

// answer implements source.
func (s *source2) answer() {
	if s.none {
		return
	}
	s.st.c.mu.Lock()
	defer s.st.c.mu.Unlock()
	s.replied = true
}

// interrupt implements source.
func (s *source2) interrupt() {
	if s.none {
		return
	}
	s.st.c.mu.Lock()
	defer s.st.c.mu.Unlock()
	s.stop = true
	s.rouse()
}

// stopped implements source.
func (s *source2) stopped() bool {
	if s.none {
		return false
	}
	s.st.c.mu.Lock()
	defer s.st.c.mu.Unlock()
	return s.stop
}

// bounded implements source.
func (s *source2) bounded() bool {
	if s.none {
		return false
	}
	s.st.c.mu.Lock()
	defer s.st.c.mu.Unlock()
	return s.bound
}

// resume implements source.
func (s *source2) resume() {
	if s.none {
		return
	}
	s.st.c.mu.Lock()
	defer s.st.c.mu.Unlock()
	s.stop, s.bound, s.late, s.until = false, false, false, time.Time{}
}

// readBy implements source.
func (s *source2) readBy(t time.Time) error {
	s.st.c.mu.Lock()
	defer s.st.c.mu.Unlock()
	s.bound, s.until, s.late = true, t, false
	if !t.IsZero() && !t.After(time.Now()) {
		s.rouse()
	}
	return nil
}

// short implements source. A stream can end before its body.
func (s *source2) short() bool { return false }

// settle implements source.
func (s *source2) settle(time.Duration) bool { return s.whole() }

// release implements source.
func (s *source2) release() {}

// drop frees the pages, and returns how many bytes go back to the connection's
// window. mu is held.
func (s *source2) drop() (n int64) {
	n = s.buffered + s.lent
	s.buffered, s.lent = 0, 0
	for page := s.pages; page != nil; {
		next := page.next
		bodyPages.Put(page)
		page = next
	}
	if s.held != nil {
		bodyPages.Put(s.held)
	}
	s.pages, s.last, s.held, s.tail = nil, nil, nil, nil
	return n
}
