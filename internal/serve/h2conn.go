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
)

// A conn2 is a connection of HTTP/2. Its own goroutine reads frames, and never writes.
// Each stream that runs has a worker, which does the blocking exchange; whoever has
// something to send, and finds nobody writing, writes what all have to send.
//
// Hot path: no allocation per request. The clocks are the sweeper's; see inspect.
type conn2 struct {
	c *conn

	in      *[bufferSize]byte // nil while there is nothing to hold
	r, w    int               // in[r:w] is unread
	frames  h2.Parser
	block   h2.Block
	coding  h2.Decoder
	spare   *h2.List // of header blocks that nobody wants; nil until there is one
	ending  bool     // the header block that comes ends its stream
	opening bool     // the preface has not come
	heard   atomic.Int64
	held    []*stream // that have not been started, since their bodies may come along

	workers sync.WaitGroup

	mu       sync.Mutex // guards what follows, and what streams say of it
	streams  map[uint32]*stream
	running  int    // streams that have a worker
	answered int    // of these, those whose answer has ended
	opened   uint32 // the last stream that the client has opened; it may have been too late for that
	closed   closedStreams
	resting  []*worker // that have no stream
	quiet    time.Time // since when no stream runs; zero if one does
	owed     time.Time // since when a preface or a header block is not complete; zero if none is
	verdict  error     // why the reader is to end; nil if it is not
	leaves   bool      // the client will open no more streams
	rested   bool      // the connection has been made small since a stream ran
	stale    bool      // the reader is to begin afresh
	over     bool      // the reader has ended
	pinged   time.Time // when a PING went out that has not been answered; zero if there is none

	stage drainStage
	since time.Time // when that began

	writer2
	inflow h2.Inflow
	expense
}

// Sizes of what a client may send.
const (
	maxStreams   = 250
	streamWindow = 64 << 10
	mostWindow   = 1 << 20 // of a stream that is emptied at once
	connWindow   = 1 << 20
	mostConn     = 4 << 20 // of a connection with such streams
)

// Times that a client has.
const (
	drainPatience = time.Second      // to answer the PING of a drain
	pingPatience  = 15 * time.Second // to answer any other
)

// What ends a reader, besides faults and the connection's own errors.
var (
	errIdle2   = errors.New("no stream for too long")
	errServed2 = errors.New("the last stream has ended, and no other is to come")
	errDead2   = errors.New("a PING was not answered in time")
	errLate2   = &h2.Fault{Code: h2.EnhanceYourCalm, Reason: "header block not complete in time"}
)

// More breaches of the protocol: those that need to know streams.
var (
	errPreface2  = &h2.Fault{Code: h2.ProtocolError, Reason: "invalid preface"}                        // RFC 9113, 3.4
	errStreamID  = &h2.Fault{Code: h2.ProtocolError, Reason: "stream identifier not allowed"}          // RFC 9113, 5.1.1
	errIdleFrame = &h2.Fault{Code: h2.ProtocolError, Reason: "frame for a stream that was not opened"} // RFC 9113, 5.1
	errClosed    = &h2.Fault{Code: h2.StreamClosed, Reason: "frame for a stream that has ended"}       // RFC 9113, 5.1
)

// serve2 serves a connection that speaks HTTP/2, until it ends, on a goroutine of its
// own. ahead is what has been read of it.
func (c *conn) serve2(ahead []byte) {
	c.enterLane()
	c.remote()
	c.ctx = c.context2()
	h := &conn2{c: c, opening: true, streams: make(map[uint32]*stream), inflow: h2.NewInflow(connWindow)}
	h.frames.MaxFrame, h.block.MaxSize = h2.DefaultMaxFrame, c.s.MaxHeaderBytes
	h.peer = h2.DefaultSettings()
	h.window = h2.InitialWindow
	h.room.L = &h.mu
	h.owed, h.quiet = c.s.now(), c.s.now()
	h.begin(h.owed)
	h.heard.Store(c.s.clock.Load())
	if len(ahead) > 0 {
		h.in = sourcePages.Get().(*[bufferSize]byte)
		h.w = copy(h.in[:], ahead)
	}
	h.greet()
	c.two.Store(h)
	if c.s.draining.Err() != nil {
		h.drain()
	}
	go h.run() // the stack of a handshake is four times what an idle connection needs
}

// greet sends our settings, which nobody has to wait for.
func (c *conn2) greet() {
	s := h2.DefaultSettings()
	s.MaxStreams, s.InitialWindow, s.Connect, s.NoPriorities = maxStreams, streamWindow, true, true
	if s.MaxList = uint32(c.c.s.MaxHeaderBytes); s.MaxList == 0 {
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

// run is the connection's goroutine.
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

// errAfresh lets the reader of a quiet connection go on on a new goroutine, since the
// frames before have left a stack behind that is larger than what waiting needs.
var errAfresh = errors.New("the reader begins afresh")

// preface reads what a client begins with, and its first SETTINGS.
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

// next takes the next frame, or piece of one.
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

// more reads more of what the client sends. While nothing comes no buffer is held.
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

// final is the verdict. One for want of streams does not hold if the client has opened
// one in the same moment. mu is held.
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
		if c.frames.Missing() > 1 { // or else it may be the last one of a body, with nothing behind it
			n, _ = c.c.stream().Read(c.in[1:]) // an error comes again with the next read
			c.w += n
		}
		return c.w, nil
	}
	n, err = c.c.stream().Read(c.in[c.w:])
	c.w += n
	return n, err
}

// frame takes a frame, or a piece of one.
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

// settings takes settings of the client's. mu is held.
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

// ping answers a PING. mu is held.
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

// update takes a WINDOW_UPDATE. mu is held.
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

// resetBy takes a RST_STREAM. mu is held.
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

// data takes a piece of a body.
func (c *conn2) data(f *h2.Frame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.inflow.Receive(f.Counted); err != nil {
		return err
	}
	st := c.streams[f.Stream]
	switch {
	case st == nil:
		return c.dropLate(f)
	case st.gone.Load():
		return errClosed
	case st.broken:
		return c.drop(f, new(int32))
	case st.src.ended:
		return errClosed
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
	return nil
}

// dropLate takes a piece of a body whose stream has ended. mu is held.
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

// drop takes a piece of a body that nobody wants. left is how much of it may be on its
// way, in pieces of any size: small ones beyond that cost. mu is held.
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

// end ends the connection, whose reader has ended because of err.
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
	c.over = true
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
		cut := time.AfterFunc(alertTime+exchange.LingerTime, func() { c.c.closeUnder() }) // of a type that knows no deadlines
		defer cut.Stop()
	}
	if polite { // without a fault, the end of the last answer has all the time it needs
		c.write(nil)
		for c.writing {
			c.room.Wait()
		}
	}
	c.mu.Unlock()
	if polite {
		c.c.takeLeave()
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

// hasten gives the client a moment to take what is to be sent.
func (c *conn) hasten() {
	defer c.contain()
	_ = c.SetWriteDeadline(time.Now().Add(alertTime))
}

// takeLeave is lingerClose without the end.
func (c *conn) takeLeave() {
	defer c.contain()
	page := pages.Get().(*[pageSize]byte)
	defer pages.Put(page)
	c.sayGoodbye(page[:])
}
