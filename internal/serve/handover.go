package serve

import (
	"crypto/tls"
	"net"
	"sync"
)

// A handover is the in-memory listener through which net/http gets the
// connections of the full lane.
type handover struct {
	addr  net.Addr
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newHandover(addr net.Addr) *handover {
	return &handover{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

// give hands c over; it reports false, and c stays the caller's, when nobody
// accepts any more.
func (h *handover) give(c net.Conn) bool {
	select {
	case h.conns <- c:
		return true
	case <-h.done:
		return false
	}
}

// Accept implements net.Listener.
func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handover) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// Addr implements net.Listener.
func (h *handover) Addr() net.Addr { return h.addr }

// A replay is a connection whose first bytes were read already.
type replay struct {
	net.Conn
	ahead []byte
}

// Read returns the bytes read ahead first.
func (r *replay) Read(p []byte) (int, error) {
	if len(r.ahead) > 0 {
		n := copy(p, r.ahead)
		if r.ahead = r.ahead[n:]; len(r.ahead) == 0 {
			r.ahead = nil
		}
		return n, nil
	}
	return r.Conn.Read(p)
}

// NetConn returns what is below.
func (r *replay) NetConn() net.Conn { return r.Conn }

// CloseWrite half-closes connections that can.
func (r *replay) CloseWrite() error {
	if c, ok := r.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return r.Conn.Close()
}

// A tlsReplay is a replay that tells net/http about its TLS.
type tlsReplay struct {
	replay
	under *conn
	tls   *tls.Conn
}

// Close does not say goodbye to a client that takes nothing: crypto/tls would
// try for five seconds.
func (r *tlsReplay) Close() error {
	if r.under.forsaken.Load() {
		return r.under.Close()
	}
	return r.tls.Close()
}

// ConnectionState is where net/http takes Request.TLS from.
func (r *tlsReplay) ConnectionState() tls.ConnectionState { return r.tls.ConnectionState() }
