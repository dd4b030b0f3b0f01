package e2e_test

import (
	"crypto/tls"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// named starts n backends that answer with their numbers.
func named(t *testing.T, n int) (addrs []string) {
	for i := range n {
		addrs = append(addrs, proxytest.NewBackend(t, says(fmt.Sprint(i))).Addr())
	}
	return addrs
}

func TestRequestsAreDistributedByPolicyAndWeight(t *testing.T) {
	t.Parallel()
	addrs := named(t, 3)
	const n = 300
	for _, tt := range []struct {
		name    string
		policy  hostproxy.Policy
		weights []int
		want    []int
		delta   float64
	}{
		{"round robin", hostproxy.RoundRobin, nil, []int{100, 100, 100}, 0},
		{"round robin, weighted", hostproxy.RoundRobin, []int{3, 2, 1}, []int{150, 100, 50}, 0},
		{"round robin, one left out", hostproxy.RoundRobin, []int{1, 0, 1}, []int{150, 0, 150}, 0},
		{"random", hostproxy.Random, nil, []int{100, 100, 100}, 50},
		{"random, weighted", hostproxy.Random, []int{4, 1, 1}, []int{200, 50, 50}, 50},
		{"less busy", hostproxy.LessBusy, nil, []int{100, 100, 100}, 50},
		{"least in flight", hostproxy.LeastInFlight, nil, []int{100, 100, 100}, 50},
		{"first available", hostproxy.FirstAvailable, nil, []int{300, 0, 0}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			build := func() *hostproxy.Upstream {
				u := hostproxy.To(addrs...)
				u.Policy, u.Weights = tt.policy, tt.weights
				return u
			}
			inLanes(t, build, func(t *testing.T, c *proxytest.Client, _ <-chan hostproxy.Exchange) {
				got := make([]int, 3)
				for range n {
					got[c.Do(request("GET /", "\r\n")).Content[0]-'0']++
				}
				for i, want := range tt.want {
					assert.InDelta(t, want, got[i], tt.delta, got)
				}
			})
		})
	}
}

