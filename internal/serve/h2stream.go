package serve

import (
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/h2"
	"github.com/hostproxy/hostproxy/internal/header"
)

// A stream is an HTTP/2 request and its response: a front with its exchange. A
// connection has it from the request's head until serve has returned.
type stream struct {
	x    *fastExchange
	list h2.List // the request's fields
	src  source2

	odd      bool  // only the handler lane can forward the head
	talk     bool  // gRPC or extended CONNECT: the body may pause; for the handler lane
	refusal  error // why the request is refused; nil if it is not
	headOnly bool

	c        *conn2
	id       uint32
	gone     atomic.Bool  // the client has reset the stream or left
	deadline atomic.Int64 // write deadline, in Unix nanoseconds; 0 means none
	stall    atomic.Int64 // how long a write may make no progress; 0 means writeStall

	// The connection's mu guards the fields below.
	window   h2.Window
	inflow   h2.Inflow
	ended    bool      // our side has ended, by END_STREAM or RST_STREAM
	reset    bool      // either side has reset the stream
	broken   bool      // the request is malformed
	whole    bool      // the response is complete
	fault    error     // returned by all further writes; nil if there is none
	handling *response // response of the handler, while it runs

	pend          []byte // part of the response body that waits for room in out or for a window
	sized         bool   // the response body ends after left more bytes
	left          int64
	moved         time.Time // when pend last made progress
	after, before *stream   // neighbours in the ring of writer2.ready; nil outside it
	reads, writes sync.Cond // for the body's reader, and for the writer
}

var streams = sync.Pool{New: func() any {
	st := &stream{x: &fastExchange{out: make([]byte, 0, 2<<10)}}
	st.src.st = st
	st.x.front = st
	return st
}}

// open prepares st for the request in st.x. none means that it has no body. The
// connection's mu is held.
func (st *stream) open(c *conn2, id uint32, none bool) {
	st.c, st.id, st.x.from = c, id, &c.c.origin
	st.reads.L, st.writes.L = &c.mu, &c.mu
	st.gone.Store(false)
	st.x.gone.Store(false)
	st.deadline.Store(0)
	st.window, st.inflow = h2.Window(c.peer.InitialWindow), h2.NewInflow(streamWindow)
	st.ended, st.reset, st.broken, st.whole, st.fault = false, false, false, false, nil
	st.sized, st.left = false, 0
	st.stall.Store(0)
	st.headOnly = string(st.x.req.Method) == http.MethodHead
	size := st.x.req.ContentLength
	if size < 0 {
		size = unknownLength
	}
	st.src.open(size, none)
	st.src.replied = st.talk // the client may pause
	c.heads += len(st.list.Text())
}

// serve runs the exchange on a worker. It returns false after a panic, and not
// at all after runtime.Goexit.
func (st *stream) serve() (returned bool) {
	defer st.finish()
	x := st.x
	x.hop.ID = header.RequestID{}
	_, malformed := st.refusal.(*h2.Fault)
	switch {
	case malformed: // finish resets the stream
		x.account(causeMalformed, http.StatusBadRequest, st.refusal, &x.req)
	case st.gone.Load(): // reset before a worker took it
		x.report(exchange.StatusClientClosed, exchange.ErrClientGone, &x.req)
	case st.refusal != nil:
		st.refuse(st.refusal)
	case !x.named():
		st.refuse(errHost)
	case !st.odd && !st.talk && x.route() && x.run() != other:
	default:
		if _, err := x.adapt(st.c.c); err != nil {
			st.refuse(err)
		}
	}
	return true
}

// refuse answers a request that no lane forwards.
func (st *stream) refuse(err error) {
	status := http.StatusBadRequest
	if refusal, ok := err.(*h1.Refusal); ok {
		status = refusal.Status
	}
	st.x.renew()
	st.x.reject(status, err, &st.x.req)
}

