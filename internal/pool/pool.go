// Package pool keeps the connections to one target: it dials them, lends each
// to one exchange at a time, checks that idle ones are alive when they are
// taken, and closes old ones.
//
// Hot path: one mutex for a few instructions in Take and Put, no goroutine per
// connection, no buffer in an idle or waiting connection, no allocation for an
// exchange on a kept connection. Where sockets cannot be read without waiting,
// an idle connection has a goroutine; see wire_other.go.
//
//   - pool.go: idle connections
//   - conn.go: one connection, lent to one exchange
//   - wire.go, wire_unix.go, wire_other.go: reads and writes with deadlines and
//     aborts
//   - pipe.go, pipe_linux.go, pipe_other.go: bodies moved within the kernel
//   - alpn.go: TLS targets that choose no protocol
package pool

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hostproxy/hostproxy/internal/proxyproto"
)

// Defaults of a Pool.
const (
	DefaultMaxIdle     = 256
	DefaultIdleTimeout = 75 * time.Second
	DefaultLifetime    = 10 * time.Minute
)

var (
	// ErrStale says that a kept connection was closed by the target, or has
	// bytes that no request asked for. Nothing was written to it: take another.
	ErrStale = errors.New("the idle connection is no longer usable: the target closed it or sent unexpected bytes")

	// ErrClosed is returned by Open after Close.
	ErrClosed = errors.New("the connections to the target are closed")

	// ErrHTTP2 says that a target speaks HTTP/2, and none of the protocols
	// offered.
	ErrHTTP2 = errors.New("the target supports only HTTP/2")

	// ErrAborted is returned by operations of a Conn whose Lease was aborted.
	ErrAborted = errors.New("the proxy closed the connection to the target during the exchange")
)

// A HandshakeError says that the TLS handshake on an open connection failed.
type HandshakeError struct{ Err error }

// Error returns the cause, with "handshake: " before it.
func (e *HandshakeError) Error() string { return "handshake: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *HandshakeError) Unwrap() error { return e.Err }

// A Pool holds the connections to one target. They all have the same TLS
// identity, so a Pool must not serve two. The fields must not change after
// first use; the methods may be called concurrently. A Pool starts no timer
// before it keeps a connection.
type Pool struct {
	Dial func(ctx context.Context) (net.Conn, error) // required; a TCP or unix connection
	// nil means no TLS; ServerName must be set; the Pool never changes it
	TLS *tls.Config

	// Apart keeps the connections of clients apart: each is lent again only for
	// the header of the PROXY protocol in its context of Open. Dial sends the
	// header.
	Apart bool

	MaxIdle int // idle connections to keep; 0 means DefaultMaxIdle, negative none
	// idle connections are closed after it; 0 means DefaultIdleTimeout,
	// negative never
	IdleTimeout time.Duration
	// older connections are not kept, so that new addresses of a name are
	// found; 0 means DefaultLifetime, negative no limit
	Lifetime time.Duration

	mu      sync.Mutex
	idle    []*Conn // the one kept most recently is last
	timer   *time.Timer
	armed   bool      // timer will call sweep
	retired bool      // no connection is kept any more
	closed  bool      // no connection is opened any more
	asked   time.Time // when onlyHTTP2 last found that the target speaks HTTP/1.1
}

func (p *Pool) maxIdle() int               { return cmp.Or(p.MaxIdle, DefaultMaxIdle) }
func (p *Pool) idleTimeout() time.Duration { return cmp.Or(p.IdleTimeout, DefaultIdleTimeout) }
func (p *Pool) lifetime() time.Duration    { return cmp.Or(p.Lifetime, DefaultLifetime) }

// Take returns the connection that was kept most recently, or nil if there is
// none. The caller owns it until Put, Close or Detach. Its first Ask or Send
// checks that it is alive, and fails with ErrStale if it is not.
func (p *Pool) Take() *Conn {
	p.mu.Lock()
	last := len(p.idle) - 1
	if last < 0 {
		p.mu.Unlock()
		return nil
	}
	c := p.idle[last]
	p.idle[last] = nil
	p.idle = p.idle[:last]
	p.mu.Unlock()
	c.take()
	return c
}

// TakeFor is Take; with Apart it takes only connections opened with the same
// header.
func (p *Pool) TakeFor(h *proxyproto.Header) *Conn {
	if !p.Apart {
		return p.Take()
	}
	p.mu.Lock()
	for i := len(p.idle) - 1; i >= 0; i-- {
		if c := p.idle[i]; *c.opener == *h {
			p.idle = slices.Delete(p.idle, i, i+1)
			p.mu.Unlock()
			c.take()
			return c
		}
	}
	p.mu.Unlock()
	return nil
}

// Open dials a new connection and, with TLS, does the handshake; ctx limits
// both. A failed handshake is a *HandshakeError; other errors are Dial's or
// ErrClosed. The caller owns the connection until Put, Close or Detach.
//
// If a target chooses none of TLS.NextProtos, Open dials it again, once in a
// Lifetime, and offers h2 too. If the target then chooses h2, and closes the
// first connection, the error is a *HandshakeError with ErrHTTP2.
func (p *Pool) Open(ctx context.Context) (*Conn, error) {
	p.mu.Lock()
	closed := p.closed
	p.mu.Unlock()
	if closed {
		return nil, ErrClosed
	}
	start := time.Now()
	c, err := p.dial(ctx, p.TLS)
	if err != nil || !c.silent() {
		return c, err
	}
	if p.doubts() && p.onlyHTTP2(ctx, c, time.Since(start)) {
		c.bye()
		return nil, &HandshakeError{ErrHTTP2}
	}
	c.unsure = true
	return c, nil
}

func (p *Pool) dial(ctx context.Context, conf *tls.Config) (*Conn, error) {
	nc, err := p.Dial(ctx)
	if err != nil {
		return nil, err
	}
	c := newConn(p, nc)
	if p.Apart {
		c.opener = proxyproto.FromContext(ctx)
	}
	if err := c.handshake(ctx, conf); err != nil {
		nc.Close()
		return nil, &HandshakeError{err}
	}
	return c, nil
}

// Idle returns how many connections are kept.
func (p *Pool) Idle() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.idle)
}

