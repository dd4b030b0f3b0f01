package http3

import (
	"errors"
	"net/http"
	"os"
	"sync"
	"time"

	h3 "github.com/quic-go/quic-go/http3"
)

// writeStall limits the time in which a client accepts nothing of what is
// written for it, as over HTTP/1.1 and HTTP/2.
const writeStall = time.Minute

// A quicWriter is the response writer that quic-go passes to handlers.
type quicWriter interface {
	http.ResponseWriter
	h3.Settingser
	h3.HTTPStreamer
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
	FlushError() error
}

// A response fails the writes to a client that accepts nothing, unless the
// handler has set a write deadline. Its methods are as safe for concurrent use
// as quic-go's.
type response struct {
	quicWriter
	stall time.Duration

	mu    sync.Mutex
	armed time.Time // the deadline set by arm
	bound bool      // the handler has set a deadline, or owns the stream
	cut   bool      // a write has missed our deadline
}

// limited returns w with the limit. A writer that is not quic-go's has no
// limit.
func limited(w http.ResponseWriter, stall time.Duration) http.ResponseWriter {
	if q, ok := w.(quicWriter); ok {
		return &response{quicWriter: q, stall: stall}
	}
	return w
}

// finish prepares the end of the response, which quic-go then writes. It aborts
// a response that was cut off.
func finish(w http.ResponseWriter) {
	r, ok := w.(*response)
	if !ok {
		return
	}
	r.arm()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cut {
		panic(http.ErrAbortHandler)
	}
}

// arm moves the deadline, unless it would move by less than a quarter.
func (r *response) arm() {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if r.bound || r.cut || r.armed.Sub(now) > r.stall*3/4 {
		return
	}
	r.armed = now.Add(r.stall)
	_ = r.quicWriter.SetWriteDeadline(r.armed)
}

// stalled reports whether Write must fail with err after n bytes: the client
// has accepted nothing until our deadline, or err is another error.
func (r *response) stalled(n int, err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !errors.Is(err, os.ErrDeadlineExceeded) || r.bound {
		return true
	}
	r.cut = r.cut || n == 0
	return r.cut
}

// Write implements http.ResponseWriter. It fails with os.ErrDeadlineExceeded if
// the client accepts nothing for too long.
func (r *response) Write(p []byte) (written int, err error) {
	for {
		r.arm()
		n, err := r.quicWriter.Write(p[written:])
		written += n
		if err == nil || r.stalled(n, err) {
			return written, err
		}
	}
}

// WriteHeader implements http.ResponseWriter.
func (r *response) WriteHeader(status int) {
	r.arm()
	r.quicWriter.WriteHeader(status)
}

// FlushError is called by http.ResponseController.
func (r *response) FlushError() error {
	r.arm()
	err := r.quicWriter.FlushError()
	if err != nil {
		r.stalled(0, err)
	}
	return err
}

// Flush implements http.Flusher.
func (r *response) Flush() { _ = r.FlushError() }

// SetWriteDeadline is called by http.ResponseController. It replaces the limit.
// The zero time restores the limit.
func (r *response) SetWriteDeadline(t time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bound, r.armed = !t.IsZero(), time.Time{}
	return r.quicWriter.SetWriteDeadline(t)
}

// HTTPStream implements quic-go's http3.HTTPStreamer. The stream has no limit.
func (r *response) HTTPStream() (*h3.Stream, error) {
	str, err := r.quicWriter.HTTPStream()
	if err == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.bound = true
		err = str.SetWriteDeadline(time.Time{})
	}
	return str, err
}