func TestTheSameKeyGoesToTheSameTarget(t *testing.T) {
	addrs := named(t, 5)
	for _, tt := range []struct {
		name string
		by   hostproxy.HashKey
		raw  func(key int) string
	}{
		{"client", hostproxy.HashKey{}, func(k int) string {
			return request("GET /", fmt.Sprintf("X-Forwarded-For: 10.0.0.%d\r\n\r\n", k))
		}},
		{"header", hostproxy.HashKey{Header: "x-tenant"}, func(k int) string {
			return request("GET /", fmt.Sprintf("X-Tenant: %d\r\n\r\n", k))
		}},
		{"cookie", hostproxy.HashKey{Cookie: "id"}, func(k int) string {
			return request("GET /", fmt.Sprintf("Cookie: other=x; id=%d; idx=7\r\n\r\n", k))
		}},
		{"URI", hostproxy.HashKey{URI: true}, func(k int) string { return request(fmt.Sprintf("GET /?%d", k), "\r\n") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var lanes [][]string
			for _, lane := range []string{"fast", "full"} {
				u := hostproxy.To(addrs...)
				u.Policy, u.HashBy = hostproxy.ConsistentHash, tt.by
				r := &hostproxy.Router{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
				r.Handle("a.test", u)
				s := &hostproxy.Server{Router: r}
				if lane == "full" {
					s.Handler = http.HandlerFunc(r.ServeHTTP)
				}
				c := proxytest.Dial(t, proxytest.StartPlain(t, s).Plain)
				var got []string
				for k := range 50 {
					first := string(c.Do(tt.raw(k)).Content)
					assert.Equal(t, first, string(c.Do(tt.raw(k)).Content))
					got = append(got, first)
				}
				distinct := slices.Clone(got)
				slices.Sort(distinct)
				assert.Len(t, slices.Compact(distinct), 5, "all targets are used")
				lanes = append(lanes, got)
			}
			assert.Equal(t, lanes[0], lanes[1], "both lanes choose alike")
		})
	}
}

func TestAStickyCookieBringsAClientBackToItsTarget(t *testing.T) {
	addrs := named(t, 4)
	key := []byte("0123456789abcdef")
	build, last := func() *hostproxy.Upstream {
		u := hostproxy.To(addrs...)
		u.Policy, u.Sticky = hostproxy.RoundRobin, &hostproxy.Sticky{Key: key}
		return u
	}, (*hostproxy.Upstream)(nil)
	inLanes(t, func() *hostproxy.Upstream { last = build(); return last }, func(t *testing.T, c *proxytest.Client, _ <-chan hostproxy.Exchange) {
		a := c.Do(request("GET /", "\r\n"))
		first := string(a.Content)
		require.Len(t, a.Cookies(), 1)
		cookie := a.Cookies()[0]
		assert.Equal(t, "hostproxy", cookie.Name)
		assert.True(t, cookie.HttpOnly)
		assert.False(t, cookie.Secure, "the client came without TLS")
		assert.Equal(t, http.SameSiteLaxMode, cookie.SameSite)
		for _, addr := range addrs {
			assert.NotContains(t, cookie.Value, strings.Split(addr, ":")[1])
		}
		with := func(value string) string { return request("GET /", "Cookie: a=b; hostproxy="+value+"\r\n\r\n") }
		for range 10 {
			a := c.Do(with(cookie.Value))
			assert.Equal(t, first, string(a.Content))
			assert.Empty(t, a.Cookies(), "the client has its cookie already")
		}
		for _, forged := range []string{"", "x", cookie.Value + "x", strings.ToUpper(cookie.Value), `"` + cookie.Value + `"`} {
			assert.Len(t, c.Do(with(forged)).Cookies(), 1, "a forged cookie counts as none")
		}
		var n int
		_, _ = fmt.Sscan(first, &n)
		require.NoError(t, last.Remove(addrs[n])) // the sticky target is removed
		a = c.Do(with(cookie.Value))
		assert.NotEqual(t, first, string(a.Content))
		require.Len(t, a.Cookies(), 1)
		assert.NotEqual(t, cookie.Value, a.Cookies()[0].Value)
	})
}

func TestTheStickyCookieIsSecureOverTLS(t *testing.T) {
	conf, roots := proxytest.TLS(t, "a.test")
	u := hostproxy.To(named(t, 1)...)
	u.Sticky = &hostproxy.Sticky{Cookie: "to"}
	r := new(hostproxy.Router)
	r.TLS.Config = conf
	r.Handle("a.test", u)
	c := proxytest.DialTLS(t, proxytest.Start(t, &hostproxy.Server{Router: r}).HTTPS, &tls.Config{RootCAs: roots, ServerName: "a.test"})
	cookies := c.Do(request("GET /", "\r\n")).Cookies()
	require.Len(t, cookies, 1)
	assert.True(t, cookies[0].Secure)
	assert.Equal(t, "to", cookies[0].Name)
}

func TestACanaryGetsItsShareOfTheClients(t *testing.T) {
	t.Parallel()
	stable, canary := named(t, 1), proxytest.NewBackend(t, says("canary")).Addr()
	for _, lane := range []string{"fast", "full"} {
		t.Run(lane, func(t *testing.T) {
			u, to := hostproxy.To(stable...), hostproxy.To(canary)
			r := &hostproxy.Router{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
			r.Handle("a.test", u)
			s := &hostproxy.Server{Router: r}
			if lane == "full" {
				s.Handler = http.HandlerFunc(r.ServeHTTP)
			}
			c := proxytest.Dial(t, proxytest.StartPlain(t, s).Plain)
			who := func() map[int]bool {
				at := map[int]bool{}
				for k := range 400 {
					if string(c.Do(request("GET /", fmt.Sprintf("X-Forwarded-For: 10.0.%d.%d\r\n\r\n", k/200, k%200))).Content) == "canary" {
						at[k] = true
					}
				}
				return at
			}
			assert.Empty(t, who())
			require.NoError(t, u.Canary(to, 0.25))
			few := who()
			assert.InDelta(t, 100, len(few), 40)
			assert.Equal(t, few, who(), "clients stay where they are")
			require.NoError(t, u.Canary(to, 0.5))
			more := who()
			assert.InDelta(t, 200, len(more), 50)
			for k := range few {
				assert.True(t, more[k], "clients of the canary stay there")
			}
			require.NoError(t, u.Canary(to, 1))
			assert.Len(t, who(), 400)
			require.NoError(t, u.Canary(nil, 0))
			assert.Empty(t, who())
			for _, share := range []float64{-1, 1.1, math.NaN()} {
				assert.ErrorContains(t, u.Canary(to, share), "share")
				assert.ErrorContains(t, u.Mirror(to, share), "share")
			}
			assert.Error(t, u.Canary(u, 1))
			assert.Error(t, u.Mirror(u, 1))
		})
	}
}

func TestAMirrorGetsCopiesAndDoesNotAffectResponses(t *testing.T) {
	first := proxytest.NewServer(t, nil)
	for _, broken := range []bool{false, true} {
		second := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			buf := make([]byte, 100_000)
			for {
				if _, err := q.Body.Read(buf); err != nil {
					break
				}
			}
			if broken {
				panic(http.ErrAbortHandler)
			}
			w.WriteHeader(500)
		}))
		inLanes(t, func() *hostproxy.Upstream {
			u := hostproxy.To(first.Addr())
			require.NoError(t, u.Mirror(hostproxy.To(second.Addr()), 1))
			return u
		}, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
			before := len(second.Seen())
			body := strings.Repeat("0123456789", 3000)
			for _, raw := range []string{
				request("GET /a?b=c", "X-A: 1\r\n\r\n"), request("POST /p", sized("hello")), request("POST /p", sized(body)),
				request("POST /p", "Transfer-Encoding: chunked\r\n\r\n"+chunked("hello", 2)), request("POST /large", sized(strings.Repeat("x", 100_000))),
			} {
				method, _, _ := strings.Cut(raw, " ")
				c.Send(raw)
				assert.Equal(t, 200, c.Response(method).StatusCode)
				assert.NoError(t, (<-records).Err)
			}
			got := map[string]proxytest.Seen{}
			// a copy is counted before its body has arrived
			proxytest.Eventually(t, "whole copies", func() bool {
				var all []string
				for _, s := range second.Seen()[before:] {
					all = append(all, fmt.Sprint(s.Method, " ", s.Target, " ", len(s.Content)))
					got[all[len(all)-1]] = s
				}
				slices.Sort(all)
				return slices.Equal(all, []string{"GET /a?b=c 0", "POST /p 30000", "POST /p 5", "POST /p 5"})
			})
			assert.Equal(t, "1", got["GET /a?b=c 0"].Header.Get("X-A"))
			assert.Equal(t, "a.test", got["GET /a?b=c 0"].Host)
			assert.Equal(t, "127.0.0.1", got["GET /a?b=c 0"].Header.Get("X-Forwarded-For"))
			assert.Equal(t, body, got["POST /p 30000"].Content)
		})
	}
}

