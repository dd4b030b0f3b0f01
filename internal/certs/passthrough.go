package certs

import (
	"context"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/hostproxy/hostproxy/internal/hostname"
	"github.com/hostproxy/hostproxy/internal/proxyproto"
	"github.com/hostproxy/hostproxy/internal/tunnel"
)

const (
	passDial = 10 * time.Second // to reach a target
	passIdle = time.Hour        // without a byte either way
)

// A Target is where the connections of a host go whose TLS does not end here.
type Target struct {
	Pattern       string          // of the route
	Addr          string          // host:port
	ProxyProtocol bool            // send the client's address first, by PROXY protocol version 2
	Life          context.Context // its end closes the connections

	Dial func(ctx context.Context, network, addr string) (net.Conn, error) // nil means a net.Dialer
}

// A Passer reads the ClientHello of connections and forwards those of some
// hosts to their targets, without decrypting or answering them. All others go
// to the server, byte for byte.
type Passer struct {
	route  func(host string) (Target, bool)
	active func() bool
	log    *slog.Logger

	ctx    context.Context
	cancel context.CancelFunc
	mu     sync.Mutex // no tunnel starts after cancel
	tunnel sync.WaitGroup
}

// NewPasser returns a Passer. route returns the target of a canonical host, or
// false if its connections end here; active reports whether any host may have a
// target. Both are called concurrently.
func NewPasser(route func(host string) (Target, bool), active func() bool, log *slog.Logger) *Passer {
	p := &Passer{route: route, active: active, log: log}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// Listener wraps ln for a server that terminates TLS. The server's first Read
// of a connection reads the ClientHello, within the server's time and limits.
// If the connection is forwarded, it ends there for the server, unless the
// server calls Carried. A server that calls Carried waits for its connections
// and then calls Settle of the listener, which closes p.
func (p *Passer) Listener(ln net.Listener) net.Listener { return passListener{ln, p} }

// Close closes the forwarded connections and waits for their end. Later
// connections all go to the server.
func (p *Passer) Close() {
	p.mu.Lock()
	p.cancel()
	p.mu.Unlock()
	p.tunnel.Wait()
}

type passListener struct {
	net.Listener
	passer *Passer
}

// Accept implements net.Listener.
func (l passListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil || !l.passer.active() {
		return c, err
	}
	return &passConn{Conn: c, passer: l.passer}, nil
}

// Settle closes the forwarded connections of the listener's Passer, and waits
// for their end.
func (l passListener) Settle() { l.passer.Close() }

// A passConn is a connection whose ClientHello has not been read yet.
type passConn struct {
	net.Conn
	passer *Passer

	heard  bool   // the first Read has read the ClientHello; one goroutine reads
	replay []byte // bytes that were read ahead

	mu    sync.Mutex
	gone  bool               // forwarded; closed from the server's point of view
	cut   context.CancelFunc // ends the forwarding; nil before it
	over  bool               // the forwarding has ended
	ended func()             // callback of the server, if that still counts it; else nil
}

// Accepted returns the connection as it was accepted.
func (c *passConn) Accepted() net.Conn { return c.Conn }

// Carried reports whether the connection is forwarded. If so, it still belongs
// to the server: Close closes it, and ended is called, once, when it is over.
func (c *passConn) Carried(ended func()) bool {
	c.mu.Lock()
	gone, over := c.gone, c.over
	c.ended = ended
	c.mu.Unlock()
	if gone && over {
		ended()
	}
	return gone
}

// carry forwards the connection until it ends.
func (c *passConn) carry(ctx context.Context, host string, t Target) {
	c.passer.carry(ctx, c.Conn, c.replay, host, t)
	c.mu.Lock()
	c.over = true
	ended := c.ended
	c.mu.Unlock()
	c.cut()
	if ended != nil {
		ended()
	}
}

// Read implements net.Conn.
func (c *passConn) Read(b []byte) (int, error) {
	if !c.heard {
		c.heard = true
		if c.passer.take(c) {
			return 0, io.EOF
		}
	}
	if c.left() { // later bytes are for the target
		return 0, net.ErrClosed
	}
	if len(c.replay) > 0 {
		n := copy(b, c.replay)
		c.replay = c.replay[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

// Write implements net.Conn.
func (c *passConn) Write(b []byte) (int, error) {
	if c.left() {
		return 0, net.ErrClosed
	}
	return c.Conn.Write(b)
}

// Close implements net.Conn.
func (c *passConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.gone {
		return c.Conn.Close()
	}
	if c.ended != nil {
		c.cut()
	}
	return nil
}

// CloseWrite calls CloseWrite of the connection, if it has one.
func (c *passConn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok && !c.left() {
		return w.CloseWrite()
	}
	return net.ErrClosed
}

// SyscallConn implements syscall.Conn. After the handshake, no replayed bytes
// are left.
func (c *passConn) SyscallConn() (syscall.RawConn, error) {
	if s, ok := c.Conn.(syscall.Conn); ok && !c.left() {
		return s.SyscallConn()
	}
	return nil, syscall.EINVAL
}

// SetDeadline implements net.Conn.
func (c *passConn) SetDeadline(t time.Time) error {
	return c.deadline(func() error { return c.Conn.SetDeadline(t) })
}

// SetReadDeadline implements net.Conn.
func (c *passConn) SetReadDeadline(t time.Time) error {
	return c.deadline(func() error { return c.Conn.SetReadDeadline(t) })
}

// SetWriteDeadline implements net.Conn.
func (c *passConn) SetWriteDeadline(t time.Time) error {
	return c.deadline(func() error { return c.Conn.SetWriteDeadline(t) })
}

// deadline runs set, unless the tunnel owns the deadlines already.
func (c *passConn) deadline(set func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		return net.ErrClosed
	}
	return set()
}

func (c *passConn) left() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone
}

// take reads the ClientHello, and starts forwarding if the host has a target.
// It reports whether it does.
func (p *Passer) take(c *passConn) bool {
	sni, heard, ok := peekClientHello(c.Conn)
	c.replay = heard
	if !ok {
		return false
	}
	host, err := hostname.Canonical(sni)
	if err != nil {
		return false
	}
	target, ok := p.route(host)
	if !ok {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil {
		return false
	}
	ctx, cut := context.WithCancel(p.ctx)
	c.mu.Lock()
	c.gone, c.cut = true, cut
	c.mu.Unlock()
	p.tunnel.Go(func() { c.carry(ctx, host, target) })
	return true
}

// carry copies between the client and the target until one of them ends the
// connection, the route is removed, or ctx is done.
func (p *Passer) carry(ctx context.Context, client net.Conn, heard []byte, host string, target Target) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if target.Life != nil {
		defer context.AfterFunc(target.Life, cancel)()
	}
	dial, stop := context.WithTimeout(ctx, passDial)
	connect := target.Dial
	if connect == nil {
		connect = new(net.Dialer).DialContext
	}
	upstream, err := connect(dial, "tcp", target.Addr)
	stop()
	defer p.contain(client, upstream, host)
	if err == nil && target.ProxyProtocol {
		_, err = upstream.Write(proxyHeader(client))
		if err != nil {
			upstream.Close()
		}
	}
	if err != nil {
		p.log.Warn("connection not passed through", "host", host, "target", target.Addr, "cause", err)
		client.Close()
		return
	}
	t := tunnel.Tunnel{
		Client:   tunnel.Side{Conn: client, Buffered: heard},
		Upstream: tunnel.Side{Conn: upstream},
		Idle:     passIdle,
	}
	end := t.Run(ctx)
	p.log.Debug("connection passed through", "host", host, "target", target.Addr, "by", end.By.String(),
		"from_client", end.FromClient, "from_upstream", end.FromUpstream, "cause", end.Err)
}

// contain recovers a panic in a connection from the user's Dial, and closes
// both connections; use it with defer. Not recovered, the panic would end the
// program.
func (p *Passer) contain(client, upstream net.Conn, host string) {
	if v := recover(); v != nil {
		p.log.Error("panic in a connection of a Passthrough", "host", host, "panic", v, "stack", string(debug.Stack()))
		client.Close()
		defer func() { _ = recover() }() // it may panic again
		upstream.Close()
	}
}

// proxyHeader returns the header of the PROXY protocol, version 2, for a
// client's connection.
func proxyHeader(client net.Conn) []byte {
	return proxyproto.AppendV2(nil, proxyproto.Of(proxyproto.AddrPort(client.RemoteAddr()), proxyproto.AddrPort(client.LocalAddr())))
}
