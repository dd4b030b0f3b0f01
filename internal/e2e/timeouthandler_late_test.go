package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A Router behind a TimeoutHandler reports its own exchange, once: it sees the
// deadline, and not what the client got.
func TestATimeoutHandlerAroundARouterLeavesOneRecord(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	overEachServer(t, func(s *timed) {
		s.around = timeout
		s.router.Handle("a.test", s.upstream)
		s.router.Handle("b.test", &hostproxy.BasicAuth{Users: users(t), Next: s.upstream})
	}, func(t *testing.T, s *timed) {
		total := 0
		for _, host := range []string{"a.test", "b.test"} {
			for _, path := range []string{"/slow", "/stream", "/fast", "/slow", "/fast"} {
				status, body := s.do(t, "GET", host, path, nil)
				x := s.record(t, total+1)
				total++
				assert.Equal(t, []any{host, path}, []any{x.Host, x.Path})
				if path == "/fast" {
					assert.Equal(t, []any{200, "GET /fast", 200, nil}, []any{status, body, x.Status, x.Err})
					continue
				}
				tooLate(t, status, body)
				var fault *hostproxy.Error
				if assert.ErrorAs(t, x.Err, &fault) {
					assert.Equal(t, hostproxy.SideProxy, fault.Side, "%v", fault)
					assert.ErrorIs(t, fault, context.DeadlineExceeded)
				}
			}
		}
		s.settles(t)
		assert.Equal(t, total, s.recorded())
	})
}

// Uploads and responses that go on when the time is up end, and their record is
// that of the client's 503.
func TestATimeoutHandlerEndsWhatIsBeingSent(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	overEachServer(t, func(s *timed) { s.router.Handle("a.test", timeout(s.upstream)) }, func(t *testing.T, s *timed) {
		for i := range 3 {
			status, body := s.do(t, "GET", "a.test", "/stream", nil)
			s.late(t, s.record(t, 3*i+1), status, body)
			r, w := io.Pipe() // an upload that pauses
			go func() {
				_, _ = io.WriteString(w, "hello")
				if s.lane.foreign { // net/http sends no response before the end of the upload
					w.Close()
				}
			}()
			status, body = s.do(t, "POST", "a.test", "/slow", r)
			w.Close()
			x := s.record(t, 3*i+2)
			assert.Contains(t, []int64{0, 5}, x.RequestBytes)
			s.late(t, x, status, body)
			status, body = s.do(t, "POST", "a.test", "/fast", strings.NewReader("hello"))
			assert.Equal(t, []any{200, "POST /fasthello"}, []any{status, body})
			assert.EqualValues(t, 5, s.record(t, 3*i+3).RequestBytes)
		}
	})
}

// The record of a late exchange has the attempts that had failed before, and
// what hooks said about those that had begun.
func TestTheRecordOfATimeoutHandlerHasItsAttempts(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	down := proxytest.Refused(t)
	overEachServer(t, func(s *timed) {
		u := hostproxy.To(down, s.target.Addr())
		u.Pick = func(_ *http.Request, left []*hostproxy.Target) *hostproxy.Target { return left[0] }
		s.upstream = u
		s.router.Begin = func(b *hostproxy.Beginning) { b.Exchange.Value = "began" }
		s.router.BeginAttempt = func(b *hostproxy.Beginning) { b.Attempt.Value = b.Exchange.Attempts }
		s.router.Handle("a.test", timeout(u))
	}, func(t *testing.T, s *timed) {
		for i := range 4 {
			status, body := s.do(t, "GET", "a.test", "/slow", nil)
			tooLate(t, status, body)
			x := s.record(t, i+1)
			assert.Equal(t, []any{status, "began"}, []any{x.Status, x.Value})
			require.Len(t, x.Timeline, x.Attempts)
			for n, a := range x.Timeline {
				assert.Equal(t, n+1, a.Value)
				assert.Error(t, a.Err)
				assert.Positive(t, a.Duration)
			}
			assert.Len(t, x.Retried, max(x.Attempts-1, 0))
			if x.Attempts == 2 {
				s.attempted.Store(true)
				assert.Equal(t, []string{down, s.target.Addr(), s.target.Addr()}, []string{x.Timeline[0].Target, x.Timeline[1].Target, x.Target})
			}
		}
		assert.True(t, s.attempted.Load())
	})
}

