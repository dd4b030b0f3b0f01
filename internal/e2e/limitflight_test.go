package e2e_test

import (
	"context"
	"fmt"
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

// flights returns the requests in flight of the local client, from the rules of
// the Router and its upstreams in Explain.
func flights(r *hostproxy.Router) (all []string) {
	q := httptest.NewRequest("GET", "http://a.test/", nil)
	q.RemoteAddr = "127.0.0.1:1"
	for _, rule := range r.Explain(q).Rules {
		if n, ok := strings.CutPrefix(rule.Detail, "requests in flight for the client: "); ok {
			all = append(all, rule.Name+" "+n)
		}
	}
	return all
}

// alone limits each client to one request in flight, in the Router and in the
// Upstream.
func alone(s *site) {
	s.router.RateLimit = &hostproxy.RateLimit{MaxInFlight: 1}
	s.upstream.RateLimit = &hostproxy.RateLimit{MaxInFlight: 1}
}

// airborne and landed wait until the client of a site has one request in
// flight, or none.
func airborne(t *testing.T, s *site) { t.Helper(); awaitFlights(t, s, 1) }
func landed(t *testing.T, s *site)   { t.Helper(); awaitFlights(t, s, 0) }

func awaitFlights(t *testing.T, s *site, n int) {
	t.Helper()
	want := []string{fmt.Sprintf("Router.RateLimit %d of 1", n), fmt.Sprintf("Upstream.RateLimit %d of 1", n)}
	proxytest.Eventually(t, strings.Join(want, ", "), func() bool { return strings.Join(flights(s.router), "|") == strings.Join(want, "|") })
}

// switches accepts an upgrade to WebSocket, and echoes four bytes at a time.
func switches(c *proxytest.BackendConn) {
	q, err := c.ReadRequest()
	if err != nil || q == nil {
		return
	}
	_ = c.Send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + proxytest.Accept(q.Header) + "\r\n\r\n")
	for {
		s, err := c.ReadString(4)
		if err != nil {
			return
		}
		_ = c.Send(s)
	}
}

// stays begins a response and does not end it.
func stays(c *proxytest.BackendConn) {
	if q, err := c.ReadRequest(); err == nil && q != nil {
		_ = c.Send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhe")
		_, _ = c.ReadString(1)
	}
}

// silent2 reads requests and answers nothing.
func silent2(c *proxytest.BackendConn) {
	for {
		if q, err := c.ReadRequest(); err != nil || q == nil {
			return
		}
	}
}

