package e2e_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A handler that only looks at the response of an Upstream, and writes none of
// its own, has the server answer with 200.
func TestTheRecordOfAHandlerThatWritesNothingIsOfTheServersResponse(t *testing.T) {
	down := hostproxy.To(proxytest.Refused(t))
	overEachServer(t, func(s *timed) {
		s.router.Handle("a.test", http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
			down.ServeHTTP(httptest.NewRecorder(), q)
		}))
	}, func(t *testing.T, s *timed) {
		status, _ := s.do(t, "GET", "a.test", "/", nil)
		x := s.record(t, 1)
		assert.Equal(t, []int{200, 200}, []int{status, x.Status})
		assert.Error(t, x.Err, "the Upstream has failed")
	})
}
