package e2e_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A doorbell is a Limiter that allows everything, and signals that a request
// has arrived at its upstream.
type doorbell chan struct{}

func (d doorbell) Allow(context.Context, netip.Addr) (hostproxy.Quota, error) {
	d <- struct{}{}
	return hostproxy.Quota{OK: true}, nil
}

// ringing returns an upstream for inLanes whose requests ring d.
func ringing(target string, change func(*hostproxy.Upstream)) (build, last func() *hostproxy.Upstream, d doorbell) {
	d = make(doorbell, 10_000)
	var u *hostproxy.Upstream
	build = func() *hostproxy.Upstream {
		u = hostproxy.To(target)
		u.RateLimit = &hostproxy.RateLimit{Rate: 1, Limiter: d}
		change(u)
		return u
	}
	return build, func() *hostproxy.Upstream { return u }, d
}

// newH2C starts an h2c target that answers with the protocol and the request's
// body.
func newH2C(t *testing.T) string {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		_, _ = io.WriteString(w, q.Proto+" "+string(body))
	}))
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	return "h2c://" + server.Listener.Addr().String()
}

func TestARequestThatWasPausedGoesToTheTargetsOfItsResume(t *testing.T) {
	old, other := proxytest.NewBackend(t, says("old")), proxytest.NewBackend(t, says("new"))
	for _, tt := range []struct{ name, target, want string }{
		{"HTTP/1.1", other.Addr(), "new"},
		{"only the handler lane can ask", newH2C(t), "HTTP/2.0 hello"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			build, last, arrived := ringing(old.Addr(), func(*hostproxy.Upstream) {})
			inLanes(t, build, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
				require.NoError(t, last().Pause(time.Minute))
				c.Send(request("POST /", sized("hello")))
				<-arrived
				require.NoError(t, last().Replace(t.Context(), tt.target))
				require.NoError(t, last().Resume())
				assert.Equal(t, tt.want, string(c.Response("POST").Content))
				x := <-records
				assert.NoError(t, x.Err)
				assert.Equal(t, 1, x.Attempts)
				assert.Empty(t, arrived, "the limiter is asked once a request")

				assert.Equal(t, tt.want, string(c.Do(request("POST /", sized("hello"))).Content), "the connection goes on")
				<-arrived
				assert.NoError(t, (<-records).Err)
				assert.Empty(t, records)
			})
		})
	}
	assert.Empty(t, old.Requests())
}

func TestAnExchangeIsHandedToTheOtherLaneOnceAndWhole(t *testing.T) {
	target := newH2C(t)
	arrived := make(doorbell, 1)
	body := strings.Repeat("0123456789", 10_000)
	for _, raw := range []string{sized(body), "Transfer-Encoding: chunked\r\n\r\n" + chunked(body, 3_000)} {
		handedOver(t, target, arrived, request("POST /", raw), body)
	}
}

// handedOver sends a request whose upstream gets another target when only the
// beginning has arrived.
func handedOver(t *testing.T, target string, arrived doorbell, raw, body string) {
	t.Helper()
	overOurLanes(t, says("old"), func(t *testing.T, s *site) {
		require.NoError(t, s.upstream.Pause(time.Minute))
		c := s.dial(t)
		c.Send(raw[:10_000])
		<-arrived
		require.NoError(t, s.upstream.Replace(t.Context(), target))
		require.NoError(t, s.upstream.Resume())
		c.Send(raw[10_000:] + get) // with another request after it
		assert.Equal(t, "HTTP/2.0 "+body, string(c.Response("POST").Content))
		assert.Equal(t, "HTTP/2.0 ", string(c.Response("GET").Content))
		<-arrived
		s.record(t, 2)
		s.mu.Lock()
		defer s.mu.Unlock()
		assert.Len(t, s.records, 2)
		for _, x := range s.records {
			assert.NoError(t, x.Err)
			assert.Equal(t, 1, x.Attempts)
		}
		assert.Empty(t, s.backend.Requests())
	}, func(s *site) { s.upstream.RateLimit = &hostproxy.RateLimit{Rate: 1, Limiter: arrived} })
}

