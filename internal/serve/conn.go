package serve

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/header"
	"github.com/hostproxy/hostproxy/internal/peek"
	"github.com/hostproxy/hostproxy/internal/pool"
)

// A conn is a front connection. It is the net.Conn below TLS, and the one that
// handlers take over: wherever it is closed, it leaves the server's count.
type conn struct {
	net.Conn
	origin
	lookahead
	tls    *tls.Conn       // nil on plain connections
	shake  *handshake      // nil except during the TLS handshake
	socket syscall.RawConn // for peeking; nil if the connection has none
	// socket, if all bytes to be read come from it; nil if it cannot be read
	// without waiting
	raw      syscall.RawConn
	spliced  bool // splice can write to it
	opaque   bool // its type may later turn out to be only its socket
	closed   atomic.Bool
	ousted   atomic.Bool            // closed at DrainTimeout
	discards atomic.Bool            // see discardOnClose
	armed    atomic.Int64           // when our write deadline expires, unix nanoseconds
	bound    atomic.Bool            // a write deadline was set from outside
	progress peek.Progress          // progress of writes
	client   atomic.Pointer[Client] // the client of the connection; nil if it has no limit
	stall    time.Duration          // how long the client may read nothing; 0 means writeStall

	readable  func(fd uintptr) bool // tryRead, kept so that waiting does not allocate
	front     *front1               // where tryRead reads to
	ctx       context.Context       // context of requests to handlers; nil until the first
	peerText  string                // the peer's address; empty until needed
	first     [1]byte               // buffer for one byte; see awaitTLS
	readArmed time.Time             // when the read deadline expires
	quiet     bool                  // it waits on a goroutine of its own; see startAfresh
	timedOut  bool                  // the last wait ended at its deadline
	spoke     bool                  // a request of HTTP/1.x has been parsed on it

	serving  atomic.Pointer[watched]  // for the sweeper; nil between requests
	handling atomic.Pointer[response] // for the sweeper, while a handler serves the request
	two      atomic.Pointer[conn2]    // nil on connections of HTTP/1.x

	mu     sync.Mutex // guards the fields below
	idling bool       // waits for a request
	heads  bool       // reads the rest of a head of HTTP/1.x
	brief  bool       // the idle wait ends by itself within quietAfter
	woken  bool       // wake set a read deadline
	leaves int64      // end of a wait that hurry has limited, unix nanoseconds
}

// contain recovers a panic and closes the connection; use it with defer.
func (c *conn) contain() {
	if p := recover(); p != nil {
		c.panicked(p)
	}
}

// panicked logs a panic that was recovered, and closes the connection.
func (c *conn) panicked(p any) {
	c.logPanic(p)
	c.Close()
}

func (c *conn) logPanic(p any) {
	c.s.Log.Error("panic on a connection", "remote", c.remoteIfAny(), "panic", p, "stack", string(debug.Stack()))
}

// remoteIfAny returns RemoteAddr of Conn, or nil if that panics.
func (c *conn) remoteIfAny() (a net.Addr) {
	defer func() { _ = recover() }() // there was a panic already
	return c.RemoteAddr()
}

// serve runs on the connection's own goroutine until it is known which
// goroutine serves the connection.
func (c *conn) serve() {
	defer c.contain()
	if !c.introduced() || !c.meetLate() {
		return
	}
	if c.s.TLS != nil && !c.shakeHands() {
		if !c.carried() {
			c.lingerShort()
		}
		return
	}
	protocol := ""
	if c.state != nil {
		protocol = c.state.NegotiatedProtocol
	}
	switch {
	case protocol == "acme-tls/1": // the handshake was the response to the challenge (RFC 8737, 3)
		c.tls.Close()
	case protocol == "h2":
		c.serve2(nil)
	default:
		c.enterLane()
		if c.tls == nil {
			c.run()
			return
		}
		go c.run() // a handshake's stack is four times as large as an idle connection needs
	}
}

// enterLane prepares the connection for the fast lane.
func (c *conn) enterLane() {
	c.peer = header.PeerOf(c.RemoteAddr())
	c.trusted = c.peer.TrustedBy(c.s.Lane.Trusted)
	_, c.opaque = c.Conn.(interface{ Unbuffered() net.Conn })
	c.bare()
}

// bare looks for a socket that can be used instead of Conn.
func (c *conn) bare() {
	socket := peek.Socket(c.Conn)
	if socket == nil || !canTry {
		return
	}
	c.opaque = false
	if socket != c.Conn {
		c.socket = peek.Raw(socket)
	}
	if c.raw = c.socket; c.raw == nil || c.tls != nil {
		return
	}
	_, c.spliced = socket.(*net.TCPConn)
	c.readable = c.tryRead
}

// stream returns the connection that carries HTTP.
func (c *conn) stream() net.Conn {
	if c.tls != nil {
		return c.tls
	}
	return c
}

// An origin is where requests come from, and the server that serves them. It is
// the same for all requests of a connection.
type origin struct {
	s       *Server
	peer    header.Peer
	trusted bool
	state   *tls.ConnectionState // nil on plain connections
}

func (o *origin) scheme() string {
	if o.state != nil {
		return "https"
	}
	return "http"
}

// readBy makes reads fail after d, or up to a quarter later: setting a deadline
// for each read is expensive.
func (c *conn) readBy(d time.Duration) {
	if d <= 0 {
		if !c.readArmed.IsZero() {
			c.readArmed = time.Time{}
			_ = c.Conn.SetReadDeadline(time.Time{})
		}
		return
	}
	now := time.Now()
	if left := c.readArmed.Sub(now); left < d || left > d+d/4 {
		c.readArmed = now.Add(d + d/4)
		_ = c.Conn.SetReadDeadline(c.readArmed)
	}
}

