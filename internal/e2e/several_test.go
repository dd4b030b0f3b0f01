package e2e_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A handler may use the response of one Upstream although another one has
// failed.
func TestAnAttemptThatSucceedsHasNoErrorOfAnotherUpstream(t *testing.T) {
	overEachServer(t, func(s *timed) {
		bad := hostproxy.To(proxytest.Refused(t))
		serve := func(u *hostproxy.Upstream, q *http.Request) {
			u.ServeHTTP(httptest.NewRecorder(), q.Clone(q.Context()))
		}
		s.router.Handle("a.test/after", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			serve(bad, q)
			s.upstream.ServeHTTP(w, q)
		}))
		s.router.Handle("a.test/before", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			s.upstream.ServeHTTP(w, q)
			serve(bad, q)
		}))
		s.router.Handle("a.test/beside", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			var all sync.WaitGroup
			for range 3 {
				all.Go(func() { serve(s.upstream, q) })
				all.Go(func() { serve(bad, q) })
			}
			all.Wait()
			_, _ = io.WriteString(w, "ok")
		}))
	}, func(t *testing.T, s *timed) {
		for i, path := range []string{"/after", "/before", "/beside", "/beside", "/beside"} {
			status, _ := s.do(t, "GET", "a.test", path, nil)
			assert.Equal(t, 200, status)
			for _, a := range s.record(t, i+1).Timeline {
				assert.Equal(t, a.Status == 0, a.Err != nil, "%s: %s: %v", path, a.Target, a.Err)
				assert.Positive(t, a.Duration)
			}
		}
	})
}
