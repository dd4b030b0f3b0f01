package e2e_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A deadline that a handler has set ends the wait in a queue, and that for
// Resume. The client has not left, and gets a response.
func TestADeadlineOfAHandlerEndsAWaitWith504(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	soon := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			ctx, cancel := context.WithTimeout(q.Context(), tooSoon)
			defer cancel()
			h.ServeHTTP(w, q.WithContext(ctx))
		})
	}
	overEachServer(t, func(s *timed) {
		s.upstream.MaxInFlight, s.upstream.Queue = 1, hostproxy.Queue{Max: 1, Wait: time.Hour}
		paused := hostproxy.To(s.target.Addr())
		require.NoError(t, paused.Pause(time.Hour))
		s.router.Handle("a.test/queued", soon(s.upstream))
		s.router.Handle("a.test/paused", soon(paused))
		s.router.Handle("b.test", s.upstream)
	}, func(t *testing.T, s *timed) {
		ctx, leave := context.WithCancel(t.Context())
		first := newRequest(t, "GET", "/slow", nil).WithContext(ctx)
		first.URL.Scheme, first.URL.Host, first.Host = s.scheme(), "b.test", "b.test"
		failed := make(chan error, 1)
		go func() { failed <- fetch(s.client, first) }()
		proxytest.Eventually(t, "the request that the others wait for", func() bool { return len(s.target.Seen()) == 1 })
		for i, path := range []string{"/queued", "/paused"} {
			status, _ := s.do(t, "GET", "a.test", path, nil)
			assert.Equal(t, http.StatusGatewayTimeout, status, path)
			x := s.record(t, i+1)
			assert.Equal(t, http.StatusGatewayTimeout, x.Status, path)
			assert.Positive(t, x.Queue, path)
			var fault *hostproxy.Error
			if assert.ErrorAs(t, x.Err, &fault, path) {
				assert.Equal(t, hostproxy.SideProxy, fault.Side, path)
				assert.ErrorIs(t, fault, context.DeadlineExceeded, path)
			}
		}
		leave()
		require.ErrorIs(t, <-failed, context.Canceled)
	})
}

// fetch sends q, and returns why there is no response.
func fetch(client *http.Client, q *http.Request) error {
	p, err := client.Do(q)
	if err == nil {
		p.Body.Close()
	}
	return err
}

// A handler that stops to wait for an Upstream that is paused has the time in
// its record.
func TestTheRecordOfAPausedRequestThatIsAbandonedHasItsWait(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	var answered context.CancelFunc
	overEachServer(t, func(s *timed) {
		require.NoError(t, s.upstream.Pause(time.Hour))
		var waits context.Context
		waits, answered = context.WithCancel(t.Context())
		s.router.Handle("a.test", timeout(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			ctx, cancel := context.WithCancel(context.WithoutCancel(q.Context()))
			defer cancel()
			defer context.AfterFunc(waits, cancel)()
			s.upstream.ServeHTTP(w, q.WithContext(ctx))
		})))
	}, func(t *testing.T, s *timed) {
		defer answered() // the record is made before that
		status, body := s.do(t, "GET", "a.test", "/slow", nil)
		assert.Equal(t, []any{503, "too late"}, []any{status, body})
		x := s.record(t, 1)
		assert.Equal(t, []any{503, 0, int64(len(body))}, []any{x.Status, x.Attempts, x.ResponseBytes})
		assert.Positive(t, x.Queue)
		assert.LessOrEqual(t, x.Queue, x.Duration)
	})
}