// A hook that is called, or returns, long after the response changes no record,
// also not that of another request.
func TestALateHookChangesNoRecord(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	type hold struct{ begun, goes chan struct{} }
	var mu sync.Mutex
	holds := make(map[string]hold)
	wait := func(path string) {
		mu.Lock()
		h, ok := holds[path]
		mu.Unlock()
		if ok {
			close(h.begun)
			<-h.goes
		}
	}
	overEachServer(t, func(s *timed) {
		s.upstream.Pick = func(q *http.Request, left []*hostproxy.Target) *hostproxy.Target {
			wait(q.URL.Path)
			return left[0]
		}
		s.router.BeginAttempt = func(b *hostproxy.Beginning) {
			b.Exchange.Value, b.Attempt.Value = b.Exchange.Path, b.Exchange.Path
			wait(b.Exchange.Path + "/attempt")
		}
		s.router.Handle("a.test", timeout(s.upstream))
	}, func(t *testing.T, s *timed) {
		for i, path := range []string{"/slow/pick", "/slow/1", "/slow/2/attempt"} {
			h := hold{make(chan struct{}), make(chan struct{})}
			mu.Lock()
			holds[path] = h
			mu.Unlock()
			asked := strings.TrimSuffix(path, "/attempt")
			status, _ := s.do(t, "GET", "a.test", asked, nil)
			assert.Equal(t, 503, status)
			<-h.begun
			x := s.record(t, 3*i+1)
			assert.Equal(t, []any{503, asked, 0, nil}, []any{x.Status, x.Path, x.Attempts, x.Value})
			status, _ = s.do(t, "GET", "a.test", "/fast", nil)
			assert.Equal(t, 200, status)
			close(h.goes)
			status, _ = s.do(t, "GET", "a.test", "/fast", nil)
			assert.Equal(t, 200, status)
			for n := range 2 {
				fast := s.record(t, 3*i+2+n)
				assert.Equal(t, []any{200, "/fast", 1, "/fast", "/fast"},
					[]any{fast.Status, fast.Path, fast.Attempts, fast.Value, fast.Timeline[0].Value})
			}
			s.settles(t)
			assert.Equal(t, x, s.record(t, 3*i+1))
		}
	})
}

// A handler that turns to another Upstream when the first is late has the
// record of the second.
func TestAFallbackAfterATimeoutHasTheRecordOfTheSecond(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	spare := proxytest.NewServer(t, nil)
	overEachServer(t, func(s *timed) {
		second := hostproxy.To(spare.Addr())
		s.router.Handle("b.test", second)
		s.router.Handle("a.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			first := httptest.NewRecorder()
			if timeout(s.upstream).ServeHTTP(first, q); first.Code >= 500 {
				second.ServeHTTP(w, q)
			}
		}))
	}, func(t *testing.T, s *timed) {
		for i := range 4 {
			status, body := s.do(t, "GET", "a.test", "/slow", nil)
			assert.Equal(t, []any{200, "ok"}, []any{status, body})
			x := s.record(t, i+1)
			assert.Equal(t, []any{200, spare.Addr(), int64(2)}, []any{x.Status, x.Target, x.ResponseBytes})
			assert.Len(t, x.Timeline, x.Attempts)
			assert.Equal(t, spare.Addr(), x.Timeline[len(x.Timeline)-1].Target)
		}
	})
}

