package e2e_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A wrapper is middleware with an Unwrap method.
type wrapper struct{ http.Handler }

func (w wrapper) Unwrap() http.Handler { return w.Handler }

// hidden is middleware without one.
func hidden(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { h.ServeHTTP(w, q) })
}

// A loop is a handler that unwraps to itself.
type loop struct{}

func (*loop) ServeHTTP(http.ResponseWriter, *http.Request) {}
func (l *loop) Unwrap() http.Handler                       { return l }

func withPassword(h http.Handler) http.Handler {
	return &hostproxy.BasicAuth{Users: map[string]string{"ali": "$2a$04$r.H.IwusjCYoQM/2jE2t1ex2PJE9s8XUMzwU8yUGnPrQeuF57GLjS"}, Next: h}
}

func TestARouteThatLeadsToTheSameHandlerKeepsItsStreams(t *testing.T) {
	u := hostproxy.To(proxytest.NewBackend(t, echoes).Addr())
	other := hostproxy.To(proxytest.NewBackend(t, echoes).Addr())
	function := http.HandlerFunc(u.ServeHTTP)
	for about, tt := range map[string]struct {
		old, next http.Handler
		keeps     bool
	}{
		"the same func":                      {function, function, true},
		"two closures of one literal":        {hidden(u), hidden(u), false},
		"middleware with Unwrap":             {wrapper{u}, wrapper{u}, true},
		"middleware that is removed":         {wrapper{u}, u, true},
		"middleware that is added":           {u, wrapper{wrapper{u}}, true},
		"middleware around another upstream": {wrapper{u}, wrapper{other}, false},
		"a new BasicAuth":                    {wrapper{u}, withPassword(u), true},
		"a handler that leads to itself":     {u, new(loop), false},
	} {
		for way, set := range map[string]func(*hostproxy.Router, http.Handler) error{
			"Set": func(r *hostproxy.Router, h http.Handler) error { return r.Set("a.test", h) },
			"Replace": func(r *hostproxy.Router, h http.Handler) error {
				return r.Replace(map[string]http.Handler{"a.test": h})
			},
		} {
			t.Run(about+", "+way, func(t *testing.T) {
				r := new(hostproxy.Router)
				r.Handle("a.test", tt.old)
				c := proxytest.Dial(t, proxytest.StartPlain(t, &hostproxy.Server{Router: r}).Plain)
				c.Send(upgrade)
				c.Head()
				ends := func() {
					t.Helper()
					closed, err := c.ReadString(4)
					require.NoError(t, err)
					assert.Equal(t, byte(0x88), closed[0], "a Close frame")
				}
				require.NoError(t, set(r, tt.next))
				if !tt.keeps {
					ends()
					return
				}
				for range 2 {
					c.Send("\x81\x80\x00\x00\x00\x00")
					c.Expect("\x81\x80\x00\x00\x00\x00")
					require.NoError(t, set(r, wrapper{tt.next}))
				}
				require.True(t, r.Remove("a.test"))
				ends()
			})
		}
	}
}

func TestNewMiddlewareAroundTheSameUpstreamTakesEffect(t *testing.T) {
	overOurLanes(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		c := s.dial(t)
		require.Equal(t, 200, c.Do(get).StatusCode)
		require.NoError(t, s.router.Replace(map[string]http.Handler{"a.test": withPassword(s.upstream)}))
		assert.Equal(t, 401, c.Do(get).StatusCode)
	})
}

func TestAnUpstreamBehindMiddlewareIsNotHidden(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	for about, around := range map[string]func(http.Handler) http.Handler{
		"with Unwrap":                func(h http.Handler) http.Handler { return wrapper{h} },
		"without Unwrap":             hidden,
		"two with Unwrap":            func(h http.Handler) http.Handler { return wrapper{wrapper{h}} },
		"only the first with Unwrap": func(h http.Handler) http.Handler { return wrapper{hidden(h)} },
	} {
		t.Run(about, func(t *testing.T) {
			proxytest.NoLeaks(t)
			b, log := newBusy(t), new(proxytest.Log)
			b.RateLimit = &hostproxy.RateLimit{Rate: 1000, Limiter: broken{}} // is logged
			r := &hostproxy.Router{Logger: slog.New(slog.NewTextHandler(log, nil))}
			r.Handle("a.test", around(b.Upstream))
			r.Handle("b.test", around(b.Upstream))
			running := proxytest.StartPlain(t, &hostproxy.Server{Router: r})
			c := proxytest.Dial(t, running.Plain)
			require.Equal(t, 200, c.Do(get).StatusCode)
			require.Equal(t, 200, c.Do(get).StatusCode)
			require.Equal(t, 200, c.Do(strings.Replace(get, "a.test", "b.test", 1)).StatusCode)
			b.goesOn(t)
			target := ""
			for known := range b.All() {
				target = known.String()
			}
			assert.Equal(t, 2, strings.Count(statusOf(r), `"name": "`+target+`"`), "once for each route: %s", statusOf(r))
			assert.Contains(t, log.String(), "rate limiter failed")

			require.True(t, r.Remove("a.test"))
			b.goesOn(t)
			require.True(t, r.Remove("b.test"))
			b.ends(t)
			r.Handle("a.test", around(b.Upstream))
			require.Equal(t, 200, c.Do(get).StatusCode)
			b.goesOn(t)
			require.NoError(t, running.Stop())
			b.ends(t)
		})
	}
}

func TestAHandlerThatLeadsToNothingUsableIsRefused(t *testing.T) {
	var r hostproxy.Router
	assert.ErrorContains(t, r.Set("a.test", wrapper{new(hostproxy.Upstream)}), "upstream has no targets")
	assert.ErrorContains(t, r.Set("a.test", wrapper{&hostproxy.Passthrough{Addr: "127.0.0.1:443"}}), "make it a route of its own")
	assert.NoError(t, r.Set("a.test", new(loop)))
}

// A broken limiter always fails.
type broken struct{}

func (broken) Allow(context.Context, netip.Addr) (hostproxy.Quota, error) {
	return hostproxy.Quota{}, errors.New("down")
}

// statusOf returns the status page of r as JSON.
func statusOf(r *hostproxy.Router) string {
	w := httptest.NewRecorder()
	hostproxy.StatusHandler(r).ServeHTTP(w, httptest.NewRequest("GET", "/?format=json", nil))
	return w.Body.String()
}
