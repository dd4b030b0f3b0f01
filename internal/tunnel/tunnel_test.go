package tunnel_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
	"github.com/hostproxy/hostproxy/internal/tunnel"
)

// patience limits waits on real sockets.
const patience = 10 * time.Second

// A network makes both ends of a connection.
type network func(t testing.TB) (near, far net.Conn)

func tcpPair(t testing.TB) (net.Conn, net.Conn) { return socketPair(t, "tcp", "127.0.0.1:0") }

func unixPair(t testing.TB) (net.Conn, net.Conn) {
	return socketPair(t, "unix", filepath.Join(t.TempDir(), "s"))
}

func tlsPair(t testing.TB) (net.Conn, net.Conn) {
	t.Helper()
	config, roots := proxytest.TLS(t)
	near, far := tcpPair(t)
	server, client := tls.Server(near, config), tls.Client(far, &tls.Config{RootCAs: roots, ServerName: "localhost"})
	failed := make(chan error, 1)
	go func() { failed <- client.Handshake() }()
	require.NoError(t, server.Handshake())
	require.NoError(t, <-failed)
	return server, client
}

func socketPair(t testing.TB, network, address string) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen(network, address)
	require.NoError(t, err)
	defer l.Close()
	far, err = net.Dial(network, l.Addr().String())
	require.NoError(t, err)
	near, err = l.Accept()
	require.NoError(t, err)
	for _, c := range []net.Conn{near, far} {
		require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
		t.Cleanup(func() { c.Close() })
	}
	return near, far
}

// A rig is a running tunnel and the far ends of its two sides.
type rig struct {
	client, upstream net.Conn
	result           chan tunnel.Result
	cancel           context.CancelFunc
	closed           *[2]atomic.Int32
}

// counted counts how often a side is closed. It keeps CloseWrite, which the
// embedded type may lack.
type counted struct {
	net.Conn
	n *atomic.Int32
}

func (c counted) Close() error { c.n.Add(1); return c.Conn.Close() }
func (c counted) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// start runs a tunnel between two new connections; setup may be nil.
func start(t testing.TB, pair network, setup func(*tunnel.Tunnel)) *rig {
	t.Helper()
	nearClient, client := pair(t)
	nearUpstream, upstream := pair(t)
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	g := &rig{client: client, upstream: upstream, result: make(chan tunnel.Result, 1), cancel: cancel, closed: new([2]atomic.Int32)}
	tn := &tunnel.Tunnel{
		Client:   tunnel.Side{Conn: counted{nearClient, &g.closed[0]}},
		Upstream: tunnel.Side{Conn: counted{nearUpstream, &g.closed[1]}},
	}
	if setup != nil {
		setup(tn)
	}
	go func() { g.result <- tn.Run(ctx) }()
	return g
}

// wait returns the result, and checks that both sides were closed.
func (g *rig) wait(t testing.TB) tunnel.Result {
	t.Helper()
	result := <-g.result
	assert.Equal(t, int32(1), g.closed[0].Load(), "the client is closed once")
	assert.Equal(t, int32(1), g.closed[1].Load(), "the upstream is closed once")
	return result
}

func write(t testing.TB, w io.Writer, s string) {
	t.Helper()
	_, err := io.WriteString(w, s)
	require.NoError(t, err)
}

// expect reads exactly the bytes of want.
func expect(t testing.TB, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(r, got)
	require.NoError(t, err, "got %q, want %q", got[:n], want)
	require.Equal(t, want, string(got))
}

func expectEOF(t testing.TB, r io.Reader) {
	t.Helper()
	rest, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Empty(t, rest)
}

func closeWrite(t testing.TB, c net.Conn) {
	t.Helper()
	require.NoError(t, c.(interface{ CloseWrite() error }).CloseWrite())
}

