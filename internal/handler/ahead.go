package handler

import (
	"errors"
	"io"
	"sync"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/forward"
)

// An ahead is the body of a response that is read faster than the client reads
// it, up to a limit, on a goroutine of its own. It takes over the body; Close
// waits for the end of that goroutine.
type ahead struct {
	body   io.ReadCloser
	flight *flight
	memory *forward.Memory
	most   int    // pages
	over   func() // called at the end of the body, on the goroutine

	mu      sync.Mutex // guards the fields below
	changed sync.Cond
	pages   []*aheadPage
	err     error // returned after the pages
	closed  bool

	done chan struct{}
}

// An aheadPage holds a part of a body. The bytes between r and w are unread.
type aheadPage struct {
	buf  *[aheadSize]byte
	r, w int
	paid bool // its size was taken from the memory
}

const aheadSize = 32 << 10

// readAhead begins to read body, and may hold that many bytes. The first page
// is always allowed: without one, nothing could be read.
func (a *roundTrip) readAhead(body io.ReadCloser, bytes int64) *ahead {
	h := &ahead{body: body, flight: &a.flight, memory: &a.f.Memory, most: int((bytes + aheadSize - 1) / aheadSize), over: a.countOut, done: make(chan struct{})}
	h.changed.L = &h.mu
	go h.run()
	return h
}

// countOut notes that the target is done, although the client has not got
// everything: the target may be removed now.
func (a *roundTrip) countOut() {
	a.flight.aim(&a.attempts.Forwarder().Span, a.attempts.Around())
	a.attempts.CountOut()
}

// run is the goroutine that reads.
func (h *ahead) run() {
	defer close(h.done)
	defer h.quit()
	for {
		p := h.room()
		if p == nil {
			break
		}
		n, err := h.read(p)
		if err == io.EOF {
			if fault := h.leave(); fault != nil {
				err = fault
			}
			h.over()
		}
		h.add(n, err)
		if err != nil {
			break
		}
	}
	_ = h.leave()
}

// read reads from the body, which a hook of the program may have made.
func (h *ahead) read(p []byte) (n int, err error) {
	defer exchange.Contain("a response body", &err)
	m, err := h.body.Read(p)
	return len(p[:m]), err // panics if a body claims to have read more than fits
}

// leave closes such a body.
func (h *ahead) leave() (err error) {
	defer exchange.Contain("a response body", &err)
	h.body.Close()
	return nil
}

// quit wakes waiting readers, even if the body has ended the goroutine.
func (h *ahead) quit() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err == nil {
		h.err = errQuit
	}
	h.changed.Broadcast()
}

var errQuit = errors.New("the body of the response has ended the goroutine that reads it")

// room returns where to read to, once there is room. It returns nil if the
// ahead is closed.
func (h *ahead) room() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	for !h.closed {
		n := len(h.pages)
		if n > 0 && h.pages[n-1].w < aheadSize {
			p := h.pages[n-1]
			return p.buf[p.w:]
		}
		if n == 0 || n < h.most && h.memory.Take(aheadSize) {
			h.pages = append(h.pages, &aheadPage{buf: exchange.Buffers.Get().(*[aheadSize]byte), paid: n > 0})
			continue
		}
		h.changed.Wait()
	}
	return nil
}

// add notes that n bytes were read into the last page, with that error.
func (h *ahead) add(n int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pages[len(h.pages)-1].w += n
	h.err = err
	h.changed.Broadcast()
}

// Read implements io.Reader.
func (h *ahead) Read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.ready() == 0 {
		if h.err != nil {
			return 0, h.err
		}
		h.changed.Wait()
	}
	page := h.pages[0]
	n := copy(p, page.buf[page.r:page.w])
	if page.r += n; page.r == aheadSize {
		h.pages = h.pages[1:]
		h.free(page)
		h.changed.Broadcast()
	}
	return n, nil
}

// ready returns how many bytes of the first page are unread. h.mu is held.
func (h *ahead) ready() int {
	if len(h.pages) == 0 {
		return 0
	}
	return h.pages[0].w - h.pages[0].r
}

// Buffered returns how many bytes Read returns without waiting; the end counts
// as one byte.
func (h *ahead) Buffered() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := h.ready(); n > 0 || h.err == nil {
		return n
	}
	return 1
}

// free returns a page to the pool. h.mu is held.
func (h *ahead) free(p *aheadPage) {
	exchange.Buffers.Put(p.buf)
	if p.paid {
		h.memory.Give(aheadSize)
	}
}

// Close ends the goroutine and frees the pages.
func (h *ahead) Close() error {
	h.mu.Lock()
	h.closed = true
	h.changed.Broadcast()
	ended := h.err != nil
	h.mu.Unlock()
	if !ended {
		h.flight.giveUp()
	}
	<-h.done
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.pages {
		h.free(p)
	}
	h.pages, h.err = nil, io.ErrClosedPipe
	return nil
}
