package http3

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"
	h3 "github.com/quic-go/quic-go/http3"
)

// A session is one run of a Server, from Listen until Serve or Close ends it.
type session struct {
	server *Server
	tls    *tls.Config
	conns  *conns

	mu        sync.Mutex
	socket    *net.UDPConn // nil until it is open
	transport *quic.Transport
	listener  *quic.Listener
	isCut     bool

	cut   chan struct{} // closed by close
	ended chan struct{} // closed when serve returns
}

var errClosed = errors.New("http3: closed before the shutdown")

// busy reports whether another process uses the address.
func busy(err error) bool { return errors.Is(err, syscall.EADDRINUSE) }

// bind opens the socket.
func (n *session) bind() error {
	addr, err := net.ResolveUDPAddr("udp", n.server.address())
	if err != nil {
		return err
	}
	socket, err := net.ListenUDP("udp", addr)
	if err != nil {
		return err
	}
	transport := &quic.Transport{Conn: socket, ConnContext: n.conns.admit, VerifySourceAddress: n.conns.doubts}
	listener, err := transport.Listen(n.tls, n.server.config())
	if err != nil {
		return errors.Join(err, transport.Close(), socket.Close())
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.socket, n.transport, n.listener = socket, transport, listener
	if n.isCut {
		n.release()
		return errClosed
	}
	return nil
}

// await waits until another process has released the address, and binds it.
func (n *session) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, n.server.BindTimeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := n.bind()
		if !busy(err) {
			return err
		}
		select {
		case <-tick.C:
		case <-n.cut:
			return errClosed
		case <-ctx.Done():
			return err
		}
	}
}

// serve serves until ctx is done, and then drains.
func (n *session) serve(ctx context.Context, h http.Handler) error {
	defer close(n.ended)
	defer n.close()
	if n.addr() == nil {
		if err := n.await(ctx); err != nil {
			if ctx.Err() != nil {
				return nil // the shutdown began before the socket was free
			}
			return err
		}
	}
	server := &h3.Server{
		Handler:        n.conns.counted(h),
		MaxHeaderBytes: cmp.Or(n.server.MaxHeaderBytes, defaultHeaderBytes),
		IdleTimeout:    n.server.idleTimeout(),
		ConnContext:    n.conns.open,
	}
	ended := make(chan error, 1)
	go func() { ended <- server.ServeListener(n.listener) }()
	sweep, stop := n.server.sweeps()
	defer stop()
	for {
		select {
		case <-sweep: // quic-go does not close a connection that has sent a part of a head
			n.conns.closeIdle(n.server.idleTimeout(), "idle timeout")
		case err := <-ended:
			go server.Close()
			return err
		case <-n.cut:
			go server.Close()
			return errClosed
		case <-ctx.Done():
			return n.drain(server, ended)
		}
	}
}

// drain lets the requests in flight finish. ended yields when no more
// connections are accepted.
func (n *session) drain(server *h3.Server, ended <-chan error) error {
	// Established connections are still served. A second listener refuses new
	// ones, so that their clients need not wait: without it, quic-go ignores
	// their packets.
	_ = n.listener.Close()
	refuse := &quic.Config{GetConfigForClient: func(*quic.ClientInfo) (*quic.Config, error) { return nil, errClosed }}
	if second, err := n.transport.Listen(n.tls, refuse); err == nil {
		defer second.Close()
	}
	drained := make(chan error, 1)
	go func() {
		<-ended
		drained <- server.Shutdown(context.Background())
	}()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-drained:
			return err
		case <-n.cut:
			n.conns.closeAll()
			go server.Close()
			return nil
		case <-tick.C:
			n.conns.closeIdle(lastWait, shutdown)
		}
	}
}

// close closes the socket and all connections.
func (n *session) close() {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.isCut {
		return
	}
	n.isCut = true
	close(n.cut)
	n.conns.closeAll()
	n.release()
}

// serves reports whether n has neither ended nor been closed.
func (n *session) serves() bool {
	if n == nil {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.isCut
}

// release closes the socket and what uses it. n.mu is held.
func (n *session) release() {
	if n.socket != nil {
		_ = n.transport.Close()
		_ = n.socket.Close()
	}
}

// addr returns the address of the socket, nil before it is open.
func (n *session) addr() net.Addr {
	if n == nil {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.socket == nil {
		return nil
	}
	return n.socket.LocalAddr()
}

// port returns the port of the socket, or of the address before it is open.
func (n *session) port() int {
	if a, ok := n.addr().(*net.UDPAddr); ok {
		return a.Port
	}
	_, port, _ := net.SplitHostPort(n.server.address()) // check has parsed it
	p, err := strconv.Atoi(port)
	if err != nil {
		p, _ = net.LookupPort("udp", port)
	}
	return p
}