// finish ends the stream; serve defers it. A panic in a hook ends only the
// stream.
func (st *stream) finish() {
	c := st.c
	p := recover()
	if p != nil {
		c.c.logPanic(p)
	}
	c.mu.Lock()
	switch {
	case st.reset:
	case st.broken:
		st.endBy(h2.ProtocolError)
	case !st.ended:
		st.endBy(h2.InternalError)
	case !st.src.ended: // the rest of the request is not needed (RFC 9113, 8.1)
		st.endBy(h2.NoError)
	}
	if p != nil { // an upload may still run
		st.src.finish(nil, exchange.ErrClientGone)
	}
	c.dequeue(st)
	delete(c.streams, st.id)
	c.closed.add(closedStream{st.id, st.onItsWay()})
	if c.running--; st.whole {
		c.answered--
		c.earn()
	}
	c.heads -= len(st.list.Text())
	c.credit(st.src.drop())
	if c.running == 0 {
		c.quiet = c.c.s.now()
		c.conclude()
	}
	if len(c.out) > 0 {
		c.write(st)
	}
	c.mu.Unlock()
}

// onItsWay returns how many bytes of the body may still arrive after the end of
// the stream. It is 0 if the request is malformed, and sentAll if the client
// has ended its side.
func (st *stream) onItsWay() int32 {
	switch {
	case st.src.sent(), !st.reset, st.gone.Load():
		return sentAll
	case st.broken:
		return 0
	}
	return int32(st.inflow.Open())
}

// giveBack returns st to the pool.
func (st *stream) giveBack() {
	st.x.release()
	st.list.Trim()
	if cap(st.src.back) > bufferSize {
		st.src.back = nil
	}
	st.c, st.handling, st.refusal = nil, nil, nil
	streams.Put(st)
}

// endAnswer notes that the response is complete. mu is held.
func (st *stream) endAnswer() {
	st.ended, st.whole = true, true
	st.c.answered++
}

// depart ends the exchange: the client has reset the stream or left. mu is
// held.
func (st *stream) depart(err error) {
	if st.gone.Swap(true) {
		return
	}
	st.reset = true
	if st.fault == nil {
		st.fault = err
	}
	st.src.finish(nil, exchange.ErrClientGone)
	st.writes.Signal()
	st.c.room.Broadcast()
	st.x.forsake()
	if w := st.handling; w != nil {
		w.leave()
	}
}

// inspect checks time limits, for the sweeper. mu is held.
func (st *stream) inspect(now time.Time) {
	st.x.inspect(now)
	st.src.inspect(now)
	if st.fault == nil && (st.stalled(now) || st.expired(now)) {
		st.fault = errStalled
		st.writes.Signal()
		st.c.room.Broadcast()
	}
}

// expired reports whether the write deadline has passed.
func (st *stream) expired(now time.Time) bool {
	d := st.deadline.Load()
	return d != 0 && now.UnixNano() >= d
}

// credit gives n bytes back to both flow-control windows. It widens them while
// the body is read as fast as it arrives. mu is held.
func (st *stream) credit(n int64) {
	c := st.c
	c.credit(n)
	if st.src.ended || n == 0 {
		return
	}
	if f := &st.inflow; st.src.buffered == 0 && f.Open() < f.Size()/2 && f.Size() < mostWindow {
		f.Widen(uint32(2 * f.Size()))
		if w := &c.inflow; w.Size() < 4*f.Size() && w.Size() < mostConn {
			w.Widen(uint32(min(2*w.Size(), mostConn)))
		}
	}
	if by := st.inflow.Return(uint32(n)); by > 0 {
		c.out = h2.AppendWindowUpdate(c.out, st.id, by)
		c.hire()
	}
}

// credit gives n bytes back to the connection's flow-control window. It sends
// WINDOW_UPDATE when half of the window is owed, or more than is left of it:
// bodies that wait unread must not block other bodies. mu is held.
func (c *conn2) credit(n int64) {
	by := c.inflow.Return(uint32(n))
	if f := &c.inflow; by == 0 && f.Owed() > f.Open() && f.Owed() >= fairPiece {
		by = f.Settle()
	}
	if by > 0 {
		c.out = h2.AppendWindowUpdate(c.out, 0, by)
		c.hire()
	}
}

// text implements front.
func (st *stream) text() []byte { return st.list.Text() }

// major implements front.
func (st *stream) major() int { return 2 }

// handle implements front.
func (st *stream) handle(w *response) {
	st.c.mu.Lock()
	defer st.c.mu.Unlock()
	if st.handling = w; w != nil && st.gone.Load() {
		w.leave()
	}
}

// lookBack implements front: the connection is always read.
func (st *stream) lookBack() {}

// next implements front.
func (st *stream) next(bool) step { return end }

func (st *stream) body() source { return &st.src }

// patience implements front.
func (st *stream) patience(stall time.Duration) { st.stall.Store(int64(stall)) }

