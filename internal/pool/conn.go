package pool

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/hostproxy/hostproxy/internal/peek"
	"github.com/hostproxy/hostproxy/internal/proxyproto"
)

// BufferSize is how many unread bytes a Conn can hold.
const BufferSize = 16 << 10

// ErrBufferFull is returned by Fill when the buffer is full and nothing was
// discarded.
var ErrBufferFull = errors.New("pool: buffer full")

// buffers holds the buffers for connections with unread bytes. All pools share
// it: a program may have thousands of pools, most of them quiet.
var buffers = sync.Pool{New: func() any { return new([BufferSize]byte) }}

// A Conn is a connection to a target, owned by one exchange at a time. One
// goroutine reads (Ask, Send, Fill, Read, SetReadDeadline and all methods about
// the buffer); one, usually the same, writes (Write, SetWriteDeadline); only
// Lease.Abort may be called by others.
type Conn struct {
	wire
	proof
	pool  *Pool
	tls   *tls.Conn // nil without TLS
	born  time.Time
	since time.Time // when it became idle; guarded by the pool

	opener *proxyproto.Header // PROXY header that it was opened with; nil without Pool.Apart

	reused   bool
	unproven bool    // was kept, and is not yet proven alive
	unsure   bool    // the target has not sent a byte, and did not choose HTTP/1.1 by ALPN
	splices  bool    // the system can splice from it
	probe    [1]byte // the buffer for the proof, which must read nothing

	buf     *[BufferSize]byte // nil while no byte is unread
	r, w    int               // buf[r:w] is unread
	pending error             // error that ends the stream after the unread bytes

	// The operation that step performs.
	step   func(fd uintptr) bool // the method ready, kept so that raw.Read allocates nothing
	out    []byte                // bytes to write first
	sent   bool                  // all of out was written
	listen bool                  // the operation reads after the write
	direct []byte                // destination of the read; nil means buf
	n      int                   // bytes read
	err    error
}

func newConn(p *Pool, nc net.Conn) *Conn {
	c := &Conn{pool: p, born: time.Now()}
	c.wire.Conn = nc
	if socket := peek.Socket(nc); socket != nil {
		c.above(socket)
	}
	c.step = c.ready
	c.state.Store(busy)
	return c
}

func (c *Conn) handshake(ctx context.Context, conf *tls.Config) error {
	if conf == nil {
		return nil
	}
	c.tls = tls.Client(&c.wire, conf)
	err := c.tls.HandshakeContext(ctx)
	c.wrote.Store(false) // the bytes were not a request's
	return err
}

// take prepares a connection that was idle for its next exchange.
func (c *Conn) take() {
	c.unguard()
	c.reused, c.unproven = true, true
	c.wrote.Store(false)
	c.state.Add(busy - idle)
}

// Reused reports whether the connection has carried an exchange before. If so,
// a failure before the first response byte may only mean that the target has
// closed it meanwhile.
func (c *Conn) Reused() bool { return c.reused }

// Wrote reports whether any byte was written to the network in this exchange.
// Any goroutine may call it.
func (c *Conn) Wrote() bool { return c.wrote.Load() }

// Sent reports whether the last Ask or Send has written all of its bytes.
func (c *Conn) Sent() bool { return c.sent }

// TLS returns the TLS connection, or nil on a plain one.
func (c *Conn) TLS() *tls.Conn { return c.tls }

// Ask writes p, waits for the response and reads its first bytes into the
// buffer. It is Send and Fill in one step, for requests small enough for the
// socket to take at once.
func (c *Conn) Ask(p []byte) error {
	c.out, c.sent, c.listen, c.direct = p, false, true, nil
	return c.run()
}

// Send writes p, the beginning of a request, as Write does. On a connection
// that was kept it first checks that the target has neither closed it nor sent
// anything. If it has, Send returns ErrStale and has written nothing.
func (c *Conn) Send(p []byte) error {
	c.out, c.sent, c.listen, c.direct = p, false, false, nil
	return c.run()
}

// Write writes all of p.
func (c *Conn) Write(p []byte) (int, error) { return c.stream().Write(p) }

// stream returns the connection for the bytes of HTTP.
func (c *Conn) stream() net.Conn {
	if c.tls != nil {
		return c.tls
	}
	return &c.wire
}

// Buffered returns the unread bytes. They may be changed in place, and are
// valid until the next Fill, Ask, Put or Close.
func (c *Conn) Buffered() []byte {
	if c.buf == nil {
		return nil
	}
	return c.buf[c.r:c.w]
}

// Discard drops the first n unread bytes.
func (c *Conn) Discard(n int) {
	if n > c.w-c.r {
		panic("pool: discarded more than was buffered")
	}
	c.r += n
	if c.r == c.w {
		c.r, c.w = 0, 0
	}
}

// Fill waits for more bytes and appends them to the buffered ones. At the end
// of the stream it returns io.EOF.
func (c *Conn) Fill() error {
	if c.r == 0 && c.w == BufferSize {
		return ErrBufferFull
	}
	c.listen, c.direct = true, nil
	return c.run()
}

// Read returns buffered bytes. If the buffer is empty, it reads from the
// connection directly into p.
func (c *Conn) Read(p []byte) (int, error) {
	if c.r < c.w {
		n := copy(p, c.buf[c.r:c.w])
		c.Discard(n)
		return n, nil
	}
	if len(p) == 0 {
		return 0, nil
	}
	c.release()
	c.listen, c.direct = true, p
	err := c.run()
	c.direct = nil
	return c.n, err
}

