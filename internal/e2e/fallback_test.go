package e2e_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// instead makes u respond by h, in place of its 502: as a page, or from an
// ErrorHandler.
func instead(how string, u *hostproxy.Upstream, h http.HandlerFunc) {
	if how == "page" {
		u.Pages = map[int]http.Handler{502: h}
	} else {
		u.ErrorHandler = func(w http.ResponseWriter, q *http.Request, _ error) { h(w, q) }
	}
}

// The attempts of the Upstream that has failed are not those of the one that
// its hook turns to.
func TestAnUpstreamBehindAHookHasRetriesOfItsOwn(t *testing.T) {
	spare := proxytest.NewServer(t, nil)
	overEachServer(t, func(s *timed) {
		for host, how := range map[string]string{"a.test": "page", "b.test": "error"} {
			other := hostproxy.To(proxytest.Refused(t), proxytest.Refused(t), spare.Addr())
			other.Policy = hostproxy.FirstAvailable
			down := hostproxy.To(proxytest.Refused(t), proxytest.Refused(t), proxytest.Refused(t))
			instead(how, down, other.ServeHTTP)
			s.router.Handle(host, down)
			s.router.Handle(host+"/within", http.HandlerFunc(down.ServeHTTP))
		}
	}, func(t *testing.T, s *timed) {
		seen := 0
		for host, want := range map[string]int{"a.test": 502, "b.test": 200} {
			for _, path := range []string{"/", "/within"} {
				status, body := s.do(t, "GET", host, path, nil)
				assert.Equal(t, []any{want, "ok"}, []any{status, body}, host+path)
				seen++
				x := s.record(t, seen)
				assert.Equal(t, []any{6, spare.Addr()}, []any{x.Attempts, x.Target})
				require.Len(t, x.Timeline, 6)
				for i, a := range x.Timeline {
					assert.Equal(t, i%3 > 0, a.Retry, "%s%s %d", host, path, i)
				}
			}
		}
	})
}

// A target that has failed may still have a page for that.
func TestAHookMayAskTheTargetThatHasFailed(t *testing.T) {
	overEachServer(t, func(s *timed) {
		target := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if q.URL.Path != "/page/" {
				panic(http.ErrAbortHandler)
			}
			_, _ = io.WriteString(w, "sorry")
		}))
		down, page := hostproxy.To(target.Addr()), hostproxy.To(target.Addr())
		page.AddPrefix = "/page"
		instead("page", down, page.ServeHTTP)
		s.router.Handle("a.test", down)
		s.router.Handle("b.test", http.HandlerFunc(down.ServeHTTP))
	}, func(t *testing.T, s *timed) {
		for _, host := range []string{"a.test", "b.test"} {
			status, body := s.do(t, "GET", host, "/", nil)
			assert.Equal(t, []any{502, "sorry"}, []any{status, body}, host)
		}
	})
}