func TestARequestThatWasQueuedGoesToTheTargetsOfItsTurn(t *testing.T) {
	held := make(chan struct{})
	old := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		if _, err := c.ReadRequest(); err == nil && c.Wait(held) {
			_ = c.Send("HTTP/1.1 200 OK\r\n" + sized("old"))
		}
	})
	other := proxytest.NewBackend(t, says("new"))
	for _, tt := range []struct{ name, target, want string }{
		{"HTTP/1.1", other.Addr(), "new"},
		{"only the handler lane can ask", newH2C(t), "HTTP/2.0 "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			build, last, arrived := ringing(old.Addr(), func(u *hostproxy.Upstream) {
				u.MaxTargetInFlight, u.Queue = 1, hostproxy.Queue{Max: 20, Wait: time.Minute}
			})
			inLanes(t, build, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
				before := len(old.Requests())
				c.Send(request("GET /", "\r\n"))
				<-arrived
				old.WaitRequests(before + 1)
				var line []*proxytest.Client
				for range 10 {
					k := proxytest.Dial(t, c.RemoteAddr().String())
					k.Send(request("GET /", "\r\n"))
					<-arrived
					line = append(line, k)
				}
				replaced := make(chan error, 1)
				go func() { replaced <- last().Replace(t.Context(), tt.target) }()
				for _, k := range line { // while the first request is still at the old target
					assert.Equal(t, tt.want, string(k.Response("GET").Content))
					assert.NoError(t, (<-records).Err)
				}
				held <- struct{}{}
				assert.Equal(t, "old", string(c.Response("GET").Content))
				assert.NoError(t, <-replaced)
			})
		})
	}
}

// Pause also holds requests that waited in the queue before.
func TestARequestThatWasQueuedWaitsForTheEndOfAPause(t *testing.T) {
	build, b, let, _ := crowded(t, func(u *hostproxy.Upstream) {
		u.MaxInFlight, u.Queue = 1, hostproxy.Queue{Max: 5, Wait: time.Minute}
	})
	var u *hostproxy.Upstream
	arrived := make(doorbell, 10)
	inLanes(t, func() *hostproxy.Upstream {
		u = build()
		u.RateLimit = &hostproxy.RateLimit{Rate: 1, Limiter: arrived}
		return u
	}, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
		before := len(b.Requests())
		c.Send(request("GET /", "\r\n"))
		<-arrived
		b.WaitRequests(before + 1)
		queued := proxytest.Dial(t, c.RemoteAddr().String())
		queued.Send(request("GET /", "\r\n"))
		<-arrived
		require.NoError(t, u.Pause(time.Minute))
		let <- struct{}{}
		assert.Equal(t, 200, c.Response("GET").StatusCode)
		<-records
		assert.Len(t, b.Requests(), before+1)
		page := hostproxy.Page{Status: 503, Body: []byte("back soon")}
		require.NoError(t, u.Maintain(page))
		assert.Equal(t, "back soon", string(queued.Response("GET").Content))
		<-records
		require.NoError(t, u.Resume())

		c.Send(request("GET /", "\r\n"))
		<-arrived
		b.WaitRequests(before + 2)
		queued.Send(request("GET /", "\r\n"))
		<-arrived
		require.NoError(t, u.Pause(time.Minute))
		let <- struct{}{}
		assert.Equal(t, 200, c.Response("GET").StatusCode)
		require.NoError(t, u.Resume())
		let <- struct{}{}
		assert.Equal(t, 200, queued.Response("GET").StatusCode)
	})
}