// forwarding.md, Streams: half-close both ways; each exit closes both sides.
// Behaviours: TestReverseProxyWebSocket, ...HalfTCP.
func TestAHalfCloseIsPassedOnInBothDirections(t *testing.T) {
	for name, pair := range map[string]network{"tcp": tcpPair, "unix": unixPair, "tls": tlsPair} {
		t.Run(name+", the client ends first", func(t *testing.T) {
			proxytest.NoLeaks(t)
			g := start(t, pair, nil)
			write(t, g.client, "question")
			closeWrite(t, g.client)
			expect(t, g.upstream, "question")
			expectEOF(t, g.upstream)
			write(t, g.upstream, "a long ")
			expect(t, g.client, "a long ")
			write(t, g.upstream, "answer")
			closeWrite(t, g.upstream)
			expect(t, g.client, "answer")
			expectEOF(t, g.client)
			assert.Equal(t, tunnel.Result{FromClient: 8, FromUpstream: 13, By: tunnel.ByClient}, g.wait(t))
		})
		t.Run(name+", the upstream ends first", func(t *testing.T) {
			proxytest.NoLeaks(t)
			g := start(t, pair, nil)
			write(t, g.upstream, "greeting")
			closeWrite(t, g.upstream)
			expect(t, g.client, "greeting")
			expectEOF(t, g.client)
			write(t, g.client, "last words")
			closeWrite(t, g.client)
			expect(t, g.upstream, "last words")
			expectEOF(t, g.upstream)
			assert.Equal(t, tunnel.Result{FromClient: 10, FromUpstream: 8, By: tunnel.ByUpstream}, g.wait(t))
		})
	}
}

// forwarding.md, Streams: bytes buffered on either side at the switch are kept.
func TestBufferedBytesGoFirst(t *testing.T) {
	proxytest.NoLeaks(t)
	g := start(t, tcpPair, func(tn *tunnel.Tunnel) {
		tn.Client.Buffered = []byte("early from the client, ")
		tn.Upstream.Buffered = []byte("early from the upstream, ")
	})
	write(t, g.client, "late")
	write(t, g.upstream, "late")
	expect(t, g.upstream, "early from the client, late")
	expect(t, g.client, "early from the upstream, late")
	require.NoError(t, g.client.Close())
	require.NoError(t, g.upstream.Close())
	result := g.wait(t)
	assert.Equal(t, int64(27), result.FromClient)
	assert.Equal(t, int64(29), result.FromUpstream)
}

func TestBufferedBytesArriveThoughTheSideHasEnded(t *testing.T) {
	proxytest.NoLeaks(t)
	g := start(t, tcpPair, func(tn *tunnel.Tunnel) { tn.Client.Buffered = []byte("all there is") })
	closeWrite(t, g.client)
	expect(t, g.upstream, "all there is")
	expectEOF(t, g.upstream)
	require.NoError(t, g.upstream.Close())
	g.wait(t)
}

func TestDeadlinesLeftOverAreCleared(t *testing.T) {
	proxytest.NoLeaks(t)
	g := start(t, tcpPair, func(tn *tunnel.Tunnel) {
		for _, side := range []tunnel.Side{tn.Client, tn.Upstream} {
			require.NoError(t, side.Conn.(net.Conn).SetDeadline(time.Unix(1, 0)))
		}
	})
	write(t, g.client, "hello")
	expect(t, g.upstream, "hello")
	write(t, g.upstream, "hello")
	expect(t, g.client, "hello")
	g.cancel()
	assert.Equal(t, tunnel.ByDrain, g.wait(t).By)
}

