package e2e_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A nap counts the calls of a Wake's hooks, and delays them by channels, if
// set.
type nap struct {
	starts, stops atomic.Int64
	// each call waits for a value and returns it; with a nil channel it returns
	// nil immediately
	start, stop chan error
	stopping    chan struct{}
}

func (n *nap) wake(idle time.Duration) *hostproxy.Wake {
	n.stopping = make(chan struct{}, 100)
	return &hostproxy.Wake{IdleAfter: idle, Timeout: 10 * proxytest.Patience,
		Start: func(ctx context.Context) error { n.starts.Add(1); return comes(ctx, n.start) },
		Stop:  func(ctx context.Context) error { n.stops.Add(1); n.stopping <- struct{}{}; return comes(ctx, n.stop) }}
}

// comes waits for a value on c and returns it.
func comes(ctx context.Context, c chan error) error {
	if c == nil {
		return nil
	}
	select {
	case err := <-c:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sleepState returns the sleep state of the only route on the status page.
func sleepState(t *testing.T, r *hostproxy.Router) string {
	w := httptest.NewRecorder()
	hostproxy.StatusHandler(r).ServeHTTP(w, httptest.NewRequest("GET", "/?format=json", nil))
	for _, state := range []string{"asleep", "waking", "falling asleep"} {
		if strings.Contains(strings.ReplaceAll(w.Body.String(), " ", ""), `"sleep":"`+strings.ReplaceAll(state, " ", "")+`"`) {
			return state
		}
	}
	return ""
}

// Requests arrive while no target listens. One Start wakes it for all of them,
// and each keeps its body.
func TestSleepingTargetsAreWokenOnceForAllRequests(t *testing.T) {
	overEachLane(t, nil, func(t *testing.T, s *site) {
		addr, release := proxytest.Reserve(t)
		n := &nap{start: make(chan error)}
		u := hostproxy.To(addr)
		u.Wake = n.wake(0)
		u.Wake.Stop = nil
		s.router.Handle("b.test", u)
		const clients = 20
		var all []*proxytest.Client
		for range clients {
			c := s.dial(t)
			c.Send("POST / HTTP/1.1\r\nHost: b.test\r\n" + sized("hello"))
			all = append(all, c)
		}
		proxytest.Eventually(t, "all of them to wait", func() bool { return waiting(s.router) == clients })
		assert.Equal(t, "waking", sleepState(t, s.router))
		n.start <- nil // the target is ready a little later
		release()
		var ln net.Listener
		proxytest.Eventually(t, "the address", func() (free bool) {
			var err error
			ln, err = net.Listen("tcp", addr)
			return err == nil
		})
		proxytest.NewBackendOn(t, ln, good)
		for i, c := range all {
			assert.Equal(t, "good 5", string(c.Response("POST").Content))
			x := s.record(t, i+1)
			assert.Positive(t, x.Queue)
			assert.Equal(t, 1, x.Attempts)
		}
		assert.Equal(t, "good 5", string(all[0].Do("POST / HTTP/1.1\r\nHost: b.test\r\n"+sized("hello")).Content))
		assert.EqualValues(t, 1, n.starts.Load())
		assert.Equal(t, "", sleepState(t, s.router))
	})
}

// waiting returns how many requests wait, from the status page.
func waiting(r *hostproxy.Router) (n int) {
	w := httptest.NewRecorder()
	hostproxy.StatusHandler(r).ServeHTTP(w, httptest.NewRequest("GET", "/?format=json", nil))
	for part := range strings.SplitSeq(w.Body.String(), `"queued":`) {
		m := 0
		for _, c := range strings.TrimSpace(part) {
			if c < '0' || c > '9' {
				break
			}
			m = 10*m + int(c-'0')
		}
		n += m
	}
	return n
}

// Exchanges in flight keep the targets awake, even if no byte moves for long:
// WebSockets, streams, uploads.
func TestExchangesInFlightKeepTheTargetsAwake(t *testing.T) {
	t.Parallel()
	const idle = 20 * time.Millisecond
	script := func(c *proxytest.BackendConn) {
		for {
			head, err := c.ReadHead()
			switch {
			case err != nil:
				return
			case strings.HasPrefix(head, "GET /ws"):
				_ = c.Send(switched)
				_, _ = c.ReadAll()
				return
			case strings.HasPrefix(head, "GET /events"):
				_ = c.Send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
				_, _ = c.ReadAll()
				return
			case strings.HasPrefix(head, "POST"):
				if _, err := c.ReadString(5); err != nil {
					return
				}
			}
			if c.Send(ok) != nil {
				return
			}
		}
	}
	for name, tt := range map[string]struct {
		raw, begun string // what the client sends, and the beginning of the response
		end        string // the end of the upload
	}{
		"a WebSocket":     {raw: upgrade, begun: "HTTP/1.1 101"},
		"an event stream": {raw: "GET /events HTTP/1.1\r\n" + host + "\r\n", begun: "HTTP/1.1 200"},
		"an upload":       {raw: "POST / HTTP/1.1\r\n" + host + "Content-Length: 5\r\n\r\nhal", end: "f."},
	} {
		t.Run(name, func(t *testing.T) {
			overLanesAtOnce(t, script, func(t *testing.T, s *site) {
				n := &nap{}
				u := hostproxy.To(s.backend.Addr())
				u.Wake = n.wake(idle)
				s.router.Replace(map[string]http.Handler{"a.test": u})
				c := s.dial(t)
				c.Send(tt.raw)
				if tt.begun != "" {
					require.Contains(t, c.Head(), tt.begun)
				} else {
					proxytest.Eventually(t, "the upload", func() bool { return n.starts.Load() == 1 && sleepState(t, s.router) == "" })
				}
				never(t, "sleep", func() bool { return n.stops.Load() > 0 })
				if tt.end != "" {
					c.Send(tt.end)
					assert.Equal(t, 200, c.Response("POST").StatusCode)
				} else {
					require.NoError(t, c.Close())
				}
				<-n.stopping
				proxytest.Eventually(t, "sleep", func() bool { return sleepState(t, s.router) == "asleep" })
				never(t, "another stop", func() bool { return n.stops.Load() > 1 })
				assert.EqualValues(t, 1, n.starts.Load())
			})
		})
	}
}

func TestARequestThatArrivesDuringStopIsServed(t *testing.T) {
	overEachLane(t, good, func(t *testing.T, s *site) {
		n := &nap{stop: make(chan error)}
		u := hostproxy.To(s.backend.Addr())
		u.Wake = n.wake(time.Millisecond)
		s.router.Handle("b.test", u)
		c := s.dial(t)
		for round := range 3 {
			c.Send("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n")
			if round > 0 {
				proxytest.Eventually(t, "the request to wait", func() bool { return waiting(s.router) == 1 })
				assert.Equal(t, "falling asleep", sleepState(t, s.router))
				n.stop <- nil
			}
			require.Equal(t, 200, c.Response("GET").StatusCode)
			assert.EqualValues(t, round+1, n.starts.Load())
			<-n.stopping
		}
		n.stop <- errors.New("too late to matter")
	}, func(s *site) { s.router.Logger = silent() })
}

func TestAFailedStartIsAnsweredWithRetryAfter(t *testing.T) {
	t.Parallel()
	overEachLane(t, good, func(t *testing.T, s *site) {
		starts := map[string]func(context.Context) error{
			"error.test": func(context.Context) error { return errors.New("no machine") },
			"panic.test": func(context.Context) error { panic("bug") },
			"late.test":  func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
			"none.test":  func(context.Context) error { return nil }, // and no target serves
		}
		i := 0
		for name, start := range starts {
			u := hostproxy.To(proxytest.Refused(t))
			u.Wake = &hostproxy.Wake{Start: start, Timeout: 50 * time.Millisecond}
			s.router.Handle(name, u)
			for _, raw := range []string{"GET / HTTP/1.1\r\nHost: " + name + "\r\n\r\n", "POST / HTTP/1.1\r\nHost: " + name + "\r\n" + sized("hello")} {
				i++
				a := s.dial(t).Do(raw)
				want := 503
				if name == "late.test" || name == "none.test" {
					want = 504
				}
				assert.Equal(t, want, a.StatusCode, name)
				assert.Equal(t, []string{"1"}, a.Header["Retry-After"])
				assert.NotContains(t, string(a.Content), "machine")
				x := s.record(t, i)
				var e *hostproxy.Error
				require.ErrorAs(t, x.Err, &e)
				assert.Equal(t, "pick", e.Op)
				assert.Equal(t, hostproxy.SideProxy, e.Side)
				assert.Zero(t, x.Attempts)
			}
		}
	}, func(s *site) { s.router.Logger = silent() })
}

func TestAClientThatLeavesASleepingTargetIsNoFailure(t *testing.T) {
	t.Parallel()
	overOurLanes(t, good, func(t *testing.T, s *site) {
		n := &nap{start: make(chan error)}
		u := hostproxy.To(s.backend.Addr())
		u.Wake = n.wake(time.Millisecond)
		s.router.Handle("b.test", u)
		requests := []string{"GET / HTTP/1.1\r\nHost: b.test\r\n\r\n"}
		if seesBehind {
			requests = append(requests, "POST / HTTP/1.1\r\nHost: b.test\r\n"+sized("hello"))
		}
		for i, raw := range requests {
			c := s.dial(t)
			c.Send(raw)
			proxytest.Eventually(t, "the request to wait", func() bool { return waiting(s.router) == 1 })
			require.NoError(t, c.Close())
			assert.Equal(t, 499, s.record(t, i+1).Status)
		}
		assert.Equal(t, "waking", sleepState(t, s.router), "Start goes on")
		n.start <- nil
		<-n.stopping
		assert.Empty(t, s.backend.Requests())
		assert.EqualValues(t, 1, n.starts.Load())
	})
}

// The shutdown of a Server waits for requests that wait for Start.
func TestAServerThatDrainsServesRequestsThatWaitForStart(t *testing.T) {
	overOurLanes(t, good, func(t *testing.T, s *site) {
		n := &nap{start: make(chan error)}
		u := hostproxy.To(s.backend.Addr())
		u.Wake = n.wake(time.Hour)
		s.router.Handle("b.test", u)
		c := s.dial(t)
		c.Send("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n")
		proxytest.Eventually(t, "the request to wait", func() bool { return waiting(s.router) == 1 })
		s.server.Drain()
		n.start <- nil
		assert.Equal(t, 200, c.Response("GET").StatusCode)
		require.NoError(t, s.server.Stop())
		assert.Zero(t, n.stops.Load())
	})
}

// Health checks would find sleeping targets down, so they begin after Start,
// except with StartDown, which needs them.
func TestHealthChecksPauseWhileTheTargetsSleep(t *testing.T) {
	t.Parallel()
	for _, startDown := range []bool{false, true} {
		var asked atomic.Int64
		backend := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if q.URL.Path == "/health" {
				asked.Add(1)
			}
			_, _ = io.WriteString(w, "served")
		}))
		overEachLane(t, good, func(t *testing.T, s *site) {
			n := &nap{stop: make(chan error)}
			u := hostproxy.To(backend.Addr())
			u.Health = &hostproxy.HealthCheck{Path: "/health", Interval: time.Millisecond, StartDown: startDown}
			u.FailClosed = true
			u.Wake = n.wake(time.Millisecond)
			u.TargetChanged = func(*hostproxy.Target, hostproxy.Health) {}
			s.router.Handle("b.test", u)
			c := s.dial(t)
			for range 2 {
				assert.Equal(t, "served", string(c.Do("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n").Content))
				<-n.stopping
				before := asked.Load()
				// one may have been in progress
				never(t, "a check", func() bool { return asked.Load() > before+1 })
				n.stop <- nil
			}
			require.NoError(t, u.Drain(t.Context()))
		})
	}
}

