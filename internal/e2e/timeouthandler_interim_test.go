package e2e_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// The ResponseWriter of http.TimeoutHandler takes an interim response for the
// final one: it must not get any.
func TestInterimResponsesDoNotReplaceTheStatusBehindATimeoutHandler(t *testing.T) {
	early := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		// sends 100 if the request expects that
		if _, err := io.Copy(io.Discard, q.Body); err != nil {
			return
		}
		w.Header().Set("Link", "</style.css>; rel=preload")
		if q.Method == http.MethodGet {
			w.WriteHeader(http.StatusEarlyHints)
		}
		w.WriteHeader(http.StatusTeapot)
	}))
	for name, set := range map[string]func(*timed){
		"in a route": func(s *timed) { s.router.Handle("a.test", timeout(hostproxy.To(early.Addr()))) },
		"around the Router": func(s *timed) {
			s.router.Handle("a.test", hostproxy.To(early.Addr()))
			s.around = timeout
		},
		"around the Router, with another handler in the route": func(s *timed) {
			s.router.Handle("a.test", http.HandlerFunc(hostproxy.To(early.Addr()).ServeHTTP))
			s.around = timeout
		},
	} {
		t.Run(name, func(t *testing.T) {
			overEachServer(t, set, func(t *testing.T, s *timed) {
				status, _ := s.do(t, "GET", "a.test", "/", nil)
				assert.Equal(t, []int{418, 418}, []int{status, s.record(t, 1).Status})
				q := newRequest(t, "POST", "/", strings.NewReader("hello"))
				q.URL.Scheme, q.URL.Host, q.Host = s.scheme(), "a.test", "a.test"
				q.Header.Set("Expect", "100-continue")
				p, _ := do(t, s.client, q)
				x := s.record(t, 2)
				assert.Equal(t, []any{418, 418, int64(5)}, []any{p.StatusCode, x.Status, x.RequestBytes})
			})
		})
	}
}