// An Upstream that a handler lets run on, to refresh a cache, is no failure of
// the response that the client got.
func TestARefreshInTheBackgroundIsNoFailure(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	overEachServer(t, func(s *timed) {
		s.router.Handle("a.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(q.Context()), tooSoon)
			go func() {
				defer cancel()
				s.upstream.ServeHTTP(httptest.NewRecorder(), q.WithContext(ctx))
			}()
			_, _ = io.WriteString(w, "stale")
		}))
	}, func(t *testing.T, s *timed) {
		for i := range 20 {
			status, body := s.do(t, "GET", "a.test", "/slow", nil)
			assert.Equal(t, []any{200, "stale"}, []any{status, body})
			x := s.record(t, i+1)
			assert.Equal(t, []any{200, nil, int64(5)}, []any{x.Status, x.Err, x.ResponseBytes})
		}
		s.settles(t)
		assert.Equal(t, 20, s.recorded())
	})
}

// What a handler keeps of a request does no harm when it is used while the same
// connection serves other requests.
func TestLateUseOfARequestDoesNoHarm(t *testing.T) {
	t.Parallel()
	known := users(t)
	overEachServer(t, func(s *timed) {
		var all sync.WaitGroup
		auth := &hostproxy.BasicAuth{Users: known, Next: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
		t.Cleanup(all.Wait)
		s.router.Handle("b.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			over := q.Context()
			all.Go(func() {
				<-over.Done() // then the handler is about to return, or has returned
				for range 50 {
					if !s.lane.foreign { // net/http's own writer must not be used then
						useLate(t, w, q)
					}
					aborts(t, s.upstream, q)
					aborts(t, auth, q)
					_, _ = hostproxy.ClientAddr(q), hostproxy.RequestID(q)
				}
			})
			w.WriteHeader(503)
			_, _ = io.WriteString(w, "early")
		}))
	}, func(t *testing.T, s *timed) {
		for i := range 20 {
			status, body := s.do(t, "POST", "b.test", "/fast", strings.NewReader("some"))
			assert.Equal(t, []any{503, "early"}, []any{status, body})
			for n := range 3 {
				content := fmt.Sprint(i, " ", n)
				status, body = s.do(t, "POST", "plain.test", "/fast", strings.NewReader(content))
				assert.Equal(t, []any{200, "POST /fast" + content}, []any{status, body})
				x := s.record(t, 4*i+2+n)
				assert.Equal(t, []any{"plain.test", 200, int64(len(content)), int64(len(body)), nil}, []any{x.Host, x.Status, x.RequestBytes, x.ResponseBytes, x.Err})
			}
			x := s.record(t, 4*i+1)
			assert.Equal(t, []any{"b.test", 503, int64(5), nil}, []any{x.Host, x.Status, x.ResponseBytes, x.Err})
		}
	})
}

// aborts lets h serve a request that is over. It may panic with
// http.ErrAbortHandler.
func aborts(t *testing.T, h http.Handler, q *http.Request) {
	defer func() {
		if p := recover(); p != nil {
			assert.Equal(t, http.ErrAbortHandler, p)
		}
	}()
	h.ServeHTTP(httptest.NewRecorder(), q)
}

func useLate(t *testing.T, w http.ResponseWriter, q *http.Request) {
	n, err := io.WriteString(w, "late")
	if err != nil { // the handler has returned
		assert.Zero(t, n)
		assert.ErrorIs(t, err, http.ErrHandlerTimeout)
	}
	w.WriteHeader(500)
	rc := http.NewResponseController(w)
	_ = rc.Flush()
	_ = rc.EnableFullDuplex()
	if _, err := q.Body.Read(make([]byte, 1)); err != nil && !errors.Is(err, io.EOF) {
		assert.ErrorIs(t, err, http.ErrBodyReadAfterClose)
	}
	assert.Error(t, rc.SetReadDeadline(time.Unix(1, 0)))
	assert.Error(t, rc.SetWriteDeadline(time.Unix(1, 0)))
	_, err = io.Copy(w, strings.NewReader("later"))
	assert.ErrorIs(t, err, http.ErrHandlerTimeout)
	assert.NoError(t, q.Body.Close())
	assert.ErrorIs(t, q.Context().Err(), context.Canceled)
}