// Only the upstream that serves a client's request is waked.
func TestACanaryIsWokenByItsOwnClients(t *testing.T) {
	overEachLane(t, good, func(t *testing.T, s *site) {
		stable, canary := new(nap), new(nap)
		u, to := hostproxy.To(proxytest.Refused(t)), hostproxy.To(s.backend.Addr())
		u.Wake, to.Wake = stable.wake(time.Hour), canary.wake(time.Hour)
		require.NoError(t, u.Canary(to, 1))
		s.router.Handle("b.test", u)
		assert.Equal(t, 200, s.dial(t).Do("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n").StatusCode)
		assert.Zero(t, stable.starts.Load())
		assert.EqualValues(t, 1, canary.starts.Load())
	})
}

func TestAnExplanationSaysThatTargetsSleep(t *testing.T) {
	t.Parallel()
	overEachLane(t, good, func(t *testing.T, s *site) {
		n := &nap{start: make(chan error)}
		u := hostproxy.To(s.backend.Addr())
		u.Wake = n.wake(time.Hour)
		s.router.Handle("b.test", u)
		explain := func() hostproxy.Explanation {
			return s.router.Explain(httptest.NewRequest("GET", "http://b.test/", nil))
		}
		e := explain()
		assert.Contains(t, e.Wait, "the targets are asleep; the request waits until they serve")
		assert.Zero(t, n.starts.Load())
		c := s.dial(t)
		c.Send("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n")
		proxytest.Eventually(t, "the request to wait", func() bool { return waiting(s.router) == 1 })
		assert.Contains(t, explain().Wait, "the targets are waking")
		n.start <- errors.New("no machine")
		assert.Equal(t, 503, c.Response("GET").StatusCode)
		e = explain()
		if e.Status != 0 { // otherwise the second is over already
			assert.Equal(t, 503, e.Status)
			assert.Contains(t, e.Reason, "no machine")
		}
		proxytest.Eventually(t, "another Start", func() bool {
			select {
			case n.start <- nil:
				return true
			default:
				c = s.dial(t)
				c.Send("GET / HTTP/1.1\r\nHost: b.test\r\nConnection: close\r\n\r\n")
				return false
			}
		})
		proxytest.Eventually(t, "the targets to be awake", func() bool { return explain().Wait == "" && explain().Status == 0 })
		assert.Contains(t, explain().String(), "the targets are awake")
	}, func(s *site) { s.router.Logger = silent() })
}

