package e2e_test

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// states gets changes of health.
type states chan string

func (s states) hook(t *hostproxy.Target, h hostproxy.Health) { s <- t.String() + " " + h.State }

func (s states) await(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-s:
		assert.Equal(t, want, got)
	case <-time.After(proxytest.Patience):
		t.Fatal("still waiting for: ", want)
	}
}

func TestATargetWhoseChecksFailGetsNoRequests(t *testing.T) {
	var ill atomic.Bool
	a := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/up" && ill.Load() {
			w.WriteHeader(500)
		}
		io.WriteString(w, "a")
	}))
	b := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { io.WriteString(w, "b") }))
	changed := make(states, 100)
	build := func() *hostproxy.Upstream {
		u := hostproxy.To(a.Addr(), b.Addr())
		u.Policy = hostproxy.FirstAvailable
		u.Health = &hostproxy.HealthCheck{Path: "/up?x", Host: "check.test", Interval: 10 * time.Millisecond, Fall: 2, Header: http.Header{"X-Why": {"health"}}}
		u.TargetChanged = changed.hook
		return u
	}
	inLanes(t, build, func(t *testing.T, c *proxytest.Client, _ <-chan hostproxy.Exchange) {
		get := func() string { return string(c.Do(request("GET /", "\r\n")).Content) }
		assert.Equal(t, "a", get())
		ill.Store(true)
		changed.await(t, a.Addr()+" down")
		assert.Equal(t, "b", get())
		ill.Store(false)
		changed.await(t, a.Addr()+" up")
		assert.Equal(t, "a", get())
		for _, seen := range b.Seen() {
			if seen.Target == "/" {
				continue
			}
			assert.Equal(t, "/up?x", seen.Target)
			assert.Equal(t, "check.test", seen.Host)
			assert.Equal(t, "health", seen.Header.Get("X-Why"))
		}
	})
}

func TestHealthChecksRunFromTheFirstRequestUntilTheServerEnds(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	b := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {}))
	checks := func() (n int) {
		for _, s := range b.Seen() {
			if s.Target == "/up" {
				n++
			}
		}
		return n
	}
	u := hostproxy.To(b.Addr())
	u.Health = &hostproxy.HealthCheck{Path: "/up", Interval: time.Millisecond}
	r := new(hostproxy.Router)
	r.Handle("a.test", u)
	s := proxytest.StartPlain(t, &hostproxy.Server{Router: r})
	c := proxytest.Dial(t, s.Plain)
	assert.Zero(t, checks())
	assert.Equal(t, 200, c.Do(request("GET /", "\r\n")).StatusCode)
	proxytest.Eventually(t, "checks", func() bool { return checks() > 2 })
	require.NoError(t, s.Stop())
	n := checks() + 1 // one more may be in progress
	never(t, "a check", func() bool { return checks() > n })

	rec := request("GET /", "\r\n") // it may be used again
	s = proxytest.StartPlain(t, &hostproxy.Server{Router: r})
	assert.Equal(t, 200, proxytest.Dial(t, s.Plain).Do(rec).StatusCode)
	proxytest.Eventually(t, "checks", func() bool { return checks() > n })
	require.NoError(t, u.Drain(t.Context()))
	n = checks() + 1
	never(t, "a check", func() bool { return checks() > n })
}

// failing starts two targets with a breaker that opens at the third failure.
// The first target drops its connections while ill is true.
func failing(t *testing.T, pause time.Duration) (first string, ill *atomic.Bool, asked *atomic.Int64, changed states, build func() *hostproxy.Upstream) {
	t.Helper()
	ill, asked, changed = new(atomic.Bool), new(atomic.Int64), make(states, 100)
	one := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		for {
			if q, err := c.ReadRequest(); err != nil || q == nil {
				return
			}
			asked.Add(1)
			if ill.Load() {
				return
			}
			_ = c.Send("HTTP/1.1 200 OK\r\n" + sized("first"))
		}
	})
	two := proxytest.NewBackend(t, says("second"))
	return one.Addr(), ill, asked, changed, func() *hostproxy.Upstream {
		u := hostproxy.To(one.Addr(), two.Addr())
		u.Policy, u.TargetChanged = hostproxy.FirstAvailable, changed.hook
		u.Breaker = &hostproxy.Breaker{Failures: 3, OpenFor: pause}
		return u
	}
}

func TestABreakerLeavesATargetAloneAndTriesItAgain(t *testing.T) {
	for name, pause := range map[string]time.Duration{"leaves it alone": time.Minute, "tries it again": 20 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			first, ill, asked, changed, build := failing(t, pause)
			inLanes(t, build, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
				ill.Store(true)
				ask := func() string { return string(c.Do(get).Content) }
				for range 3 {
					assert.Equal(t, "second", ask())
					assert.Equal(t, 2, (<-records).Attempts)
				}
				changed.await(t, first+" open")
				if pause == time.Minute {
					before := asked.Load()
					assert.Equal(t, "second", ask())
					assert.Equal(t, 1, (<-records).Attempts)
					assert.Equal(t, before, asked.Load())
					return
				}
				ill.Store(false)
				proxytest.Eventually(t, "the first to serve again", func() bool { return ask() == "first" })
				changed.await(t, first+" half-open")
				changed.await(t, first+" up")
			})
		})
	}
}

