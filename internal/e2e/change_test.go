package e2e_test

import (
	"context"
	"fmt"
	"net"
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

// says answers every request with name.
func says(name string) func(*proxytest.BackendConn) {
	return func(c *proxytest.BackendConn) {
		for {
			if q, err := c.ReadRequest(); err != nil || q == nil {
				return
			}
			_ = c.Send("HTTP/1.1 200 OK\r\n" + sized(name))
		}
	}
}

// keeping returns a builder of upstreams for inLanes, and a func that returns
// the last one built.
func keeping(targets ...string) (build func() *hostproxy.Upstream, last func() *hostproxy.Upstream) {
	var u *hostproxy.Upstream
	return func() *hostproxy.Upstream { u = hostproxy.To(targets...); return u }, func() *hostproxy.Upstream { return u }
}

func TestTargetsComeAndGoAtRunTime(t *testing.T) {
	a, b := proxytest.NewBackend(t, says("a")).Addr(), proxytest.NewBackend(t, says("b")).Addr()
	build, last := keeping(a)
	inLanes(t, build, func(t *testing.T, c *proxytest.Client, _ <-chan hostproxy.Exchange) {
		u := last()
		names := func() (all []string) {
			for t := range u.All() {
				all = append(all, t.String())
			}
			return all
		}
		get := func() string { return string(c.Do(request("GET /", "\r\n")).Content) }
		assert.Equal(t, "a", get())

		require.NoError(t, u.Add(b))
		assert.Equal(t, []string{a, b}, names())
		proxytest.Eventually(t, "the new target", func() bool { return get() == "b" })

		require.NoError(t, u.Remove(a))
		for range 20 {
			assert.Equal(t, "b", get())
		}
		require.NoError(t, u.Replace(t.Context(), a))
		assert.Equal(t, []string{a}, names())
		assert.Equal(t, "a", get())

		for change, want := range map[string]error{
			"last target removed":   u.Remove(a),
			"unknown one removed":   u.Remove(b),
			"the same added twice":  u.Add(a),
			"no target at all":      u.Replace(t.Context()),
			"one that is no target": u.Add("nonsense"),
		} {
			assert.ErrorContains(t, want, "hostproxy: ", change)
		}
		assert.Equal(t, []string{a}, names(), "and everything stays as it was")
		assert.Equal(t, "a", get())
	})
}

// A target is replaced as in a rolling deploy: no request fails, whatever is in
// flight.
func TestReplaceWaitsForTheNewTargetAndDrainsTheOldOne(t *testing.T) {
	held := make(chan struct{})
	old := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		if _, err := c.ReadRequest(); err == nil && c.Wait(held) {
			_ = c.Send("HTTP/1.1 200 OK\r\n" + sized("old"))
		}
	})
	next, release := proxytest.Reserve(t)
	u := hostproxy.To(old.Addr())
	r := new(hostproxy.Router)
	r.Handle("a.test", u)
	s := proxytest.StartPlain(t, &hostproxy.Server{Router: r})
	slow := proxytest.Dial(t, s.Plain)
	slow.Send(request("GET /", "\r\n"))
	old.WaitRequests(1)

	replaced := make(chan error, 1)
	go func() { replaced <- u.Replace(t.Context(), next) }()
	fast := proxytest.Dial(t, s.Plain)
	fast.Send(request("GET /", "\r\n"))
	old.WaitRequests(2) // the new one is not ready yet
	release()
	ln, err := net.Listen("tcp", next)
	require.NoError(t, err)
	proxytest.NewBackendOn(t, ln, says("new"))
	proxytest.Eventually(t, "the swap", func() bool {
		return slices.Collect(u.All())[0].String() == next
	})
	assert.Equal(t, "new", string(proxytest.Dial(t, s.Plain).Do(request("GET /", "\r\n")).Content))
	select {
	case err := <-replaced:
		t.Errorf("the old target is still at work, but Replace returned %v", err)
	default:
	}
	close(held)
	assert.Equal(t, "old", string(slow.Response("GET").Content))
	assert.Equal(t, "old", string(fast.Response("GET").Content))
	assert.NoError(t, <-replaced)
}