// piece implements front.
func (st *stream) piece() int { return 4 * grant }

// hasLeft implements front.
func (st *stream) hasLeft(bool) bool { return st.gone.Load() }

// interim implements front.
func (st *stream) interim(status int, fields []h1.Field) error {
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.roomFor(st); err != nil {
		return err
	}
	start := len(c.out)
	c.out = c.encoder.AppendResponse(h2.OpenHeaders(c.out), status, fields)
	c.out = h2.CloseHeaders(c.out, start, st.id, 0, h2.DefaultMaxFrame)
	c.write(st)
	return c.failed
}

// head implements front.
func (st *stream) head(h *head) error {
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.roomFor(st); err != nil {
		return err
	}
	start := len(c.out)
	c.out = c.encoder.AppendResponse(h2.OpenHeaders(c.out), h.status, h.fields)
	if !h.undated {
		c.out = h2.AppendDate(c.out, c.c.s.date())
	}
	if v := c.c.altSvc(h); v != "" {
		c.out = h2.AppendField(c.out, "alt-svc", v)
	}
	if h.length >= 0 && (hasBody(h.status) || h.status == http.StatusNotModified) {
		c.out = h2.AppendContentLength(c.out, h.length)
	}
	var flags h2.Flags
	if bodiless := st.headOnly || !hasBody(h.status); bodiless || !h.trails && h.length == 0 {
		flags = h2.FlagEndStream
	} else if !h.trails && h.length > 0 {
		st.sized, st.left = true, h.length
	}
	c.out = h2.CloseHeaders(c.out, start, st.id, flags, h2.DefaultMaxFrame)
	c.allow(2)
	if flags != 0 {
		st.endAnswer()
	}
	return nil
}

// data implements front.
func (st *stream) data(p []byte) (n int, err error) {
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(p) == 0 || st.headOnly {
		return len(p), st.fault
	}
	return c.send(st, p)
}

// room implements framer.
func (st *stream) room() int { return h2.HeadSize }

// framed implements framer.
func (st *stream) framed(page []byte, n int) error {
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.sendPage(st, page, n); err != nil {
		return err
	}
	c.write(st)
	return c.failed
}

// flush implements front.
func (st *stream) flush() error {
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if st.fault != nil {
		return st.fault
	}
	c.write(st)
	return c.failed
}

// trails implements front.
func (st *stream) trails() bool {
	st.c.mu.Lock()
	defer st.c.mu.Unlock()
	return !st.ended
}

// end implements front.
func (st *stream) end(trailers []h1.Field) error {
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if !st.ended {
		if err := c.roomFor(st); err != nil {
			return err
		}
		start := len(c.out)
		if len(trailers) > 0 {
			c.out = c.encoder.AppendTrailers(h2.OpenHeaders(c.out), trailers)
			c.out = h2.CloseHeaders(c.out, start, st.id, h2.FlagEndStream, h2.DefaultMaxFrame)
		} else {
			c.out = h2.AppendHead(c.out, h2.Data, h2.FlagEndStream, st.id, 0)
		}
		st.endAnswer()
	}
	if st.fault != nil {
		return st.fault
	}
	c.write(st)
	return c.failed
}

// cut implements front.
func (st *stream) cut() {
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if st.ended || st.gone.Load() {
		return
	}
	code := h2.InternalError
	switch {
	case st.broken:
		code = h2.ProtocolError
	case st.fault == errStalled:
		code = h2.Cancel
	}
	st.endBy(code)
	c.write(st)
}

// endBy resets the stream with code. mu is held.
func (st *stream) endBy(code h2.Code) {
	st.ended, st.reset = true, true
	st.c.out = h2.AppendRSTStream(st.c.out, st.id, code)
}

// sever implements front.
func (st *stream) sever() {
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if st.fault == nil {
		st.fault = http.ErrAbortHandler
	}
	st.writes.Signal()
	c.room.Broadcast()
}

func (st *stream) writeBy(t time.Time) error {
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.IsZero() {
		st.deadline.Store(0)
		return nil
	}
	st.deadline.Store(max(1, t.UnixNano()))
	if st.fault == nil && st.expired(time.Now()) {
		st.fault = errStalled
		st.writes.Signal()
		c.room.Broadcast()
	}
	return nil
}

// release implements front.
func (st *stream) release() { st.deadline.Store(0) }

// conn implements front.
func (st *stream) conn() *conn { return st.c.c }
