package e2e_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// The things that Servers on one Router share end with the last Server.
func TestTheEndOfOneServerLeavesTheUpstreamsOfTheOthersAlone(t *testing.T) {
	t.Parallel()
	for _, lane := range []string{"fast", "full"} {
		t.Run(lane, func(t *testing.T) {
			proxytest.NoLeaks(t)
			b, kept := newBusy(t), proxytest.NewBackend(t, proxytest.Reply("HTTP/1.1 204 No Content\r\n\r\n"))
			r := &hostproxy.Router{Logger: silent()}
			r.Handle("a.test", b.Upstream)
			r.Handle("a.test/kept", hostproxy.To(kept.Addr()))
			var servers []*proxytest.Running
			for range 3 {
				s := &hostproxy.Server{Router: r}
				if lane == "full" {
					s.Handler = http.HandlerFunc(r.ServeHTTP)
				}
				servers = append(servers, proxytest.StartPlain(t, s))
			}
			c := proxytest.Dial(t, servers[2].Plain)
			require.Equal(t, 200, c.Do(get).StatusCode)
			asksKept := func() {
				require.Equal(t, 204, c.Do("GET /kept HTTP/1.1\r\nHost: a.test\r\n\r\n").StatusCode)
				assert.Equal(t, 1, kept.Conns(), "connections to the target")
			}
			asksKept()
			require.NoError(t, servers[0].Stop())
			b.goesOn(t)
			asksKept()
			// ends the background work, which starts again with the next
			// request
			require.NoError(t, r.Close())
			require.NoError(t, servers[1].Stop())
			require.Equal(t, 200, c.Do(get).StatusCode)
			b.goesOn(t)
			require.NoError(t, servers[2].Stop())
			b.ends(t)
		})
	}
}
