package hostproxy_test

//lint:file-ignore SA1019 http.Transport refuses the pseudo-header :protocol; x/net's sends it

import (
	"bytes"
	"crypto/tls"
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/net/http2"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A WebSocket over HTTP/2 carries large data in both directions at once, also
// behind BasicAuth. Each end notices when the other one closes.
func TestAWebSocketOverHTTP2IsATunnel(t *testing.T) {
	const size = 6 << 20
	ends := make(chan error, 1)
	backend := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		q, err := c.ReadRequest()
		if err != nil {
			return
		}
		assert.Equal(t, []string{"exchange", "attempt"}, append(q.Header["X-Trace"], q.Header["X-Span"]...))
		c.Send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + proxytest.Accept(q.Header) + "\r\n\r\n")
		_, err = io.Copy(c.Conn, c.Conn)
		ends <- err
	})
	hash, err := bcrypt.GenerateFromPassword([]byte("s3cret"), bcrypt.MinCost)
	require.NoError(t, err)
	conf, roots := proxytest.TLS(t, "a.test", "b.test")
	r := hostproxy.Router{TLS: hostproxy.TLS{Config: conf, Storage: files(t)}}
	r.Begin = func(b *hostproxy.Beginning) { b.SetHeader("X-Trace", "exchange") }
	r.BeginAttempt = func(b *hostproxy.Beginning) { b.SetHeader("X-Span", "attempt") }
	r.Handle("a.test", hostproxy.To(backend.Addr()))
	r.Handle("b.test", &hostproxy.BasicAuth{Users: map[string]string{"ann": string(hash)}, Next: hostproxy.To(backend.Addr())})
	s := proxytest.Start(t, &hostproxy.Server{Router: &r})
	for _, host := range []string{"a.test", "b.test"} {
		transport := &http2.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: host}}
		defer transport.CloseIdleConnections()
		open := func(path string, auth bool) (*http.Response, *io.PipeWriter) {
			body, send := io.Pipe()
			q := &http.Request{Method: http.MethodConnect, URL: &url.URL{Scheme: "https", Host: s.HTTPS, Path: path}, Host: host,
				Header: http.Header{":protocol": {"websocket"}, "Sec-Websocket-Version": {"13"}}, Body: body}
			if auth {
				q.SetBasicAuth("ann", "s3cret")
			}
			res, err := transport.RoundTrip(q)
			require.NoError(t, err)
			return res, send
		}
		if host == "b.test" {
			res, _ := open("/", false)
			assert.Equal(t, 401, res.StatusCode)
			res.Body.Close()
		}
		res, send := open("/", true)
		require.Equal(t, 200, res.StatusCode)
		data := bytes.Repeat([]byte("0123456789abcdef"), size/16)
		go func() {
			for b := data; len(b) > 0; b = b[min(len(b), 100_000):] {
				_, _ = send.Write(b[:min(len(b), 100_000)])
			}
			send.Close()
		}()
		got, err := io.ReadAll(res.Body)
		assert.NoError(t, err)
		assert.True(t, bytes.Equal(data, got), "%d of %d", len(got), size)
		assert.NoError(t, <-ends)

		res, send = open("/", true)
		require.Equal(t, 200, res.StatusCode)
		_, _ = send.Write([]byte("some"))
		_, err = io.ReadFull(res.Body, make([]byte, 4))
		require.NoError(t, err)
		stills, start := proxytest.WatchStandstills(t), time.Now()
		res.Body.Close() // resets the stream
		<-ends
		assert.Less(t, time.Since(start)-stills.Total(), 3*time.Second)
	}
}
