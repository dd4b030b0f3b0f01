package serve

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/pool"
)

// An upload is the request body on its way to the target. What is in the
// client buffer already goes out with the head; only a body that is not whole
// by then gets a goroutine, for as long as it streams, so that an early answer
// is seen.
type upload struct {
	x *fastExchange

	took    int  // bytes of x.in that belong to the body
	pending bool // the body goes on behind those
	running bool // the goroutine was started and has not been waited for

	data   []byte // of a chunked body: what was decoded from x.in
	raw    []byte // and what x.in held of it before
	chunks h1.Chunks
	state  error // of a chunked body in x.in: nil goes on, io.EOF is whole, else what is wrong
	left   int64 // of a sized body: bytes that have not been read yet

	fetched int  // bytes of a sized body at the beginning of buf, kept for another attempt
	spent   bool // what was read of the body is not kept

	up       *pool.Conn
	lease    pool.Lease
	buf      *uploadBuffer
	over     []byte      // bytes behind the body, in buf
	stop     atomic.Bool // set before the read deadline that wakes run
	sent     atomic.Bool
	answered atomic.Bool // the response has begun
	total    atomic.Int64
	fault    atomic.Pointer[error] // what the client did wrong
	ended    atomic.Int64          // when it was over, unix nanoseconds
	max      int64                 // bytes of a body that may come; 0 means no bound
	stall    time.Duration         // how long the target may take nothing
	waited   time.Duration         // by run for the client, in all
	pace     exchange.Pace
	done     chan struct{}
}

type uploadBuffer struct {
	in  [32 << 10]byte
	out []byte
}

var uploadBuffers = sync.Pool{New: func() any { return &uploadBuffer{out: make([]byte, 0, 33<<10)} }}

// maxInline is the largest rest of a body that is fetched without a goroutine
// when the client has sent it already.
const maxInline = 32 << 10

// reset looks at what of the body is in x.in[x.r:x.w].
func (u *upload) reset(x *fastExchange) {
	u.max = 0 // until it is known who serves the exchange; see bound
	u.x, u.took, u.pending, u.running, u.left, u.fetched, u.spent, u.waited = x, 0, false, false, 0, 0, false, 0
	u.data, u.state, u.over, u.up, u.buf, u.pace = nil, nil, nil, nil, nil, exchange.Pace{}
	u.stop.Store(false)
	u.sent.Store(false)
	u.answered.Store(false)
	u.total.Store(0)
	u.fault.Store(nil)
	u.ended.Store(0)
	switch x.req.Framing() {
	case h1.SizedBody:
		u.took = int(min(int64(x.w-x.r), x.req.ContentLength))
		u.left = x.req.ContentLength - int64(u.took)
		u.pending = u.left > 0
		u.total.Store(int64(u.took))
	case h1.ChunkedBody:
		u.chunks.Reset()
		u.raw = append(u.raw[:0], x.in[x.r:x.w]...) // decoding moves them
		u.data, u.took, u.state = u.chunks.Decode(x.in[x.r:x.w])
		u.pending = u.state == nil
		u.total.Store(int64(len(u.data)))
	}
	if x.unread.Load() != u.pending {
		x.unread.Store(u.pending)
	}
}

// bound makes n the bytes of a body that may come; 0 means no bound. A sized
// body has been looked at.
func (u *upload) bound(n int64) {
	if u.max == n {
		return
	}
	if u.max = n; int64(len(u.data)) > n {
		u.state, u.pending = exchange.ErrBodyTooLarge, false
	}
}

// inline appends to x.out, behind the head, what of the body has come.
func (u *upload) inline() error {
	x := u.x
	switch x.req.Framing() {
	case h1.SizedBody:
		x.out = append(x.out, x.in[x.r:x.r+u.took]...)
		if u.pending && u.left <= maxInline {
			u.fetch()
		}
		if u.fetched > 0 {
			x.out = append(x.out, u.buf.in[:u.fetched]...)
		}
	case h1.ChunkedBody:
		if u.state != nil && u.state != io.EOF {
			u.fault.Store(&u.state)
			return u.state
		}
		x.out = appendData(x.out, u.data)
		if u.state == io.EOF {
			x.out = x.attempts.Forwarder().AppendRequestEnd(x.out, u.chunks.Trailers, &x.hop)
		}
	}
	return nil
}

