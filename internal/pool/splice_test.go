//go:build linux && !portable

package pool_test

import (
	"cmp"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/peek"
	"github.com/hostproxy/hostproxy/internal/pool"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A sink is a TCP connection that takes the bytes of pipes.
type sink struct{ net.Conn }

func (s sink) Pump(p *pool.Pipe) error {
	return cmp.Or(peek.Raw(s.Conn).Write(p.Out), p.Err())
}

func TestSpliceMovesBytesBetweenSockets(t *testing.T) {
	const size = 3 << 20
	front := proxytest.Listen(t)
	received := make(chan int64, 4)
	serve(t, front, func(nc net.Conn) {
		n, _ := io.Copy(io.Discard, nc)
		received <- n
	})
	for _, nw := range networks(t)[:3] {
		t.Run(nw.name, func(t *testing.T) {
			ln := nw.listen(t)
			serve(t, ln, func(nc net.Conn) {
				io.ReadFull(nc, make([]byte, 1))
				nc.Write(make([]byte, size/2))
				io.ReadFull(nc, make([]byte, 1))
				nc.Write(make([]byte, size/2))
			})
			c := open(t, nw.pool(t, ln))
			dst, err := net.Dial("tcp", front.Addr().String())
			require.NoError(t, err)
			require.NoError(t, c.Send([]byte("q")))
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			_ = c.SetReadDeadline(time.Now().Add(time.Minute)) // expires early, in the middle
			timer := time.AfterFunc(20*time.Millisecond, func() { c.Write([]byte("q")) })
			defer timer.Stop()
			moved, err := c.SpliceTo(sink{dst}, size, 0)
			require.NoError(t, err)
			dst.Close()
			assert.Equal(t, moved, <-received)
			if nw.name == "tcp" {
				assert.EqualValues(t, size, moved)
				more, err := c.SpliceTo(sink{dst}, 0, 0)
				assert.NoError(t, err)
				assert.Zero(t, more)
			} else {
				assert.Zero(t, moved, "nothing is moved without support for splice")
			}
		})
	}
}
