// Package pool keeps the connections to one target: it dials them, lends them
// out one exchange at a time, proves idle ones alive when they are taken, and
// ages them out.
//
// Hot path: one mutex for a few instructions in Take and Put, no goroutine per
// connection, no buffer held by an idle or waiting connection, no allocation
// for an exchange on a kept connection. Where sockets cannot be read without
// waiting, an idle connection has a goroutine; see wire_other.go.
//
//   - pool.go: idle connections
//   - conn.go: one connection, lent to one exchange
//   - wire.go, wire_unix.go, wire_other.go: reads and writes that an abort or a
//     deadline ends
//   - pipe.go, pipe_linux.go, pipe_other.go: bodies within the kernel
//   - alpn.go: targets that say nothing of what they speak
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
	// ErrStale says that a kept connection turned out to be closed, or to hold
	// bytes nobody asked for. Nothing was written to it: take another.
	ErrStale = errors.New("the idle connection is no longer usable: the target closed it or sent unexpected bytes")

	// ErrClosed is returned by Open after Close.
	ErrClosed = errors.New("the connections to the target are closed")

	// ErrHTTP2 says that a target speaks HTTP/2 and not what it was offered.
	ErrHTTP2 = errors.New("the target supports only HTTP/2")

	// ErrAborted is returned by the operations of a Conn whose Lease was
	// aborted.
	ErrAborted = errors.New("the proxy closed the connection to the target during the exchange")
)

// A HandshakeError is a TLS handshake that failed on an open connection.
type HandshakeError struct{ Err error }

// Error returns the cause, named as a handshake.
func (e *HandshakeError) Error() string { return "handshake: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *HandshakeError) Unwrap() error { return e.Err }

// A Pool holds the connections to one target, all of the same TLS identity: it
// must not serve two. The fields must not change after first use; the methods
// may be called concurrently. It starts nothing before a connection is kept.
type Pool struct {
	Dial func(ctx context.Context) (net.Conn, error) // required; a TCP or unix connection
	// nil means no TLS; ServerName must be set, and is never changed
	TLS *tls.Config

	// Apart keeps the connections of clients apart: one is lent again only for
	// the header of the PROXY protocol that the context of Open had. Dial sends
	// it.
	Apart bool

	MaxIdle int // connections kept; 0 means DefaultMaxIdle, negative none
	// unused connections close after it; 0 means DefaultIdleTimeout, negative
	// never
	IdleTimeout time.Duration
	// older connections are not kept, so that moved names are found again; 0
	// means DefaultLifetime, negative for ever
	Lifetime time.Duration

	mu      sync.Mutex
	idle    []*Conn // the one kept last at the end
	timer   *time.Timer
	armed   bool      // timer will call sweep
	retired bool      // nothing is kept any more
	closed  bool      // nor opened
	asked   time.Time // when onlyHTTP2 last found that the target speaks HTTP/1.1
}

func (p *Pool) maxIdle() int               { return cmp.Or(p.MaxIdle, DefaultMaxIdle) }
func (p *Pool) idleTimeout() time.Duration { return cmp.Or(p.IdleTimeout, DefaultIdleTimeout) }
func (p *Pool) lifetime() time.Duration    { return cmp.Or(p.Lifetime, DefaultLifetime) }

// Take returns the connection that was kept last, or nil if there is none. The
// caller owns it until Put, Close or Detach. Its first Ask or Send proves it
// alive, and fails with ErrStale if it is not.
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

// TakeFor is Take of a connection that was opened for the same header, if p
// keeps them apart.
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

// Open dials a new connection, and does the TLS handshake if the target wants
// one; ctx bounds both. A failed handshake is a *HandshakeError, any other
// error is Dial's. The caller owns the connection until Put, Close or Detach.
//
// A target that chooses none of the protocols of TLS.NextProtos is dialed
// again, once in a Lifetime, and offered h2 too. If it chooses h2, and closes
// the first connection, the error is that of a handshake, with ErrHTTP2.
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

// Close closes the kept connections and keeps no more. Those lent out close
// when their owners are done. Close may be called again.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed, p.retired = true, true
	if p.timer != nil {
		p.timer.Stop()
	}
	p.mu.Unlock()
	p.CloseIdle()
}

// Retire closes the kept connections and keeps no more, but opens those that
// are asked for. Retire may be called again.
func (p *Pool) Retire() {
	p.mu.Lock()
	p.retired = true
	p.mu.Unlock()
	p.CloseIdle()
}

// put keeps c, unless the pool is full, retired or closed, or c too old.
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

// evict makes room among connections that are kept apart, of which the oldest
// may be that of a client which has left.
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

// arm makes sweep run after the shorter of the two limits. p.mu is held.
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

// sweep closes what has aged and runs again while something is kept. A
// connection thus closes after at least its limit and at most twice that.
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
