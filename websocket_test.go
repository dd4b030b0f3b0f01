package hostproxy_test

//lint:file-ignore SA1019 http.Transport refuses the pseudo-header :protocol; x/net's sends it

import (
	"crypto/tls"
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestWebSocketOverHTTP2IsBridgedToAnHTTP1Upstream(t *testing.T) {
	backend := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		q, err := c.ReadRequest()
		if err != nil {
			return
		}
		c.Send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + proxytest.Accept(q.Header) + "\r\n\r\n")
		got, _ := c.ReadString(5)
		c.Send("echo " + got)
		c.ReadAll()
	})
	conf, roots := proxytest.TLS(t, "a.test")
	r := hostproxy.Router{TLS: hostproxy.TLS{Config: conf, Storage: files(t)}}
	r.Handle("a.test", hostproxy.To(backend.Addr()))
	s := proxytest.Start(t, &hostproxy.Server{Router: &r})

	transport := &http2.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "a.test"}}
	defer transport.CloseIdleConnections()
	body, send := io.Pipe()
	q := &http.Request{
		Method: http.MethodConnect,
		URL:    &url.URL{Scheme: "https", Host: s.HTTPS, Path: "/chat"},
		Host:   "a.test",
		Header: http.Header{":protocol": {"websocket"}, "Sec-Websocket-Version": {"13"}},
		Body:   body,
	}
	res, err := transport.RoundTrip(q)
	require.NoError(t, err)
	defer res.Body.Close()
	assert.Equal(t, 200, res.StatusCode)
	assert.Empty(t, res.Header.Get("Sec-Websocket-Accept"), "the client sent no key that it could answer")
	_, err = io.WriteString(send, "hello")
	require.NoError(t, err)
	got := make([]byte, 10)
	_, err = io.ReadFull(res.Body, got)
	require.NoError(t, err)
	assert.Equal(t, "echo hello", string(got))
	send.Close()
	rest, err := io.ReadAll(res.Body)
	assert.NoError(t, err, "the stream ends without an error")
	assert.Empty(t, rest)

	seen := backend.WaitRequests(1)[0]
	assert.Equal(t, "GET /chat", seen.Method+" "+seen.RequestURI)
	assert.Equal(t, "websocket", seen.Header.Get("Upgrade"))
	assert.Len(t, seen.Header.Get("Sec-Websocket-Key"), 24)
}

func TestStreamGraceHoldsForWebSocketsOverHTTP2(t *testing.T) {
	backend := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		if q, err := c.ReadRequest(); err == nil {
			c.Send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + proxytest.Accept(q.Header) + "\r\n\r\n")
			_, _ = c.ReadString(1) // skips a part of the Close frame
		}
	})
	const grace = 300 * time.Millisecond
	conf, roots := proxytest.TLS(t, "a.test")
	r := hostproxy.Router{TLS: hostproxy.TLS{Config: conf, Storage: files(t)}}
	r.Handle("a.test", &hostproxy.Upstream{Targets: hostproxy.To(backend.Addr()).Targets, StreamGrace: grace})
	s := proxytest.Start(t, &hostproxy.Server{Router: &r})
	transport := &http2.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "a.test"}}
	defer transport.CloseIdleConnections()
	body, send := io.Pipe()
	defer send.Close()
	res, err := transport.RoundTrip(&http.Request{Method: http.MethodConnect, URL: &url.URL{Scheme: "https", Host: s.HTTPS, Path: "/chat"},
		Host: "a.test", Header: http.Header{":protocol": {"websocket"}, "Sec-Websocket-Version": {"13"}}, Body: body})
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, 200, res.StatusCode)
	removed := time.Now()
	require.True(t, r.Remove("a.test"))
	farewell := make([]byte, 4)
	_, err = io.ReadFull(res.Body, farewell)
	require.NoError(t, err)
	assert.Equal(t, "\x88\x02\x03\xe9", string(farewell), "a Close frame with 1001")
	assert.GreaterOrEqual(t, time.Since(removed), grace)
}