func TestReplaceThatTimesOutSaysWhichPhaseWasNotReached(t *testing.T) {
	quiet := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		if _, err := c.ReadRequest(); err == nil {
			c.Wait(nil)
		}
	})
	build, last := keeping(quiet.Addr())
	inLanes(t, build, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
		u := last()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		dead := proxytest.Refused(t)
		err := u.Replace(ctx, dead)
		assert.ErrorContains(t, err, "target "+dead+" is not ready")
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.ErrorIs(t, err, hostproxy.ErrNotReady)
		assert.NotErrorIs(t, err, hostproxy.ErrNotDrained)
		assert.Equal(t, quiet.Addr(), slices.Collect(u.All())[0].String())

		conns := quiet.Conns()
		c.Send(request("GET /", "\r\n"))
		quiet.WaitConns(conns + 1)
		err = replaceAndCut(t, u, proxytest.NewBackend(t, good).Addr())
		assert.ErrorContains(t, err, "cut off 1 request: ")
		assert.ErrorIs(t, err, hostproxy.ErrNotDrained)
		assert.NotErrorIs(t, err, hostproxy.ErrNotReady)
		assert.Equal(t, 503, c.Response("GET").StatusCode)
		var e *hostproxy.Error
		require.ErrorAs(t, (<-records).Err, &e)
		assert.Equal(t, hostproxy.SideDrain, e.Side)
	})
}

func TestRequestsOfAPausedUpstreamWait(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	b := proxytest.NewBackend(t, good)
	build, last := keeping(b.Addr())
	inLanes(t, build, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
		u, before := last(), len(b.Requests())
		seen := new(hostproxy.Router) // for its status
		seen.Handle("a.test", u)
		require.NoError(t, u.Pause(time.Minute))
		c.Send(request("POST /", sized("hello")))
		proxytest.Eventually(t, "the request to wait", func() bool { return queued(t, seen) == 1 })
		waiting := time.Now()
		dawdle(moment / 3)
		waited := time.Since(waiting)
		require.NoError(t, u.Resume())
		assert.Equal(t, "good 5", string(c.Response("POST").Content))
		x := <-records
		assert.GreaterOrEqual(t, x.Queue, waited/2)
		assert.Len(t, b.Requests(), before+1)

		require.NoError(t, u.Pause(20*time.Millisecond))
		a := c.Do(request("GET /", "\r\n"))
		assert.Equal(t, 503, a.StatusCode)
		assert.Equal(t, []string{"1"}, a.Header["Retry-After"])
		assert.ErrorContains(t, (<-records).Err, "paused for too long")

		require.NoError(t, u.Pause(time.Minute))
		c.Send(request("GET /", "\r\n"))
		c.Close()
		x = <-records
		assert.Equal(t, 499, x.Status)
		assert.ErrorContains(t, x.Err, "client disconnected")
		require.NoError(t, u.Resume())
		assert.Len(t, b.Requests(), before+1, "none of them reached the target")
	})
}

