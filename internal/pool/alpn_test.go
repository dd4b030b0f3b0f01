package pool_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/pool"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// alpnPool returns a Pool that offers http/1.1 to a target which speaks protos,
// and counts its connections. The target may serve one connection at a time. If
// it is picky it closes connections without a chosen protocol.
func alpnPool(t *testing.T, k alpnKind) (p *pool.Pool, dials *atomic.Int64) {
	t.Helper()
	server, roots := proxytest.TLS(t, "target.test")
	server.NextProtos = k.protos
	ln := proxytest.Listen(t)
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			serve := func() {
				defer nc.Close()
				sc := tls.Server(nc, server)
				if sc.Handshake() == nil && !(k.picky && sc.ConnectionState().NegotiatedProtocol == "") {
					if n, _ := sc.Read(make([]byte, 1)); n > 0 && !k.silent {
						_, _ = sc.Write([]byte("y"))
					}
				}
			}
			if k.single {
				serve()
			} else {
				conns.Go(serve)
			}
		}
	})
	t.Cleanup(func() { ln.Close(); conns.Wait() })
	p, dials = poolFor(t, ln), new(atomic.Int64)
	dial := p.Dial
	p.Dial = func(ctx context.Context) (net.Conn, error) { dials.Add(1); return dial(ctx) }
	p.TLS = &tls.Config{ServerName: "target.test", RootCAs: roots, NextProtos: []string{"http/1.1"}}
	return p, dials
}

type alpnKind struct {
	protos        []string
	picky, single bool
	silent        bool // sends no answer
}

func TestATargetThatChoosesNoProtocolIsOfferedHTTP2Too(t *testing.T) {
	for _, tt := range []struct {
		what string
		alpnKind
		life  time.Duration
		dials []int64 // number of dials after each Open
		http2 bool
	}{
		{"chooses", alpnKind{protos: []string{"http/1.1", "h2"}}, 0, []int64{1, 2, 3}, false},
		{"knows no ALPN", alpnKind{}, 0, []int64{2, 3, 4}, false},
		{"knows no ALPN, forever", alpnKind{}, -1, []int64{2, 3, 4}, false},
		{"knows no ALPN, for a moment", alpnKind{}, time.Nanosecond, []int64{2, 4, 6}, false},
		{"knows no ALPN, one connection at a time", alpnKind{single: true}, 0, []int64{2, 3}, false},
		{"speaks h2 only", alpnKind{protos: []string{"h2"}, picky: true}, 0, []int64{2, 4}, true},
		{"names h2 only, and speaks both", alpnKind{protos: []string{"h2"}}, 0, []int64{2, 3}, false},
	} {
		t.Run(tt.what, func(t *testing.T) {
			t.Parallel() // most of the time is spent waiting
			p, dials := alpnPool(t, tt.alpnKind)
			p.Lifetime = tt.life
			for _, want := range tt.dials {
				c, err := p.Open(t.Context())
				if c != nil {
					require.NoError(t, c.Ask([]byte("x")))
					require.NoError(t, c.Close())
				}
				var handshake *pool.HandshakeError
				assert.Equal(t, tt.http2, errors.Is(err, pool.ErrHTTP2) && errors.As(err, &handshake), "%v", err)
				assert.Equal(t, !tt.http2, err == nil, "%v", err)
				assert.Equal(t, want, dials.Load())
			}
		})
	}
}

func TestAFailedOfferOfHTTP2IsRepeated(t *testing.T) {
	p, dials := alpnPool(t, alpnKind{})
	dial, down := p.Dial, errors.New("down")
	p.Dial = func(ctx context.Context) (net.Conn, error) {
		if dials.Load() == 1 {
			dials.Add(1)
			return nil, down
		}
		return dial(ctx)
	}
	for _, want := range []int64{2, 4, 5} {
		c, err := p.Open(t.Context())
		require.NoError(t, err, "the first connection is usable")
		require.NoError(t, c.Ask([]byte("x")))
		require.NoError(t, c.Close())
		assert.Equal(t, want, dials.Load())
	}
}

// still is a connection on a machine that stands still during the first Read
// with a deadline, so that the deadline passes.
type still struct {
	net.Conn
	armed, missed bool
}

func (s *still) SetReadDeadline(at time.Time) error {
	s.armed = !at.IsZero()
	return s.Conn.SetReadDeadline(at)
}

func (s *still) Read(p []byte) (int, error) {
	if !s.armed || s.missed {
		return s.Conn.Read(p)
	}
	s.missed = true
	return 0, os.ErrDeadlineExceeded
}

func TestATargetThatHangsUpDuringAStandstillSpeaksOnlyHTTP2(t *testing.T) {
	p, _ := alpnPool(t, alpnKind{protos: []string{"h2"}, picky: true})
	dial := p.Dial
	p.Dial = func(ctx context.Context) (net.Conn, error) {
		nc, err := dial(ctx)
		return &still{Conn: nc}, err
	}
	_, err := p.Open(t.Context())
	assert.ErrorIs(t, err, pool.ErrHTTP2)
}

// It may be a target that hangs up late.
func TestASilentTargetIsOfferedHTTP2Again(t *testing.T) {
	p, dials := alpnPool(t, alpnKind{silent: true})
	for _, want := range []int64{2, 4} {
		c, err := p.Open(t.Context())
		require.NoError(t, err)
		require.Error(t, c.Ask([]byte("x")))
		require.NoError(t, c.Close())
		assert.Equal(t, want, dials.Load())
	}
}
