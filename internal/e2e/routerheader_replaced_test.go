package e2e_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
)

// What the route names is left to it on responses of its targets only. The
// response of middleware in place of one is not the route's.
func TestTheRoutersHeadersAreOnWhatMiddlewareSaysInstead(t *testing.T) {
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
