package hostproxy_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

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
