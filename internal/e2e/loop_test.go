package e2e_test

import (
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestARequestThatLoopsIsRefused(t *testing.T) {
	t.Parallel()
	other := proxytest.NewBackend(t, good)
	build, last := keeping(other.Addr())
	inLanes(t, build, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
		const foreign = "Via: 1.1 a, 1.1 hostproxy (b), 1.1 b\r\nVia: 1.1 a, 1.1 a, 2 a\r\nvia: 1.1 a\r\n"
		assert.Equal(t, 200, c.Do(request("GET /", foreign+"\r\n")).StatusCode, "requests of other proxies are not limited")
		<-records

		require.NoError(t, last().Replace(t.Context(), c.RemoteAddr().String())) // the proxy itself
		for _, raw := range []string{request("GET /", "\r\n"), request("POST /", sized("hello")), request("GET /", foreign+"\r\n")} {
			a := c.Do(raw)
			assert.Equal(t, 508, a.StatusCode)
			assert.Contains(t, a.Header.Get("Proxy-Status"), "proxy_loop_detected")
			failed := 0
			for range 5 { // in any order: records are made after the responses
				x := <-records
				assert.Equal(t, 508, x.Status)
				assert.Equal(t, "a.test", x.Pattern)
				if x.Err == nil {
					continue
				}
				failed++
				var e *hostproxy.Error
				require.ErrorAs(t, x.Err, &e)
				assert.Equal(t, hostproxy.SideProxy, e.Side)
				assert.ErrorContains(t, e, "loop")
				assert.Zero(t, x.Attempts)
			}
			assert.Equal(t, 1, failed, "exchanges that met the loop")
		}
	})
}

func TestALoopIsLogged(t *testing.T) {
	t.Parallel()
	for _, lane := range []string{"fast", "full"} {
		t.Run(lane, func(t *testing.T) {
			text := new(proxytest.Log)
			r := &hostproxy.Router{Logger: slog.New(slog.NewTextHandler(text, nil))}
			u := hostproxy.To(proxytest.Refused(t))
			r.Handle("a.test", u)
			s := &hostproxy.Server{Router: r}
			if lane == "full" {
				s.Handler = http.HandlerFunc(r.ServeHTTP)
			}
			addr := proxytest.StartPlain(t, s).Plain
			require.NoError(t, u.Replace(t.Context(), addr))
			assert.Equal(t, 508, proxytest.Dial(t, addr).Do(get).StatusCode)
			proxytest.Eventually(t, "the line", func() bool { return strings.Contains(text.String(), "loop") })
			assert.Equal(t, 1, strings.Count(text.String(), "level=WARN"), text)
		})
	}
}

// Two Routers that forward a request one to the other are two proxies, and no
// loop.
func TestARequestThroughTwoRoutersIsNoLoop(t *testing.T) {
	backend := proxytest.NewBackend(t, good)
	addr := backend.Addr()
	for range 6 {
		r := new(hostproxy.Router)
		r.Handle("a.test", hostproxy.To(addr))
		addr = proxytest.StartPlain(t, &hostproxy.Server{Router: r}).Plain
	}
	assert.Equal(t, 200, proxytest.Dial(t, addr).Do(get).StatusCode)
	names := map[string]bool{}
	for _, v := range field(backend.Requests()[0].Raw, "Via") {
		names[v] = true
	}
	assert.Len(t, names, 6)
}

func TestAnUpstreamWithoutARouterDetectsLoops(t *testing.T) {
	u := hostproxy.To(proxytest.Refused(t))
	backend := proxytest.NewServer(t, u)
	require.NoError(t, u.Replace(t.Context(), backend.Addr()))
	assert.Equal(t, 508, proxytest.Dial(t, backend.Addr()).Do(get).StatusCode)
}
