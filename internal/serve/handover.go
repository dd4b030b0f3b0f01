package serve

import (
	"net"
	"sync"

	"github.com/hostproxy/hostproxy/internal/h1"
)

// A handover is the in-memory listener through which net/http gets the
// connections of HTTP/2.
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

// handOver makes the handler lane carry on an exchange that has waited: its targets
// have become such that only that lane can ask them. Nothing of the request is lost.
func (x *fastExchange) handOver() step {
	x.known = x.attempts.Handover()
	x.upload.giveBack()
	return other
}

// giveBack makes what was read of the body that of a source, which begins at x.r.
func (u *upload) giveBack() {
	x := u.x
	if x.req.Framing() == h1.ChunkedBody {
		copy(x.in[x.r:x.w], u.raw) // in place of what was decoded
	}
	if u.buf != nil {
		x.ahead = append(x.ahead[:0], u.buf.in[:u.fetched]...)
		uploadBuffers.Put(u.buf)
		u.buf = nil
	}
}
