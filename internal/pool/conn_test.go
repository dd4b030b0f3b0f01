package pool_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/pool"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestFillAppendsAndReadBypassesTheBuffer(t *testing.T) {
	for _, nw := range networks(t) {
		t.Run(nw.name, func(t *testing.T) {
			ln := nw.listen(t)
			body := bytes.Repeat([]byte("0123456789"), 10_000)
			serve(t, ln, func(nc net.Conn) {
				io.ReadFull(nc, make([]byte, 1))
				nc.Write([]byte("head"))
				io.ReadFull(nc, make([]byte, 1))
				nc.Write(body)
			})
			c := open(t, nw.pool(t, ln))
			require.NoError(t, c.Ask([]byte("q")))
			for len(c.Buffered()) < 4 {
				require.NoError(t, c.Fill())
			}
			c.Discard(2)
			_, err := c.Write([]byte("q"))
			require.NoError(t, err)
			require.NoError(t, c.Fill())
			got := bytes.Clone(c.Buffered())
			require.Equal(t, "ad0", string(got[:3]), "unread bytes remain in front")
			c.Discard(len(got))
			rest, err := io.ReadAll(c)
			// the peer sends no close_notify
			if nw.name[:3] != "tls" || err != io.ErrUnexpectedEOF {
				require.NoError(t, err)
			}
			assert.True(t, bytes.Equal(append([]byte("ad"), body...), append(got, rest...)))
			assert.False(t, pool.HoldsBuffer(c))
			c.Close()
		})
	}
}

func TestFillReportsTheEndAndAFullBuffer(t *testing.T) {
	ln := proxytest.Listen(t)
	serve(t, ln, func(nc net.Conn) {
		io.ReadFull(nc, make([]byte, 1))
		nc.Write(make([]byte, pool.BufferSize+1))
	})
	c := open(t, poolFor(t, ln))
	require.NoError(t, c.Ask([]byte("q")))
	for len(c.Buffered()) < pool.BufferSize {
		require.NoError(t, c.Fill())
	}
	require.ErrorIs(t, c.Fill(), pool.ErrBufferFull)
	c.Discard(pool.BufferSize)
	require.NoError(t, c.Fill())
	c.Discard(1)
	assert.Equal(t, io.EOF, c.Fill())
	assert.Equal(t, io.EOF, c.Fill(), "the end is reported again")
	assert.Panics(t, func() { c.Discard(1) })
}

// On a fresh connection, an answer that arrives before the request is an
// answer.
func TestAResponseMayArriveBeforeTheRequest(t *testing.T) {
	ln := proxytest.Listen(t)
	served := make(chan struct{})
	serve(t, ln, func(nc net.Conn) {
		io.WriteString(nc, "HTTP/1.1 503 Busy\r\n\r\n")
		close(served)
		io.Copy(io.Discard, nc)
	})
	c := open(t, poolFor(t, ln))
	<-served
	require.NoError(t, c.Ask([]byte("q")))
	assert.Contains(t, string(c.Buffered()), "503")
}

func TestDeadlinesHoldThoughTheyAreArmedLazily(t *testing.T) {
	for _, nw := range networks(t)[:3] {
		t.Run(nw.name, func(t *testing.T) {
			ln := nw.listen(t)
			serve(t, ln, echo)
			c := open(t, nw.pool(t, ln))
			const short = 20 * time.Millisecond

			deadline := time.Now().Add(short)
			_ = c.SetReadDeadline(deadline)
			require.ErrorIs(t, c.Fill(), os.ErrDeadlineExceeded)
			assert.False(t, time.Now().Before(deadline))

			_ = c.SetReadDeadline(time.Now().Add(time.Minute))
			assert.Equal(t, "after one expired, another", ask(t, c, "after one expired, another"))

			_ = c.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
			deadline = time.Now().Add(40 * time.Millisecond)
			_ = c.SetReadDeadline(deadline) // later: not set on the socket
			require.ErrorIs(t, c.Fill(), os.ErrDeadlineExceeded)
			assert.False(t, time.Now().Before(deadline), "an early expiry on the socket is ignored")

			_ = c.SetReadDeadline(time.Now().Add(time.Hour))
			_ = c.SetReadDeadline(time.Now().Add(short)) // sooner: set at once
			require.ErrorIs(t, c.Fill(), os.ErrDeadlineExceeded)

			_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
			_ = c.SetReadDeadline(time.Time{}) // none: not set either
			timer := time.AfterFunc(short, c.Lease().Abort)
			defer timer.Stop()
			require.ErrorIs(t, c.Fill(), pool.ErrAborted)
		})
	}
}