// A client disconnect is not a failure of the target.
func TestAClientThatLeavesIsNoFailureOfTheTarget(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	quiet := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		if _, err := c.ReadRequest(); err == nil {
			c.Wait(nil)
		}
	})
	changed := make(states, 10)
	build := func() *hostproxy.Upstream {
		u := hostproxy.To(quiet.Addr())
		u.Breaker, u.TargetChanged = &hostproxy.Breaker{Failures: 1}, changed.hook
		return u
	}
	inLanes(t, build, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
		conns := quiet.Conns()
		c.Send(request("GET /", "\r\n"))
		quiet.WaitConns(conns + 1)
		c.Close()
		assert.Equal(t, 499, (<-records).Status)
		assert.Empty(t, changed)
	})
}

func TestDownTargetsAreTriedIfAllAreDownUnlessFailClosedIsSet(t *testing.T) {
	a := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/up" {
			w.WriteHeader(500)
		}
	}))
	for _, closed := range []bool{false, true} {
		changed := make(states, 10)
		build := func() *hostproxy.Upstream {
			u := hostproxy.To(a.Addr())
			u.Health = &hostproxy.HealthCheck{Path: "/up", StartDown: true, Interval: time.Minute}
			u.FailClosed, u.TargetChanged = closed, changed.hook
			return u
		}
		inLanes(t, build, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
			status := c.Do(request("GET /", "\r\n")).StatusCode
			x := <-records
			if !closed {
				assert.Equal(t, 200, status)
				return
			}
			assert.Equal(t, 503, status)
			var e *hostproxy.Error
			require.ErrorAs(t, x.Err, &e)
			assert.Equal(t, "pick", e.Op)
			assert.Empty(t, x.Target)
		})
	}
}

func TestHealthChecksWorkByConnectingAndForUnixTargets(t *testing.T) {
	t.Parallel()
	refused := proxytest.Refused(t)
	socket := t.TempDir() + "/s"
	proxytest.NewUnixServer(t, socket, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {}))
	for path, target := range map[string]string{"": "unix:" + socket, "/up": "unix:" + socket} {
		u := hostproxy.To(target, refused)
		changed := make(states, 10)
		u.Health, u.TargetChanged = &hostproxy.HealthCheck{Path: path, Interval: 5 * time.Millisecond, Fall: 1}, changed.hook
		r := new(hostproxy.Router)
		r.Handle("a.test", u)
		s := proxytest.StartPlain(t, &hostproxy.Server{Router: r})
		assert.Equal(t, 200, proxytest.Dial(t, s.Plain).Do(request("GET /", "\r\n")).StatusCode)
		changed.await(t, refused+" down")
		all := slices.Collect(u.All())
		assert.Equal(t, "up", all[0].Health().State)
		assert.Equal(t, "down", all[1].Health().State)
		assert.Contains(t, all[1].Health().Reason, "refused")
		require.NoError(t, s.Stop())
	}
}

func TestHealthChecksWorkByGRPC(t *testing.T) {
	var answer atomic.Pointer[string] // status, then the message
	var asked atomic.Pointer[string]
	b := proxytest.NewH2CServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path != "/grpc.health.v1.Health/Check" {
			return
		}
		body, _ := io.ReadAll(q.Body)
		s := string(body)
		asked.Store(&s)
		status, message, _ := strings.Cut(*answer.Load(), " ")
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		io.WriteString(w, message)
		w.Header().Set("Grpc-Status", status)
	}))
	say := func(s string) { answer.Store(&s) }
	say("0 \x00\x00\x00\x00\x02\x08\x01")
	u := hostproxy.To("h2c://" + b.Addr())
	changed := make(states, 10)
	u.Health = &hostproxy.HealthCheck{GRPC: true, Service: "x.Y", Interval: 5 * time.Millisecond, Fall: 1, StartDown: true}
	u.TargetChanged = changed.hook
	r := new(hostproxy.Router)
	r.Handle("a.test", u)
	s := proxytest.StartPlain(t, &hostproxy.Server{Router: r})
	assert.Equal(t, 200, proxytest.Dial(t, s.Plain).Do(request("GET /", "\r\n")).StatusCode)
	name := "h2c://" + b.Addr()
	changed.await(t, name+" up")
	assert.Equal(t, "\x00\x00\x00\x00\x05\x0a\x03x.Y", *asked.Load())
	for _, bad := range []string{"0 \x00\x00\x00\x00\x02\x08\x02", "0 \x00\x00\x00\x00\x00", "5 ", "0 ", "0 garbage", "0 \x00\x00\x00\x00\x02\x10\x01", "0 \x00\x00\x00\x00\x02\x08\xff"} {
		say(bad)
		changed.await(t, name+" down")
		say("0 \x00\x00\x00\x00\x02\x08\x01")
		changed.await(t, name+" up")
	}
}