// run performs one operation. After a deadline that expired early it continues
// where it was.
func (c *Conn) run() error {
	c.n, c.err = 0, c.pending
	for c.err == nil {
		if c.raw == nil {
			c.block()
			break
		}
		err := c.raw.Read(c.step)
		if err == nil {
			break
		}
		if !c.rearmRead(err) {
			c.err = err
		}
	}
	if c.unproven && c.err != nil && !errors.Is(c.err, os.ErrDeadlineExceeded) {
		c.err = ErrStale
	}
	c.out = nil
	if c.n > 0 {
		c.pending, c.err, c.unsure = c.err, nil, false
	}
	if c.err != nil && c.aborted() {
		return ErrAborted
	}
	return c.err
}

// ready is called by raw.Read: first immediately, then whenever the socket may
// have become readable, until it returns true. It never misses bytes that
// arrive after the first call began.
func (c *Conn) ready(fd uintptr) bool {
	c.fd, c.inside = fd, true
	done := c.advance()
	c.inside = false
	return done
}

func (c *Conn) advance() bool {
	proven := c.unproven
	if proven {
		c.unproven = false
		if !c.quiet() {
			c.err = ErrStale
			return true
		}
	}
	if out := c.out; out != nil {
		c.out = nil
		if _, c.err = c.stream().Write(out); c.err != nil {
			return true
		}
		c.sent = true
		if !c.listen {
			return true
		}
		if proven { // nothing was to be read before, and no answer is that fast
			return false
		}
	}
	return !c.listen || c.receive()
}

// receive reads the bytes that are there. It returns false to wait for some. It
// keeps no buffer meanwhile, unless that has unread bytes.
func (c *Conn) receive() bool {
	n, err := c.stream().Read(c.room())
	if n == 0 && err == errAgain {
		if c.direct == nil && c.r == c.w {
			c.release()
		}
		return false
	}
	c.took(n, err)
	return true
}

// block performs the operation on a connection that cannot be read without
// waiting.
func (c *Conn) block() {
	if c.unproven {
		c.unproven = false
		if !c.quiet() {
			c.err = ErrStale
			return
		}
	}
	if out := c.out; out != nil {
		if _, c.err = c.stream().Write(out); c.err != nil {
			return
		}
		c.sent = true
	}
	if c.listen {
		c.took(c.stream().Read(c.room()))
	}
}

// room returns where the next bytes go; it is never empty.
func (c *Conn) room() []byte {
	if c.direct != nil {
		return c.direct
	}
	if c.buf == nil {
		c.buf = buffers.Get().(*[BufferSize]byte)
	}
	if c.r > 0 {
		c.w = copy(c.buf[:], c.buf[c.r:c.w])
		c.r = 0
	}
	return c.buf[c.w:]
}

// took notes the results of a read.
func (c *Conn) took(n int, err error) {
	c.n = n
	if c.direct == nil {
		c.w += n
	}
	if err != errAgain { // after data: part of a TLS record, to be completed by the next read
		c.err = err
	}
}

// release gives the buffer back. Its unread bytes are lost.
func (c *Conn) release() {
	c.r, c.w = 0, 0
	if c.buf != nil {
		buffers.Put(c.buf)
		c.buf = nil
	}
}

// Put gives the connection back to the pool. The caller guarantees that the
// request is sent and the response read to its end, and that both sides want to
// keep the connection. Put closes it instead if it was aborted, holds unread
// bytes, is too old, exceeds the limit of the pool, or cannot be proven alive
// later.
func (c *Conn) Put() {
	ok := c.r == c.w && c.pending == nil && c.provable()
	c.release()
	s := c.state.Load()
	if !ok || s&phase != busy || !c.state.CompareAndSwap(s, s+generation+idle-busy) {
		c.Close()
		return
	}
	if !c.pool.put(c) {
		c.bye()
	}
}

// Close closes the connection immediately. It may be called again.
func (c *Conn) Close() error {
	if c.unsure {
		c.unsure = false
		c.pool.doubt()
	}
	c.release()
	return c.wire.Conn.Close()
}

// bye closes an unused connection, with a close_notify under TLS.
func (c *Conn) bye() {
	if c.tls != nil {
		c.tls.Close()
		return
	}
	c.wire.Conn.Close()
}

// Detach removes the connection from the pool, for a tunnel. It returns the
// connection itself, without deadlines, and a copy of the bytes that were read
// ahead. The Conn must not be used afterwards.
func (c *Conn) Detach() (net.Conn, []byte) {
	var ahead []byte
	if c.r < c.w {
		ahead = append(ahead, c.buf[c.r:c.w]...)
	}
	c.release()
	c.detach()
	if c.tls != nil {
		return c.tls, ahead
	}
	return c.wire.Conn, ahead
}

// A Lease identifies one use of a Conn. It may be kept after the Conn was put
// back or closed.
type Lease struct {
	c   *Conn
	gen uint64
}

// Lease returns the Lease of the current use.
func (c *Conn) Lease() Lease { return Lease{c, c.state.Load() &^ phase} }

// Abort ends the use from another goroutine: the owner's operation fails with
// ErrAborted, and the connection is not kept. Abort does nothing when that use
// is over. It may be called again.
func (l Lease) Abort() {
	if l.c != nil {
		l.c.abort(l.gen)
	}
}
