package e2e_test

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A passing is a Router that passes connections for away.test to a TLS server,
// which echoes.
type passing struct {
	router *hostproxy.Router
	client *tls.Config
}

func newPassing(t *testing.T) *passing {
	t.Helper()
	config, roots := proxytest.TLS(t, "away.test")
	ln := tls.NewListener(proxytest.Listen(t), config)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	t.Cleanup(func() { ln.Close() })
	r := &hostproxy.Router{Logger: silent()}
	r.TLS.Storage = &certmagic.FileStorage{Path: t.TempDir()}
	r.Handle("away.test", &hostproxy.Passthrough{Addr: ln.Addr().String()})
	return &passing{router: r, client: &tls.Config{RootCAs: roots, ServerName: "away.test"}}
}

// dial opens a connection to away.test, or returns nil if it is refused.
func (p *passing) dial(t *testing.T, addr string) *tls.Conn {
	t.Helper()
	raw, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	_ = raw.SetDeadline(time.Now().Add(proxytest.Patience))
	c := tls.Client(raw, p.client)
	if c.Handshake() != nil {
		raw.Close()
		return nil
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// repeats reports whether the target answers on c.
func repeats(c *tls.Conn) bool {
	if _, err := c.Write([]byte("hello")); err != nil {
		return false
	}
	b := make([]byte, 5)
	_, err := io.ReadFull(c, b)
	return err == nil && string(b) == "hello"
}

func TestPassthroughConnectionsCountInMaxConns(t *testing.T) {
	proxytest.NoLeaks(t)
	p := newPassing(t)
	run := proxytest.Start(t, &hostproxy.Server{Router: p.router, MaxConns: 2})
	one, two := p.dial(t, run.HTTPS), p.dial(t, run.HTTPS)
	require.True(t, repeats(one) && repeats(two))
	for range 3 {
		assert.True(t, p.dial(t, run.HTTPS) == nil, "a connection above the bound is refused")
	}
	one.Close()
	var three *tls.Conn
	proxytest.Eventually(t, "room", func() bool { three = p.dial(t, run.HTTPS); return three != nil })
	assert.True(t, repeats(two) && repeats(three))
}

func TestPassthroughConnectionsMayEndByThemselvesWhileTheServerDrains(t *testing.T) {
	proxytest.NoLeaks(t)
	p := newPassing(t)
	run := proxytest.Start(t, &hostproxy.Server{Router: p.router, DrainTimeout: 2 * proxytest.Patience})
	c := p.dial(t, run.HTTPS)
	require.True(t, repeats(c))
	run.Drain()
	proxytest.Eventually(t, "the listener to close", func() bool {
		other, err := net.Dial("tcp", run.HTTPS)
		if err == nil {
			other.Close()
		}
		return err != nil
	})
	assert.True(t, repeats(c), "in the grace")
	select {
	case <-run.Done():
		assert.Fail(t, "the server ended before the connection")
	default:
	}
	c.Close()
	require.NoError(t, run.Stop())
}

func TestPassthroughConnectionsAreCutAtTheEndOfTheGrace(t *testing.T) {
	t.Parallel()
	proxytest.NoLeaks(t)
	p := newPassing(t)
	https, plain := proxytest.Listen(t), proxytest.Listen(t)
	ctx, drain := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- (&hostproxy.Server{Router: p.router, DrainTimeout: 2 * moment}).Serve(ctx, https, plain)
	}()
	c := p.dial(t, https.Addr().String())
	require.True(t, repeats(c))
	drain()
	assert.ErrorContains(t, <-done, "drain timeout")
	assert.False(t, repeats(c))
}

func TestPassthroughConnectionsEndWithTheirRoute(t *testing.T) {
	proxytest.NoLeaks(t)
	p := newPassing(t)
	run := proxytest.Start(t, &hostproxy.Server{Router: p.router})
	c := p.dial(t, run.HTTPS)
	require.True(t, repeats(c))
	p.router.Remove("away.test")
	_, err := c.Read(make([]byte, 1))
	assert.Error(t, err)
}

func TestTheEndOfOneServerLeavesThePassthroughConnectionsOfAnother(t *testing.T) {
	proxytest.NoLeaks(t)
	p := newPassing(t)
	one := proxytest.Start(t, &hostproxy.Server{Router: p.router})
	two := proxytest.Start(t, &hostproxy.Server{Router: p.router})
	c := p.dial(t, two.HTTPS)
	require.True(t, repeats(c))
	require.NoError(t, one.Stop())
	assert.True(t, repeats(c), "the connection that was open")
	c.Close()
	later := p.dial(t, two.HTTPS)
	require.True(t, later != nil)
	assert.True(t, repeats(later), "a later one")
	later.Close()
}

func TestWrapCarriesPassthroughConnections(t *testing.T) {
	proxytest.NoLeaks(t)
	p := newPassing(t)
	ln, err := p.router.Wrap(proxytest.Listen(t))
	require.NoError(t, err)
	server := &http.Server{Handler: p.router, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	done := make(chan error, 1)
	go func() { done <- server.Serve(ln) }()
	t.Cleanup(func() {
		require.NoError(t, server.Close())
		<-done
	})
	c := p.dial(t, ln.Addr().String())
	require.True(t, c != nil)
	assert.True(t, repeats(c))
	require.NoError(t, p.router.Close())
	assert.False(t, repeats(c), "the Router's end ends it")
}
