package serve_test

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
	"github.com/hostproxy/hostproxy/internal/serve"
)

// An addressed listener gives pipe connections a peer address.
type addressed struct{ *pipes }

type addressedConn struct{ net.Conn }

func (addressedConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1} }

func (l addressed) Accept() (net.Conn, error) {
	c, err := l.pipes.Accept()
	if err != nil {
		return nil, err
	}
	return addressedConn{c}, nil
}

// startProxied serves over pipes, in a bubble. The peer is a load balancer at
// 10.0.0.1.
func startProxied(t *testing.T, s *serve.Server) *pipes {
	t.Helper()
	s.Log = slog.New(slog.DiscardHandler)
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { _, _ = io.WriteString(w, q.RemoteAddr) })
	ln := newPipes()
	rule := &serve.ProxyHeaders{From: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Timeout: 5 * time.Second}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, rule.Listener(addressed{ln})) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return ln
}

const proxiedHead = "PROXY TCP4 192.0.2.7 192.0.2.8 4321 443\r\n"

func TestTheTimeoutOfAPROXYHeaderCoversAllOfIt(t *testing.T) {
	for name, pause := range map[string]time.Duration{"a byte a second": time.Second, "one byte, then nothing": time.Hour, "slightly too slow": 150 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, begin := startProxied(t, new(serve.Server)).dial(), time.Now()
				sent := make(chan struct{})
				go func() {
					defer close(sent)
					for i := range len(proxiedHead) {
						if _, err := io.WriteString(c, proxiedHead[i:i+1]); err != nil {
							return
						}
						time.Sleep(pause)
					}
				}()
				_, err := io.ReadAll(c)
				require.NoError(t, err)
				assert.Equal(t, 5*time.Second, time.Since(begin))
				c.Close()
				<-sent
			})
		})
	}
}

func TestTheTimeoutOfAPROXYHeaderDoesNotApplyToRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startProxied(t, new(serve.Server)).dial()
		_, err := io.WriteString(c, proxiedHead)
		require.NoError(t, err)
		time.Sleep(time.Hour) // the header's deadline was removed
		_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
		require.NoError(t, err)
		all, err := io.ReadAll(c)
		require.NoError(t, err)
		assert.Contains(t, string(all), "192.0.2.7:4321")
		c.Close()
	})
}

func TestAChallengeIsAnsweredAfterAPROXYHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cert, roots := proxytest.Certificate(t, "a.test")
		var from string
		s := &serve.Server{HandshakeTimeout: time.Second, MaxHandshakes: 1}
		s.TLS = &tls.Config{NextProtos: []string{"acme-tls/1"}, GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			from = hello.Conn.RemoteAddr().String() + " " + hello.Conn.LocalAddr().String()
			return &cert, nil
		}}
		c := startProxied(t, s).dial()
		_, err := io.WriteString(c, proxiedHead)
		require.NoError(t, err)
		client := tls.Client(c, &tls.Config{ServerName: "a.test", RootCAs: roots, NextProtos: []string{"acme-tls/1"}})
		require.NoError(t, client.Handshake())
		assert.Equal(t, "acme-tls/1", client.ConnectionState().NegotiatedProtocol)
		assert.Equal(t, "192.0.2.7:4321 192.0.2.8:443", from)
		_, _ = io.ReadAll(client)
		c.Close()
	})
}
