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
// handlers take over, so that closing it anywhere takes it out of the server's
// count.
type conn struct {
	net.Conn
	origin
	lookahead
	tls    *tls.Conn       // nil on plain connections
	shake  *handshake      // nil but in the TLS handshake
	socket syscall.RawConn // what can be peeked at; nil without
	// the same, if it holds all that is to be read; nil where it cannot be read
	// without waiting
	raw      syscall.RawConn
	spliced  bool // what splice can write to
	opaque   bool // a type that may say later that it is no more than its socket
	closed   atomic.Bool
	ousted   atomic.Bool            // closed at DrainTimeout
	discards atomic.Bool            // see discardOnClose
	armed    atomic.Int64           // when our write deadline expires, unix nanoseconds
	bound    atomic.Bool            // the write deadline is somebody else's
	progress peek.Progress          // of writes
	client   atomic.Pointer[Client] // whose connection it is; nil if that has no limit
	stall    time.Duration          // how long the client may take nothing; 0 means writeStall

	readable  func(fd uintptr) bool // the method tryRead, kept so that waiting allocates nothing
	front     *front1               // what tryRead read into
	ctx       context.Context       // of requests to handlers; nil until there is one
	peerText  string                // the peer's address; likewise
	first     [1]byte               // what awaitTLS reads into
	readArmed time.Time             // when the read deadline expires
	quiet     bool                  // waits on a goroutine of its own; see startAfresh
	timedOut  bool                  // the last wait ended at its deadline
	spoke     bool                  // a request of HTTP/1.x has been parsed

	serving  atomic.Pointer[watched]  // what the sweeper looks at; nil between requests
	handling atomic.Pointer[response] // likewise, while a handler serves the request
	two      atomic.Pointer[conn2]    // nil on connections of HTTP/1.x

	mu     sync.Mutex // guards what follows
	idling bool       // waits for a request
	brief  bool       // the wait of idling ends by itself within quietAfter
	woken  bool       // wake set a read deadline
	leaves int64      // when the wait ends that hurry has limited, unix nanoseconds
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
	c.s.Log.Error("panic on a connection", "remote", c.RemoteAddr(), "panic", p, "stack", string(debug.Stack()))
}

// serve runs on the connection's own goroutine until it is known who serves
// the connection.
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
	case protocol == "acme-tls/1": // the handshake was the challenge's answer (RFC 8737, 3)
		c.tls.Close()
	case protocol == "h2":
		c.serve2(nil)
	default:
		c.enterLane()
		if c.tls == nil {
			c.run()
			return
		}
		go c.run() // the stack of a handshake is four times what an idle connection needs
	}
}

// enterLane prepares what the fast lane needs.
func (c *conn) enterLane() {
	c.peer = header.PeerOf(c.RemoteAddr())
	c.trusted = c.peer.TrustedBy(c.s.Lane.Trusted)
	_, c.opaque = c.Conn.(interface{ Unbuffered() net.Conn })
	c.bare()
}

// bare looks for the socket that can be used in place of Conn.
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

// stream is where the bytes of HTTP go.
func (c *conn) stream() net.Conn {
	if c.tls != nil {
		return c.tls
	}
	return c
}

// An origin is where requests come from, and the server that they come to: the
// same for all of a connection.
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

// readBy bounds the next reads: they fail after d, or up to a quarter later,
// since a deadline that is armed anew for each is not free.
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

// interrupt wakes the goroutine that reads. It contains panics: callers may
// serve other connections, too. Server.mu must not be held.
func (c *conn) interrupt() {
	defer c.contain()
	_ = c.Conn.SetReadDeadline(time.Unix(1, 0))
}

// shut closes the connection, with a close_notify under TLS.
func (c *conn) shut() {
	// or else crypto/tls tries for five seconds to say goodbye
	if c.tls != nil && !c.discards.Load() {
		c.tls.Close()
		return
	}
	c.Close()
}

// cut closes the connection so that the client sees that it was cut off.
func (c *conn) cut() {
	c.discardOnClose()
	c.Close()
}

// SetLinger is [net.TCPConn.SetLinger], where there is one below.
func (c *conn) SetLinger(sec int) error {
	if tcp, ok := c.Conn.(interface{ SetLinger(int) error }); ok {
		return tcp.SetLinger(sec)
	}
	return nil
}

// discardOnClose makes Close drop what the client has not taken, which the
// kernel would keep for a client that takes nothing.
func (c *conn) discardOnClose() {
	c.discards.Store(true)
	_ = c.SetLinger(0)
}

// lingerBytes is what lingerClose reads at most.
const lingerBytes = 256 << 10

// lingerClose closes after an answer to a request that was not read to its
// end. Closing at once would reset the connection, and the client might lose
// the answer (RFC 9112, 9.6).
func (c *conn) lingerClose() {
	page := pages.Get().(*[pageSize]byte)
	defer pages.Put(page)
	c.linger(page[:])
}

// lingerShort is lingerClose after a handshake that failed, whose client is to
// read the alert: there may be thousands of those, and little to read.
func (c *conn) lingerShort() {
	var page [512]byte
	c.linger(page[:])
}

func (c *conn) linger(page []byte) {
	c.sayGoodbye(page)
	c.Close()
}

// sayGoodbye is linger, but does not close the connection. It returns what
// hearOut returns.
func (c *conn) sayGoodbye(page []byte) (n int, more bool) {
	if c.state != nil {
		_ = c.tls.CloseWrite()
	}
	_ = c.CloseWrite()
	return c.hearOut(page)
}

// hearOut reads what the client still sends, for a moment. It returns how much
// that was, and whether there may be more to hear: the client is there, and has
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

// Write limits how long a write may make no progress (slow read). A slow client
// that reads something goes on.
func (c *conn) Write(p []byte) (total int, err error) {
	for {
		c.armWrite()
		n, err := c.Conn.Write(p[total:])
		total += n
		if !c.goesOn(n, err) {
			return total, err
		}
	}
}

// Pump implements pool.Sink, within the same bounds as Write.
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

// goesOn notes how a write ended, and reports whether it is to be continued:
// only the deadline has come, and the client has taken something since the last
// one.
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

// Mark implements what [peek.MarkOf] asks for.
func (c *conn) Mark() peek.Mark { return c.progress.Mark(c.socket) }

// armWrite arms the write deadline, anew only when it has moved by a quarter,
// unless somebody else has set one.
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

// SetWriteDeadline takes the write deadline over from the connection; the
// zero time gives it back.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.bound.Store(!t.IsZero())
	c.armed.Store(0)
	return c.Conn.SetWriteDeadline(t)
}

// CloseWrite half-closes connections that can.
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

// closeUnder closes Conn. It turns a panic of its type into an error: the
// caller may serve other connections, too.
func (c *conn) closeUnder() (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.logPanic(p)
			err = net.ErrClosed
		}
	}()
	return c.Conn.Close()
}