// CloseIdle closes the connections that are kept now.
func (p *Pool) CloseIdle() {
	p.mu.Lock()
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	closeAll(idle)
}

// Close closes the kept connections, keeps no more, and makes Open fail. Lent
// connections are closed when their owners are done. Close may be called again.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed, p.retired = true, true
	if p.timer != nil {
		p.timer.Stop()
	}
	p.mu.Unlock()
	p.CloseIdle()
}

// Retire closes the kept connections and keeps no more, but Open still works.
// Retire may be called again.
func (p *Pool) Retire() {
	p.mu.Lock()
	p.retired = true
	p.mu.Unlock()
	p.CloseIdle()
}

// put keeps c, unless the pool is full, retired or closed, or c is too old.
func (p *Pool) put(c *Conn) bool {
	now := time.Now()
	if life := p.lifetime(); life > 0 && now.Sub(c.born) >= life {
		return false
	}
	if old := p.evict(); old != nil {
		defer old.bye()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.retired || len(p.idle) >= p.maxIdle() {
		return false
	}
	c.since = now
	c.guard()
	p.idle = append(p.idle, c)
	if !p.armed {
		p.arm()
	}
	return true
}

// evict takes out the connection that has been idle for longest if a pool with
// Apart is full: its client may have disconnected.
func (p *Pool) evict() *Conn {
	if !p.Apart {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) == 0 || len(p.idle) < p.maxIdle() {
		return nil
	}
	old := p.idle[0]
	p.idle = slices.Delete(p.idle, 0, 1)
	return old
}

// arm starts the timer of sweep with the shorter of the two limits. p.mu is
// held.
func (p *Pool) arm() {
	d := p.idleTimeout()
	if life := p.lifetime(); d <= 0 || 0 < life && life < d {
		d = life
	}
	if d <= 0 {
		return
	}
	p.armed = true
	if p.timer == nil {
		p.timer = time.AfterFunc(d, p.sweep)
	} else {
		p.timer.Reset(d)
	}
}

// sweep closes connections that reached a limit, and runs again while others
// are kept. So a connection closes between its limit and twice its limit.
func (p *Pool) sweep() {
	now, idle, life := time.Now(), p.idleTimeout(), p.lifetime()
	var old []*Conn
	p.mu.Lock()
	kept := p.idle[:0]
	for _, c := range p.idle {
		if idle > 0 && now.Sub(c.since) >= idle || life > 0 && now.Sub(c.born) >= life {
			old = append(old, c)
		} else {
			kept = append(kept, c)
		}
	}
	clear(p.idle[len(kept):])
	p.idle = kept
	p.armed = false
	if len(kept) > 0 && !p.closed {
		p.arm()
	}
	p.mu.Unlock()
	closeAll(old)
}

func closeAll(cs []*Conn) {
	for _, c := range cs {
		c.bye()
	}
}
