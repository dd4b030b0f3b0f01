package pool_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/pool"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// alpnPool returns a Pool that offers http/1.1 to a target which knows protos, and serves one connection at a time. It counts the
// connections.
func alpnPool(t *testing.T, protos ...string) (p *pool.Pool, dials *int) {
	t.Helper()
	server, roots := proxytest.TLS(t, "target.test")
	server.NextProtos = protos
	ln := proxytest.Listen(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			sc := tls.Server(nc, server)
			if sc.Handshake() == nil {
				_, _ = sc.Read(make([]byte, 1)) // until the client closes it
			}
			sc.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	p, dials = poolFor(t, ln), new(int)
	dial := p.Dial
	p.Dial = func(ctx context.Context) (net.Conn, error) { *dials++; return dial(ctx) }
	p.TLS = &tls.Config{ServerName: "target.test", RootCAs: roots, NextProtos: []string{"http/1.1"}}
	return p, dials
}

func TestATargetThatChoosesNoProtocolIsOfferedHTTP2Too(t *testing.T) {
	for _, tt := range []struct {
		what   string
		protos []string
		life   time.Duration
		dials  []int // after each Open
		http2  bool
	}{
		{"chooses", []string{"http/1.1", "h2"}, 0, []int{1, 2, 3}, false},
		{"knows no ALPN", nil, 0, []int{2, 3, 4}, false},
		{"knows no ALPN, for ever", nil, -1, []int{2, 3, 4}, false},
		{"knows no ALPN, for a moment", nil, time.Nanosecond, []int{2, 4, 6}, false},
		{"knows h2 only", []string{"h2"}, 0, []int{2, 4}, true},
	} {
		t.Run(tt.what, func(t *testing.T) {
			p, dials := alpnPool(t, tt.protos...)
			p.Lifetime = tt.life
			for _, want := range tt.dials {
				c, err := p.Open(t.Context())
				if c != nil {
					require.NoError(t, c.Close())
				}
				var handshake *pool.HandshakeError
				assert.Equal(t, tt.http2, errors.Is(err, pool.ErrHTTP2) && errors.As(err, &handshake), "%v", err)
				assert.Equal(t, !tt.http2, err == nil, "%v", err)
				assert.Equal(t, want, *dials)
			}
		})
	}
}

func TestAnOfferThatFailsIsMadeAgain(t *testing.T) {
	p, dials := alpnPool(t)
	dial, down := p.Dial, errors.New("down")
	p.Dial = func(ctx context.Context) (net.Conn, error) {
		if *dials == 1 {
			*dials++
			return nil, down
		}
		return dial(ctx)
	}
	_, err := p.Open(t.Context())
	assert.Equal(t, down, err)
	for _, want := range []int{4, 5} {
		c, err := p.Open(t.Context())
		require.NoError(t, err)
		require.NoError(t, c.Close())
		assert.Equal(t, want, *dials)
	}
}