// Two upstreams may mirror each other: a copy is not copied.
func TestACopyIsNotCopied(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	one, two := proxytest.NewServer(t, nil), proxytest.NewServer(t, nil)
	inLanes(t, func() *hostproxy.Upstream {
		u, v := hostproxy.To(one.Addr()), hostproxy.To(two.Addr())
		require.NoError(t, u.Mirror(v, 1))
		require.NoError(t, v.Mirror(u, 1))
		return u
	}, func(t *testing.T, c *proxytest.Client, _ <-chan hostproxy.Exchange) {
		first, second := len(one.Seen()), len(two.Seen())
		for range 5 {
			assert.Equal(t, 200, c.Do(request("GET /", "\r\n")).StatusCode)
		}
		proxytest.Eventually(t, "copies", func() bool { return len(two.Seen()) == second+5 })
		never(t, "a copy of a copy", func() bool { return len(one.Seen()) != first+5 })
	})
}

// Copies in flight end with the server, and when the mirror is replaced or
// removed. So do the connections kept for it.
func TestCopiesEndWithTheirMirror(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(u *hostproxy.Upstream, s *proxytest.Running) error{
		"by the server's end": func(_ *hostproxy.Upstream, s *proxytest.Running) error { return s.Stop() },
		"by removing it":      func(u *hostproxy.Upstream, _ *proxytest.Running) error { return u.Mirror(nil, 0) },
		"by replacing it": func(u *hostproxy.Upstream, _ *proxytest.Running) error {
			return u.Mirror(hostproxy.To("127.0.0.1:1"), 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			proxytest.NoLeaks(t)
			one := proxytest.NewServer(t, nil)
			left := make(chan string, 1)
			slow := proxytest.NewBackend(t, thinks(left))
			u := hostproxy.To(one.Addr())
			require.NoError(t, u.Mirror(hostproxy.To(slow.Addr()), 1))
			r := new(hostproxy.Router)
			r.Handle("a.test", u)
			s := proxytest.StartPlain(t, &hostproxy.Server{Router: r})
			assert.Equal(t, 200, proxytest.Dial(t, s.Plain).Do(request("GET /", "\r\n")).StatusCode)
			slow.WaitRequests(1)
			stills, began := proxytest.WatchStandstills(t), time.Now()
			require.NoError(t, end(u, s))
			assert.Empty(t, <-left)
			assert.Less(t, time.Since(began)-stills.Total(), 4*time.Second)
		})
	}
}
