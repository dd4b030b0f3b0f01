package conformance_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// echo accepts a WebSocket and echoes messages. "bye" makes it close with 4000;
// "die" makes it break the connection.
func echo(w http.ResponseWriter, q *http.Request) {
	c, err := websocket.Accept(w, q, &websocket.AcceptOptions{
		Subprotocols: []string{"echo"}, CompressionMode: websocket.CompressionContextTakeover, OriginPatterns: []string{"*"},
	})
	if err != nil {
		return
	}
	defer c.CloseNow()
	c.SetReadLimit(16 << 20)
	for {
		kind, text, err := c.Read(q.Context())
		if err != nil {
			return
		}
		switch string(text) {
		case "bye":
			_ = c.Close(4000, "bye")
			return
		case "die":
			return
		}
		if c.Write(q.Context(), kind, text) != nil {
			return
		}
	}
}

// connect opens a WebSocket through the proxy.
func connect(t *testing.T, proxy *front) (*websocket.Conn, context.Context) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), proxytest.Patience)
	t.Cleanup(cancel)
	c, p, err := websocket.Dial(ctx, "wss://localhost/ws", &websocket.DialOptions{
		HTTPClient:   proxytest.HTTPClient(t, proxy.HTTPS, proxy.roots, "h1"),
		Subprotocols: []string{"echo"}, CompressionMode: websocket.CompressionContextTakeover,
		HTTPHeader: http.Header{"Origin": {"https://elsewhere.test"}},
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.CloseNow() })
	assert.Equal(t, http.StatusSwitchingProtocols, p.StatusCode)
	assert.Equal(t, "echo", c.Subprotocol())
	c.SetReadLimit(16 << 20)
	return c, ctx
}

func TestAWebSocketLibraryWorksThroughTheProxy(t *testing.T) {
	backend := proxytest.NewServer(t, http.HandlerFunc(echo))
	proxy := newFront(t, hostproxy.To(backend.Addr()))

	t.Run("messages of all sizes, compressed too", func(t *testing.T) {
		c, ctx := connect(t, proxy)
		for _, n := range []int{0, 1, 125, 126, 65535, 65536, 4 << 20} {
			sent := bytes.Repeat([]byte("0123456789"), n/10+1)[:n]
			require.NoError(t, c.Write(ctx, websocket.MessageBinary, sent))
			_, got, err := c.Read(ctx)
			require.NoError(t, err)
			assert.True(t, bytes.Equal(sent, got), "%d bytes", n)
		}
		require.NoError(t, c.Close(websocket.StatusNormalClosure, "done"))
	})
	t.Run("pings are answered by the other end", func(t *testing.T) {
		c, ctx := connect(t, proxy)
		go func() { _, _, _ = c.Read(ctx) }() // pongs need a reader
		require.NoError(t, c.Ping(ctx))
	})
	t.Run("a close code comes through", func(t *testing.T) {
		c, ctx := connect(t, proxy)
		require.NoError(t, c.Write(ctx, websocket.MessageText, []byte("bye")))
		_, _, err := c.Read(ctx)
		assert.Equal(t, websocket.StatusCode(4000), websocket.CloseStatus(err))
	})
	t.Run("a connection that breaks is seen", func(t *testing.T) {
		c, ctx := connect(t, proxy)
		require.NoError(t, c.Write(ctx, websocket.MessageText, []byte("die")))
		_, _, err := c.Read(ctx)
		assert.ErrorIs(t, err, io.EOF)
	})
	t.Run("the server's shutdown is announced with 1001", func(t *testing.T) {
		c, ctx := connect(t, proxy)
		proxy.Drain()
		_, _, err := c.Read(ctx)
		assert.Equal(t, websocket.StatusGoingAway, websocket.CloseStatus(err))
		assert.NotErrorIs(t, err, net.ErrClosed)
		require.NoError(t, proxy.Stop())
	})
}
