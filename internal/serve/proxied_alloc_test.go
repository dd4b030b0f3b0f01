//go:build !race && !portable

package serve_test

import (
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestAFastLaneRequestAfterAPROXYHeaderAllocatesNothing(t *testing.T) {
	proxytest.NoLeaks(t)
	r := new(hostproxy.Router)
	r.Handle("a.test", hostproxy.To(backend(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")))
	from := []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	c, err := net.Dial("tcp", proxytest.StartPlain(t, &hostproxy.Server{Router: r, ProxyProtocol: &hostproxy.ProxyProtocol{From: from}}).Plain)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	_, err = io.WriteString(c, "PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n")
	require.NoError(t, err)
	assert.Less(t, (&link{c, t}).perRequest("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"), 0.05)
}

func TestAFastLaneRequestToATargetWithProxyProtocolAllocatesNothing(t *testing.T) {
	proxytest.NoLeaks(t)
	for version := 1; version <= 2; version++ {
		u := hostproxy.To(backend(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
		u.ProxyProtocol = version
		r := new(hostproxy.Router)
		r.Handle("a.test", u)
		assert.Less(t, newLink(t, r).perRequest("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"), 0.05)
	}
}
