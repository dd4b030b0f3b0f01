package client

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
	"github.com/hostproxy/hostproxy/internal/pool"
)

// An upload sends a request body on a goroutine of its own, while the attempt's
// goroutine waits for the response. The upload ends when the body has been
// sent, when the connection takes no more bytes, or at the next byte from the
// client after the end of the attempt.
type upload struct {
	body    io.Reader
	trailer http.Header // complete when body has ended
	framing h1.Framing
	left    int64         // remaining bytes of a sized body
	stall   time.Duration // how long the target may take no bytes; 0 means forever

	conn    *pool.Conn
	lease   pool.Lease
	started bool // used by the owner

	last  atomic.Bool           // the last write has begun
	sent  atomic.Int64          // when the last write ended, in Unix nanoseconds
	fault atomic.Pointer[error] // why the body cannot be completed, unless the target refused it
	done  chan struct{}
}

func newUpload(t *Try, framing h1.Framing) *upload {
	return &upload{body: t.req.Body, trailer: t.req.Trailer, framing: framing, left: t.req.ContentLength,
		stall: t.c.timeouts.Stall, done: make(chan struct{})}
}

// start sends the body on conn.
func (u *upload) start(conn *pool.Conn) {
	u.started = true
	u.conn, u.lease = conn, conn.Lease()
	go u.run()
}

// lastWrite is how long the end of a response waits for the end of the request.
const lastWrite = 100 * time.Millisecond

// sentWhole reports whether the body has been sent completely. It waits a
// moment for a last write in progress.
func (u *upload) sentWhole() bool {
	if !u.started || !u.last.Load() {
		return false
	}
	if u.sent.Load() == 0 {
		patience := time.NewTimer(lastWrite)
		defer patience.Stop()
		select {
		case <-u.done:
		case <-patience.C:
		}
	}
	return u.sent.Load() != 0
}

// sentSince returns when the body was completely sent, or the current time if
// it was not.
func (u *upload) sentSince() time.Time {
	if at := u.sent.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Now()
}

// failure returns why the body could not be completed: the client failed, or
// the target took no bytes for too long. It is nil if the target closed the
// connection, possibly after a response.
func (u *upload) failure() error {
	if p := u.fault.Load(); p != nil {
		return *p
	}
	return nil
}

// run is the upload's goroutine.
func (u *upload) run() {
	defer close(u.done)
	returned := false
	defer func() {
		if !returned { // otherwise the target would wait for the rest
			u.abort(&exchange.PanicError{Hook: "a request body", Value: "runtime.Goexit"})
		}
	}()
	u.stream()
	returned = true
}

// stream sends the body.
func (u *upload) stream() {
	buf := exchange.Buffers.Get().(*[32 << 10]byte)
	defer exchange.Buffers.Put(buf)
	for !u.last.Load() {
		out, err := u.next(buf[:])
		if err != nil {
			u.abort(fmt.Errorf("request body: %w", err))
			return
		}
		if err := u.write(out); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				u.abort(err)
			}
			return
		}
	}
	u.sent.Store(time.Now().UnixNano())
}

// abort makes the attempt fail, since the request cannot be completed.
func (u *upload) abort(err error) {
	u.fault.Store(&err)
	u.lease.Abort()
}

func (u *upload) write(p []byte) error {
	_ = u.conn.SetWriteStall(u.stall)
	_, err := u.conn.Write(p)
	return err
}

// next reads a piece of the body and returns it as it is sent.
func (u *upload) next(buf []byte) ([]byte, error) {
	if u.framing == h1.ChunkedBody {
		return u.nextChunk(buf)
	}
	n, err := u.body.Read(buf[:min(int64(len(buf)), u.left)])
	switch u.left -= int64(n); {
	case u.left == 0:
		u.last.Store(true)
	case err == io.EOF:
		return nil, io.ErrUnexpectedEOF
	case err != nil:
		return nil, err
	}
	return buf[:n], nil
}

// nextChunk adds the chunk header before the data and, at the end, the last
// chunk after it, so that everything is sent in one write.
func (u *upload) nextChunk(buf []byte) ([]byte, error) {
	const room = len("ffffffff\r\n")
	n, err := u.body.Read(buf[room : len(buf)-len("\r\n")])
	if err != nil && err != io.EOF {
		return nil, err
	}
	out := buf[room:room]
	if n > 0 {
		var line [room]byte
		h := h1.AppendChunkHeader(line[:0], n)
		start := room - copy(buf[room-len(h):], h)
		out = append(buf[start:room+n], "\r\n"...)
	}
	if err == io.EOF {
		u.last.Store(true)
		out = h1.AppendLastChunk(out, u.trailers())
	}
	return out, nil
}

func (u *upload) trailers() (fs []h1.Field) {
	for name, values := range u.trailer {
		if header.ForbiddenTrailer(name) {
			continue
		}
		for _, v := range values {
			fs = append(fs, h1.Field{Name: []byte(name), Value: []byte(v)})
		}
	}
	return fs
}
