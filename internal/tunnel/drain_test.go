package tunnel_test

import (
	"fmt"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
	"github.com/hostproxy/hostproxy/internal/tunnel"
)

var goingAway = []byte{0x03, 0xe9}

// webSocket starts a WebSocket tunnel in a bubble.
func webSocket(t testing.TB) *rig {
	t.Helper()
	return start(t, pipes, func(tn *tunnel.Tunnel) { tn.WebSocket, tn.Grace = true, 3*time.Second })
}

// expectClose reads a Close frame with 1001, masked or not.
func expectClose(t testing.TB, r io.Reader, masked bool) {
	t.Helper()
	if !masked {
		expect(t, r, string(frame(opClose, false, goingAway)))
		return
	}
	got := make([]byte, 8)
	_, err := io.ReadFull(r, got)
	require.NoError(t, err)
	require.Equal(t, []byte{0x88, 0x82}, got[:2])
	require.Equal(t, goingAway, []byte{got[6] ^ got[2], got[7] ^ got[3]})
}

// answer reads the remaining bytes from a side and replies to its Close.
func answer(t testing.TB, c net.Conn, masked bool) {
	t.Helper()
	write(t, c, string(frame(opClose, masked, goingAway)))
	expectEOF(t, c)
}

// forwarding.md, Streams: a WebSocket is closed with 1001 on shutdown. Here it
// is quiet, between two frames.
func TestDrainBetweenFramesSendsCloseToBothSides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := webSocket(t)
		hello, reply := frame(opText, true, []byte("hello")), frame(opText, false, []byte("hi"))
		write(t, g.client, string(hello))
		expect(t, g.upstream, string(hello))
		write(t, g.upstream, string(reply))
		expect(t, g.client, string(reply))

		begun := time.Now()
		g.cancel()
		expectClose(t, g.client, false)
		expectClose(t, g.upstream, true)
		write(t, g.client, string(frame(opClose, true, goingAway)))
		write(t, g.upstream, string(frame(opClose, false, goingAway)))
		expectEOF(t, g.client)
		expectEOF(t, g.upstream)
		assert.Equal(t, tunnel.Result{FromClient: int64(len(hello)), FromUpstream: int64(len(reply)), By: tunnel.ByDrain}, g.wait(t))
		assert.Zero(t, time.Since(begun), "both sides have answered")
	})
}

// Our Close never cuts a frame in flight, at whatever byte the drain begins.
func TestDrainNeverCutsAFrame(t *testing.T) {
	for _, size := range []int{0, 1, 125, 126, 65535, 65536} {
		for _, masked := range []bool{true, false} {
			whole := frame(opText, masked, payloadOf(size))
			for _, cut := range []int{1, 2, 3, 5, len(whole) - 1} {
				if cut >= len(whole) {
					continue
				}
				t.Run(fmt.Sprintf("size %d, masked %v, cut at %d", size, masked, cut), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { drainInside(t, whole, cut, masked) })
				})
			}
		}
	}
}

// drainInside sends one frame, from the client if masked, and another frame
// right after it. The drain begins at cut.
func drainInside(t *testing.T, whole []byte, cut int, masked bool) {
	g := webSocket(t)
	from, to := g.upstream, g.client
	if masked {
		from, to = g.client, g.upstream
	}
	begun := make(chan struct{})
	go func() {
		defer close(begun)
		_, _ = from.Write(whole[:cut])
	}()
	expect(t, to, string(whole[:cut]))
	<-begun
	g.cancel()
	expectClose(t, from, !masked) // the other direction is at a border
	synctest.Wait()

	late := append(append([]byte{}, whole[cut:]...), frame(opText, masked, payloadOf(300))...)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = from.Write(late)
		_, _ = from.Write(frame(opClose, masked, nil))
		_, _ = io.Copy(io.Discard, from)
	}()
	expect(t, to, string(whole[cut:]))
	expectClose(t, to, masked) // and nothing of the next frame
	answer(t, to, !masked)
	<-done
	result := g.wait(t)
	assert.Equal(t, tunnel.ByDrain, result.By)
	assert.Equal(t, int64(len(whole)), result.FromClient+result.FromUpstream)
}

func TestDrainStopsWaitingForTheEndOfAFrame(t *testing.T) {
	for name, head := range map[string]string{
		"an unfinished frame":           "\x82\x7e\x01",
		"an impossible length":          "\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff",
		"bytes that do not end a frame": "\x82\x7f\x00\x00\xff\x00\x00\x00\x00\x00 and so on",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := webSocket(t)
				write(t, g.upstream, head)
				expect(t, g.client, head)
				begun := time.Now()
				g.cancel()
				expectClose(t, g.upstream, true)
				expectEOF(t, g.client)
				assert.Equal(t, tunnel.ByDrain, g.wait(t).By)
				assert.Equal(t, 3*time.Second, time.Since(begun))
			})
		})
	}
}