// fetch reads, without waiting, what the client has sent of a short rest.
func (u *upload) fetch() {
	if u.buf == nil {
		u.buf = uploadBuffers.Get().(*uploadBuffer)
	}
	for u.left > 0 {
		n := u.x.c.readNow(u.buf.in[u.fetched : u.fetched+int(u.left)])
		if n <= 0 {
			break
		}
		u.fetched += n
		u.left -= int64(n)
		u.total.Add(int64(n))
	}
	u.pending = u.left > 0
	u.x.unread.Store(u.pending)
}

func appendData(dst, data []byte) []byte {
	if len(data) == 0 {
		return dst
	}
	dst = h1.AppendChunkHeader(dst, len(data))
	dst = append(dst, data...)
	return append(dst, "\r\n"...)
}

// keeps reports whether all of the body that is not in x.in fits buf.
func (u *upload) keeps() bool {
	return u.x.req.Framing() == h1.SizedBody && u.left+int64(u.fetched) <= maxInline
}

// whole reports whether the request can be sent again: what was read of its body
// is kept.
func (u *upload) whole() bool { return !u.spent }

// all returns the whole body, if all of it is kept. It is valid until the next
// exchange.
func (u *upload) all() (body []byte, whole bool) {
	x := u.x
	switch x.req.Framing() {
	case h1.SizedBody:
		if u.spent || u.left > 0 {
			return nil, false
		}
		body = x.out[:0] // the head in it has been sent
		body = append(body, x.in[x.r-u.took:x.r]...)
		if u.fetched > 0 {
			body = append(body, u.buf.in[:u.fetched]...)
		}
		return body, true
	case h1.ChunkedBody:
		return u.data, u.state == io.EOF
	}
	return nil, true
}

// start streams the rest of the body to up, which may take nothing for stall.
func (u *upload) start(up *pool.Conn, stall time.Duration) {
	u.spent = !u.keeps()
	u.up, u.lease, u.running, u.stall = up, up.Lease(), true, stall
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
	u.ended.Store(time.Now().UnixNano()) // a failed one too: the target has only so long to say why
	if err == nil {
		u.sent.Store(true)
		u.x.unread.Store(false)
		return
	}
	var client *clientError
	if errors.As(err, &client) {
		u.fault.Store(&client.error)
		u.lease.Abort() // the answer to half a request is of no use
	}
}

// stream streams the body. A panic in a connection of somebody else's type is the
// failure of this request: on this goroutine it would be the program's end.
func (u *upload) stream() (err error) {
	defer func() {
		var hook *exchange.PanicError
		if errors.As(err, &hook) {
			err = &clientError{err}
		}
	}()
	defer exchange.Contain("a connection", &err)
	if u.x.req.Chunked {
		return u.runChunked()
	}
	return u.runSized()
}

// A clientError ends the request: it is the client's fault, or a panic, as against
// a failed write to the target.
type clientError struct{ error }

func (u *upload) runSized() error {
	for u.left > 0 {
		room := u.buf.in[u.fetched:]
		n, err := u.read(room[:min(int64(len(room)), u.left)])
		if err != nil {
			return err
		}
		u.left -= int64(n)
		if !u.spent {
			u.fetched += n
		}
		if u.left == 0 {
			u.sent.Store(true) // as good as: see nearlySent
		}
		if err := u.write(room[:n]); err != nil {
			u.sent.Store(false)
			return err
		}
		if u.tooSlow() {
			return &clientError{exchange.ErrSlowBody}
		}
	}
	return nil
}

// tooSlow reports whether the client sends less than it owes.
func (u *upload) tooSlow() bool {
	return !u.answered.Load() && u.pace.TooSlow(u.waited, u.total.Load())
}