func TestAnUpstreamInMaintenanceAnswersWithItsPage(t *testing.T) {
	b := proxytest.NewBackend(t, good)
	build, last := keeping(b.Addr())
	inLanes(t, build, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
		u, before := last(), len(b.Requests())
		require.NoError(t, u.Pause(time.Minute))
		c.Send(request("GET /", "\r\n"))
		page := hostproxy.Page{ContentType: "text/html", Body: []byte("<h1>back soon</h1>"), RetryAfter: 90 * time.Second}
		require.NoError(t, u.Maintain(page))
		for i := range 2 {
			if i > 0 {
				c.Send(request("GET /", "\r\n"))
			}
			a := c.Response("GET")
			assert.Equal(t, 503, a.StatusCode)
			assert.Equal(t, string(page.Body), string(a.Content))
			assert.Equal(t, []string{"text/html"}, a.Header["Content-Type"])
			assert.Equal(t, []string{"90"}, a.Header["Retry-After"])
			x := <-records
			assert.Equal(t, 503, x.Status)
			assert.NoError(t, x.Err)
			assert.EqualValues(t, len(page.Body), x.ResponseBytes)
		}
		a := c.Do(request("HEAD /", "\r\n"))
		assert.Equal(t, []string{fmt.Sprint(len(page.Body))}, a.Header["Content-Length"])

		assert.ErrorContains(t, u.Maintain(hostproxy.Page{Status: 304}), "Page.Status is 304")
		assert.ErrorContains(t, u.Maintain(hostproxy.Page{ContentType: "a\r\nX: 1"}), "Page.ContentType is")
		require.NoError(t, u.Resume())
		assert.Equal(t, "good 0", string(c.Do(request("GET /", "\r\n")).Content))
		assert.Len(t, b.Requests(), before+1)
	})
}

// Concurrent changes during requests fail none of them.
func TestChangesUnderLoadFailNothing(t *testing.T) {
	a, b := proxytest.NewBackend(t, says("a")).Addr(), proxytest.NewBackend(t, says("b")).Addr()
	u := hostproxy.To(a)
	r := &hostproxy.Router{Observe: func(x *hostproxy.Exchange) {
		if x.Err != nil {
			t.Error(x.Err)
		}
	}}
	r.Handle("a.test", u)
	r.Handle("b.test", hostproxy.To(proxytest.NewBackend(t, echoes).Addr()))
	s := proxytest.StartPlain(t, &hostproxy.Server{Router: r})
	stream := proxytest.Dial(t, s.Plain) // a WebSocket of another route, which must go on
	stream.Send(strings.Replace(upgrade, "a.test", "b.test", 1))
	require.Contains(t, stream.Head(), " 101 ")
	var served atomic.Int64
	stop, done := make(chan struct{}), make(chan struct{}, 8)
	for range cap(done) {
		go func() {
			defer func() { done <- struct{}{} }()
			c := &http.Client{Transport: &http.Transport{}}
			defer c.CloseIdleConnections()
			for ; ; served.Add(1) {
				select {
				case <-stop:
					return
				default:
				}
				q, _ := http.NewRequest("POST", "http://"+s.Plain+"/", strings.NewReader("hello"))
				q.Host = "a.test"
				res, err := c.Do(q)
				if !assert.NoError(t, err) {
					return
				}
				res.Body.Close()
				if !assert.Equal(t, 200, res.StatusCode) {
					return
				}
			}
		}()
	}
	for i := 0; i < 40 || served.Load() < 2000 && !t.Failed(); i++ {
		switch i % 4 {
		case 0:
			assert.NoError(t, u.Replace(t.Context(), b))
		case 1:
			assert.NoError(t, u.Add(a))
		case 2:
			assert.NoError(t, u.Remove(b))
		default:
			assert.NoError(t, u.Pause(time.Minute))
			assert.NoError(t, u.Resume())
		}
		stream.Send("alive")
		stream.Expect("alive")
	}
	close(stop)
	for range cap(done) {
		<-done
	}
	for target := range u.All() {
		proxytest.Eventually(t, "rest", func() bool { return target.InFlight() == 0 })
	}
}

