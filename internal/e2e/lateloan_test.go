package e2e_test

import (
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// What a handler or a hook has started may call an Upstream when the exchange
// has long gone on. Both use nothing together: the race detector would say so.
func TestAnUpstreamMayBeCalledAfterTheHandler(t *testing.T) {
	var late sync.WaitGroup
	call := func(u *hostproxy.Upstream, q *http.Request) {
		late.Go(func() {
			defer func() { _ = recover() }() // the client may have left
			u.ServeHTTP(httptest.NewRecorder(), q)
		})
	}
	overEachServer(t, func(s *timed) {
		page := map[int]http.Handler{502: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { call(s.upstream, q.Clone(q.Context())) })}
		down, picks := hostproxy.To(proxytest.Refused(t)), hostproxy.To(proxytest.Refused(t))
		down.Pages, picks.Pages = page, page
		picks.Pick = func(q *http.Request, left []*hostproxy.Target) *hostproxy.Target {
			call(down, q.Clone(q.Context()))
			return left[0]
		}
		s.router.Handle("a.test", picks)
		s.router.Handle("b.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			call(down, q.Clone(q.Context()))
			down.ServeHTTP(httptest.NewRecorder(), q)
			call(picks, q.Clone(q.Context()))
			picks.ServeHTTP(w, q)
			call(down, q.Clone(q.Context()))
		}))
	}, func(t *testing.T, s *timed) {
		for i := range 20 {
			for _, host := range []string{"a.test", "b.test"} {
				status, _ := s.do(t, "GET", host, "/", nil)
				assert.Equal(t, 502, status)
			}
			assert.Equal(t, 502, s.record(t, 2*i+1).Status)
		}
		late.Wait()
	})
}
