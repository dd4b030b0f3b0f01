package serve

import (
	"net"
	"sync"
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
	x.upload.halt()
	x.upload.src.giveBack(x.upload.body.Kept())
	x.upload.release()
	return other
}