// However an exchange ends, it counts once while in flight, and not at all
// afterwards.
func TestAPlaceInFlightIsGivenBackHoweverAnExchangeEnds(t *testing.T) {
	t.Parallel()
	answered := func(status int, raw string) func(*testing.T, *site, *proxytest.Client) {
		return func(t *testing.T, s *site, c *proxytest.Client) {
			for range 3 {
				assert.Equal(t, status, c.Do(raw).StatusCode)
				landed(t, s)
			}
		}
	}
	for _, tt := range []struct {
		name   string
		script func(*proxytest.BackendConn)
		set    func(t *testing.T, s *site)
		act    func(t *testing.T, s *site, c *proxytest.Client)
	}{
		{"with an answer", good, nil, answered(200, request("POST /", sized("hello")))},
		{"with an answer in chunks", good, nil, answered(200, request("POST /", "Transfer-Encoding: chunked\r\n\r\n"+chunked("hello", 2)))},
		{"unreachable", good, func(t *testing.T, s *site) { s.upstream.Targets[0].Host = proxytest.Refused(t) }, answered(502, get)},
		{"retried", good, func(t *testing.T, s *site) {
			require.NoError(t, s.upstream.Add(proxytest.Refused(t)))
		}, answered(200, get)},
		{"hedged", good, func(t *testing.T, s *site) {
			s.upstream.Hedge = time.Millisecond
			require.NoError(t, s.upstream.Add(proxytest.NewBackend(t, silent2).Addr()))
		}, answered(200, get)},
		{"mirrored", good, func(t *testing.T, s *site) {
			copies := hostproxy.To(proxytest.NewBackend(t, good).Addr())
			require.NoError(t, s.upstream.Mirror(copies, 1))
		}, answered(200, get)},
		{"refused by a list", good, func(_ *testing.T, s *site) { trusting(s); s.upstream.Deny = s.router.TrustedProxies }, answered(403, get)},
		{"with too large a body", good, func(_ *testing.T, s *site) { s.upstream.MaxRequestBody = 3 }, answered(413, request("POST /", sized("hello")))},
		{"answered here", good, nil, answered(200, "OPTIONS / HTTP/1.1\r\n"+host+"Max-Forwards: 0\r\n\r\n")},
		{"by a hook's error", good, func(_ *testing.T, s *site) {
			s.upstream.ModifyResponse = func(*http.Response) error { return context.Canceled }
		}, answered(502, get)},
		{"by a hook's panic", good, func(_ *testing.T, s *site) {
			s.upstream.ModifyResponse = func(*http.Response) error { panic("oh") }
		}, answered(500, get)},
		{"by a key func's panic", good, func(_ *testing.T, s *site) {
			s.upstream.RateLimit.By.Func = func(*http.Request) string { panic("oh") }
		}, func(t *testing.T, s *site, c *proxytest.Client) {
			for range 3 {
				assert.Equal(t, 500, c.Do(get).StatusCode, "the Router's place is free")
			}
		}},
		{"in a loop", good, nil, func(t *testing.T, s *site, c *proxytest.Client) {
			c.Do(get)
			via := s.backend.Requests()[0].Header["Via"][0]
			for range 3 {
				assert.Equal(t, 508, c.Do("GET / HTTP/1.1\r\n"+host+strings.Repeat("Via: "+via+"\r\n", 4)+"\r\n").StatusCode)
				landed(t, s)
			}
		}},
		{"by a client that leaves before the answer", silent2, nil, func(t *testing.T, s *site, c *proxytest.Client) {
			c.Send(get)
			s.backend.WaitRequests(1)
			airborne(t, s)
			c.Conn.Close()
			landed(t, s)
		}},
		{"by a client that leaves amid the answer", stays, nil, func(t *testing.T, s *site, c *proxytest.Client) {
			c.Send(get)
			assert.Contains(t, c.Head(), "200 OK")
			airborne(t, s)
			assert.NoError(t, c.Conn.Reset())
			landed(t, s)
		}},
		{"cut off by the target", afterRequest(func(c *proxytest.BackendConn) { _ = c.Send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhe") }), nil,
			func(t *testing.T, s *site, c *proxytest.Client) {
				c.Send(get)
				_ = c.Rest()
				landed(t, s)
			}},
		{"at the end of a WebSocket", switches, nil, func(t *testing.T, s *site, c *proxytest.Client) {
			c.Send(upgrade)
			assert.Contains(t, c.Head(), "101 Switching")
			c.Send("ping")
			c.Expect("ping")
			airborne(t, s)
			a := s.dial(t).Do(get)
			assert.Equal(t, 429, a.StatusCode)
			assert.Equal(t, []string{"1"}, a.Header["Retry-After"])
			assert.Empty(t, a.Header["Ratelimit"])
			c.Send("pong")
			c.Expect("pong")
			c.Conn.Close()
			landed(t, s)
		}},
		{"by the drain of the server", switches, nil, func(t *testing.T, s *site, c *proxytest.Client) {
			c.Send(upgrade)
			assert.Contains(t, c.Head(), "101 Switching")
			airborne(t, s)
			if s.server == nil {
				c.Conn.Close()
			} else {
				s.server.Drain()
			}
			landed(t, s)
		}},
		{"by the drain of the upstream", stays, nil, func(t *testing.T, s *site, c *proxytest.Client) {
			c.Send(get)
			assert.Contains(t, c.Head(), "200 OK")
			airborne(t, s)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			assert.Error(t, s.upstream.Drain(ctx))
			landed(t, s)
			assert.Equal(t, 503, s.dial(t).Do(get).StatusCode)
			landed(t, s)
		}},
		{"by a client that leaves while it is paused", good, nil, func(t *testing.T, s *site, c *proxytest.Client) {
			require.NoError(t, s.upstream.Pause(time.Minute))
			c.Send(get)
			airborne(t, s)
			c.Conn.Close()
			landed(t, s)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			overLanesAtOnce(t, tt.script, func(t *testing.T, s *site) { tt.act(t, s, s.dial(t)) }, alone, func(s *site) {
				if tt.set != nil {
					tt.set(t, s)
				}
			})
		})
	}
}

// An exchange that the fast lane hands over keeps its place until it ends in
// the handler lane, which does not refuse it.
func TestAnExchangeThatIsHandedOverKeepsItsPlace(t *testing.T) {
	target := newH2C(t)
	overOurLanes(t, says("old"), func(t *testing.T, s *site) {
		c := s.dial(t)
		for n := range 3 {
			require.NoError(t, s.upstream.Replace(t.Context(), s.backend.Addr()))
			require.NoError(t, s.upstream.Pause(time.Minute))
			c.Send(request("POST /", sized("hello")))
			airborne(t, s)
			assert.Equal(t, 429, s.dial(t).Do(get).StatusCode)
			require.NoError(t, s.upstream.Replace(t.Context(), target))
			require.NoError(t, s.upstream.Resume())
			assert.Equal(t, "HTTP/2.0 hello", string(c.Response("POST").Content), "request %d", n)
			landed(t, s)
		}
	}, alone)
}

// A canary whose limit has a func can take an exchange that waited in the fast
// lane.
func TestALimitOfACanaryMayNeedTheHandlerLane(t *testing.T) {
	overOurLanes(t, says("old"), func(t *testing.T, s *site) {
		canary := hostproxy.To(proxytest.NewBackend(t, says("new")).Addr())
		canary.RateLimit = &hostproxy.RateLimit{Rate: 1e-6, Burst: 1, MaxInFlight: 1, By: hostproxy.LimitKey{Func: tenant}}
		c := s.dial(t)
		require.NoError(t, s.upstream.Pause(time.Minute))
		c.Send(keyed{"a.test", "X-Tenant: a\r\n"}.raw())
		airborne(t, s)
		require.NoError(t, s.upstream.Canary(canary, 1))
		require.NoError(t, s.upstream.Resume())
		assert.Equal(t, "new", string(c.Response("GET").Content))
		landed(t, s)
		assert.Equal(t, 429, c.Do(keyed{"a.test", "X-Tenant: a\r\n"}.raw()).StatusCode)
		assert.Equal(t, "new", string(c.Do(keyed{"a.test", "X-Tenant: b\r\n"}.raw()).Content))
		landed(t, s)
	}, alone)
}

// Over HTTP/2, each stream is one request in flight until it ends or is reset.
func TestEachHTTP2StreamIsInFlightForItsKey(t *testing.T) {
	for _, hooked := range []bool{false, true} {
		t.Run(fmt.Sprint("hooked ", hooked), func(t *testing.T) {
			var r *hostproxy.Router
			var waiting atomic.Int64
			target := proxytest.NewServer(t, http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
				waiting.Add(1)
				<-q.Context().Done()
			}))
			k := newFast(t, shape{secure: true, routes: func(router *hostproxy.Router, u *hostproxy.Upstream) {
				r = router
				u.Targets[0].Host = target.Addr()
				u.RateLimit = &hostproxy.RateLimit{MaxInFlight: 2, By: hostproxy.LimitKey{Header: "X-Tenant"}}
				if hooked {
					u.ModifyResponse = func(*http.Response) error { return nil }
				}
				r.Handle("*", u)
			}})
			k.records = nil
			p := newH2(t, k)
			p.listen()
			ask := func(stream uint32, fields ...string) {
				require.NoError(t, p.ask(stream, true, append([]string{":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/"}, fields...)...))
			}
			ask(1, "x-tenant", "a")
			ask(3, "x-tenant", "a")
			proxytest.Eventually(t, "two requests", func() bool { return waiting.Load() == 2 })
			ask(5, "x-tenant", "a")
			assert.Equal(t, "429", p.outcome(t, 5))
			ask(7, "x-tenant", "b")
			ask(9)
			proxytest.Eventually(t, "four requests", func() bool { return waiting.Load() == 4 })
			require.NoError(t, p.WriteRSTStream(1, http2.ErrCodeCancel))
			q := httptest.NewRequest("GET", "http://a.test/", nil)
			q.Header.Set("X-Tenant", "a")
			proxytest.Eventually(t, "room", func() bool {
				return strings.Contains(r.Explain(q).String(), "this value of the header X-Tenant: 1 of 2")
			})
			ask(11, "x-tenant", "a")
			proxytest.Eventually(t, "five requests", func() bool { return waiting.Load() == 5 })
			p.c.Close()
			proxytest.Eventually(t, "nothing in flight", func() bool {
				return strings.Contains(r.Explain(q).String(), "this value of the header X-Tenant: 0 of 2")
			})
		})
	}
}

