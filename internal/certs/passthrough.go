package certs

import (
	"context"
	"io"
	"log/slog"
	"net"
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

// A Target is where the connections of a host go that is not terminated here.
type Target struct {
	Pattern       string          // of the route
	Addr          string          // host:port
	ProxyProtocol bool            // say first, in PROXY protocol version 2, who the client is
	Life          context.Context // ends the connections when it is done

	Dial func(ctx context.Context, network, addr string) (net.Conn, error) // nil means a net.Dialer
}

// A Passer looks at the ClientHello of connections and carries those of some
// hosts to their targets as they are: neither decrypted nor answered. The
// others go on to the server, byte for byte.
type Passer struct {
	route  func(host string) (Target, bool)
	active func() bool
	log    *slog.Logger

	ctx    context.Context
	cancel context.CancelFunc
	mu     sync.Mutex // no tunnel starts after cancel
	tunnel sync.WaitGroup
}

// NewPasser returns a Passer. route returns the target of a canonical host,
// false if its connections end here; active reports whether there may be any.
// Both are called concurrently.
func NewPasser(route func(host string) (Target, bool), active func() bool, log *slog.Logger) *Passer {
	p := &Passer{route: route, active: active, log: log}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// Listener returns ln for a server that does TLS. The first Read of a
// connection, which is that server's, looks at the ClientHello, in the server's
// time and within its limits; a connection that is carried elsewhere ends there
// for the server, unless it calls Carried. A server that does waits for its
// connections and then calls Settle of the listener, which closes p.
func (p *Passer) Listener(ln net.Listener) net.Listener { return passListener{ln, p} }

// Close cuts the connections that are carried and waits for their end. Later
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

// Settle ends what the Passer of the listener carries, and waits for it.
func (l passListener) Settle() { l.passer.Close() }

// A passConn is a connection whose ClientHello has yet to be heard.
type passConn struct {
	net.Conn
	passer *Passer

	heard  bool   // by the first Read; reads have one goroutine
	replay []byte // what was heard and not yet read

	mu    sync.Mutex
	gone  bool               // carried elsewhere; for the server it is closed
	cut   context.CancelFunc // ends that; nil before
	over  bool               // it has ended
	ended func()             // the server's, which still counts it; nil if not
}

// Accepted returns the connection as it was accepted.
func (c *passConn) Accepted() net.Conn { return c.Conn }

// Carried reports whether the connection is carried elsewhere. If so, it stays
// the server's: Close cuts it, and ended is called, once, when it is over.
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

// carry carries the connection to its end.
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
	if c.left() { // what comes now is the target's
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

// CloseWrite is that of the connection, if it has one.
func (c *passConn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok && !c.left() {
		return w.CloseWrite()
	}
	return net.ErrClosed
}

// SyscallConn implements syscall.Conn. After the handshake nothing is left to
// replay.
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

// deadline runs set unless the deadlines are the tunnel's by now.
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

// take hears the client, and carries its connection if the host is one of
// those.
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

// carry joins the client with the target until one of them ends it, the route
// goes, or ctx is done.
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

// proxyHeader returns the header of the PROXY protocol, version 2, for the
// connection of a client.
func proxyHeader(client net.Conn) []byte {
	return proxyproto.AppendV2(nil, proxyproto.Of(proxyproto.AddrPort(client.RemoteAddr()), proxyproto.AddrPort(client.LocalAddr())))
}
