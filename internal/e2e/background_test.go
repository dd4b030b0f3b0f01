package e2e_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A busy upstream counts its health checks and its running sources.
type busy struct {
	*hostproxy.Upstream
	checks, sources atomic.Int64
}

func newBusy(t *testing.T) *busy {
	t.Helper()
	b := new(busy)
	backend := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/up" {
			b.checks.Add(1)
		}
	}))
	b.Upstream = &hostproxy.Upstream{Discover: func(ctx context.Context, publish func([]hostproxy.Endpoint)) error {
		b.sources.Add(1)
		defer b.sources.Add(-1)
		publish([]hostproxy.Endpoint{{Target: backend.Addr()}})
		<-ctx.Done()
		return nil
	}}
	b.Health = &hostproxy.HealthCheck{Path: "/up", Interval: time.Millisecond}
	return b
}

// goesOn waits until it is clear that the background work has not ended.
func (b *busy) goesOn(t *testing.T) {
	t.Helper()
	n := b.checks.Load()
	proxytest.Eventually(t, "checks", func() bool { return b.checks.Load() > n+20 })
	assert.Equal(t, int64(1), b.sources.Load())
}

// ends waits until all background work has ended.
func (b *busy) ends(t *testing.T) {
	t.Helper()
	proxytest.Eventually(t, "the source's end", func() bool { return b.sources.Load() == 0 })
	proxytest.Eventually(t, "the checks' end", func() bool {
		n := b.checks.Load()
		return !happens(moment/3, func() bool { return b.checks.Load() != n })
	})
}

func TestBackgroundWorkEndsWithTheLastRoute(t *testing.T) {
	proxytest.NoLeaks(t)
	elsewhere := http.NotFoundHandler()
	behind := func(u *hostproxy.Upstream) http.Handler { return &hostproxy.ForwardAuth{Auth: u, Next: elsewhere} }
	for name, end := range map[string]func(r *hostproxy.Router, pattern string, rest map[string]http.Handler) error{
		"Remove": func(r *hostproxy.Router, pattern string, _ map[string]http.Handler) error {
			if !r.Remove(pattern) {
				return errors.New("it was not there")
			}
			return nil
		},
		"Set": func(r *hostproxy.Router, pattern string, _ map[string]http.Handler) error {
			return r.Set(pattern, elsewhere)
		},
		"Replace": func(r *hostproxy.Router, _ string, rest map[string]http.Handler) error { return r.Replace(rest) },
	} {
		for _, lane := range []string{"fast", "full"} {
			t.Run(name+"/"+lane, func(t *testing.T) {
				t.Parallel()
				b := newBusy(t)
				r := &hostproxy.Router{Logger: silent()}
				first, second := http.Handler(b.Upstream), behind(b.Upstream)
				r.Handle("a.test", first)
				r.Handle("b.test/x", second)
				s := &hostproxy.Server{Router: r}
				if lane == "full" {
					s.Handler = http.HandlerFunc(r.ServeHTTP)
				}
				running := proxytest.StartPlain(t, s)
				c := proxytest.Dial(t, running.Plain)
				assert.Zero(t, b.checks.Load()+b.sources.Load(), "nothing before the first request")
				require.Equal(t, 200, c.Do(get).StatusCode)
				b.goesOn(t)

				require.NoError(t, end(r, "a.test", map[string]http.Handler{"b.test/x": second}))
				assert.Equal(t, 404, c.Do(get).StatusCode)
				b.goesOn(t)
				require.NoError(t, end(r, "b.test/x", map[string]http.Handler{"c.test": elsewhere}))
				b.ends(t)

				require.NoError(t, r.Set("a.test", first))
				assert.Zero(t, b.sources.Load())
				require.Equal(t, 200, c.Do(get).StatusCode)
				b.goesOn(t)
				// first keeps a route
				require.NoError(t, r.Replace(map[string]http.Handler{"a.test": first, "b.test": first}))
				require.NoError(t, r.Replace(map[string]http.Handler{"b.test": first}))
				require.NoError(t, r.Set("b.test", first))
				b.goesOn(t)
				require.NoError(t, running.Stop())
				b.ends(t)
			})
		}
	}
}

// A route that is removed after its server has ended leaves no background work,
// no matter what served it.
func TestBackgroundWorkEndsWithARouteWhoseServerHasEnded(t *testing.T) {
	proxytest.NoLeaks(t)
	b := newBusy(t)
	r := &hostproxy.Router{Logger: silent()}
	r.Handle("a.test", b.Upstream)
	for range 3 {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest("GET", "http://a.test/", nil))
		assert.Equal(t, 200, w.Code)
		b.goesOn(t)
		require.True(t, r.Remove("a.test"))
		b.ends(t)
		require.NoError(t, r.Set("a.test", b.Upstream))
	}
}

