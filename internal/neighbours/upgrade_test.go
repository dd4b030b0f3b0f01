package neighbours_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

const (
	echoUpgrade  = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
	echoSwitches = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\nX-Backend: 1\r\n\r\n"
)

// upgrade sends text and reads the head of the 101.
func upgrade(t testing.TB, c *proxytest.Client, text string) string {
	t.Helper()
	c.Send(text)
	head := c.Head()
	require.True(t, strings.HasPrefix(head, "HTTP/1.1 101 Switching Protocols\r\n"), head)
	return head
}

func TestReverseProxyUpgradesAndHalfCloses(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		backend := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
			if _, err := c.ReadRequest(); err != nil {
				return
			}
			_ = c.Send(echoSwitches)
			for range 2 {
				said, _ := c.ReadString(5)
				_ = c.Send(said)
			}
			last, _ := c.ReadAll()
			_ = c.Send("last: " + last)
		})
		c := p.serve(t, newReverseProxy(t, backend.Addr())).dial()
		assert.Contains(t, upgrade(t, c, echoUpgrade), "X-Backend: 1\r\n")
		c.Send("hello")
		c.Expect("hello")
		c.Send("again")
		c.Expect("again")
		c.Send("bye")
		require.NoError(t, c.CloseWrite())
		assert.Equal(t, "last: bye", c.Rest(), "the client's FIN ends one direction only")
	})
}

func TestReverseProxyForwardsTheBackendsFin(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		heard := make(chan string, 1)
		backend := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
			if _, err := c.ReadRequest(); err != nil {
				return
			}
			_ = c.Send(echoSwitches + "that is all")
			_ = c.CloseWrite()
			rest, _ := c.ReadAll()
			heard <- rest
		})
		c := p.serve(t, newReverseProxy(t, backend.Addr())).dial()
		upgrade(t, c, echoUpgrade)
		assert.Equal(t, "that is all", c.Rest())
		c.Send("thank you")
		require.NoError(t, c.CloseWrite())
		assert.Equal(t, "thank you", await(t, "what the backend heard", heard))
	})
}

func TestReverseProxyCarriesBytesRightBehindTheUpgrade(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		heard := make(chan string, 1)
		backend := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
			if _, err := c.ReadRequest(); err != nil {
				return
			}
			_ = c.Send(echoSwitches + "early")
			said, _ := c.ReadString(len("later"))
			heard <- said
		})
		c := p.serve(t, newReverseProxy(t, backend.Addr())).dial()
		upgrade(t, c, echoUpgrade)
		c.Expect("early")
		c.Send("later")
		assert.Equal(t, "later", await(t, "what the backend heard", heard))
		assert.Empty(t, c.Rest(), "the backend has closed")
	})
}

func TestReverseProxyEndsAnUpgradeWhoseClientResets(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		ended := make(chan struct{})
		backend := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
			if _, err := c.ReadRequest(); err != nil {
				return
			}
			_ = c.Send(echoSwitches)
			_, _ = c.ReadAll()
			close(ended)
		})
		c := p.serve(t, newReverseProxy(t, backend.Addr())).dial()
		upgrade(t, c, echoUpgrade)
		require.NoError(t, c.Reset())
		await(t, "the end of the backend's connection", ended)
	})
}

func TestReverseProxyAnswersAnUpgradeThatTheBackendRefuses(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		backend := proxytest.NewBackend(t, proxytest.Reply("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes"))
		c := p.serve(t, newReverseProxy(t, backend.Addr())).dial()
		resp := c.Do(echoUpgrade)
		assert.Equal(t, 403, resp.StatusCode)
		assert.Equal(t, "no", string(resp.Content))
		assert.Equal(t, "yes", string(c.Do("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").Content), "on the same connection")
	})
}