func TestBulkDataFlowsInBothDirectionsAtOnce(t *testing.T) {
	for name, pair := range map[string]network{"tcp": tcpPair, "tls": tlsPair} {
		t.Run(name, func(t *testing.T) {
			proxytest.NoLeaks(t)
			g := start(t, pair, func(tn *tunnel.Tunnel) { tn.WebSocket = true })
			data := bytes.Repeat([]byte("0123456789abcdef"), 4<<20/16)
			failed := make(chan error, 2)
			for _, c := range []net.Conn{g.client, g.upstream} {
				go func() {
					_, err := c.Write(data)
					failed <- errors.Join(err, c.(interface{ CloseWrite() error }).CloseWrite())
				}()
			}
			got := make(chan []byte, 1)
			go func() { all, _ := io.ReadAll(g.upstream); got <- all }()
			all, err := io.ReadAll(g.client)
			require.NoError(t, err)
			assert.True(t, bytes.Equal(data, all), "from the upstream")
			assert.True(t, bytes.Equal(data, <-got), "from the client")
			require.NoError(t, errors.Join(<-failed, <-failed))
			result := g.wait(t)
			assert.Equal(t, int64(len(data)), result.FromClient)
			assert.Equal(t, int64(len(data)), result.FromUpstream)
		})
	}
}

// forwarding.md, Streams: each exit closes both sides.
func TestAResetEndsBothSides(t *testing.T) {
	reset := func(t *testing.T, c net.Conn) {
		require.NoError(t, c.(*net.TCPConn).SetLinger(0))
		require.NoError(t, c.Close())
	}
	t.Run("by the client", func(t *testing.T) {
		proxytest.NoLeaks(t)
		g := start(t, tcpPair, nil)
		write(t, g.client, "x")
		expect(t, g.upstream, "x")
		reset(t, g.client)
		expectEOF(t, g.upstream)
		result := g.wait(t)
		assert.Equal(t, tunnel.ByClient, result.By)
		assert.Error(t, result.Err)
	})
	t.Run("by the upstream", func(t *testing.T) {
		proxytest.NoLeaks(t)
		g := start(t, tcpPair, nil)
		reset(t, g.upstream)
		expectEOF(t, g.client)
		result := g.wait(t)
		assert.Equal(t, tunnel.ByUpstream, result.By)
		assert.Error(t, result.Err)
	})
}

func TestCancelClosesOtherProtocolsImmediately(t *testing.T) {
	proxytest.NoLeaks(t)
	g := start(t, tcpPair, func(tn *tunnel.Tunnel) { tn.Grace = time.Hour })
	write(t, g.client, "x")
	expect(t, g.upstream, "x")
	g.cancel()
	expectEOF(t, g.client)
	expectEOF(t, g.upstream)
	result := g.wait(t)
	assert.Equal(t, tunnel.ByDrain, result.By)
	assert.NoError(t, result.Err)
}

func TestCancelCutsAStalledReceiver(t *testing.T) {
	for name, webSocket := range map[string]bool{"WebSocket": true, "other": false} {
		t.Run(name, func(t *testing.T) {
			proxytest.NoLeaks(t)
			g := start(t, tcpPair, func(tn *tunnel.Tunnel) { tn.WebSocket, tn.Grace = webSocket, 50*time.Millisecond })
			// A frame that never ends, to a client that does not read: the
			// tunnel's write blocks.
			write(t, g.upstream, "\x82\x7f\x00\x00\x00\xff\x00\x00\x00\x00")
			require.NoError(t, g.upstream.SetWriteDeadline(time.Now().Add(300*time.Millisecond)))
			_, err := g.upstream.Write(make([]byte, 64<<20))
			require.Error(t, err)
			g.cancel()
			assert.Equal(t, tunnel.ByDrain, g.wait(t).By)
		})
	}
}

// pipes is the network inside a synctest bubble; a pipe has no CloseWrite.
func pipes(testing.TB) (net.Conn, net.Conn) { return net.Pipe() }

