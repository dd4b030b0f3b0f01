package handler

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/forward"
)

// A requestBody reads the client's body for one attempt after the other, notes
// whose fault an error was, and hands the trailers on at its end.
type requestBody struct {
	q       *http.Request
	flight  *flight
	edit    *forward.Edit // of who serves the request
	trailer http.Header   // filled at EOF
	count   atomic.Int64
	err     atomic.Pointer[error]
	whole   atomic.Bool // read to its end

	keeps   bool                       // what is read is kept, up to ReplayLimit
	lost    atomic.Bool                // something was read that is not in kept
	current atomic.Pointer[bodyReader] // nil between attempts

	max    int64         // bytes that may come; 0 means no bound
	waited time.Duration // for the client, in all; guarded by mu
	pace   exchange.Pace // likewise

	mu   sync.Mutex // held while somebody reads
	over bool       // the exchange has ended; guarded by mu
	kept []byte     // guarded by mu
}

func newRequestBody(q *http.Request, fl *flight, edit *forward.Edit) *requestBody {
	b := &requestBody{q: q, flight: fl, edit: edit, keeps: exchange.Idempotent(q.Method) && q.ContentLength <= forward.ReplayLimit}
	if q.ContentLength < 0 {
		b.trailer = make(http.Header, len(q.Trailer))
		for k := range q.Trailer {
			if b.passes(k) {
				b.trailer[k] = nil
			}
		}
	}
	return b
}

// reader returns the body from its beginning, for the next attempt.
func (b *requestBody) reader() io.ReadCloser {
	r := &bodyReader{b: b}
	b.current.Store(r)
	return r
}

// rewind ends the reading of an attempt that failed, and reports whether there
// can be another one. It does not wait for a read that is going on: what that
// still gets is kept.
func (b *requestBody) rewind() bool {
	b.current.Store(nil)
	return !b.lost.Load()
}

// A bodyReader is the body as one attempt reads it.
type bodyReader struct {
	b  *requestBody
	at int // position in kept
}

// Read implements io.Reader.
func (r *bodyReader) Read(p []byte) (int, error) {
	b := r.b
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.over || b.current.Load() != r:
		return 0, http.ErrBodyReadAfterClose
	case r.at < len(b.kept):
		n := copy(p, b.kept[r.at:])
		r.at += n
		return n, nil
	case b.whole.Load():
		return 0, io.EOF
	}
	n, err := b.read(p)
	if n > 0 {
		b.retain(r, p[:n])
		r.at += n
	}
	return n, err
}

// Close leaves the client's body open: its server closes it, and another attempt
// may need it.
func (r *bodyReader) Close() error { return nil }

// retain keeps what r has read. Whoever rewinds while it was read has to find it,
// however much that is. b.mu is held.
func (b *requestBody) retain(r *bodyReader, p []byte) {
	if !b.keeps || len(b.kept)+len(p) > forward.ReplayLimit {
		b.lost.Store(true)
		if !b.keeps || b.current.Load() == r {
			b.keeps, b.kept = false, nil
			return
		}
		b.lost.Store(false) // not to r, which has ended
	}
	b.kept = append(b.kept, p...)
}

// read reads from the client. b.mu is held.
func (b *requestBody) read(p []byte) (int, error) {
	b.flight.touch() // a client that sends nothing is timed
	b.flight.owes.Store(b.q.ProtoMajor == 1)
	start := time.Now()
	n, err := b.contained(p)
	b.waited += time.Since(start)
	b.flight.owes.Store(false)
	begun := b.flight.begun.Load()
	if !begun {
		b.flight.last.Store(0) // now the target has its own time
	}
	switch total := b.count.Add(int64(n)); {
	case b.max > 0 && total > b.max:
		n, err = 0, exchange.ErrBodyTooLarge
	case err == nil && !begun && b.q.ProtoMajor == 1 && b.pace.TooSlow(b.waited, total):
		n, err = 0, exchange.ErrSlowBody
	}
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		b.whole.Store(true)
		for k, v := range b.q.Trailer {
			if b.trailer != nil && b.passes(k) {
				b.trailer[k] = v
			}
		}
	default:
		switch { // net/http cancels the context after a read deadline too
		case b.flight.why() == exchange.ErrIdle:
			err = exchange.ErrIdle
		case b.q.Context().Err() != nil:
			err = exchange.ErrClientGone
		}
		b.err.CompareAndSwap(nil, &err)
	}
	return n, err
}

// contained is Read of a body that somebody's middleware may have made. What it
// panics with is an error: it is read on goroutines where a panic would be the
// program's end.
func (b *requestBody) contained(p []byte) (n int, err error) {
	defer exchange.Contain("a request body", &err)
	return b.q.Body.Read(p)
}

// passes reports whether a trailer crosses the proxy.
func (b *requestBody) passes(name string) bool {
	return b.edit.PassesTrailer(name, b.q.Header["Connection"]...)
}

// detach ends all reading, since net/http reads on when the handler returns.
// What the client still sends of an unread body gets a moment.
func (b *requestBody) detach() {
	if b.whole.Load() {
		return
	}
	if !b.mu.TryLock() {
		if b.flight.rc.SetReadDeadline(time.Unix(1, 0)) != nil {
			return // not a server's: nobody reads on
		}
		b.mu.Lock()
	}
	b.over = true
	b.mu.Unlock()
	if b.q.ProtoMajor == 1 {
		_ = b.flight.rc.SetReadDeadline(time.Now().Add(exchange.LingerTime))
	}
}

// failed returns the error that the client's side caused, or nil.
func (b *requestBody) failed() error {
	if p := b.err.Load(); p != nil && !errors.Is(*p, http.ErrBodyReadAfterClose) {
		return *p
	}
	return nil
}