func TestARetryGoesToTheTargetsThatExistAtItsTime(t *testing.T) {
	held, drop := make(chan struct{}), "" // nothing is answered
	old := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		if _, err := c.ReadRequest(); err == nil && c.Wait(held) {
			_ = c.Send(drop)
		}
	})
	other := proxytest.NewBackend(t, says("new"))
	for _, tt := range []struct{ name, target, want string }{
		{"HTTP/1.1", other.Addr(), "new"},
		{"only the handler lane can ask", newH2C(t), "HTTP/2.0 hello, world"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			build, last, arrived := ringing(old.Addr(), func(*hostproxy.Upstream) {})
			inLanes(t, build, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
				conns := old.Conns()
				c.Send(request("PUT /", "Content-Length: 12\r\n\r\nhello, "))
				old.WaitConns(conns + 1) // the rest of the body is streamed
				before := len(old.Requests())
				c.Send("world")
				old.WaitRequests(before + 1)
				replaced := make(chan error, 1)
				go func() { replaced <- last().Replace(t.Context(), tt.target) }()
				proxytest.Eventually(t, "the swap", func() bool {
					return strings.HasSuffix(tt.target, strings.TrimPrefix(slices.Collect(last().All())[0].String(), "h2c://"))
				})
				held <- struct{}{}
				assert.Equal(t, tt.want, string(c.Response("PUT").Content))
				assert.NoError(t, <-replaced)
				x := <-records
				assert.NoError(t, x.Err)
				assert.Equal(t, 2, x.Attempts)
				assert.Len(t, x.Retried, 1)
				assert.EqualValues(t, 12, x.RequestBytes)
				<-arrived
				assert.Empty(t, arrived, "the limiter is asked once a request")

				assert.Equal(t, tt.want, string(c.Do(request("PUT /", sized("hello, world"))).Content), "the connection goes on")
				<-arrived
				assert.NoError(t, (<-records).Err)
				assert.Empty(t, records)
			})
		})
	}
}

// A target that is replaced while it is chosen must not get the request: its
// drain may have ended already.
func TestATargetThatRetiresWhileItIsChosenIsNotAsked(t *testing.T) {
	old := proxytest.NewBackend(t, says("old"))
	picked := 0
	overEachLane(t, says("new"), func(t *testing.T, s *site) {
		assert.Equal(t, "new", string(s.dial(t).Do(get).Content))
		assert.Equal(t, 2, picked)
		x := s.record(t, 1)
		assert.NoError(t, x.Err)
		assert.Equal(t, 1, x.Attempts)
		assert.Equal(t, s.backend.Addr(), x.Target)
	}, func(s *site) {
		picked = 0
		s.upstream = hostproxy.To(old.Addr())
		s.upstream.Pick = func(_ *http.Request, ts []*hostproxy.Target) *hostproxy.Target {
			if picked++; picked == 1 {
				assert.NoError(t, s.upstream.Replace(t.Context(), s.backend.Addr()))
			}
			return ts[0]
		}
	})
	assert.Empty(t, old.Requests())
}

// A turnstile is a Limiter in which requests wait until the next turn.
type turnstile struct{ closed atomic.Pointer[chan struct{}] }

func newTurnstile() *turnstile {
	s := new(turnstile)
	s.turn()
	return s
}

func (s *turnstile) Allow(ctx context.Context, _ netip.Addr) (hostproxy.Quota, error) {
	select {
	case <-*s.closed.Load():
	case <-ctx.Done():
	}
	return hostproxy.Quota{OK: true}, nil
}

// turn lets waiting requests pass.
func (s *turnstile) turn() {
	next := make(chan struct{})
	if old := s.closed.Swap(&next); old != nil {
		close(*old)
	}
}

// storm lets many clients send requests at once, all delayed by stile, while it
// calls step again and again. It fails the test if a request fails.
func storm(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange, stile *turnstile, step func(i int)) {
	t.Helper()
	var served, failed atomic.Int64
	var clients sync.WaitGroup
	stop := make(chan struct{})
	for range 16 {
		clients.Go(func() {
			for k := proxytest.Dial(t, c.RemoteAddr().String()); ; {
				select {
				case <-stop:
					return
				default:
				}
				k.Send(request("POST /", sized("hello")))
				if k.Response("POST").StatusCode == 200 {
					served.Add(1)
				} else {
					failed.Add(1)
				}
				if x := <-records; x.Err != nil {
					t.Error(x.Err)
				}
			}
		})
	}
	for i := 0; served.Load() < 500 && failed.Load() == 0 && !t.Failed(); i++ {
		step(i)
		stile.turn()
	}
	close(stop)
	done := make(chan struct{})
	go func() { defer close(done); clients.Wait() }()
	proxytest.Eventually(t, "the end of the clients", func() bool {
		stile.turn()
		select {
		case <-done:
			return true
		default:
			return false
		}
	})
	assert.Zero(t, failed.Load())
}

