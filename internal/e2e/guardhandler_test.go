package e2e_test

import (
	"errors"
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

// guarding puts a Guard with the fields of g at b.test, in front of next or, if
// that is nil, of the site's upstream.
func guarding(g func() *hostproxy.Guard, next http.Handler) setting {
	return func(s *site) {
		trusting(s)
		guard := g()
		if guard.Next = next; next == nil {
			guard.Next = s.upstream
		}
		s.router.Handle("b.test", guard)
	}
}

const behindGuard = "GET / HTTP/1.1\r\nHost: b.test\r\n"

func TestAGuardAdmitsOnlyClientsThatItsListsAllow(t *testing.T) {
	t.Parallel()
	prefix := netip.MustParsePrefix
	lists := func() *hostproxy.Guard {
		return &hostproxy.Guard{Allow: []netip.Prefix{prefix("192.0.2.0/24"), prefix("2001:db8::/32")}, Deny: []netip.Prefix{prefix("192.0.2.9/32")}}
	}
	for name, tt := range map[string]struct {
		next http.Handler
		want int
	}{
		"an upstream": {nil, 200},
		"files":       {http.FileServer(http.Dir(t.TempDir())), 200},
		"a redirect":  {hostproxy.Redirect("c.test"), 308},
		"the status":  {hostproxy.StatusHandler(new(hostproxy.Router)), 200},
		"middleware":  {http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }), 204},
	} {
		t.Run(name, func(t *testing.T) {
			overEachLane(t, good, func(t *testing.T, s *site) {
				c := s.dial(t)
				for n, ask := range []struct {
					from string
					want int
				}{
					{"", 403}, {"192.0.2.1", tt.want}, {"192.0.2.9", 403}, {"::ffff:192.0.2.1", tt.want}, {"2001:db8::7", tt.want}, {"2001:db9::7", 403},
				} {
					raw := behindGuard
					if ask.from != "" {
						raw += "X-Forwarded-For: " + ask.from + "\r\n"
					}
					a := c.Do(raw + "\r\n")
					assert.Equal(t, ask.want, a.StatusCode, ask.from)
					x := s.record(t, n+1)
					assert.Equal(t, ask.want, x.Status)
					assert.Equal(t, "b.test", x.Pattern)
					assert.NoError(t, x.Err)
				}
				assert.Equal(t, 200, c.Do(get).StatusCode, "another route")
			}, guarding(lists, tt.next))
		})
	}
}

func TestAGuardLimitsTheRateOfRequestsItAdmits(t *testing.T) {
	limits := func() *hostproxy.Guard {
		return &hostproxy.Guard{Deny: []netip.Prefix{netip.MustParsePrefix("192.0.2.9/32")},
			RateLimit: &hostproxy.RateLimit{Rate: 0.01, Burst: 2, By: hostproxy.LimitKey{Header: "X-Tenant"}}}
	}
	overEachLane(t, good, func(t *testing.T, s *site) {
		c := s.dial(t)
		for _, tt := range []struct {
			fields string
			want   int
		}{
			{"X-Tenant: a\r\n", 200}, {"X-Tenant: a\r\nX-Forwarded-For: 192.0.2.9\r\n", 403}, {"X-Tenant: a\r\n", 200}, {"X-Tenant: a\r\n", 429},
			{"X-Tenant: b\r\n", 200}, {"", 200}, {"X-Forwarded-For: 192.0.2.1\r\n", 200}, {"", 200}, {"", 429}, {"X-Forwarded-For: 192.0.2.1\r\n", 200},
		} {
			a := c.Do(behindGuard + tt.fields + "\r\n")
			assert.Equal(t, tt.want, a.StatusCode, "%q", tt.fields)
			if tt.want == 429 {
				assert.Equal(t, []string{"100"}, a.Header["Retry-After"])
				assert.Equal(t, []string{`"default";q=2;w=200`}, a.Header["Ratelimit-Policy"])
			}
		}
	}, guarding(limits, nil))
}

// Guards may be nested, each with its own key.
func TestNestedGuardsCountByTheirOwnKeys(t *testing.T) {
	one := &hostproxy.RateLimit{Rate: 1e-6, Burst: 3}
	inner := &hostproxy.Guard{RateLimit: &hostproxy.RateLimit{Rate: 1e-6, Burst: 1, By: hostproxy.LimitKey{Cookie: "s"}}, Next: http.NotFoundHandler()}
	s := newSite(t, lanes[0], good, guarding(func() *hostproxy.Guard { return &hostproxy.Guard{RateLimit: one} }, inner))
	c := s.dial(t)
	for n, want := range []int{404, 404, 404, 429} {
		assert.Equal(t, want, c.Do(behindGuard+"Cookie: s="+itoa(n)+"\r\n\r\n").StatusCode)
	}
}

