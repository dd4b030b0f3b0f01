package e2e_test

import (
	"context"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
)

// firstOf lets all upstreams serve each request, answers with the first
// response, and cancels the others.
func firstOf(us ...*hostproxy.Upstream) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		ctx, cancel := context.WithCancel(q.Context())
		responses := make(chan *httptest.ResponseRecorder, len(us))
		var all sync.WaitGroup
		for _, u := range us {
			all.Go(func() {
				r := httptest.NewRecorder()
				u.ServeHTTP(r, q.WithContext(ctx))
				responses <- r
			})
		}
		first := <-responses
		cancel()
		all.Wait()
		maps.Copy(w.Header(), first.Header())
		w.WriteHeader(first.Code)
		_, _ = w.Write(first.Body.Bytes())
	})
}

// Of two Upstreams that a handler calls at once, the one that it cancels is no
// client that has left.
func TestAnUpstreamThatAHandlerCancelsIsNoFailureOfTheResponse(t *testing.T) {
	overEachServer(t, func(s *timed) {
		slow := hostproxy.To(s.target.Addr())
		slow.AddPrefix = "/slow"
		s.router.Handle("a.test", firstOf(slow, s.upstream))
		s.router.Handle("b.test", firstOf(s.upstream, slow))
	}, func(t *testing.T, s *timed) {
		for i, host := range []string{"a.test", "b.test", "a.test", "b.test"} {
			status, body := s.do(t, "GET", host, "/fast", nil)
			assert.Equal(t, []any{200, "GET /fast"}, []any{status, body})
			x := s.record(t, i+1)
			assert.Equal(t, []any{200, nil, int64(len(body))}, []any{x.Status, x.Err, x.ResponseBytes})
		}
	})
}

// A handler that cancels the request of the Upstream that writes to the client
// causes a response of the proxy's own.
func TestACanceledUpstreamRespondsThatTheHandlerDidIt(t *testing.T) {
	overEachServer(t, func(s *timed) {
		paused := hostproxy.To(s.target.Addr())
		assert.NoError(t, paused.Pause(time.Hour))
		for path, u := range map[string]*hostproxy.Upstream{"/slow": s.upstream, "/paused": paused} {
			s.router.Handle("a.test"+path, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				ctx, cancel := context.WithCancel(q.Context())
				stop := context.AfterFunc(expired(t), cancel)
				defer stop()
				defer cancel()
				u.ServeHTTP(w, q.WithContext(ctx))
			}))
		}
	}, func(t *testing.T, s *timed) {
		for i, path := range []string{"/slow", "/paused"} {
			status, body := s.do(t, "GET", "a.test", path, nil)
			assert.Equal(t, []any{503, "503 Service Unavailable: connection_terminated\n"}, []any{status, body})
			x := s.record(t, i+1)
			assert.Equal(t, 503, x.Status)
			var fault *hostproxy.Error
			if assert.ErrorAs(t, x.Err, &fault) {
				assert.Equal(t, hostproxy.SideProxy, fault.Side)
				assert.ErrorContains(t, fault, "a handler around the Upstream has canceled the context of the request")
			}
		}
	})
}

// expired returns a context that ends after tooSoon.
func expired(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), tooSoon)
	t.Cleanup(cancel)
	return ctx
}
