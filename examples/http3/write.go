package http3

import (
	"errors"
	"net/http"
	"os"
	"sync"
	"time"

	h3 "github.com/quic-go/quic-go/http3"
)

// writeStall is how long a client may take nothing of what is written for it,
// as over HTTP/1.1 and HTTP/2.
const writeStall = time.Minute

// A quicWriter is what quic-go hands to handlers.
type quicWriter interface {
	http.ResponseWriter
	h3.Settingser
	h3.HTTPStreamer
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
	FlushError() error
}

// A response ends the writes to a client that takes nothing, unless its handler
// has set a write deadline. Its methods may be called as those of quic-go's.
type response struct {
	quicWriter
	stall time.Duration

	mu    sync.Mutex
	armed time.Time // our deadline
	bound bool      // the deadline is the handler's, or the stream is
	cut   bool      // a write has failed by our deadline
}

// limited returns w with the limit. Another one than quic-go's has none.
func limited(w http.ResponseWriter, stall time.Duration) http.ResponseWriter {
	if q, ok := w.(quicWriter); ok {
		return &response{quicWriter: q, stall: stall}
	}
	return w
}

// finish prepares the end of the response, which quic-go writes. It aborts one
// that was cut off.
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

// arm sets the deadline anew, if it has moved by a quarter.
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

// stalled reports whether err, after n bytes, is the end: the client has taken
// nothing until our deadline.
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
// the client takes nothing for too long.
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

// FlushError is for http.ResponseController.
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

// SetWriteDeadline is for http.ResponseController. It takes the place of the
// limit; the zero time gives that back.
func (r *response) SetWriteDeadline(t time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bound, r.armed = !t.IsZero(), time.Time{}
	return r.quicWriter.SetWriteDeadline(t)
}

// HTTPStream implements quic-go's http3.HTTPStreamer: the stream has no limit.
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
