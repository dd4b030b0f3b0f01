package e2e_test

import (
	"io"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A page whose own authentication fails shows no page of that failure.
func TestAPageBehindTheAuthenticationThatHasFailedIsNoLoop(t *testing.T) {
	var shown atomic.Int32
	overEachServer(t, func(s *timed) {
		auth := hostproxy.To(proxytest.Refused(t))
		again := &hostproxy.ForwardAuth{Auth: auth, Next: http.NotFoundHandler()}
		auth.Pages = map[int]http.Handler{502: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if shown.Add(1) > 100 {
				_, _ = io.WriteString(w, "in a loop")
				return
			}
			again.ServeHTTP(w, q)
		})}
		s.router.Handle("a.test", &hostproxy.ForwardAuth{Auth: auth, Next: s.upstream})
	}, func(t *testing.T, s *timed) {
		shown.Store(0)
		status, body := s.do(t, "GET", "a.test", "/", nil)
		assert.Equal(t, []any{502, "502 Bad Gateway: connection_refused\n"}, []any{status, body})
		assert.EqualValues(t, 1, shown.Load())
	})
}
