package prometheus_test

import (
	"context"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/prometheus"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A program may start a new Server on an address while the previous one still
// waits for requests in flight.
func TestRefusalsAreCountedOnceWhileOneServerFollowsAnother(t *testing.T) {
	release := make(chan struct{})
	backend := proxytest.NewServer(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	var r hostproxy.Router
	r.Handle("*", hostproxy.To(backend.Addr()))
	registry, _ := measured(t, &r, prometheus.Options{})
	addr := proxytest.Free(t)
	refused := func() float64 { return gather(t, registry)[`hostproxy_refused_total{what="requests",why="400"}`] }
	refuse := func(total float64) {
		p := proxytest.Dial(t, addr).Do("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
		require.Equal(t, "400 Bad Request", p.Status)
		proxytest.Eventually(t, "it is counted", func() bool { return refused() >= total })
		for range 3 {
			assert.Equal(t, total, refused())
		}
	}

	stop, ended := serve(t, &r, addr)
	refuse(1)
	proxytest.Dial(t, addr).Send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	proxytest.Eventually(t, "a request is at the target", func() bool { return len(backend.Seen()) == 1 })
	stop()
	proxytest.Eventually(t, "the address is free", func() bool { return !listens(addr) })
	stopNext, nextEnded := serve(t, &r, addr)
	refuse(2)
	refuse(3)
	close(release)
	require.NoError(t, <-ended)
	refuse(4)
	stopNext()
	require.NoError(t, <-nextEnded)
}

// serve runs a Server on addr until stop is called.
func serve(t *testing.T, r *hostproxy.Router, addr string) (stop context.CancelFunc, ended chan error) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	ended = make(chan error, 1)
	s := &hostproxy.Server{Router: r, Listeners: []hostproxy.Listener{{Addr: addr, Role: hostproxy.RolePlain}}}
	go func() { ended <- s.Serve(ctx, nil, nil) }()
	proxytest.Eventually(t, "it serves", func() bool { return listens(addr) })
	return stop, ended
}

func listens(addr string) bool {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return false
	}
	return c.Close() == nil
}
