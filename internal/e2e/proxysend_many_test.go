package e2e_test

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A tallied connection counts until it is closed.
type tallied struct {
	net.Conn
	once sync.Once
	open *atomic.Int64
}

func (c *tallied) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return c.Conn.Close()
}

func TestKeptConnectionsOfHTTP2MakeRoomForThoseOfOtherClients(t *testing.T) {
	var open, opened atomic.Int64
	s := newSender(t, false, "h2c", 2, func(u *hostproxy.Upstream) {
		u.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			nc, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			open.Add(1)
			opened.Add(1)
			return &tallied{Conn: nc, open: &open}, nil
		}
	})
	const clients, kept = 300, 256
	var all [clients]*http.Client
	for i := range all {
		all[i] = s.client(t, "h1", header2(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1).String()))
		s.ask(t, all[i], "a.test")
	}
	for _, c := range all {
		n, _, _, _ := s.ask(t, c, "a.test")
		again, _, _, _ := s.ask(t, c, "a.test")
		assert.Equal(t, n, again, "the newest one is kept")
	}
	assert.LessOrEqual(t, opened.Load(), int64(2*clients))
	proxytest.Eventually(t, "no more than are kept", func() bool { return open.Load() <= kept })
}
