package e2e_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
)

// A Router may be the handler of a route of another one. Both edit.
func TestARouterInsideAnotherOneEditsHeadersFirst(t *testing.T) {
	t.Parallel()
	overEachLane(t, byPath, func(t *testing.T, s *site) {
		for _, protocol := range s.protocols() {
			client := s.client(t, protocol)
			for _, path := range []string{"/200", "/204", "/500", "/chunked"} {
				q := newRequest(t, "GET", path, nil)
				q.URL.Scheme, q.Host = s.scheme(), "within.test"
				p, _ := do(t, client, q)
				correct(t, s, p.Header, "theirs", "within")
				assert.Equal(t, []string{"1"}, p.Header["X-Within"])
			}
		}
	}, everywhere, func(s *site) {
		within := &hostproxy.Router{Logger: s.router.Logger}
		within.ResponseHeader = hostproxy.HeaderEdit{Set: http.Header{"X-Within": {"1"}, "X-Frame-Options": {"WITHIN"}}, Add: http.Header{"X-Extra": {"within"}}}
		if !s.lane.secure {
			within.ResponseHeader.Remove = []string{"Strict-Transport-Security"}
		}
		within.Handle("within.test", hostproxy.To(s.backend.Addr()))
		s.router.Handle("within.test", within)
	})
}
