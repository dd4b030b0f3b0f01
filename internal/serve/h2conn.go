package serve

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/h2"
	"github.com/hostproxy/hostproxy/internal/peek"
)

// A conn2 is an HTTP/2 connection. Its reader goroutine reads frames and never
// writes. Each stream has a worker, which runs the blocking exchange. A worker
// with something to send writes for all streams, unless a write is in progress.
//
// Hot path: no allocation per request. The sweeper checks all time limits; see
// inspect.
type conn2 struct {
	c *conn

	in      *[bufferSize]byte // nil while it would be empty
	r, w    int               // in[r:w] is unread
	frames  h2.Parser
	block   h2.Block
	coding  h2.Decoder
	spare   *h2.List // for header blocks that are dropped; nil until the first
	ending  bool     // the current header block ends its stream
	opening bool     // the preface is not complete
	heard   atomic.Int64
	held    []*stream // not started yet: DATA may follow in the input buffer

	workers sync.WaitGroup

	mu       sync.Mutex // guards the fields below, and fields of stream
	streams  map[uint32]*stream
	running  int    // streams that have not finished
	answered int    // running streams with a complete response
	opened   uint32 // the client's highest stream identifier, also if that stream was refused
	closed   closedStreams
	resting  []*worker // without a stream
	quiet    time.Time // end of the last stream; zero while one runs
	owed     time.Time // start of an incomplete preface or header block; zero without one
	verdict  error     // why the reader must stop; nil if it goes on
	leaves   bool      // the client has sent GOAWAY
	rested   bool      // rest has run since the last stream
	stale    bool      // the reader must return errAfresh
	over     bool      // the reader has ended
	fault    *h2.Fault // the client's fault that ended the reader; nil without one
	// when the unanswered PING was sent, or when the client last read something
	// after it; zero without one
	pinged time.Time
	taken  peek.Mark // how much the client had read at the last call of advances

	stage drainStage
	since time.Time // start of drainAsked

	writer2
	inflow h2.Inflow
	expense
}

// Limits on what a client may send.
const (
	maxStreams   = 250
	streamWindow = 64 << 10
	mostWindow   = 1 << 20 // for a stream whose body is read as fast as it arrives
	connWindow   = 1 << 20
	mostConn     = 4 << 20 // for a connection with such streams
)

// How long a client may take to answer a PING.
const (
	drainPatience = time.Second      // for the PING of a drain
	pingPatience  = 15 * time.Second // for any other
	leaveStall    = 5 * time.Second  // for the client to read some of the last responses
)

// Why a reader stops, besides connection errors and failed reads or writes.
var (
	errIdle2   = errors.New("no stream for too long")
	errServed2 = errors.New("the last stream has ended, and no other is to come")
	errDead2   = errors.New("a PING was not answered in time")
	errLate2   = &h2.Fault{Code: h2.EnhanceYourCalm, Reason: "header block not complete in time"}
)

// Connection errors that depend on the state of streams.
var (
	// RFC 9113, 3.4
	errPreface2 = &h2.Fault{Code: h2.ProtocolError, Reason: "invalid preface"}
	// RFC 9113, 5.1.1
	errStreamID = &h2.Fault{Code: h2.ProtocolError, Reason: "stream identifier not allowed"}
	// RFC 9113, 5.1
	errIdleFrame = &h2.Fault{Code: h2.ProtocolError, Reason: "frame for a stream that was not opened"}
	// RFC 9113, 5.1
	errClosed = &h2.Fault{Code: h2.StreamClosed, Reason: "frame for a stream that has ended"}
)

