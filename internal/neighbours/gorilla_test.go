package neighbours_test

import (
	"compress/flate"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// wsRequest is the handshake sent by a raw client.
const wsRequest = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

// wsHello is the text "hello" as a client's frame, with a mask of zeros.
// wsHelloBack is the same text as a server's frame.
const wsHello, wsHelloBack = "\x81\x85\x00\x00\x00\x00hello", "\x81\x05hello"

// gorillaServer upgrades each request and runs serve. served yields the result.
func gorillaServer(t *testing.T, upgrader websocket.Upgrader, serve func(*websocket.Conn) error) (h http.Handler, served <-chan error) {
	done := make(chan error, 1)
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		c, err := upgrader.Upgrade(w, q, nil)
		if err != nil {
			done <- err
			return
		}
		defer c.Close()
		done <- serve(c)
	}), done
}

// gorillaEcho sends each message back until the client closes.
func gorillaEcho(c *websocket.Conn) error {
	for {
		kind, p, err := c.ReadMessage()
		if err != nil {
			return err
		}
		if err := c.WriteMessage(kind, p); err != nil {
			return err
		}
	}
}

// gorilla connects to the site.
func (s *site) gorilla(dialer websocket.Dialer) (*websocket.Conn, *http.Response) {
	s.t.Helper()
	dialer.NetDialContext = s.dialContext
	dialer.TLSClientConfig = &tls.Config{RootCAs: s.roots}
	dialer.HandshakeTimeout = proxytest.Patience
	c, resp, err := dialer.DialContext(s.t.Context(), strings.Replace(s.url("/"), "http", "ws", 1), nil)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { c.Close() })
	require.NoError(s.t, c.SetReadDeadline(time.Now().Add(proxytest.Patience)))
	return c, resp
}

// gorillaSays sends a message and requires its echo.
func gorillaSays(t testing.TB, c *websocket.Conn, kind int, text string) {
	t.Helper()
	require.NoError(t, c.WriteMessage(kind, []byte(text)))
	got, p, err := c.ReadMessage()
	require.NoError(t, err)
	assert.Equal(t, kind, got)
	assert.True(t, text == string(p), "%d bytes come back as %d others", len(text), len(p))
}

func TestGorillaEchoesMessagesOfAllSizes(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		h, served := gorillaServer(t, websocket.Upgrader{}, gorillaEcho)
		c, _ := p.serve(t, h).gorilla(websocket.Dialer{})
		gorillaSays(t, c, websocket.TextMessage, "hello")
		gorillaSays(t, c, websocket.BinaryMessage, "")
		for _, size := range []int{125, 126, 4096, 65535, 65536, 1 << 20} {
			gorillaSays(t, c, websocket.BinaryMessage, string(pattern(size)))
		}
		c.Close()
		assert.Error(t, await(t, "the handler", served))
	})
}

func TestGorillaAnswersPings(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		h, _ := gorillaServer(t, websocket.Upgrader{}, gorillaEcho)
		c, _ := p.serve(t, h).gorilla(websocket.Dialer{})
		pong := ""
		c.SetPongHandler(func(text string) error { pong = text; return nil })
		require.NoError(t, c.WriteControl(websocket.PingMessage, []byte("are you there"), time.Now().Add(proxytest.Patience)))
		gorillaSays(t, c, websocket.TextMessage, "hello")
		assert.Equal(t, "are you there", pong)
	})
}

func TestGorillaAgreesOnASubprotocol(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		h, _ := gorillaServer(t, websocket.Upgrader{Subprotocols: []string{"chat", "superchat"}}, gorillaEcho)
		c, resp := p.serve(t, h).gorilla(websocket.Dialer{Subprotocols: []string{"soap", "superchat"}})
		assert.Equal(t, "superchat", c.Subprotocol())
		assert.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
	})
}

func TestGorillaCompresses(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		h, _ := gorillaServer(t, websocket.Upgrader{EnableCompression: true}, func(c *websocket.Conn) error {
			if err := c.SetCompressionLevel(flate.BestSpeed); err != nil {
				return err
			}
			return gorillaEcho(c)
		})
		c, resp := p.serve(t, h).gorilla(websocket.Dialer{EnableCompression: true})
		assert.Contains(t, resp.Header.Get("Sec-WebSocket-Extensions"), "permessage-deflate")
		gorillaSays(t, c, websocket.TextMessage, strings.Repeat("hello ", 20000))
		gorillaSays(t, c, websocket.TextMessage, "short")
	})
}

func TestGorillaPassesTheCloseCodeOfTheClient(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		h, served := gorillaServer(t, websocket.Upgrader{}, gorillaEcho)
		c, _ := p.serve(t, h).gorilla(websocket.Dialer{})
		require.NoError(t, c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4321, "enough"), time.Now().Add(proxytest.Patience)))
		var ended *websocket.CloseError
		require.ErrorAs(t, await(t, "the handler", served), &ended)
		assert.Equal(t, websocket.CloseError{Code: 4321, Text: "enough"}, *ended)
		_, _, err := c.ReadMessage()
		assert.True(t, websocket.IsCloseError(err, 4321), "the server echoes the code: %v", err)
	})
}

func TestGorillaPassesTheCloseCodeOfTheServer(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		h, _ := gorillaServer(t, websocket.Upgrader{}, func(c *websocket.Conn) error {
			return c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseTryAgainLater, "later"), time.Now().Add(proxytest.Patience))
		})
		c, _ := p.serve(t, h).gorilla(websocket.Dialer{})
		_, _, err := c.ReadMessage()
		var ended *websocket.CloseError
		require.ErrorAs(t, err, &ended)
		assert.Equal(t, websocket.CloseError{Code: websocket.CloseTryAgainLater, Text: "later"}, *ended)
	})
}

func TestGorillaDeadlinesApply(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		h, served := gorillaServer(t, websocket.Upgrader{}, func(c *websocket.Conn) error {
			if err := c.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
				return err
			}
			_, _, err := c.ReadMessage()
			return errors.Join(err, c.WriteMessage(websocket.TextMessage, []byte("too late")))
		})
		c, _ := p.serve(t, h).gorilla(websocket.Dialer{})
		_, text, err := c.ReadMessage()
		require.NoError(t, err, "a timeout of reads does not end writes")
		assert.Equal(t, "too late", string(text))
		var timeout net.Error
		require.ErrorAs(t, await(t, "the handler", served), &timeout)
		assert.True(t, timeout.Timeout())
	})
}

func TestGorillaRefusesFramesBeforeItsAnswer(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		h, served := gorillaServer(t, websocket.Upgrader{}, gorillaEcho)
		c := p.serve(t, h).dial()
		c.Send(wsRequest + wsHello)
		assert.Empty(t, c.Rest())
		assert.ErrorContains(t, await(t, "the handler", served), "client sent data before handshake is complete")
	})
}

func TestGorillaRefusesRequestsThatDoNotUpgrade(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		h, _ := gorillaServer(t, websocket.Upgrader{}, gorillaEcho)
		assert.Equal(t, http.StatusBadRequest, p.serve(t, h).get("/").StatusCode)
	})
}
