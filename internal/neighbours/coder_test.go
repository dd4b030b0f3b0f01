package neighbours_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// coderServer accepts each request and runs serve. served yields the result.
func coderServer(t *testing.T, opts websocket.AcceptOptions, serve func(context.Context, *websocket.Conn) error) (h http.Handler, served <-chan error) {
	done := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), proxytest.Patience)
	t.Cleanup(cancel)
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		c, err := websocket.Accept(w, q, &opts)
		if err != nil {
			done <- err
			return
		}
		defer func() { _ = c.CloseNow() }()
		done <- serve(ctx, c)
	}), done
}

// coderEcho sends each message back until the client closes.
func coderEcho(ctx context.Context, c *websocket.Conn) error {
	c.SetReadLimit(2 << 20)
	for {
		kind, p, err := c.Read(ctx)
		if err != nil {
			return err
		}
		if err := c.Write(ctx, kind, p); err != nil {
			return err
		}
	}
}

// coder connects to the site.
func (s *site) coder(opts websocket.DialOptions) (context.Context, *websocket.Conn, *http.Response) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), proxytest.Patience)
	opts.HTTPClient = s.client
	c, resp, err := websocket.Dial(ctx, s.url("/"), &opts)
	require.NoError(s.t, err)
	s.t.Cleanup(func() {
		_ = c.CloseNow()
		cancel()
	})
	c.SetReadLimit(2 << 20)
	return ctx, c, resp
}

func TestCoderEchoesMessagesOfAllSizes(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		h, served := coderServer(t, websocket.AcceptOptions{}, coderEcho)
		ctx, c, resp := p.serve(t, h).coder(websocket.DialOptions{})
		assert.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
		for _, size := range []int{0, 5, 125, 126, 4096, 65535, 65536, 1 << 20} {
			text := pattern(size)
			require.NoError(t, c.Write(ctx, websocket.MessageBinary, text))
			kind, got, err := c.Read(ctx)
			require.NoError(t, err)
			assert.Equal(t, websocket.MessageBinary, kind)
			assert.True(t, bytes.Equal(text, got), "%d bytes", size)
		}
		require.NoError(t, c.Close(websocket.StatusNormalClosure, "done"))
		assert.Equal(t, websocket.StatusNormalClosure, websocket.CloseStatus(await(t, "the handler", served)))
	})
}

func TestCoderAgreesOnASubprotocolAndCompression(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		h, _ := coderServer(t, websocket.AcceptOptions{
			Subprotocols: []string{"chat", "superchat"}, CompressionMode: websocket.CompressionContextTakeover, CompressionThreshold: 16,
		}, coderEcho)
		ctx, c, resp := p.serve(t, h).coder(websocket.DialOptions{
			Subprotocols: []string{"soap", "superchat"}, CompressionMode: websocket.CompressionContextTakeover, CompressionThreshold: 16,
		})
		assert.Equal(t, "superchat", c.Subprotocol())
		assert.Contains(t, resp.Header.Get("Sec-WebSocket-Extensions"), "permessage-deflate")
		for range 3 {
			text := strings.Repeat("hello ", 20000)
			require.NoError(t, c.Write(ctx, websocket.MessageText, []byte(text)))
			_, got, err := c.Read(ctx)
			require.NoError(t, err)
			assert.True(t, text == string(got))
		}
	})
}

func TestCoderPassesTheCloseCodeOfTheClient(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		h, served := coderServer(t, websocket.AcceptOptions{}, coderEcho)
		_, c, _ := p.serve(t, h).coder(websocket.DialOptions{})
		require.NoError(t, c.Close(4321, "enough"))
		var ended websocket.CloseError
		require.ErrorAs(t, await(t, "the handler", served), &ended)
		assert.Equal(t, websocket.CloseError{Code: 4321, Reason: "enough"}, ended)
	})
}

func TestCoderPassesTheCloseCodeOfTheServer(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		h, served := coderServer(t, websocket.AcceptOptions{}, func(_ context.Context, c *websocket.Conn) error {
			return c.Close(websocket.StatusTryAgainLater, "later")
		})
		ctx, c, _ := p.serve(t, h).coder(websocket.DialOptions{})
		_, _, err := c.Read(ctx)
		var ended websocket.CloseError
		require.ErrorAs(t, err, &ended)
		assert.Equal(t, websocket.CloseError{Code: websocket.StatusTryAgainLater, Reason: "later"}, ended)
		assert.NoError(t, await(t, "the handler", served), "the client has answered the close frame")
	})
}

func TestCoderReadsFramesRightBehindTheUpgrade(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		h, _ := coderServer(t, websocket.AcceptOptions{}, coderEcho)
		c := p.serve(t, h).dial()
		upgrade(t, c, wsRequest+wsHello+wsHello)
		c.Expect(wsHelloBack + wsHelloBack)
		c.Send(wsHello)
		c.Expect(wsHelloBack)
	})
}

func TestCoderReadsAFrameThatTheUpgradeSplits(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		h, _ := coderServer(t, websocket.AcceptOptions{}, coderEcho)
		c := p.serve(t, h).dial()
		upgrade(t, c, wsRequest+wsHello[:7])
		c.Send(wsHello[7:])
		c.Expect(wsHelloBack)
	})
}

func TestACoderConnectionWorksAsANetConn(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		h, served := coderServer(t, websocket.AcceptOptions{}, func(ctx context.Context, c *websocket.Conn) error {
			nc := websocket.NetConn(ctx, c, websocket.MessageBinary)
			_, err := io.Copy(nc, nc)
			return err
		})
		ctx, c, _ := p.serve(t, h).coder(websocket.DialOptions{})
		nc := websocket.NetConn(ctx, c, websocket.MessageBinary)
		big := pattern(300_000)
		sent := make(chan error, 1)
		go func() {
			_, err := nc.Write(big)
			sent <- err
		}()
		assert.True(t, string(big) == readString(t, nc, len(big)))
		require.NoError(t, await(t, "the write", sent))
		require.NoError(t, nc.Close())
		assert.NoError(t, await(t, "the handler", served), "a normal closure ends the copy without an error")
	})
}

func TestCoderNoticesAClientThatDisconnects(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		h, served := coderServer(t, websocket.AcceptOptions{}, func(ctx context.Context, c *websocket.Conn) error {
			ctx = c.CloseRead(ctx)
			if err := c.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
				return err
			}
			<-ctx.Done()
			return ctx.Err()
		})
		c := p.serve(t, h).dial()
		upgrade(t, c, wsRequest)
		c.Expect(wsHelloBack)
		require.NoError(t, c.Reset())
		assert.ErrorIs(t, await(t, "the handler", served), context.Canceled)
	})
}

func TestCoderEndsAReadWithItsContext(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		h, served := coderServer(t, websocket.AcceptOptions{}, func(ctx context.Context, c *websocket.Conn) error {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			_, _, err := c.Read(ctx)
			return err
		})
		c := p.serve(t, h).dial()
		upgrade(t, c, wsRequest)
		assert.ErrorIs(t, await(t, "the handler", served), context.Canceled)
		c.Rest()
	})
}

func TestCoderRefusesRequestsThatDoNotUpgrade(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		h, _ := coderServer(t, websocket.AcceptOptions{}, coderEcho)
		resp := p.serve(t, h).get("/")
		assert.Equal(t, http.StatusUpgradeRequired, resp.StatusCode)
	})
}