// interrupt wakes the goroutine that reads. It contains panics: its callers may
// serve other connections, too. Server.mu must not be held.
func (c *conn) interrupt() {
	defer c.contain()
	_ = c.Conn.SetReadDeadline(time.Unix(1, 0))
}

// shut closes the connection, with a close_notify under TLS.
func (c *conn) shut() {
	// crypto/tls would try for five seconds to send its close_notify
	if c.tls != nil && !c.discards.Load() {
		c.tls.Close()
		return
	}
	c.Close()
}

// cut closes the connection in a way that shows the client that it was cut off.
func (c *conn) cut() {
	c.discardOnClose()
	c.Close()
}

// SetLinger calls [net.TCPConn.SetLinger], if there is a TCP connection below.
func (c *conn) SetLinger(sec int) error {
	if tcp, ok := c.Conn.(interface{ SetLinger(int) error }); ok {
		return tcp.SetLinger(sec)
	}
	return nil
}

// discardOnClose makes Close drop bytes that the client has not received, which
// the kernel would keep for a client that does not read.
func (c *conn) discardOnClose() {
	c.discards.Store(true)
	_ = c.SetLinger(0)
}

// lingerBytes limits what lingerClose reads.
const lingerBytes = 256 << 10

// lingerClose closes the connection after a response to a request that was not
// read to its end. Closing immediately would reset the connection, and the
// client might lose the response (RFC 9112, 9.6).
func (c *conn) lingerClose() {
	page := pages.Get().(*[pageSize]byte)
	defer pages.Put(page)
	c.linger(page[:])
}

// lingerShort is lingerClose for a failed handshake, whose alert the client
// should read. Its buffer is small: there may be thousands of such connections.
func (c *conn) lingerShort() {
	var page [512]byte
	c.linger(page[:])
}

func (c *conn) linger(page []byte) {
	c.sayGoodbye(page)
	c.Close()
}

// sayGoodbye is linger, but does not close the connection. It returns the
// results of hearOut.
func (c *conn) sayGoodbye(page []byte) (n int, more bool) {
	if c.state != nil {
		_ = c.tls.CloseWrite()
	}
	_ = c.CloseWrite()
	return c.hearOut(page)
}

// hearOut reads what the client still sends, for a short time. It returns the
// number of bytes, and whether more may come: the client is still there and has
// not sent too much.
func (c *conn) hearOut(page []byte) (total int, more bool) {
	_ = c.Conn.SetReadDeadline(time.Now().Add(exchange.LingerTime))
	for total < lingerBytes {
		n, err := c.Conn.Read(page)
		if total += n; err != nil {
			return total, isTimeout(err)
		}
	}
	return total, false
}

// Write fails after a time without progress (slow read). A slow client that
// reads something is not cut off.
func (c *conn) Write(p []byte) (total int, err error) {
	if c.shake != nil {
		c.shake.writes()
	}
	for {
		c.armWrite()
		n, err := c.Conn.Write(p[total:])
		total += n
		if !c.goesOn(n, err) {
			return total, err
		}
	}
}

// Pump implements pool.Sink, with the same limits as Write.
func (c *conn) Pump(p *pool.Pipe) error {
	for {
		c.armWrite()
		held := p.Held()
		err := c.raw.Write(p.Out)
		if err == nil {
			err = p.Err()
		}
		if !c.goesOn(held-p.Held(), err) {
			return err
		}
	}
}

// goesOn notes how a write ended, and reports whether to continue it. That is
// so if only the deadline has passed and the client has read something since
// the last one.
func (c *conn) goesOn(n int, err error) bool {
	c.progress.Wrote(n)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	if c.bound.Load() || !c.progress.Moved(c.socket) {
		c.discardOnClose()
		return false
	}
	return true
}

// Mark implements the interface that [peek.MarkOf] looks for.
func (c *conn) Mark() peek.Mark { return c.progress.Mark(c.socket) }

// armWrite sets the write deadline, unless it was set from outside. It sets it
// again only when it would move by a quarter.
func (c *conn) armWrite() {
	if c.bound.Load() {
		return
	}
	now, stall := time.Now(), cmp.Or(c.stall, writeStall)
	if left := time.Duration(c.armed.Load() - now.UnixNano()); left < stall*3/4 || left > stall {
		deadline := now.Add(stall)
		c.armed.Store(deadline.UnixNano())
		_ = c.Conn.SetWriteDeadline(deadline)
	}
}

// SetDeadline sets both deadlines; see SetWriteDeadline.
func (c *conn) SetDeadline(t time.Time) error {
	c.bound.Store(!t.IsZero())
	c.armed.Store(0)
	return c.Conn.SetDeadline(t)
}

// SetWriteDeadline sets a write deadline in place of the connection's own; the
// zero time restores that.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.bound.Store(!t.IsZero())
	c.armed.Store(0)
	return c.Conn.SetWriteDeadline(t)
}

// CloseWrite half-closes the connection, if that is possible, and otherwise
// closes it.
func (c *conn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return c.Close()
}

// Close closes the connection and takes it out of the server's count, once.
func (c *conn) Close() error {
	err := c.closeUnder()
	if c.closed.CompareAndSwap(false, true) {
		c.s.leave(c)
		if w := c.handling.Load(); w != nil {
			w.leave()
		}
	}
	return err
}

// closeUnder closes Conn. It turns a panic in Conn into an error: the caller
// may serve other connections, too.
func (c *conn) closeUnder() (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.logPanic(p)
			err = net.ErrClosed
		}
	}()
	return c.Conn.Close()
}