// A WebSocket over HTTP/2 is a request in flight until it ends.
func TestAWebSocketOverHTTP2IsInFlight(t *testing.T) {
	backend := proxytest.NewBackend(t, switches)
	var r *hostproxy.Router
	k := newFast(t, shape{secure: true, limit: &hostproxy.RateLimit{MaxInFlight: 1}, routes: func(router *hostproxy.Router, u *hostproxy.Upstream) {
		r = router
		u.Targets[0].Host = backend.Addr()
		u.RateLimit = &hostproxy.RateLimit{MaxInFlight: 1}
		r.Handle("*", u)
	}})
	p := newH2(t, k)
	p.listen()
	require.NoError(t, p.connectTo("websocket"))
	require.Equal(t, "200", p.outcome(t, 1))
	require.NoError(t, p.ask(3, true, ":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/"))
	assert.Equal(t, "429", p.outcome(t, 3))
	assert.Equal(t, []string{"Router.RateLimit 1 of 1", "Upstream.RateLimit 1 of 1"}, flights(r))
	require.NoError(t, p.WriteData(1, true, nil))
	proxytest.Eventually(t, "the end", func() bool {
		return strings.Join(flights(r), "|") == "Router.RateLimit 0 of 1|Upstream.RateLimit 0 of 1"
	})
}
