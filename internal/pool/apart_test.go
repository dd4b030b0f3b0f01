package pool_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/pool"
	"github.com/hostproxy/hostproxy/internal/proxyproto"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestConnectionsOfDifferentHeadersAreKeptApart(t *testing.T) {
	proxytest.NoLeaks(t)
	ln := proxytest.Listen(t)
	serve(t, ln, echo)
	p := poolFor(t, ln)
	p.Apart, p.MaxIdle = true, 2
	head := func(port uint16) *proxyproto.Header {
		a := netip.MustParseAddr("192.0.2.7")
		h := proxyproto.Of(netip.AddrPortFrom(a, port), netip.AddrPortFrom(a, 443))
		return &h
	}
	open := func(h *proxyproto.Header) *pool.Conn {
		c, err := p.Open(proxyproto.NewContext(t.Context(), h))
		require.NoError(t, err)
		return c
	}
	one, two, three := open(head(1)), open(head(2)), open(head(3))
	local, err := p.Open(t.Context())
	require.NoError(t, err)
	one.Put()
	two.Put()
	assert.Nil(t, p.TakeFor(head(3)))
	assert.Nil(t, p.TakeFor(new(proxyproto.Header)))
	assert.True(t, p.TakeFor(head(1)) == one, "an equal header finds the connection")
	assert.Nil(t, p.TakeFor(head(1)))
	one.Put()
	three.Put()
	assert.Equal(t, 2, p.Idle())
	assert.Nil(t, p.TakeFor(head(2)), "the oldest connection is evicted")
	local.Put()
	assert.Nil(t, p.TakeFor(head(1)))
	assert.True(t, p.TakeFor(new(proxyproto.Header)) == local, "a connection opened without a client has the LOCAL header")
	assert.True(t, p.TakeFor(head(3)) == three)
	local.Close()
	three.Close()

	p.Apart = false
	c, err := p.Open(t.Context())
	require.NoError(t, err)
	c.Put()
	assert.True(t, p.TakeFor(head(1)) == c, "a pool with Apart disabled returns any connection")
	c.Close()
}