// A check without a complete answer ends at its timeout, whatever the target
// sends.
func TestAHostileAnswerToACheckIsBounded(t *testing.T) {
	for name, script := range map[string]func(*proxytest.BackendConn){
		"silence":        func(c *proxytest.BackendConn) { c.Wait(nil) },
		"endless head":   func(c *proxytest.BackendConn) { sendForEver(c, "HTTP/1.1 200 OK\r\n", "X-A: 1\r\n") },
		"endless 1xx":    func(c *proxytest.BackendConn) { sendForEver(c, "", "HTTP/1.1 103 Early Hints\r\n\r\n") },
		"not HTTP":       func(c *proxytest.BackendConn) { _ = c.Send("SSH-2.0\r\n\r\n") },
		"half a head":    func(c *proxytest.BackendConn) { _ = c.Send("HTTP/1.1 200 OK\r\nX") },
		"a wrong status": func(c *proxytest.BackendConn) { _ = c.Send("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n") },
	} {
		t.Run(name, func(t *testing.T) {
			b := proxytest.NewBackend(t, afterRequest(script))
			u := hostproxy.To(b.Addr())
			changed := make(states, 10)
			u.Health = &hostproxy.HealthCheck{Path: "/", Interval: 5 * time.Millisecond, Timeout: 100 * time.Millisecond, Fall: 1}
			u.TargetChanged, u.Retry.Attempts, u.ResponseHeaderTimeout = changed.hook, 1, time.Millisecond
			r := &hostproxy.Router{Observe: func(*hostproxy.Exchange) {}}
			r.Handle("a.test", u)
			s := proxytest.StartPlain(t, &hostproxy.Server{Router: r})
			proxytest.Dial(t, s.Plain).Do(request("GET /", "\r\n"))
			changed.await(t, b.Addr()+" down")
		})
	}
}

func sendForEver(c *proxytest.BackendConn, first, then string) {
	if c.Send(first) != nil {
		return
	}
	for range 1_000_000 {
		if c.Send(then) != nil {
			return
		}
	}
}

func TestReplaceWaitsUntilTheNewTargetPassesItsCheck(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	var ready atomic.Bool
	old := proxytest.NewBackend(t, says("old"))
	next := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/up" && !ready.Load() {
			w.WriteHeader(503)
		}
		io.WriteString(w, "new")
	}))
	u := hostproxy.To(old.Addr())
	u.Health = &hostproxy.HealthCheck{Path: "/up", Interval: -1}
	untilItSays(t, "the health check was answered with status 503", func(ctx context.Context) error { return u.Replace(ctx, next.Addr()) })
	replaced := make(chan error, 1)
	go func() { replaced <- u.Replace(t.Context(), next.Addr()) }()
	never(t, "a target that is not ready", func() bool { return len(replaced) > 0 })
	ready.Store(true)
	assert.NoError(t, <-replaced)
}

func TestTheStatusPageShowsTheStateOfTheRoutesTargets(t *testing.T) {
	hold := make(chan struct{})
	slow := proxytest.NewBackend(t, afterRequest(func(c *proxytest.BackendConn) { c.Wait(hold) }))
	dead := proxytest.Refused(t)
	r := &hostproxy.Router{Logger: silent()}
	r.Handle("a.test", hostproxy.To(proxytest.NewBackend(t, good).Addr()))
	r.Handle("slow.test", hostproxy.To(slow.Addr()))
	broken := hostproxy.To(dead)
	broken.Breaker = &hostproxy.Breaker{Failures: 1}
	broken.TargetChanged = func(*hostproxy.Target, hostproxy.Health) {}
	r.Handle("broken.test", broken)
	r.Handle("status.test", hostproxy.StatusHandler(r))
	for _, lane := range []string{"fast", "full"} {
		s := &hostproxy.Server{Router: r}
		if lane == "full" {
			s.Handler = http.HandlerFunc(r.ServeHTTP)
		}
		addr := proxytest.StartPlain(t, s).Plain
		c := proxytest.Dial(t, addr)
		for range 3 {
			assert.Equal(t, 200, c.Do(request("GET /", "\r\n")).StatusCode)
		}
		to := func(host, path string) string { return "GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n" }
		conns := slow.Conns()
		proxytest.Dial(t, addr).Send(to("slow.test", "/"))
		slow.WaitConns(conns + 1)
		assert.Equal(t, 502, c.Do(to("broken.test", "/<b>"+lane)).StatusCode)

		page := ""
		// the record is made after the client got its response
		proxytest.Eventually(t, "the failure", func() bool {
			page = string(proxytest.Dial(t, addr).Do(to("status.test", "/")).Content)
			return strings.Contains(page, "/&lt;b&gt;"+lane)
		})
		assert.Contains(t, page, "<code>a.test</code>")
		assert.Contains(t, page, `<span class="open">open</span>`)
		assert.Contains(t, page, "connection refused")
		assert.Contains(t, page, "status.restricted")
		asJSON := string(proxytest.Dial(t, addr).Do(to("status.test", "/?format=json&q=slow")).Content)
		assert.Regexp(t, `"inFlight": [12],`, asJSON)
		assert.NotContains(t, asJSON, `"pattern": "a.test"`)
	}
	close(hold)
}
