package e2e_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
)

// A BasicAuth that gets no turn to verify a password before the deadline of a
// handler responds with that. Its client has not left.
func TestADeadlineOfAHandlerEndsABasicAuthWith504(t *testing.T) {
	hash := users(t)["ann"]
	overEachServer(t, func(s *timed) {
		auth := &hostproxy.BasicAuth{Users: map[string]string{"bob": hash}, Next: s.upstream}
		s.router.Handle("a.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			ctx, cancel := context.WithDeadline(q.Context(), time.Unix(1, 0))
			defer cancel()
			auth.ServeHTTP(w, q.WithContext(ctx))
		}))
	}, func(t *testing.T, s *timed) {
		for n := 1; ; n++ {
			status, _ := s.do(t, "GET", "a.test", "/", nil)
			x := s.record(t, n)
			assert.Equal(t, status, x.Status)
			if status == http.StatusUnauthorized { // a turn was free
				continue
			}
			assert.Equal(t, http.StatusGatewayTimeout, status)
			assert.ErrorIs(t, x.Err, context.DeadlineExceeded)
			return
		}
	})
}