// crypto/tls cannot continue after a write that timed out, so an early deadline
// must not reach it.
func TestASupersededWriteDeadlineHasNoEffect(t *testing.T) {
	for _, nw := range networks(t)[:3] {
		t.Run(nw.name, func(t *testing.T) {
			proxytest.NoLeaks(t)
			const size = 32 << 20 // more than any socket buffer
			ln := nw.listen(t)
			read := make(chan struct{})
			total := make(chan int64, 1)
			serve(t, ln, func(nc net.Conn) {
				<-read
				n, _ := io.CopyN(io.Discard, nc, size)
				total <- n
			})
			c := open(t, nw.pool(t, ln))
			_ = c.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
			_ = c.SetWriteDeadline(time.Now().Add(time.Minute))
			timer := time.AfterFunc(30*time.Millisecond, func() { close(read) })
			defer timer.Stop()
			n, err := c.Write(make([]byte, size))
			require.NoError(t, err)
			assert.Equal(t, size, n)
			assert.EqualValues(t, size, <-total)

			t.Run("the current deadline has effect", func(t *testing.T) {
				_ = c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
				_, err := c.Write(make([]byte, size))
				assert.Error(t, err)
			})
		})
	}
}

func TestAbortWakesAWaitingRead(t *testing.T) {
	for _, nw := range networks(t)[:3] {
		t.Run(nw.name, func(t *testing.T) {
			ln := nw.listen(t)
			serve(t, ln, func(nc net.Conn) { io.Copy(io.Discard, nc) })
			p := nw.pool(t, ln)
			c := open(t, p)
			timer := time.AfterFunc(5*time.Millisecond, c.Lease().Abort)
			defer timer.Stop()
			require.ErrorIs(t, c.Ask([]byte("q")), pool.ErrAborted)
			_ = c.SetReadDeadline(time.Now().Add(time.Hour))
			require.ErrorIs(t, c.Fill(), pool.ErrAborted, "a new deadline does not undo it")
			c.Put()
			assert.Zero(t, p.Idle(), "an aborted connection is not kept")
		})
	}
}

// An unwakeable connection panics when a deadline should wake it.
type unwakeable struct{ net.Conn }

func (c unwakeable) SetDeadline(t time.Time) error {
	if !t.IsZero() && t.Before(time.Now()) {
		panic("oh")
	}
	return c.Conn.SetDeadline(t)
}

// The goroutine that aborts serves other exchanges too.
func TestAbortSurvivesAConnectionThatPanics(t *testing.T) {
	ln := proxytest.Listen(t)
	serve(t, ln, func(nc net.Conn) { io.Copy(io.Discard, nc) })
	p := &pool.Pool{Dial: func(context.Context) (net.Conn, error) {
		c, err := net.Dial("tcp", ln.Addr().String())
		return unwakeable{c}, err
	}}
	defer p.Close()
	c := open(t, p)
	time.AfterFunc(5*time.Millisecond, c.Lease().Abort)
	assert.ErrorIs(t, c.Ask([]byte("q")), pool.ErrAborted)
}

func TestALeaseIsForOneUse(t *testing.T) {
	ln := proxytest.Listen(t)
	serve(t, ln, echo)
	p := poolFor(t, ln)
	c := open(t, p)
	old := c.Lease()
	ask(t, c, "a")
	c.Put()
	old.Abort()
	assert.Equal(t, 1, p.Idle())
	c = p.Take()
	old.Abort()
	assert.Equal(t, "b", ask(t, c, "b"))
	c.Lease().Abort()
	c.Lease().Abort()
	assert.ErrorIs(t, c.Fill(), pool.ErrAborted)
	pool.Lease{}.Abort()
}

func TestDetachReturnsTheConnectionAndItsUnreadBytes(t *testing.T) {
	for _, nw := range networks(t)[:3] {
		t.Run(nw.name, func(t *testing.T) {
			ln := nw.listen(t)
			serve(t, ln, echo)
			c := open(t, nw.pool(t, ln))
			lease := c.Lease()
			_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
			_ = c.SetReadDeadline(time.Now().Add(time.Minute))
			require.NoError(t, c.Ask([]byte("ahead")))
			for len(c.Buffered()) < len("ahead") {
				require.NoError(t, c.Fill())
			}
			nc, ahead := c.Detach()
			defer nc.Close()
			assert.Equal(t, "ahead", string(ahead))
			assert.False(t, pool.HoldsBuffer(c))
			lease.Abort()

			var wg sync.WaitGroup
			defer wg.Wait()
			wg.Go(func() { _, _ = nc.Write([]byte("more")) })
			got := make([]byte, 4)
			_, err := io.ReadFull(nc, got)
			require.NoError(t, err)
			assert.Equal(t, "more", string(got))
			require.NoError(t, nc.SetReadDeadline(time.Now().Add(time.Millisecond)))
			_, err = nc.Read(got)
			assert.ErrorIs(t, err, os.ErrDeadlineExceeded, "its deadlines are the new owner's")
		})
	}
}