// Behaviours: TestReverseProxyUpgradeNoCloseWrite.
func TestWithoutHalfCloseTheOtherSideHasTheGracePeriod(t *testing.T) {
	t.Run("the other side may continue meanwhile", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := start(t, pipes, func(tn *tunnel.Tunnel) { tn.Grace = 7 * time.Second })
			require.NoError(t, g.client.(io.Closer).Close())
			begun := time.Now()
			time.AfterFunc(6*time.Second, func() { g.upstream.Close() })
			result := g.wait(t)
			assert.Equal(t, tunnel.Result{By: tunnel.ByClient}, result)
			assert.Equal(t, 6*time.Second, time.Since(begun))
		})
	})
	t.Run("the tunnel ends after the grace period", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := start(t, pipes, func(tn *tunnel.Tunnel) { tn.Grace = 7 * time.Second })
			require.NoError(t, g.upstream.Close())
			begun := time.Now()
			assert.Equal(t, tunnel.Result{By: tunnel.ByUpstream}, g.wait(t))
			assert.Equal(t, 7*time.Second, time.Since(begun))
			expectEOF(t, g.client)
		})
	})
	t.Run("the default is 5 seconds", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := start(t, pipes, nil)
			require.NoError(t, g.upstream.Close())
			begun := time.Now()
			g.wait(t)
			assert.Equal(t, 5*time.Second, time.Since(begun))
		})
	})
	t.Run("a negative value disables it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := start(t, pipes, func(tn *tunnel.Tunnel) { tn.Grace = -1 })
			require.NoError(t, g.upstream.Close())
			begun := time.Now()
			g.wait(t)
			assert.Zero(t, time.Since(begun))
		})
	})
}

// A handler cannot half-close a stream of HTTP/2: its client must learn
// immediately that the target is gone.
func TestAWebSocketTunnelEndsWithItsTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := start(t, pipes, func(tn *tunnel.Tunnel) { tn.WebSocket = true })
		write(t, g.upstream, "\x81\x03bye")
		expect(t, g.client, "\x81\x03bye")
		require.NoError(t, g.upstream.Close())
		begun := time.Now()
		expectEOF(t, g.client)
		assert.Equal(t, tunnel.Result{FromUpstream: 5, By: tunnel.ByUpstream}, g.wait(t))
		assert.Zero(t, time.Since(begun))
	})
}

// deaf is a side whose writes fail while its stream continues.
type deaf struct{ net.Conn }

func (deaf) Write([]byte) (int, error) { return 0, errDeaf }

var errDeaf = errors.New("not listening")

func TestASideThatAcceptsNoMoreDataMayFinishSending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := start(t, pipes, func(tn *tunnel.Tunnel) { tn.Upstream.Conn = deaf{tn.Upstream.Conn.(net.Conn)} })
		write(t, g.client, "unheard")
		synctest.Wait()
		write(t, g.upstream, "last words")
		expect(t, g.client, "last words")
		require.NoError(t, g.upstream.Close())
		expectEOF(t, g.client)
		assert.Equal(t, tunnel.Result{FromUpstream: 10, By: tunnel.ByUpstream, Err: errDeaf}, g.wait(t))
	})
}

func TestASideThatAcceptsNoMoreDataHasTheGracePeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := start(t, pipes, func(tn *tunnel.Tunnel) { tn.Upstream.Conn = deaf{tn.Upstream.Conn.(net.Conn)} })
		write(t, g.client, "unheard")
		begun := time.Now()
		expectEOF(t, g.client)
		assert.Equal(t, tunnel.Result{By: tunnel.ByUpstream, Err: errDeaf}, g.wait(t))
		assert.Equal(t, 5*time.Second, time.Since(begun))
	})
}