// serve2 starts to serve HTTP/2 on a new goroutine, until the connection ends.
// ahead holds the bytes already read.
func (c *conn) serve2(ahead []byte) {
	c.enterLane()
	c.remote()
	c.ctx = c.context2()
	h := &conn2{c: c, opening: true, streams: make(map[uint32]*stream), inflow: h2.NewInflow(connWindow)}
	h.frames.MaxFrame, h.block.MaxSize = h2.DefaultMaxFrame, c.s.limit().MaxHeaderBytes
	h.peer = h2.DefaultSettings()
	h.window = h2.InitialWindow
	h.room.L = &h.mu
	h.owed, h.quiet, h.took = c.s.now(), c.s.now(), c.s.now()
	h.begin(h.owed)
	h.heard.Store(c.s.clock.Load())
	if len(ahead) > 0 {
		h.in = sourcePages.Get().(*[bufferSize]byte)
		h.w = copy(h.in[:], ahead)
	}
	h.greet()
	c.two.Store(h)
	if c.s.retiring.Err() != nil {
		h.drain()
	}
	go h.run() // a handshake's stack is four times as large as an idle connection needs
}

// greet sends our SETTINGS, and does not wait for the write.
func (c *conn2) greet() {
	s := h2.DefaultSettings()
	s.MaxStreams, s.InitialWindow, s.Connect, s.NoPriorities = maxStreams, streamWindow, true, true
	if s.MaxList = uint32(c.block.MaxSize); s.MaxList == 0 {
		s.MaxList = h1.DefaultMaxHead
	}
	c.inflow = h2.NewInflow(h2.InitialWindow)
	c.inflow.Widen(connWindow)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = h2.AppendSettings(c.out, &s)
	c.out = h2.AppendWindowUpdate(c.out, 0, c.inflow.Settle())
	c.hire()
}

// run is the reader goroutine.
func (c *conn2) run() {
	err := net.ErrClosed
	defer func() {
		if p := recover(); p != nil {
			c.c.panicked(p)
		}
		if err == errAfresh {
			go c.run()
			return
		}
		c.end(err)
	}()
	if c.opening {
		err = c.preface()
	} else {
		err = c.next()
	}
	for err == nil {
		err = c.next()
	}
}

// errAfresh makes the reader of an idle connection continue on a new goroutine,
// with a small stack: earlier frames have grown the old one.
var errAfresh = errors.New("the reader begins afresh")

// preface reads the client's preface and its first SETTINGS (RFC 9113, 3.4).
func (c *conn2) preface() error {
	for {
		n := min(c.w-c.r, len(h2.Preface))
		if c.in != nil && string(c.in[c.r:c.r+n]) != h2.Preface[:n] {
			return errPreface2
		}
		if n == len(h2.Preface) {
			c.r += n
			break
		}
		if err := c.more(); err != nil {
			return err
		}
	}
	for {
		n, err := c.frames.Parse(c.unread())
		switch {
		case err == h2.ErrMore:
			if err := c.more(); err != nil {
				return err
			}
			continue
		case err != nil:
			return err
		case c.frames.Type != h2.SettingsFrame || c.frames.Ack():
			return errPreface2
		}
		c.mu.Lock()
		c.owed = time.Time{}
		c.mu.Unlock()
		c.opening = false
		c.r += n
		return c.frame(&c.frames.Frame)
	}
}

// next handles the next frame or piece of one, or reads more.
func (c *conn2) next() error {
	n, err := c.frames.Parse(c.unread())
	switch {
	case err == h2.ErrMore:
		return c.more()
	case err != nil:
		return err
	}
	c.r += n
	return c.frame(&c.frames.Frame)
}

func (c *conn2) unread() []byte {
	if c.in == nil {
		return nil
	}
	return c.in[c.r:c.w]
}

// more reads from the client. While it waits with nothing unread it holds no
// buffer.
func (c *conn2) more() error {
	c.letGo()
	for {
		n, err := c.receive()
		if n > 0 {
			c.heard.Store(c.c.s.clock.Load())
			return nil
		}
		if !isTimeout(err) {
			return err
		}
		_ = c.c.Conn.SetReadDeadline(time.Time{})
		c.mu.Lock()
		err, stale := c.final(), c.stale
		c.stale = false
		c.mu.Unlock()
		if err == nil && stale && c.in == nil && !c.opening {
			err = errAfresh
			if c.frames.Between() {
				c.block.Release()
			}
		}
		if err != nil {
			return err
		}
	}
}

// final returns the verdict, but drops one for lack of streams if a stream has
// been opened meanwhile. mu is held.
func (c *conn2) final() error {
	if c.running > 0 && (c.verdict == errIdle2 || c.verdict == errServed2) {
		c.verdict = nil
	}
	return c.verdict
}

