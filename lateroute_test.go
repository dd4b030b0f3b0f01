package hostproxy_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestChecksEndOfAnUpstreamThatIsReachedAfterItsRouteWasRemoved(t *testing.T) {
	for name, remove := range map[string]func(*hostproxy.Router){
		"Remove":  func(r *hostproxy.Router) { r.Remove("app.test") },
		"Replace": func(r *hostproxy.Router) { assert.NoError(t, r.Replace(nil)) },
		"Set":     func(r *hostproxy.Router) { assert.NoError(t, r.Set("app.test", http.NotFoundHandler())) },
	} {
		t.Run(name, func(t *testing.T) {
			proxytest.NoLeaks(t) // checks run on goroutines
			u := hostproxy.To(proxytest.NewBackend(t, proxytest.Reply("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")).Addr())
			u.Health = &hostproxy.HealthCheck{Interval: time.Millisecond}
			var r hostproxy.Router
			r.Handle("app.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				remove(&r)
				u.ServeHTTP(w, q)
			}))
			w := httptest.NewRecorder()
			r.ServeHTTP(w, httptest.NewRequest("GET", "http://app.test/", nil))
			assert.Equal(t, http.StatusOK, w.Code)
		})
	}
}

func TestWebSocketsOfARouterEndWithTheirRouteInAnother(t *testing.T) {
	for name, end := range map[string]func(r *hostproxy.Router) error{
		"Remove":  func(r *hostproxy.Router) error { r.Remove("*.test"); return nil },
		"Set":     func(r *hostproxy.Router) error { return r.Set("*.test", http.NotFoundHandler()) },
		"Replace": func(r *hostproxy.Router) error { return r.Replace(nil) },
	} {
		for _, grace := range []time.Duration{0, 200 * time.Millisecond} {
			t.Run(fmt.Sprint(name, grace), func(t *testing.T) {
				backend := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
					if q, err := c.ReadRequest(); err == nil {
						c.Send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + proxytest.Accept(q.Header) + "\r\n\r\n")
						_, _ = c.ReadAll()
					}
				})
				u := hostproxy.To(backend.Addr())
				u.StreamGrace = grace
				var outer, middle, inner hostproxy.Router
				inner.Handle("a.test", &hostproxy.Guard{Next: u})
				middle.Handle("*", &inner)
				outer.Handle("*.test", &hostproxy.Guard{Next: &middle})
				c := proxytest.Dial(t, proxytest.StartPlain(t, &hostproxy.Server{Router: &outer}).Plain)
				c.Send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
				require.Contains(t, c.Head(), " 101 ")
				ended := time.Now()
				require.NoError(t, end(&outer))
				c.Expect("\x88\x02\x03\xe9") // Close, 1001
				assert.GreaterOrEqual(t, time.Since(ended), grace)
			})
		}
	}
}