func TestInvalidWakeSettingsAreRefused(t *testing.T) {
	start := func(context.Context) error { return nil }
	for want, w := range map[string]hostproxy.Wake{
		"Wake.Start is nil: set it":                  {},
		"Wake.Timeout is -1s: want 0 (30 s) or more": {Start: start, Timeout: -time.Second},
		"Wake.IdleAfter is -1s: want 0 or more":      {Start: start, IdleAfter: -time.Second},
		"Wake.Stop requires Wake.IdleAfter: set it":  {Start: start, Stop: start},
		"Wake.IdleAfter is 5ns, below a microsecond": {Start: start, IdleAfter: 5},
	} {
		var r hostproxy.Router
		u := hostproxy.To("127.0.0.1:1")
		u.Wake = &w
		assert.ErrorContains(t, r.Set("a.test", u), want)
	}
	u := hostproxy.To("127.0.0.1:1")
	u.Queue.Max, u.Wake = 5, &hostproxy.Wake{Start: start}
	var r hostproxy.Router
	assert.NoError(t, r.Set("a.test", u))
}

// HTTP/2 streams wait for one Start too, and a stream that is reset stops
// waiting.
func TestStreamsWakeSleepingTargets(t *testing.T) {
	for _, start := range []func(testing.TB, shape) *track{newFast, newAdapter} {
		n := &nap{start: make(chan error)}
		var r *hostproxy.Router
		k := start(t, shape{secure: true, routes: func(router *hostproxy.Router, u *hostproxy.Upstream) {
			u.Wake = n.wake(time.Hour)
			r = router
			r.Handle("*", u)
		}})
		k.mirror.answer.Store(&say)
		p := newH2(t, k)
		p.listen()
		for stream := uint32(1); stream < 20; stream += 2 {
			require.NoError(t, p.ask(stream, true, ":method", "GET", ":scheme", "https", ":path", "/", ":authority", "a.test"))
		}
		proxytest.Eventually(t, "all to wait", func() bool { return waiting(r) == 10 })
		require.NoError(t, p.WriteRSTStream(19, http2.ErrCodeCancel))
		proxytest.Eventually(t, "one to leave", func() bool { return waiting(r) == 9 })
		n.start <- nil
		for range 10 {
			x := <-k.records
			assert.Contains(t, []int{200, 499}, x.Status)
			assert.Positive(t, x.Queue)
		}
		assert.EqualValues(t, 1, n.starts.Load())
		assert.Len(t, k.mirror.taken(), 9)
	}
}

