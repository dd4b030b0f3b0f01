package e2e_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A tally counts the bytes that all clients of a server have written, and those
// that the server has read.
type tally struct{ sent, read atomic.Int64 }

// await waits until the server has read all bytes that were sent.
func (n *tally) await(t testing.TB) {
	t.Helper()
	proxytest.Eventually(t, "the server to read what was sent", func() bool { return n.read.Load() == n.sent.Load() })
}

// runner returns server with counting listeners.
func (n *tally) runner(server *hostproxy.Server) proxytest.Runner {
	over := func(ln net.Listener) net.Listener {
		if ln == nil {
			return nil
		}
		return &wrapping{ln, func(c *net.TCPConn) net.Conn { return &accepted{c, n} }}
	}
	return runner(func(ctx context.Context, https, plain net.Listener) error {
		return server.Serve(ctx, over(https), over(plain))
	})
}

// A dialed connection is the client's end.
type dialed struct {
	*net.TCPConn
	tally *tally
}

func (c *dialed) Write(p []byte) (int, error) {
	c.tally.sent.Add(int64(len(p)))
	return c.TCPConn.Write(p)
}

// An accepted connection is the server's end.
type accepted struct {
	*net.TCPConn
	tally *tally
}

func (c *accepted) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.tally.read.Add(int64(n))
	return n, err
}
