package e2e_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// Nothing that a RoleInternal says leaves through the Router.
func TestTheRoutersHeadersAreOnNoResponseOfAnInternalListener(t *testing.T) {
	t.Parallel()
	proxytest.NoLeaks(t)
	r, ln := new(hostproxy.Router), proxytest.Listen(t)
	r.ResponseHeader.Set = http.Header{"X-Frame-Options": {"DENY"}}
	proxytest.StartPlain(t, &hostproxy.Server{Router: r, Listeners: []hostproxy.Listener{{Listener: ln, Role: hostproxy.RoleInternal,
		Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}}})
	for raw, status := range map[string]int{get: 200, "GET / HTTP/1.1\r\n\r\n": 400} {
		c := proxytest.Dial(t, ln.Addr().String())
		c.Send(raw)
		p := c.Response("GET")
		assert.Equal(t, status, p.StatusCode)
		assert.Empty(t, p.Header["X-Frame-Options"])
	}
}

func TestTheRoutersHeadersAreOnTheRefusalOfHTTPAtAPortForHTTPS(t *testing.T) {
	t.Parallel()
	overOurLanes(t, byPath, func(t *testing.T, s *site) {
		if !s.lane.secure {
			return
		}
		c := proxytest.Dial(t, s.addr)
		c.Send(get)
		p := c.Response("GET")
		assert.Equal(t, 400, p.StatusCode)
		assert.Equal(t, "this port speaks HTTPS\n", string(p.Content))
		correct(t, &site{}, p.Header)
	}, everywhere)
}
