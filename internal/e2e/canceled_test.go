package e2e_test

import (
	"context"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
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

// A handler may put one page together from several Upstreams.
func TestTheRecordListsTheAttemptsOfUpstreamsAtTheSameTime(t *testing.T) {
	spare := proxytest.NewServer(t, nil)
	overEachServer(t, func(s *timed) {
		parts := []*hostproxy.Upstream{s.upstream, hostproxy.To(proxytest.Refused(t), spare.Addr()), s.upstream}
		parts[1].Pick = func(_ *http.Request, left []*hostproxy.Target) *hostproxy.Target { return left[0] }
		s.router.Handle("a.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			pages := make([]*httptest.ResponseRecorder, len(parts))
			var all sync.WaitGroup
			for i, u := range parts {
				pages[i] = httptest.NewRecorder()
				all.Go(func() { u.ServeHTTP(pages[i], q.Clone(q.Context())) })
			}
			all.Wait()
			for _, p := range pages {
				_, _ = io.Copy(w, p.Body)
			}
		}))
	}, func(t *testing.T, s *timed) {
		for i := range 20 {
			status, body := s.do(t, "GET", "a.test", "/fast", nil)
			assert.Equal(t, []any{200, "GET /fastokGET /fast"}, []any{status, body})
			x := s.record(t, i+1)
			assert.Equal(t, []any{4, 200, nil}, []any{x.Attempts, x.Status, x.Err})
			require.Len(t, x.Timeline, 4)
			require.Len(t, x.Retried, 1)
			times := make(map[string]int)
			for _, a := range x.Timeline {
				times[a.Target]++
				assert.Positive(t, a.Duration)
				assert.Equal(t, a.Status == 0, a.Err != nil, "%s: %v", a.Target, a.Err)
			}
			assert.Equal(t, []int{2, 1}, []int{times[s.target.Addr()], times[spare.Addr()]})
			assert.True(t, slices.IsSortedFunc(x.Timeline, func(a, b hostproxy.Attempt) int { return a.Start.Compare(b.Start) }))
		}
	})
}

// What an Upstream tried does not count for the one that a handler turns to.
func TestAFallbackUpstreamHasRetriesOfItsOwn(t *testing.T) {
	spare := proxytest.NewServer(t, nil)
	overEachServer(t, func(s *timed) {
		down := hostproxy.To(proxytest.Refused(t), proxytest.Refused(t), proxytest.Refused(t))
		second := hostproxy.To(proxytest.Refused(t), proxytest.Refused(t), spare.Addr())
		second.Policy = hostproxy.FirstAvailable
		s.router.Handle("a.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			first := httptest.NewRecorder()
			if down.ServeHTTP(first, q); assert.Equal(t, 502, first.Code) {
				second.ServeHTTP(w, q)
			}
		}))
	}, func(t *testing.T, s *timed) {
		status, body := s.do(t, "GET", "a.test", "/", nil)
		assert.Equal(t, []any{200, "ok"}, []any{status, body})
		x := s.record(t, 1)
		assert.Equal(t, []any{6, spare.Addr()}, []any{x.Attempts, x.Target})
		assert.Len(t, x.Timeline, 6)
	})
}

// The page of an Upstream whose response a handler does not use is no page that
// the client has.
func TestAFallbackUpstreamHasPagesOfItsOwn(t *testing.T) {
	page := func(text string) map[int]http.Handler {
		return map[int]http.Handler{502: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })}
	}
	overEachServer(t, func(s *timed) {
		first, second := hostproxy.To(proxytest.Refused(t)), hostproxy.To(proxytest.Refused(t))
		first.Pages, second.Pages = page("first"), page("second")
		s.router.Handle("a.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			first.ServeHTTP(httptest.NewRecorder(), q)
			second.ServeHTTP(w, q)
		}))
	}, func(t *testing.T, s *timed) {
		status, body := s.do(t, "GET", "a.test", "/", nil)
		assert.Equal(t, []any{502, "second"}, []any{status, body})
		assert.Equal(t, 502, s.record(t, 1).Status)
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
