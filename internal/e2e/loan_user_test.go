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

// A hook at an attempt sees the user that a BasicAuth or ForwardAuth in front
// has verified, and the record has the one that was verified last.
func TestAnAttemptHasTheUserThatWasVerifiedLast(t *testing.T) {
	auth := hostproxy.To(proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-User", "bob")
	})).Addr())
	known := users(t)
	basic := func(next http.Handler) http.Handler { return &hostproxy.BasicAuth{Users: known, Next: next} }
	forward := func(next http.Handler) http.Handler {
		return &hostproxy.ForwardAuth{Auth: auth, User: "X-User", Fields: []string{"X-User"}, Next: next}
	}
	seen := make(chan string, 1)
	overEachServer(t, func(s *timed) {
		s.router.BeginAttempt = func(b *hostproxy.Beginning) { seen <- b.Exchange.User }
		s.router.Handle("a.test", basic(s.upstream))
		s.router.Handle("b.test", basic(forward(s.upstream)))
		s.router.Handle("plain.test/both", forward(basic(s.upstream)))
	}, func(t *testing.T, s *timed) {
		for i, c := range []struct{ host, path, user string }{
			{"a.test", "/", "ann"},
			{"b.test", "/", "bob"},
			{"plain.test", "/both", "ann"},
			{"plain.test", "/", ""},
		} {
			status, _ := s.do(t, "GET", c.host, c.path, nil)
			assert.Equal(t, http.StatusOK, status)
			assert.Equal(t, c.user, <-seen, c.host)
			assert.Equal(t, c.user, s.record(t, i+1).User, c.host)
		}
	})
}

// An Upstream that was called before knows no user. It takes none away.
func TestAnUpstreamThatEndsLateHidesNoUser(t *testing.T) {
	known := users(t)
	overEachServer(t, func(s *timed) {
		s.router.Handle("a.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			begun, verified := make(chan struct{}), make(chan struct{})
			u := hostproxy.To(s.target.Addr())
			u.ModifyResponse = func(*http.Response) error {
				close(begun)
				<-verified
				return nil
			}
			var all sync.WaitGroup
			all.Go(func() { u.ServeHTTP(httptest.NewRecorder(), q.Clone(q.Context())) })
			<-begun
			check := &hostproxy.BasicAuth{Users: known, Next: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
			check.ServeHTTP(w, q)
			close(verified)
			all.Wait()
		}))
	}, func(t *testing.T, s *timed) {
		status, _ := s.do(t, "GET", "a.test", "/fast", nil)
		assert.Equal(t, 200, status)
		assert.Equal(t, "ann", s.record(t, 1).User)
	})
}
