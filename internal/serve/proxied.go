package serve

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hostproxy/hostproxy/internal/header"
	"github.com/hostproxy/hostproxy/internal/proxyproto"
)

// ProxyHeaders selects the peers whose connections begin with a header of the
// PROXY protocol.
type ProxyHeaders struct {
	From []netip.Prefix // 127.0.0.1 or ::1 includes peers of unix sockets
	// limit from the start of a connection to the end of its header; zero means
	// no limit
	Timeout time.Duration
}

// Listener returns ln with connections that read the headers, for Server.Serve.
// If p is nil, it returns ln.
func (p *ProxyHeaders) Listener(ln net.Listener) net.Listener {
	if p == nil || ln == nil {
		return ln
	}
	return &proxyListener{ln, p}
}

type proxyListener struct {
	net.Listener
	rule *ProxyHeaders
}

// Accept implements net.Listener.
func (l *proxyListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil || knowsPeer(c) && !header.PeerOf(c.RemoteAddr()).TrustedBy(l.rule.From) {
		return c, err
	}
	return &proxied{Conn: c, rule: l.rule}, nil
}

// A proxied is a connection that may begin with a header. After the header, it
// has the header's addresses, and its bytes are those of Conn: nothing is
// buffered.
type proxied struct {
	net.Conn
	rule *ProxyHeaders
	ends atomic.Pointer[ends] // nil until the header has been read, or is known to be absent
}

// ends are the addresses of a connection.
type ends struct{ remote, local net.Addr }

// A noAddr is the address of a client without one. Unlike the address of a unix
// socket, it does not mean this machine, so nothing trusts it.
type noAddr struct{}

// Network implements net.Addr.
func (noAddr) Network() string { return "unix" }

// String implements net.Addr.
func (noAddr) String() string { return "unknown" }

// RemoteAddr returns the source address in the header, once that has been read.
func (p *proxied) RemoteAddr() net.Addr {
	if e := p.ends.Load(); e != nil {
		return e.remote
	}
	return p.Conn.RemoteAddr()
}

// LocalAddr returns the destination address in the header, once that has been
// read.
func (p *proxied) LocalAddr() net.Addr {
	if e := p.ends.Load(); e != nil {
		return e.local
	}
	return p.Conn.LocalAddr()
}

// Unbuffered implements the interface that [peek.Socket] looks for.
func (p *proxied) Unbuffered() net.Conn {
	if p.ends.Load() == nil {
		return nil
	}
	return p.Conn
}

// SyscallConn implements syscall.Conn.
func (p *proxied) SyscallConn() (syscall.RawConn, error) {
	if s, ok := p.Conn.(syscall.Conn); ok {
		return s.SyscallConn()
	}
	return nil, syscall.EINVAL
}

// CloseWrite half-closes Conn, or closes it if that is impossible.
func (p *proxied) CloseWrite() error {
	if w, ok := p.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return p.Conn.Close()
}

// SetLinger calls SetLinger of Conn, if it has one.
func (p *proxied) SetLinger(sec int) error {
	if l, ok := p.Conn.(interface{ SetLinger(int) error }); ok {
		return l.SetLinger(sec)
	}
	return nil
}

// hear reads the header, if one is due, and nothing after it.
func (p *proxied) hear() error {
	e := &ends{p.Conn.RemoteAddr(), p.Conn.LocalAddr()}
	if !header.PeerOf(e.remote).TrustedBy(p.rule.From) {
		p.ends.Store(e)
		return nil
	}
	b := make([]byte, 0, 64) // long enough for most headers
	for {
		n, err := proxyproto.Missing(b)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		b = slices.Grow(b, n)
		n, err = p.Conn.Read(b[len(b) : len(b)+n])
		if b = b[:len(b)+n]; n == 0 && err != nil {
			return err
		}
	}
	h, err := proxyproto.Parse(b)
	if err != nil {
		return err
	}
	switch h.Kind {
	case proxyproto.TCP:
		e.remote, e.local = net.TCPAddrFromAddrPort(h.Source), net.TCPAddrFromAddrPort(h.Destination)
	case proxyproto.Unix:
		e.remote = noAddr{}
	}
	p.ends.Store(e)
	return nil
}

// proxied returns the proxied connection below c, or nil.
func (c *conn) proxied() *proxied {
	nc := c.Conn
	if a, ok := nc.(interface{ Accepted() net.Conn }); ok {
		nc = a.Accepted()
	}
	p, _ := nc.(*proxied)
	return p
}

// introduced reads the connection's PROXY header, if one is due, before
// anything else. It runs on the connection's own goroutine, within the header's
// time limit, and gives up when the server drains. False means that the
// connection is closed.
func (c *conn) introduced() bool {
	p := c.proxied()
	if p == nil {
		return true
	}
	if t := p.rule.Timeout; t > 0 {
		_ = c.Conn.SetReadDeadline(time.Now().Add(t))
	}
	c.mu.Lock()
	c.idling = true // wake may interrupt it
	draining := c.s.draining.Err() != nil
	c.mu.Unlock()
	if draining {
		c.Close()
		return false
	}
	err := p.hear()
	c.endIdle()
	if err == nil {
		_ = c.Conn.SetReadDeadline(time.Time{})
		return true
	}
	c.countNoHeader(p, err)
	c.Close()
	return false
}

// countNoHeader counts a connection without its header, unless the peer has
// closed it: many load balancers do that to check whether the port is open.
func (c *conn) countNoHeader(p *proxied, err error) {
	peer := header.PeerOf(p.Conn.RemoteAddr())
	var broken proxyproto.Error
	switch {
	case errors.As(err, &broken):
		c.s.Budget.refuse(Cause{"connections", causeProxy + broken.Error()}, noLimit, peer.Addr)
	case isTimeout(err) && c.s.draining.Err() == nil:
		c.s.Budget.refuse(Cause{"connections", causeProxy + "the PROXY header did not arrive in time"}, noLimit, peer.Addr)
	}
	c.s.Log.Debug("connection without its PROXY header", "remote", p.Conn.RemoteAddr(), "cause", err)
}

// causeProxy begins the cause of each refusal of a header.
const causeProxy = "ProxyProtocol: "
