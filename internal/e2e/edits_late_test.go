package e2e_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
)

// A change after the first use has no effect, also inside of a map or slice.
func TestALateChangeOfAHeaderEditHasNoEffect(t *testing.T) {
	t.Parallel()
	overEachLane(t, byPath, func(t *testing.T, s *site) {
		client := s.client(t, "h1")
		ask := func() {
			q := newRequest(t, "GET", "/200", nil)
			q.URL.Scheme = s.scheme()
			p, _ := do(t, client, q)
			assert.Equal(t, []string{"early"}, p.Header["X-Edit"])
			assert.Empty(t, p.Header["X-Powered-By"])
		}
		ask()
		s.upstream.ResponseHeader.Set["X-Edit"] = []string{"late"}
		s.upstream.ResponseHeader.Remove[0] = "X-Other"
		assert.ErrorContains(t, s.router.Check(), "Upstream.ResponseHeader")
		ask()
		s.upstream.ResponseHeader.Set["X-Edit"][0] = "early"
		s.upstream.ResponseHeader.Remove[0] = "X-Powered-By"
		assert.NoError(t, s.router.Check())
	}, func(s *site) {
		s.upstream.ResponseHeader.Remove = []string{"X-Powered-By"}
		s.upstream.ResponseHeader.Set = http.Header{"X-Edit": {"early"}}
	})
}