// behindIt returns the requests in flight behind the guard of b.test.
func behindIt(s *site) string {
	q := httptest.NewRequest("GET", "http://b.test/", nil)
	q.RemoteAddr = "127.0.0.1:1"
	for _, rule := range s.router.Explain(q).Rules {
		if rule.Name == "Guard.RateLimit" {
			return rule.Detail
		}
	}
	return ""
}

func TestAPlaceBehindAGuardIsGivenBackHoweverItsHandlerEnds(t *testing.T) {
	t.Parallel()
	single := func() *hostproxy.Guard { return &hostproxy.Guard{RateLimit: &hostproxy.RateLimit{MaxInFlight: 1}} }
	busy, free := "requests in flight for the client: 1 of 1", "requests in flight for the client: 0 of 1"
	entered, leave := make(chan struct{}, 1), make(chan struct{}, 1)
	next := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		switch q.URL.Path {
		case "/panic":
			panic(http.ErrAbortHandler)
		case "/wait":
			entered <- struct{}{}
			<-q.Context().Done()
		case "/hijack":
			nc, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			_, _ = nc.Write([]byte("mine"))
			<-leave
			nc.Close()
		}
	})
	at := func(path string) string { return strings.Replace(behindGuard, "/", path, 1) + "\r\n" }
	overEachLane(t, good, func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send(at("/panic"))
		assert.Empty(t, c.Rest())
		proxytest.Eventually(t, "room behind a panic", func() bool { return behindIt(s) == free })

		c = s.dial(t)
		c.Send(at("/wait"))
		<-entered
		assert.Equal(t, busy, behindIt(s))
		a := s.dial(t).Do(at("/"))
		assert.Equal(t, 429, a.StatusCode)
		assert.Equal(t, []string{"1"}, a.Header["Retry-After"])
		c.Conn.Close()
		proxytest.Eventually(t, "room behind a client that has left", func() bool { return behindIt(s) == free })

		c = s.dial(t)
		c.Send(at("/hijack"))
		c.Expect("mine")
		assert.Equal(t, busy, behindIt(s))
		leave <- struct{}{}
		proxytest.Eventually(t, "room behind a hijack", func() bool { return behindIt(s) == free })
		assert.Equal(t, 200, s.dial(t).Do(at("/")).StatusCode)
	}, guarding(single, next))
}

func TestAWebSocketBehindAGuardIsInFlightUntilItsEnd(t *testing.T) {
	single := func() *hostproxy.Guard { return &hostproxy.Guard{RateLimit: &hostproxy.RateLimit{MaxInFlight: 1}} }
	overEachLane(t, switches, func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send(strings.Replace(upgrade, "a.test", "b.test", 1))
		assert.Contains(t, c.Head(), "101 Switching")
		c.Send("ping")
		c.Expect("ping")
		assert.Equal(t, 429, s.dial(t).Do(behindGuard+"\r\n").StatusCode)
		c.Conn.Close()
		proxytest.Eventually(t, "room", func() bool { return behindIt(s) == "requests in flight for the client: 0 of 1" })
	}, guarding(single, nil))
}

func TestAKeyFuncOfAGuardThatPanicsFailsItsRequest(t *testing.T) {
	by := func() *hostproxy.Guard {
		return &hostproxy.Guard{RateLimit: &hostproxy.RateLimit{Rate: 1e-6, Burst: 1, By: hostproxy.LimitKey{Func: tenant}}}
	}
	overEachLane(t, good, func(t *testing.T, s *site) {
		c := s.dial(t)
		assert.Equal(t, 500, c.Do(behindGuard+"X-Tenant: panic\r\n\r\n").StatusCode)
		var e *hostproxy.Error
		require.True(t, errors.As(s.record(t, 1).Err, &e))
		assert.ErrorContains(t, e, "panic in RateLimit.By.Func: oh")
		assert.Equal(t, 200, c.Do(behindGuard+"X-Tenant: client\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n").StatusCode)
		assert.Equal(t, 429, c.Do(behindGuard+"X-Tenant: of 192.0.2.1\r\n\r\n").StatusCode)
	}, guarding(by, nil))
}

// Around a Router, a Guard knows the client's address like middleware in
// Server.Handler. In a foreign server it knows only the peer.
func TestAGuardAroundARouterKnowsTheClientsAddress(t *testing.T) {
	deny := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	r := &hostproxy.Router{Logger: silent()}
	r.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	r.Handle("b.test", http.NotFoundHandler())
	k := proxytest.StartPlain(t, &hostproxy.Server{Router: r, Handler: &hostproxy.Guard{Deny: deny, Next: r}})
	c := proxytest.Dial(t, k.Plain)
	assert.Equal(t, 404, c.Do(behindGuard+"\r\n").StatusCode)
	assert.Equal(t, 403, c.Do(behindGuard+"X-Forwarded-For: 192.0.2.1\r\n\r\n").StatusCode)

	own := proxytest.NewServer(t, &hostproxy.Guard{Deny: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Next: http.NotFoundHandler()})
	assert.Equal(t, 403, proxytest.Dial(t, own.Addr()).Do(behindGuard+"\r\n").StatusCode)
}