// Requests wait for targets that Discover finds only after Start.
func TestDiscoveryFindsWhatAStartHasStarted(t *testing.T) {
	overEachLane(t, good, func(t *testing.T, s *site) {
		started := make(chan struct{}, 9)
		u := &hostproxy.Upstream{Discover: func(ctx context.Context, publish func([]hostproxy.Endpoint)) error {
			select {
			case <-started:
				publish([]hostproxy.Endpoint{{Target: s.backend.Addr()}})
			case <-ctx.Done():
			}
			<-ctx.Done()
			return nil
		}}
		u.Wake = &hostproxy.Wake{Start: func(context.Context) error { started <- struct{}{}; return nil }}
		s.router.Handle("b.test", u)
		c := s.dial(t)
		for range 2 {
			assert.Equal(t, 200, c.Do("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n").StatusCode)
		}
	})
}

// If a Router is served by several Servers, one after the other or two at once,
// its targets stay the same, awake or not.
func TestTargetsSleepAndWakeOverSeveralServers(t *testing.T) {
	overOurLanes(t, good, func(t *testing.T, s *site) {
		if s.lane.secure {
			return // a second start would set up TLS again
		}
		n := new(nap)
		u := hostproxy.To(s.backend.Addr())
		u.Wake = n.wake(10 * time.Millisecond)
		u.Health = &hostproxy.HealthCheck{Interval: time.Millisecond}
		s.router.Handle("b.test", u)
		for round := range 3 {
			require.Equal(t, 200, s.dial(t).Do("GET / HTTP/1.1\r\nHost: b.test\r\nConnection: close\r\n\r\n").StatusCode)
			if round < 2 {
				first := s.server
				s.start(t) // while the first still runs
				require.NoError(t, first.Stop())
			}
			<-n.stopping
			assert.EqualValues(t, round+1, n.starts.Load())
			assert.EqualValues(t, round+1, n.stops.Load())
		}
	})
}