// All requests wait while targets are replaced, and none is lost.
func TestAStormOfReplacesFailsNoRequestThatWaits(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	targets := [][]string{
		{proxytest.NewBackend(t, says("a")).Addr()},
		{newH2C(t)},
		{proxytest.NewBackend(t, says("b")).Addr(), proxytest.NewBackend(t, says("c")).Addr()},
	}
	for _, tt := range []struct {
		name    string
		targets [][]string
	}{{"HTTP/1.1", [][]string{targets[0], targets[2]}}, {"also HTTP/2", targets}} {
		t.Run(tt.name, func(t *testing.T) {
			stile := newTurnstile()
			var u *hostproxy.Upstream
			inLanes(t, func() *hostproxy.Upstream {
				u = hostproxy.To(tt.targets[0]...)
				u.RateLimit = &hostproxy.RateLimit{Rate: 1, Limiter: stile}
				return u
			}, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
				storm(t, c, records, stile, func(i int) {
					require.NoError(t, u.Replace(t.Context(), tt.targets[i%len(tt.targets)]...))
				})
			})
		})
	}
}

// A request that still waits when its server drains is answered, even if only
// the handler lane can reach the new targets.
func TestARequestThatOutwaitsItsServerIsAnswered(t *testing.T) {
	target, arrived := newH2C(t), make(doorbell, 1)
	overOurLanes(t, says("old"), func(t *testing.T, s *site) {
		require.NoError(t, s.upstream.Pause(time.Minute))
		c := s.dial(t)
		c.Send(request("POST /", sized("hello")))
		<-arrived
		s.server.Drain()
		proxytest.Eventually(t, "the end of the listener", func() bool {
			other, err := net.Dial("tcp", s.addr)
			if err == nil {
				other.Close()
			}
			return err != nil
		})
		require.NoError(t, s.upstream.Replace(t.Context(), target))
		require.NoError(t, s.upstream.Resume())
		p, x := c.Response("POST"), s.record(t, 1)
		assert.Equal(t, 200, p.StatusCode)
		assert.Equal(t, 200, x.Status)
		assert.Equal(t, "HTTP/2.0 hello", string(p.Content))
	}, func(s *site) { s.upstream.RateLimit = &hostproxy.RateLimit{Rate: 1, Limiter: arrived} })
}

// With Discover, all targets may be removed during an attempt: then the failure
// of the attempt is that of the request.
func TestARequestWhoseTargetsHaveAllGoneFails(t *testing.T) {
	drop := make(chan struct{})
	old := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		if _, err := c.ReadRequest(); err == nil {
			c.Wait(drop)
		}
	})
	overEachLane(t, says("new"), func(t *testing.T, s *site) {
		before, c := len(old.Requests()), s.dial(t)
		c.Send(get)
		old.WaitRequests(before + 1)
		require.NoError(t, s.upstream.Remove(old.Addr()))
		drop <- struct{}{}
		assert.Equal(t, 502, c.Response("GET").StatusCode)
		x := s.record(t, 1)
		assert.Equal(t, 502, x.Status)
		assert.Equal(t, 1, x.Attempts)
		require.NoError(t, s.upstream.Add(s.backend.Addr()))
		assert.Equal(t, "new", string(c.Do(get).Content), "the connection goes on")
	}, func(s *site) {
		s.upstream = hostproxy.To(old.Addr())
		s.upstream.Retry.Attempts = 3
		s.upstream.Discover = func(ctx context.Context, _ func([]hostproxy.Endpoint)) error { <-ctx.Done(); return nil }
	})
}