func TestDrainDoesNotWaitForeverForCloseFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := webSocket(t)
		begun := time.Now()
		g.cancel()
		expectClose(t, g.client, false)
		expectClose(t, g.upstream, true)
		answerOne := frame(opClose, true, goingAway)
		write(t, g.client, string(answerOne))
		chatter := frame(opText, false, []byte("still talking"))
		write(t, g.upstream, string(chatter)) // dropped: the client has its Close
		expectEOF(t, g.client)
		expectEOF(t, g.upstream)
		assert.Equal(t, tunnel.Result{By: tunnel.ByDrain}, g.wait(t))
		assert.Equal(t, 3*time.Second, time.Since(begun))
	})
}

func TestDrainAcceptsADisconnectInsteadOfACloseFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := webSocket(t)
		begun := time.Now()
		g.cancel()
		expectClose(t, g.client, false)
		require.NoError(t, g.client.Close())
		expectClose(t, g.upstream, true)
		require.NoError(t, g.upstream.Close())
		assert.Equal(t, tunnel.Result{By: tunnel.ByDrain}, g.wait(t))
		assert.Zero(t, time.Since(begun))
	})
}

// torn is a side that takes the first bytes of a write and fails, once.
type torn struct {
	net.Conn
	writes [][]byte
}

func (s *torn) Write(p []byte) (int, error) {
	s.writes = append(s.writes, append([]byte{}, p...))
	if len(s.writes) == 1 {
		return 3, errDeaf
	}
	return len(p), nil
}

func TestDrainWritesNothingAfterAnIncompleteFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		side := &torn{}
		g := start(t, pipes, func(tn *tunnel.Tunnel) {
			side.Conn = tn.Upstream.Conn.(net.Conn)
			tn.WebSocket, tn.Upstream.Conn = true, side
		})
		hello := frame(opText, true, []byte("hello"))
		write(t, g.client, string(hello))
		synctest.Wait()
		g.cancel()
		expectClose(t, g.client, false)
		require.NoError(t, g.upstream.Close())
		expectEOF(t, g.client)
		assert.Equal(t, tunnel.Result{FromClient: 3, By: tunnel.ByUpstream, Err: errDeaf}, g.wait(t))
		assert.Equal(t, [][]byte{hello}, side.writes)
	})
}

func TestDrainDoesNotExtendAGracePeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := webSocket(t)
		begun := time.Now()
		require.NoError(t, g.client.Close())
		<-time.After(2 * time.Second)
		g.cancel()
		expectClose(t, g.upstream, true) // the end of the client's stream could not be passed on
		expectEOF(t, g.upstream)
		assert.Equal(t, tunnel.Result{By: tunnel.ByClient}, g.wait(t))
		assert.Equal(t, 3*time.Second, time.Since(begun))
	})
}

// The client has already sent Close and waits for the reply: it gets one Close,
// and the upstream gets no second one.
func TestDrainSendsNoSecondCloseDuringACloseHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := webSocket(t)
		bye := frame(opClose, true, []byte{0x03, 0xe8})
		write(t, g.client, string(bye))
		expect(t, g.upstream, string(bye))
		g.cancel()
		expectClose(t, g.client, false)
		answer(t, g.upstream, false) // only the end follows
		expectEOF(t, g.client)
		assert.Equal(t, tunnel.Result{FromClient: int64(len(bye)), By: tunnel.ByDrain}, g.wait(t))
	})
}

func TestDrainAfterAHalfCloseReachesTheOpenSide(t *testing.T) {
	proxytest.NoLeaks(t)
	g := start(t, tcpPair, func(tn *tunnel.Tunnel) { tn.WebSocket = true })
	closeWrite(t, g.client)
	expectEOF(t, g.upstream)
	g.cancel()
	expectClose(t, g.client, false)
	write(t, g.upstream, string(frame(opClose, false, goingAway)))
	expectEOF(t, g.client)
	assert.Equal(t, tunnel.ByClient, g.wait(t).By)
}

func TestDrainKeepsTheBufferedPartOfAFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		whole := frame(opText, true, []byte("split at the switch"))
		g := start(t, pipes, func(tn *tunnel.Tunnel) { tn.WebSocket, tn.Client.Buffered = true, whole[:4] })
		expect(t, g.upstream, string(whole[:4]))
		g.cancel()
		expectClose(t, g.client, false)
		write(t, g.client, string(whole[4:]))
		expect(t, g.upstream, string(whole[4:]))
		expectClose(t, g.upstream, true)
		write(t, g.client, string(frame(opClose, true, nil)))
		answer(t, g.upstream, false)
		expectEOF(t, g.client)
		g.wait(t)
	})
}