func TestEachPhaseOfReplaceHasATimeoutOfItsOwn(t *testing.T) {
	held := make(chan struct{})
	old := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		_, _ = c.ReadRequest()
		c.Wait(held)
	})
	u := hostproxy.To(old.Addr())
	u.ReadyTimeout = 50 * time.Millisecond
	err := u.Replace(t.Context(), proxytest.Refused(t))
	assert.ErrorIs(t, err, hostproxy.ErrNotReady)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorContains(t, err, "ReadyTimeout (50ms)")

	u = hostproxy.To(old.Addr())
	u.DrainTimeout = 50 * time.Millisecond
	r := new(hostproxy.Router)
	r.Handle("a.test", u)
	s := proxytest.StartPlain(t, &hostproxy.Server{Router: r})
	c := proxytest.Dial(t, s.Plain)
	c.Send(request("GET /", "\r\n"))
	old.WaitRequests(1)
	err = u.Replace(t.Context(), proxytest.NewBackend(t, says("new")).Addr())
	assert.ErrorIs(t, err, hostproxy.ErrNotDrained)
	assert.ErrorContains(t, err, "DrainTimeout (50ms)")
	assert.Equal(t, "new", string(proxytest.Dial(t, s.Plain).Do(request("GET /", "\r\n")).Content))
	close(held)
}

func TestReadyWaitsUntilAllTargetsServe(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	var up atomic.Bool
	checked := make(chan struct{}, 1)
	app := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if !up.Load() {
			w.WriteHeader(503)
		}
		select {
		case checked <- struct{}{}:
		default:
		}
	}))
	for about, build := range map[string]func() *hostproxy.Upstream{
		"targets": func() *hostproxy.Upstream { return hostproxy.To(app.Addr()) },
		"discovery": func() *hostproxy.Upstream {
			return &hostproxy.Upstream{Discover: func(ctx context.Context, publish func([]hostproxy.Endpoint)) error {
				publish([]hostproxy.Endpoint{{Target: app.Addr()}})
				<-ctx.Done()
				return nil
			}}
		},
	} {
		t.Run(about, func(t *testing.T) {
			up.Store(false)
			u := build()
			u.Health = &hostproxy.HealthCheck{Path: "/up", Interval: 5 * time.Millisecond, Rise: 1, StartDown: true}
			u.FailClosed = true
			r := new(hostproxy.Router)
			r.Handle("a.test", u)
			s := proxytest.StartPlain(t, &hostproxy.Server{Router: r})
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				for range 10 {
					<-checked
				}
				cancel()
			}()
			assert.ErrorIs(t, u.Ready(ctx), context.Canceled)

			up.Store(true)
			require.NoError(t, u.Ready(t.Context()))
			assert.Equal(t, 200, proxytest.Dial(t, s.Plain).Do(request("GET /", "\r\n")).StatusCode, "no target is down any more")
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	nothing := &hostproxy.Upstream{Discover: func(ctx context.Context, _ func([]hostproxy.Endpoint)) error { <-ctx.Done(); return nil }}
	assert.ErrorContains(t, nothing.Ready(ctx), "no targets were found")
	dead := proxytest.Refused(t)
	err := untilItSays(t, "connection refused", hostproxy.To(dead).Ready)
	assert.ErrorContains(t, err, "target "+dead+" is not ready")
	require.NoError(t, nothing.Drain(t.Context()))
}

// The end of one exchange on a kept connection does not affect later ones on
// it.
func TestACutExchangeDoesNotAffectLaterOnesOnItsConnection(t *testing.T) {
	quiet := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		if _, err := c.ReadRequest(); err == nil {
			c.Wait(nil)
		}
	})
	var u *hostproxy.Upstream
	build := func() *hostproxy.Upstream {
		u = hostproxy.To(quiet.Addr())
		u.Policy = hostproxy.RoundRobin
		return u
	}
	inLanes(t, build, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
		conns := quiet.Conns()
		c.Send(request("GET /", "\r\n"))
		quiet.WaitConns(conns + 1)
		require.ErrorIs(t, replaceAndCut(t, u, proxytest.NewBackend(t, good).Addr()), hostproxy.ErrNotDrained)
		assert.Equal(t, 503, c.Response("GET").StatusCode)
		assert.Equal(t, 503, (<-records).Status)

		// each second request has to go to another target
		require.NoError(t, u.Add(proxytest.Refused(t)))
		for range 10 {
			assert.Equal(t, 200, c.Do(request("GET /", "\r\n")).StatusCode)
			assert.NoError(t, (<-records).Err)
		}
	})
}
