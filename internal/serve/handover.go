package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"slices"
	"sync"

	"github.com/hostproxy/hostproxy/internal/exchange"
)

// A handover is the in-memory listener through which net/http gets the
// connections of the handler lane.
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

// handOver makes net/http carry on an exchange that has waited: its targets have
// become such that only net/http can ask them. Nothing of the request is lost.
// While the server drains net/http takes nobody any more: then it ends here.
func (x *fastExchange) handOver() step {
	if x.c.s.draining.Err() != nil {
		x.last = true
		return x.answer(&exchange.Failure{Op: "pick", Side: exchange.SideDrain, Status: http.StatusServiceUnavailable,
			Reason: "destination_unavailable", Err: errServerDrains})
	}
	x.known = x.attempts.Handover()
	return transfer
}

var errServerDrains = errors.New("the server is shutting down, and the targets require the handler lane")

// ahead returns what was read of requests that are not served yet.
func (x *fastExchange) ahead() []byte {
	if x.known == nil {
		return slices.Clone(x.in[x.r:x.w])
	}
	ahead := x.upload.received(slices.Clone(x.in[x.r-x.size : x.r]))
	x.takeBack()
	return ahead
}

// A replay is a connection whose first bytes were read already.
type replay struct {
	net.Conn
	ahead []byte
	known *exchange.Handover // of the first request; nil if nothing is
}

// withKnown is the context of a connection of net/http's.
func withKnown(ctx context.Context, nc net.Conn) context.Context {
	if r, ok := nc.(interface{ handover() *exchange.Handover }); ok {
		if h := r.handover(); h != nil {
			return h.NewContext(ctx)
		}
	}
	return ctx
}

func (r *replay) handover() *exchange.Handover { return r.known }

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
