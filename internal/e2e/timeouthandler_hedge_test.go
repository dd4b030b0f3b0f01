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

// A handler that stops to wait in the middle of a hedged response has a record
// of the target that has won.
func TestTheRecordOfAHedgedResponseThatIsAbandonedHasTheWinner(t *testing.T) {
	slow := proxytest.NewServer(t, http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) { <-q.Context().Done() }))
	stops := make(chan context.CancelFunc, 1)
	overEachServer(t, func(s *timed) {
		u := hostproxy.To(slow.Addr(), s.target.Addr())
		u.Policy, u.Hedge = hostproxy.FirstAvailable, time.Millisecond
		s.upstream = u
		s.router.Handle("a.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			ctx, stop := context.WithCancel(context.WithoutCancel(q.Context()))
			begun := make(begins)
			go func() {
				defer func() { assert.Equal(t, http.ErrAbortHandler, recover()) }()
				u.ServeHTTP(begun, q.WithContext(ctx))
			}()
			<-begun
			stops <- stop
			w.WriteHeader(http.StatusServiceUnavailable)
		}))
	}, func(t *testing.T, s *timed) {
		status, _ := s.do(t, "GET", "a.test", "/stream", nil)
		x := s.record(t, 1)
		(<-stops)()
		assert.Equal(t, []int{503, 503, 2}, []int{status, x.Status, x.Attempts})
		assert.Equal(t, s.target.Addr(), x.Target)
		require.Len(t, x.Retried, 1)
		require.Len(t, x.Timeline, 2)
		assert.Equal(t, x.Retried[0], x.Timeline[0].Err)
	})
}

// begins is a ResponseWriter that is closed when it gets a head.
type begins chan struct{}

func (b begins) Header() http.Header         { return make(http.Header) }
func (b begins) WriteHeader(int)             { close(b) }
func (b begins) Write(p []byte) (int, error) { return len(p), nil }
