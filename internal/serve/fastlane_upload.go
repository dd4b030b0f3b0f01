package serve

import (
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/pool"
)

// An upload sends the request body to the target. The part that has already
// arrived is sent with the head. Only if the body is not whole by then does a
// goroutine send the rest, so that an early response is noticed.
type upload struct {
	x      *fastExchange
	src    source
	body   exchange.Body
	reader exchange.BodyReader // reader of the current attempt

	running bool // the goroutine was started and has not been waited for
	up      *pool.Conn
	lease   pool.Lease
	stall   time.Duration // how long the target may take no bytes
	buf     *uploadBuffer
	sent    atomic.Bool  // everything has been written, or nearly; see nearlySent
	ended   atomic.Int64 // end of the upload, unix nanoseconds
	done    chan struct{}

	answered atomic.Bool           // the response has begun
	stalled  atomic.Pointer[error] // why the target is taken to have stopped; nil if it is not
}

// An uploadBuffer holds a piece of the body, with room for the framing of a
// chunk.
type uploadBuffer [chunkHead + 32<<10 + len("\r\n")]byte

// chunkHead is room for the size line of a chunk.
const chunkHead = 16

var uploadBuffers = sync.Pool{New: func() any { return new(uploadBuffer) }}

// reset prepares u for the request body of x.
func (u *upload) reset(x *fastExchange) {
	u.x, u.src, u.up, u.running = x, x.front.body(), nil, false
	u.sent.Store(false)
	u.ended.Store(0)
	u.answered.Store(false)
	u.stalled.Store(nil)
	u.body.Open(u.src, view(x.req.Method), u.src.length())
	u.body.Begin(u.src.first())
}

// appendReady appends to dst, after the head, the part of the body that has
// arrived. Trailers of a body of known length are dropped, since they need
// chunks (RFC 9112, 7.1.2). A request that announces trailers takes the handler
// lane.
func (u *upload) appendReady(dst []byte) ([]byte, error) {
	if err := u.body.Failed(); err != nil {
		return dst, err
	}
	u.reader = u.body.Attempt()
	data := u.reader.Ready()
	if !u.x.req.Chunked {
		return append(dst, data...), nil
	}
	if len(data) > 0 {
		dst = append(append(h1.AppendChunkHeader(dst, len(data)), data...), "\r\n"...)
	}
	if u.body.Whole() {
		dst = u.appendEnd(dst)
	}
	return dst, nil
}

// appendEnd appends the end of a chunked body.
func (u *upload) appendEnd(dst []byte) []byte {
	return u.x.attempts.Forwarder().AppendRequestEnd(dst, u.src.trailers(), &u.x.hop)
}

// pending reports whether some of the body is still to be read.
func (u *upload) pending() bool { return !u.body.Whole() }

// start streams the rest of the body to up, which may take nothing for stall.
func (u *upload) start(up *pool.Conn, stall time.Duration) {
	u.up, u.lease, u.running, u.stall = up, up.Lease(), true, stall
	u.src.hurry(stall)
	if u.buf == nil {
		u.buf = uploadBuffers.Get().(*uploadBuffer)
	}
	u.done = make(chan struct{})
	go u.run()
}

// run is the upload's goroutine.
func (u *upload) run() {
	defer close(u.done)
	err := u.stream()
	u.ended.Store(time.Now().UnixNano()) // even after a failure: limits the target's error response
	switch {
	case err != nil && u.body.Failed() != nil:
		u.lease.Abort() // a response to half a request is useless
	case isTimeout(err) && !u.answered.Load():
		u.stalled.Store(&err)
		u.lease.Abort() // the target neither takes the rest nor responds
	}
}

// stream streams the body. A panic in a connection type of the embedding
// program fails only this request: not recovered on this goroutine, it would
// end the program.
func (u *upload) stream() (err error) {
	defer func() {
		if hook, ok := err.(*exchange.PanicError); ok {
			u.body.Fail(hook)
		}
	}()
	defer exchange.Contain("a connection", &err)
	room := u.buf[chunkHead : len(u.buf)-len("\r\n")]
	for {
		n, err := u.reader.Read(room)
		if err != nil && err != io.EOF {
			return err
		}
		u.sent.Store(err == io.EOF) // nearly true: see nearlySent
		if p := u.piece(n, err == io.EOF); len(p) > 0 {
			_ = u.up.SetWriteStall(u.stall)
			if _, err := u.up.Write(p); err != nil {
				u.sent.Store(false)
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
	}
}

// piece returns the n bytes of data in buf as they are sent. If last is set,
// the end of the body follows them.
func (u *upload) piece(n int, last bool) []byte {
	start, end := chunkHead, chunkHead+n
	if !u.x.req.Chunked {
		return u.buf[start:end]
	}
	if n > 0 {
		var line [chunkHead]byte
		size := h1.AppendChunkHeader(line[:0], n)
		start -= copy(u.buf[start-len(size):], size)
		end += copy(u.buf[end:], "\r\n")
	}
	if last {
		return u.appendEnd(u.buf[start:end])
	}
	return u.buf[start:end]
}

// answer notes that the response has begun.
func (u *upload) answer() {
	u.answered.Store(true)
	u.body.Answer()
	u.src.answer()
}

// end returns when the upload ended, or the current time if it has not.
func (u *upload) end() time.Time {
	if ns := u.ended.Load(); ns != 0 {
		return time.Unix(0, ns)
	}
	return time.Now()
}

// nearlySent reports whether the body has been read to its end. A target often
// responds before the goroutine that wrote the last byte runs again, so
// nearlySent waits a moment for that.
func (u *upload) nearlySent() bool {
	if !u.sent.Load() {
		return false
	}
	select {
	case <-u.done:
		return u.sent.Load()
	case <-time.After(100 * time.Millisecond):
		return false
	}
}

// waits reports whether a part of the body is still to come and was not asked
// for yet.
func (u *upload) waits() bool {
	return u.pending() && u.up == nil && u.body.Replays() && u.body.Failed() == nil
}

// settle ends the upload and reports whether the body was read to its end.
func (u *upload) settle() bool {
	if u.running {
		select {
		case <-u.done:
		default:
			if u.nearlySent() {
				<-u.done
				break
			}
			u.interrupt() // the upload may have ended by now
		}
		u.running = false
		return u.sent.Load()
	}
	return u.body.Whole() && u.body.Failed() == nil
}

// interrupt ends the goroutine and waits for its end.
func (u *upload) interrupt() {
	u.src.interrupt()
	u.lease.Abort()
	<-u.done
	u.src.resume()
}

// halt ends the goroutine of a failed attempt, so that another attempt can
// begin.
func (u *upload) halt() {
	if !u.running {
		return
	}
	u.interrupt()
	u.sent.Store(false)
	u.ended.Store(0)
	u.stalled.Store(nil)
	u.running = false
}

// release returns the upload's buffer. The body is not read any more.
func (u *upload) release() {
	u.body.Close(nil)
	if u.buf != nil {
		uploadBuffers.Put(u.buf)
		u.buf = nil
	}
}