func (c *conn2) receive() (n int, err error) {
	if c.r > 0 && c.r < c.w {
		c.w = copy(c.in[:], c.in[c.r:c.w])
		c.r = 0
	} else if c.r == c.w {
		c.r, c.w = 0, 0
		if c.in != nil {
			sourcePages.Put(c.in)
			c.in = nil
		}
		if n, err = c.c.stream().Read(c.c.first[:]); n == 0 {
			return 0, err
		}
		c.in = sourcePages.Get().(*[bufferSize]byte)
		c.in[0] = c.c.first[0]
		c.w = 1
		// otherwise the second read could wait: this may be the last byte of a
		// body
		if c.frames.Missing() > 1 {
			n, _ = c.c.stream().Read(c.in[1:]) // the next read returns its error again
			c.w += n
		}
		return c.w, nil
	}
	n, err = c.c.stream().Read(c.in[c.w:])
	c.w += n
	return n, err
}

// frame handles a frame, or a piece of one.
func (c *conn2) frame(f *h2.Frame) error {
	switch f.Type {
	case h2.Headers, h2.Continuation:
		return c.headers(f)
	case h2.Data:
		return c.data(f)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch f.Type {
	case h2.RSTStream:
		return c.resetBy(f)
	case h2.SettingsFrame:
		return c.settings(f)
	case h2.Ping:
		return c.ping(f)
	case h2.WindowUpdate:
		return c.update(f)
	case h2.GoAway:
		if f.Ends {
			c.leaves = true
			c.conclude()
		}
	}
	if f.Begins {
		return c.charge()
	}
	return nil
}

// settings handles SETTINGS. mu is held.
func (c *conn2) settings(f *h2.Frame) error {
	if f.Ack() {
		return nil
	}
	if shift := c.peer.Apply(f.Payload); shift != 0 {
		for _, st := range c.streams {
			if err := st.window.Shift(shift); err != nil {
				return err
			}
			c.unblock(st)
		}
		c.kick()
	}
	if !f.Ends {
		return nil
	}
	c.control(h2.AppendSettingsAck(c.out))
	return c.charge()
}

// ping handles a PING. mu is held.
func (c *conn2) ping(f *h2.Frame) error {
	if f.Ack() {
		c.pinged = time.Time{}
		if c.stage == drainAsked && string(f.Payload) == drainPing {
			c.goAway()
		}
		return c.charge()
	}
	c.control(h2.AppendPingAck(c.out, f.Payload))
	return c.charge()
}

// update handles a WINDOW_UPDATE. mu is held.
func (c *conn2) update(f *h2.Frame) error {
	st := c.streams[f.Stream]
	switch {
	case f.Stream == 0:
		if err := c.window.Grow(f.Increment); err != nil {
			return err
		}
		c.kick()
	case st != nil:
		if err := st.window.Grow(f.Increment); err != nil {
			return err
		}
		c.unblock(st)
		c.kick()
	case !c.known(f.Stream):
		return errIdleFrame
	}
	return c.widened(f.Increment)
}

// resetBy handles a RST_STREAM. mu is held.
func (c *conn2) resetBy(f *h2.Frame) error {
	st := c.streams[f.Stream]
	switch {
	case st != nil && !st.gone.Load():
		st.depart(exchange.ErrClientGone)
		return c.spend(1)
	case st == nil && !c.known(f.Stream):
		return errIdleFrame
	}
	return c.charge()
}

// known reports whether the client has opened the stream. mu is held.
func (c *conn2) known(id uint32) bool { return id%2 == 1 && id <= c.opened }

// data handles DATA, or a piece of one frame.
func (c *conn2) data(f *h2.Frame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.inflow.Receive(f.Counted); err != nil {
		return err
	}
	c.credit(0)
	st := c.streams[f.Stream]
	switch {
	case st == nil:
		return c.dropLate(f)
	case st.gone.Load(), st.src.sent():
		return errClosed
	case st.broken:
		return c.drop(f, new(int32))
	}
	if err := st.inflow.Receive(f.Counted); err != nil {
		return err
	}
	if len(f.Payload) == 0 && !f.EndStream() && f.Ends {
		if err := c.charge(); err != nil {
			return err
		}
	}
	st.src.arrive(f.Payload, int64(f.Counted)-int64(len(f.Payload)))
	if f.EndStream() {
		st.src.finish(nil, nil)
	}
	return c.reproach(st)
}

// reproach charges the client for a stream that the server resets because of
// what the client has just sent: it may have cost a target something
// (CVE-2025-8671). mu is held.
func (c *conn2) reproach(st *stream) error {
	if st.broken {
		return c.spend(1)
	}
	return nil
}

// dropLate handles DATA for a stream that has ended. mu is held.
func (c *conn2) dropLate(f *h2.Frame) error {
	if !c.known(f.Stream) {
		return errIdleFrame
	}
	s := c.closed.find(f.Stream)
	if s == nil || s.left == sentAll {
		return errClosed
	}
	return c.drop(f, &s.left)
}

// drop discards DATA that is not read. The first left bytes may have been in
// flight: they are free. Beyond them, small frames are charged. mu is held.
func (c *conn2) drop(f *h2.Frame, left *int32) error {
	n := int32(f.Counted)
	c.credit(int64(n))
	switch {
	case 0 < n && n <= *left:
		*left -= n
		return nil
	case f.Ends && n < fairPiece:
		return c.charge()
	}
	return nil
}

// end closes the connection. err is why the reader has stopped.
func (c *conn2) end(err error) {
	var fault *h2.Fault
	code, reason := h2.NoError, ""
	if errors.As(err, &fault) {
		code, reason = fault.Code, fault.Reason
		c.c.s.Log.Debug("HTTP/2 connection ends", "remote", c.c.RemoteAddr(), "cause", err)
	}
	c.letGo()
	c.mu.Lock()
	c.account(fault)
	c.over, c.fault = true, fault
	patient := fault == nil && !c.calmed && c.opened > 0 // it may be reading a response
	polite := fault != nil || err == errIdle2 || err == errServed2
	if polite && c.stage != drainLast {
		c.out = h2.AppendGoAway(c.out, c.opened, code, reason)
	}
	for _, st := range c.streams {
		st.depart(exchange.ErrClientGone)
	}
	c.dismiss()
	c.room.Broadcast()
	if fault != nil {
		c.c.hasten()
		// for connections that ignore deadlines
		cut := time.AfterFunc(alertTime+exchange.LingerTime, func() { c.c.closeUnder() })
		defer cut.Stop()
	}
	if polite { // without a fault the end of the last response has no extra time limit
		c.write(nil)
		for c.writing {
			c.room.Wait()
		}
	}
	c.mu.Unlock()
	if polite {
		c.c.takeLeave(patient)
	}
	c.c.closeUnder()
	c.workers.Wait()
	if c.in != nil {
		sourcePages.Put(c.in)
		c.in = nil
	}
	c.c.two.Store(nil)
	c.c.Close()
}

// hasten limits the last writes to alertTime.
func (c *conn) hasten() {
	defer c.contain()
	_ = c.SetWriteDeadline(time.Now().Add(alertTime))
}

// takeLeave is lingerClose, but does not close the connection. While a client
// reads its last responses it may send frames such as WINDOW_UPDATE, which
// would reset a closed connection. If patient is set, takeLeave waits as long
// as the client reads, or seems to.
func (c *conn) takeLeave(patient bool) {
	defer c.contain()
	page := pages.Get().(*[pageSize]byte)
	defer pages.Put(page)
	start := time.Now()
	n, more := c.sayGoodbye(page[:])
	for mark, since := c.Mark(), start; more && patient; {
		now, m := time.Now(), c.Mark()
		if m != mark {
			mark, since = m, now
		}
		takes, speaks := m.Queued > 0 && now.Sub(since) < leaveStall, n > 0 && now.Sub(start) < writeStall
		if !takes && !speaks {
			return
		}
		n, more = c.hearOut(page[:])
	}
}