func (u *upload) runChunked() error {
	b := u.buf
	in := b.in[:bufferSize]                   // what is behind the body must fit x.in
	w := copy(in, u.x.in[u.x.r+u.took:u.x.w]) // the beginning of a trailer section
	u.took = u.x.w - u.x.r
	for {
		data, n, err := u.chunks.Decode(in[:w])
		if total := u.total.Add(int64(len(data))); u.max > 0 && total > u.max {
			return &clientError{exchange.ErrBodyTooLarge}
		}
		b.out = appendData(b.out[:0], data)
		if err == io.EOF {
			b.out = u.x.attempts.Forwarder().AppendRequestEnd(b.out, u.chunks.Trailers, &u.x.hop)
			u.over = in[n:w]
		} else if err != nil {
			return &clientError{err}
		}
		u.sent.Store(err == io.EOF) // as good as: see nearlySent
		if len(b.out) > 0 {
			if err := u.write(b.out); err != nil {
				u.sent.Store(false)
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if u.tooSlow() {
			return &clientError{exchange.ErrSlowBody}
		}
		w = copy(in, in[n:w])
		m, err := u.read(in[w:])
		if err != nil {
			return err
		}
		w += m
	}
}

// read reads from the client; its errors are the client's fault. Behind an
// answer that has begun, it is the answer's end that ends it.
func (u *upload) read(p []byte) (int, error) {
	limit := time.Duration(0)
	if !u.answered.Load() {
		limit = atMost(exchange.BodyStall, u.stall)
	}
	u.x.c.readBy(limit)
	if u.stop.Load() { // or else the deadline just armed undoes interrupt
		return 0, errStopped
	}
	start := time.Now()
	n, err := u.x.c.stream().Read(p)
	u.waited += time.Since(start)
	if n == 0 && isTimeout(err) && limit > 0 && u.answered.Load() && !u.stop.Load() {
		return u.read(p)
	}
	if n > 0 {
		if !u.x.req.Chunked {
			u.total.Add(int64(n))
		}
		return n, nil
	}
	if u.stop.Load() {
		return 0, errStopped
	}
	if !isTimeout(err) { // the end of what comes, or a reset
		err = exchange.ErrClientGone
	}
	return 0, &clientError{err}
}

// write writes to the target.
func (u *upload) write(p []byte) error {
	_ = u.up.SetWriteStall(u.stall)
	_, err := u.up.Write(p)
	return err
}

// end is when the upload ended, or now if it goes on.
func (u *upload) end() time.Time {
	if ns := u.ended.Load(); ns != 0 {
		return time.Unix(0, ns)
	}
	return time.Now()
}

var errStopped = errors.New("upload stopped")

// nearlySent reports whether the body has been read to its end. A target often
// answers before the goroutine that wrote the last byte is scheduled again;
// the moment that takes is waited for.
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

// failed returns what the client did wrong, or nil.
func (u *upload) failed() error {
	if p := u.fault.Load(); p != nil {
		return *p
	}
	return nil
}

// waits reports whether some of the body is to come that has not been asked for.
func (u *upload) waits() bool { return u.pending && !u.running && !u.spent && u.up == nil }

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
			u.interrupt() // it may have come to its end by now
		}
		u.running = false
		return u.sent.Load()
	}
	return !u.pending && (u.state == nil || u.state == io.EOF)
}

// interrupt ends the goroutine, and waits for that.
func (u *upload) interrupt() {
	c := u.x.c
	u.stop.Store(true)
	u.lease.Abort()
	c.interrupt()
	<-u.done
	c.readArmed = time.Time{}
	_ = c.Conn.SetReadDeadline(time.Time{})
}

// halt ends the goroutine of an attempt that failed, so that another one can
// begin.
func (u *upload) halt() {
	if !u.running {
		return
	}
	u.interrupt()
	u.stop.Store(false)
	u.sent.Store(false)
	u.ended.Store(0)
	u.pending, u.running = u.left > 0, false
}

// takeBack makes what was read behind the body the next request's beginning.
func (x *fastExchange) takeBack() {
	u := &x.upload
	if len(u.over) > 0 {
		x.r, x.w = 0, copy(x.in[:], u.over)
	}
	if u.buf != nil {
		uploadBuffers.Put(u.buf)
		u.buf, u.over = nil, nil
	}
}