// A handler of the program may hide its upstream: the first request shows it to
// the Router.
func TestBackgroundWorkBehindAHandlerOfTheProgramEndsAfterItsFirstRequest(t *testing.T) {
	proxytest.NoLeaks(t)
	for name, end := range map[string]func(r *hostproxy.Router, stop func() error) error{
		"Remove": func(r *hostproxy.Router, _ func() error) error { r.Remove("a.test"); return nil },
		"Close":  func(r *hostproxy.Router, _ func() error) error { return r.Close() },
		"Serve":  func(_ *hostproxy.Router, stop func() error) error { return stop() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBusy(t)
			r := &hostproxy.Router{Logger: silent()}
			r.Handle("a.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { b.ServeHTTP(w, q) }))
			running := proxytest.StartPlain(t, &hostproxy.Server{Router: r})
			require.NoError(t, b.Ready(t.Context()))
			b.goesOn(t)
			require.NoError(t, r.Close())
			b.goesOn(t) // no request has come yet

			require.Equal(t, 200, proxytest.Dial(t, running.Plain).Do(get).StatusCode)
			require.NoError(t, end(r, running.Stop))
			b.ends(t)
		})
	}
}

// A lock is a handler that delays requests.
type lock struct {
	http.Handler
	arrived, open chan struct{}
}

// Unwrap returns the handler behind the lock.
func (l *lock) Unwrap() http.Handler { return l.Handler }

func (l *lock) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	l.arrived <- struct{}{}
	<-l.open
	l.Handler.ServeHTTP(w, q)
}

// A request may reach its upstream after its route was removed: background work
// that it begins ends with it.
func TestBackgroundWorkOfARequestThatOutlivesItsRouteEnds(t *testing.T) {
	proxytest.NoLeaks(t)
	b := newBusy(t)
	l := &lock{b.Upstream, make(chan struct{}), make(chan struct{}, 1)}
	r := &hostproxy.Router{Logger: silent()}
	r.Handle("a.test", l)
	c := proxytest.Dial(t, proxytest.StartPlain(t, &hostproxy.Server{Router: r}).Plain)
	c.Send(get)
	<-l.arrived
	l.open <- struct{}{}
	require.Equal(t, 200, c.Response("GET").StatusCode)
	b.goesOn(t)
	c.Send(get)
	<-l.arrived
	require.True(t, r.Remove("a.test"))
	b.ends(t)
	l.open <- struct{}{}
	assert.Equal(t, 200, c.Response("GET").StatusCode)
	b.ends(t)
}

func TestHealthChangesAreLoggedByTheFirstRouterOfAnUpstream(t *testing.T) {
	log, other := new(proxytest.Log), new(proxytest.Log)
	r := &hostproxy.Router{Logger: slog.New(slog.NewTextHandler(log, nil))}
	second := &hostproxy.Router{Logger: slog.New(slog.NewTextHandler(other, nil))}
	dead, canary := proxytest.Refused(t), proxytest.Refused(t)
	check := &hostproxy.HealthCheck{Interval: time.Hour, Fall: 1}
	u := hostproxy.To(dead)
	u.Health = check
	lost := hostproxy.To(dead)
	lost.Discover = func(context.Context, func([]hostproxy.Endpoint)) error { return errors.New("nobody knows") }
	to := hostproxy.To(canary)
	to.Health = check
	require.NoError(t, lost.Canary(to, 0))
	r.Handle("a.test", u)
	second.Handle("a.test", u) // the first one that has it hears of it
	r.Handle("b.test", &hostproxy.ForwardAuth{Auth: lost, Next: http.NotFoundHandler()})
	c := proxytest.Dial(t, proxytest.StartPlain(t, &hostproxy.Server{Router: r}).Plain)
	assert.Equal(t, 502, c.Do(get).StatusCode)
	proxytest.Eventually(t, "the change", func() bool { return strings.Contains(log.String(), `msg="target health changed"`) })
	line := logLine(log, `msg="target health changed"`)
	for _, want := range []string{"level=WARN", "target=" + dead, "state=down", "refused"} {
		assert.Contains(t, line, want)
	}
	assert.Equal(t, 502, c.Do(strings.Replace(get, "a.test", "b.test", 1)).StatusCode)
	proxytest.Eventually(t, "what was not found", func() bool { return strings.Contains(log.String(), `msg="target discovery failed"`) })
	line = logLine(log, `msg="target discovery failed"`)
	assert.Contains(t, line, "level=WARN")
	assert.Contains(t, line, `cause="nobody knows"`)

	require.NoError(t, lost.Canary(to, 1))
	assert.Equal(t, 502, c.Do(strings.Replace(get, "a.test", "b.test", 1)).StatusCode)
	proxytest.Eventually(t, "the change of the canary", func() bool { return strings.Contains(log.String(), "target="+canary+" state=down") })
	assert.Empty(t, other.String())
}

// logLine returns the first line with that text.
func logLine(log *proxytest.Log, text string) string {
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, text) {
			return line
		}
	}
	return ""
}
