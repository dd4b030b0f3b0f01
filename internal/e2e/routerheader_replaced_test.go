package e2e_test

import (
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
)

// What the route names is left to it on responses of its targets only. The
// response of middleware in place of one is not the route's.
func TestTheRoutersHeadersAreOnResponsesOfMiddlewareInPlaceOfTheTargets(t *testing.T) {
	t.Parallel()
	overEachLane(t, byPath, func(t *testing.T, s *site) {
		for _, protocol := range s.protocols() {
			q := newRequest(t, "GET", "/200", nil)
			q.URL.Scheme, q.Host = s.scheme(), "instead.test"
			p, _ := do(t, s.client(t, protocol), q)
			assert.Equal(t, 418, p.StatusCode)
			correct(t, s, p.Header)
		}
	}, everywhere, func(s *site) {
		u := editedByRoute(s)
		s.router.Handle("instead.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			u.ServeHTTP(&kept{h: make(http.Header)}, q)
			w.WriteHeader(418)
		}))
	})
}

// editedByRoute returns an upstream with an edit of its own.
func editedByRoute(s *site) *hostproxy.Upstream {
	u := hostproxy.To(s.backend.Addr())
	u.ResponseHeader = hostproxy.HeaderEdit{Set: http.Header{"X-Frame-Options": {"SAMEORIGIN"}}, Add: http.Header{"X-Extra": {"route"}}}
	u.HSTS = &hostproxy.HSTS{MaxAge: time.Minute}
	return u
}

// A page that fails, and a second target that fails, leave a response of the
// proxy's own.
func TestTheRoutersHeadersAreOnResponsesOfTheProxyInPlaceOfTheTargets(t *testing.T) {
	t.Parallel()
	overEachLane(t, byPath, func(t *testing.T, s *site) {
		for _, protocol := range s.protocols() {
			for host, status := range map[string]int{"page.test": 500, "second.test": 502} {
				q := newRequest(t, "GET", "/503", nil)
				q.URL.Scheme, q.Host = s.scheme(), host
				p, _ := do(t, s.client(t, protocol), q)
				assert.Equal(t, status, p.StatusCode)
				assert.Equal(t, []string{"DENY"}, p.Header["X-Frame-Options"], host)
				assert.Contains(t, p.Header["X-Extra"], "ours", host)
			}
		}
	}, everywhere, func(s *site) {
		s.router.Logger = slog.New(slog.DiscardHandler)
		u := editedByRoute(s)
		u.ResponseHeader = hostproxy.HeaderEdit{Remove: []string{"X-Frame-Options"}}
		s.router.Handle("second.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			u.ServeHTTP(&kept{h: make(http.Header)}, q)
			hostproxy.To("127.0.0.1:1").ServeHTTP(w, q)
		}))
		page := editedByRoute(s)
		page.ResponseHeader = u.ResponseHeader
		page.Pages = map[int]http.Handler{503: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("no page") })}
		s.router.Handle("page.test", page)
	})
}