// forwarding.md, Streams: an idle limit.
func TestAnIdleTunnelIsClosed(t *testing.T) {
	t.Run("closes both sides when nothing moves", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			begun := time.Now()
			g := start(t, pipes, func(tn *tunnel.Tunnel) { tn.Idle = time.Minute })
			expectEOF(t, g.client)
			expectEOF(t, g.upstream)
			assert.Equal(t, tunnel.Result{By: tunnel.ByIdle}, g.wait(t))
			assert.Equal(t, time.Minute, time.Since(begun))
		})
	})
	t.Run("counts from the last byte in either direction", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			begun := time.Now()
			g := start(t, pipes, func(tn *tunnel.Tunnel) { tn.Idle = time.Minute })
			for i := range 10 {
				<-time.After(50 * time.Second)
				if i%2 == 0 {
					write(t, g.client, "x")
					expect(t, g.upstream, "x")
				} else {
					write(t, g.upstream, "y")
					expect(t, g.client, "y")
				}
			}
			assert.Equal(t, tunnel.Result{FromClient: 5, FromUpstream: 5, By: tunnel.ByIdle}, g.wait(t))
			assert.Equal(t, 560*time.Second, time.Since(begun))
		})
	})
	t.Run("cuts a receiver that does not read", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			begun := time.Now()
			g := start(t, pipes, func(tn *tunnel.Tunnel) { tn.Idle = time.Minute })
			<-time.After(30 * time.Second)
			write(t, g.client, "never read")
			assert.Equal(t, tunnel.Result{By: tunnel.ByIdle}, g.wait(t))
			assert.Equal(t, 90*time.Second, time.Since(begun))
		})
	})
	t.Run("counts from the end of a slow write", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			begun := time.Now()
			g := start(t, pipes, func(tn *tunnel.Tunnel) { tn.Idle = time.Minute })
			write(t, g.client, "read late")
			<-time.After(50 * time.Second)
			expect(t, g.upstream, "read late")
			assert.Equal(t, tunnel.Result{FromClient: 9, By: tunnel.ByIdle}, g.wait(t))
			assert.Equal(t, 110*time.Second, time.Since(begun))
		})
	})
	t.Run("cuts what a half-close has left open", func(t *testing.T) {
		proxytest.NoLeaks(t)
		const idle = 100 * time.Millisecond
		// a round in which the machine stood still does not count: no byte
		// moved for too long
		for told := idle; told > idle/2; {
			begun := time.Now()
			g := start(t, tcpPair, func(tn *tunnel.Tunnel) { tn.Idle = idle })
			closeWrite(t, g.client)
			expectEOF(t, g.upstream)
			if told = time.Since(begun); told <= idle/2 {
				assert.Equal(t, tunnel.ByClient, g.wait(t).By, "the client ended it first")
			}
		}
	})
	t.Run("is off by default", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := start(t, pipes, nil)
			<-time.After(1000 * time.Hour)
			write(t, g.client, "still here")
			expect(t, g.upstream, "still here")
			g.cancel()
			g.wait(t)
		})
	})
}

// sizes records the buffer size of each read, and returns the amounts that it
// was given.
type sizes struct {
	net.Conn
	answers []int
	rooms   []int
}

func (s *sizes) Read(p []byte) (int, error) {
	s.rooms = append(s.rooms, len(p))
	if len(s.answers) == 0 {
		return 0, io.EOF
	}
	n := min(s.answers[0], len(p))
	s.answers = s.answers[1:]
	return n, nil
}

func TestAQuietDirectionHoldsALittleBuffer(t *testing.T) {
	proxytest.NoLeaks(t)
	const small, large = 1 << 10, 32 << 10
	source := &sizes{answers: []int{10, 10, small, large, 16 << 10, 100, 10}}
	g := start(t, tcpPair, func(tn *tunnel.Tunnel) {
		source.Conn = tn.Upstream.Conn.(net.Conn)
		tn.Upstream.Conn = source
	})
	_, err := io.Copy(io.Discard, g.client)
	require.NoError(t, err)
	closeWrite(t, g.client)
	g.wait(t)
	assert.Equal(t, []int{small, small, small, large, large, large, small, small}, source.rooms)
}

func TestEveryEndHasAName(t *testing.T) {
	for want, end := range map[string]tunnel.End{"client": tunnel.ByClient, "upstream": tunnel.ByUpstream, "idle": tunnel.ByIdle, "drain": tunnel.ByDrain} {
		assert.Equal(t, want, end.String())
	}
}
