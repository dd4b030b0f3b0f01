package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// limited returns two settings with the same limit: in the Router, and in the
// Upstream.
func limited(l hostproxy.RateLimit) map[string]setting {
	wild := func(s *site) { s.router.Handle("*.b.test", s.upstream) }
	return map[string]setting{
		"Router":   func(s *site) { s.router.RateLimit = &l; wild(s) },
		"Upstream": func(s *site) { s.upstream.RateLimit = &l; wild(s) },
	}
}

// A keyed request has a host and some field lines.
type keyed struct {
	host   string
	fields string
}

func (k keyed) raw() string {
	return "GET / HTTP/1.1\r\nHost: " + k.host + "\r\n" + k.fields + laneProbe + ": p\r\n\r\n"
}

// over2 sends k over HTTP/2, by net/http's client, and returns the status.
func (k keyed) over2(t *testing.T, c *http.Client) int {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), "GET", "https://a.test/", nil)
	require.NoError(t, err)
	q.Host = k.host
	for line := range strings.Lines(k.fields) {
		name, value, _ := strings.Cut(line, ":")
		q.Header.Add(name, strings.TrimSpace(value))
	}
	res, err := c.Do(q)
	require.NoError(t, err)
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	require.NoError(t, err)
	return res.StatusCode
}

// keyedRequests are requests with their keys for a limit by the header
// X-Tenant, by the cookie s, and by the host. "" means the key of the client.
var keyedRequests = []struct { // read-only
	keyed
	header, cookie, of string
}{
	{keyed{"a.test", ""}, "", "", "a.test"},
	{keyed{"A.Test:80", "X-Tenant: a\r\n"}, "a", "", "a.test"},
	{keyed{"a.test", "x-tenant:  a \r\nX-Tenant: b\r\n"}, "a", "", "a.test"},
	{keyed{"x.b.test", "X-TENANT:\r\n"}, "", "", "x.b.test"},
	{keyed{"X.b.test.", "X-Tenant:\r\nX-Tenant: a\r\n"}, "", "", "x.b.test"},
	{keyed{"y.b.test", "X-Tenant: b\r\nCookie: s=1\r\n"}, "b", "1", "y.b.test"},
	{keyed{"a.test", "Cookie: t=2; s=1\r\n"}, "", "1", "a.test"},
	{keyed{"a.test", "Cookie: t=2\r\nCookie: s=2\r\nX-Tenants: a\r\n"}, "", "2", "a.test"},
	{keyed{"y.b.test", "Cookie: s=\r\n"}, "", "", "y.b.test"},
	{keyed{"a.test", "Cookie: S=1; xs=1; s\r\n"}, "", "", "a.test"},
	{keyed{"a.test", "X-Tenant: " + strings.Repeat("x", 4000) + "\r\n"}, strings.Repeat("x", 4000), "", "a.test"},
	{keyed{"a.test", "X-Tenant: " + strings.Repeat("x", 4000) + "y\r\n"}, strings.Repeat("x", 4000) + "y", "", "a.test"},
}

// All lanes, and HTTP/2, decide on the same requests like a map of counters.
func TestAKeyedLimitDecidesTheSameInEachLane(t *testing.T) {
	t.Parallel()
	const burst = 3
	seed := rand.Uint64()
	for by, key := range map[hostproxyKey]func(i int) string{
		{Header: "x-tenant"}: func(i int) string { return keyedRequests[i].header },
		{Cookie: "s"}:        func(i int) string { return keyedRequests[i].cookie },
		{Host: true}:         func(i int) string { return keyedRequests[i].of },
	} {
		l := hostproxy.RateLimit{Rate: 1e-6, Burst: burst, By: hostproxy.LimitKey{Header: by.Header, Cookie: by.Cookie, Host: by.Host}}
		for place, set := range limited(l) {
			check := func(t *testing.T, s *site, send func(k keyed) int) {
				t.Helper()
				r, count := rand.New(rand.NewPCG(seed, 1)), map[string]int{}
				for n := range 60 {
					i := r.IntN(len(keyedRequests))
					want := 200
					if count[key(i)]++; count[key(i)] > burst {
						want = 429
					}
					require.Equal(t, want, send(keyedRequests[i].keyed), "request %d of seed %d: %.99q", n, seed, keyedRequests[i].raw())
				}
			}
			t.Run(fmt.Sprint(by, " ", place), func(t *testing.T) {
				overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
					c := s.dial(t)
					check(t, s, func(k keyed) int { return c.Do(k.raw()).StatusCode })
				}, set)
				for _, l := range lanes {
					if !l.secure {
						continue
					}
					t.Run(l.name+", HTTP/2", func(t *testing.T) {
						s := newSite(t, l, proxytest.Reply(ok), set)
						c := proxytest.HTTPClient(t, s.addr, s.tls.RootCAs, "h2")
						check(t, s, func(k keyed) int { return k.over2(t, c) })
					})
				}
			})
		}
	}
}

// hostproxyKey is a LimitKey without its func, so that it can be the key of a
// map.
type hostproxyKey struct {
	Header, Cookie string
	Host           bool
}

func TestFixedKeysStayOnTheFastLane(t *testing.T) {
	for name, tt := range map[string]struct {
		by   hostproxy.LimitKey
		fast bool
	}{
		"client": {hostproxy.LimitKey{}, true},
		"header": {hostproxy.LimitKey{Header: "X-Tenant"}, true},
		"cookie": {hostproxy.LimitKey{Cookie: "s"}, true},
		"host":   {hostproxy.LimitKey{Host: true}, true},
		"func":   {hostproxy.LimitKey{Func: func(*http.Request) string { return "" }}, false},
	} {
		for place, set := range limited(hostproxy.RateLimit{Rate: 1000, MaxInFlight: 100, By: tt.by}) {
			t.Run(name+" "+place, func(t *testing.T) {
				assertLane(t, newSite(t, lanes[0], proxytest.Reply(ok), set), tt.fast)
			})
		}
	}
}

// tenant is a func for LimitKey.
func tenant(q *http.Request) string {
	switch v := q.Header.Get("X-Tenant"); v {
	case "panic":
		panic("oh")
	case "client":
		return "of " + hostproxy.ClientAddr(q).String()
	default:
		return v
	}
}

func TestAKeyFuncDecidesWhatARequestCountsFor(t *testing.T) {
	t.Parallel()
	l := hostproxy.RateLimit{Rate: 1e-6, Burst: 1, By: hostproxy.LimitKey{Func: tenant}}
	for place, set := range limited(l) {
		t.Run(place, func(t *testing.T) {
			overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
				c := s.dial(t)
				n := 0
				for _, tt := range []struct {
					fields string
					want   int
				}{
					{"X-Tenant: a\r\n", 200}, {"X-Tenant: a\r\n", 429}, {"X-Tenant: b\r\n", 200},
					{"", 200}, {"", 429}, {"X-Tenant: panic\r\n", 500}, {"X-Tenant: client\r\nX-Forwarded-For: 192.0.2.9\r\n", 200},
					{"X-Tenant: of 192.0.2.9\r\n", 429}, {"X-Tenant: client\r\nX-Forwarded-For: 192.0.2.8\r\n", 200},
				} {
					assert.Equal(t, tt.want, c.Do(keyed{"a.test", tt.fields}.raw()).StatusCode, "%q", tt.fields)
					n++
					x := s.record(t, n)
					assert.Equal(t, tt.want, x.Status)
					if tt.want != 500 {
						assert.NoError(t, x.Err)
						continue
					}
					var e *hostproxy.Error
					require.ErrorAs(t, x.Err, &e)
					assert.Equal(t, hostproxy.SideProxy, e.Side)
					assert.ErrorContains(t, e, "panic in RateLimit.By.Func: oh")
				}
			}, set, trusting)
		})
	}
}

func TestAKeyFuncThatBlocksHoldsUpItsOwnRequestOnly(t *testing.T) {
	blocks, entered := make(chan struct{}), make(chan struct{}, 1)
	by := hostproxy.LimitKey{Func: func(q *http.Request) string {
		if q.Header.Get("X-Tenant") == "slow" {
			entered <- struct{}{}
			<-blocks
		}
		return q.Header.Get("X-Tenant")
	}}
	for place, set := range limited(hostproxy.RateLimit{Rate: 1000, MaxInFlight: 1, By: by}) {
		t.Run(place, func(t *testing.T) {
			blocks = make(chan struct{})
			s := newSite(t, lanes[0], proxytest.Reply(ok), set)
			slow, other := s.dial(t), s.dial(t)
			slow.Send(keyed{"a.test", "X-Tenant: slow\r\n"}.raw())
			<-entered
			for range 3 {
				assert.Equal(t, 200, other.Do(keyed{"a.test", "X-Tenant: b\r\n"}.raw()).StatusCode)
			}
			require.NoError(t, s.router.Set("c.test", http.NotFoundHandler()), "no lock is held")
			close(blocks)
			assert.Equal(t, 200, slow.Response("GET").StatusCode)
		})
	}
}

// A keyBook is a KeyLimiter that allows one request of each key, and keeps all
// keys.
type keyBook struct {
	mu   sync.Mutex
	seen map[string]int
}

func (l *keyBook) take(key string) (hostproxy.Quota, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen[key]++
	if strings.HasPrefix(key, "2c26b46b68ffc68f") { // foo
		return hostproxy.Quota{}, errors.New("no connection")
	}
	return hostproxy.Quota{OK: l.seen[key] == 1, Retry: 9 * time.Second}, nil
}

func (l *keyBook) Allow(_ context.Context, client netip.Addr) (hostproxy.Quota, error) {
	return l.take(client.String())
}

func (l *keyBook) AllowKey(_ context.Context, key string) (hostproxy.Quota, error) {
	return l.take(key)
}

func TestAKeyLimiterIsAskedAboutKeys(t *testing.T) {
	const abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" // SHA-256 of abc
	for _, place := range []string{"Router", "Upstream"} {
		t.Run(place, func(t *testing.T) {
			var book *keyBook
			overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
				c := s.dial(t)
				for _, tt := range []struct {
					fields string
					want   int
				}{{"X-Tenant: abc\r\n", 200}, {"X-Tenant: abc\r\n", 429}, {"", 200}, {"", 429}, {"X-Tenant: foo\r\n", 200}, {"X-Tenant: foo\r\n", 200}} {
					a := c.Do(keyed{"a.test", tt.fields}.raw())
					assert.Equal(t, tt.want, a.StatusCode, "%q", tt.fields)
					if tt.want == 429 {
						assert.Equal(t, []string{"9"}, a.Header["Retry-After"])
					}
				}
				assert.Equal(t, 2, book.seen[abc])
				assert.Equal(t, 2, book.seen["127.0.0.1"])
				assert.Len(t, book.seen, 3)
			}, func(s *site) {
				book = &keyBook{seen: map[string]int{}}
				limited(hostproxy.RateLimit{Rate: 1, Limiter: book, By: hostproxy.LimitKey{Header: "X-Tenant"}})[place](s)
			})
		})
	}
}

// A limit by client, before the limit by key, stops a client that invents a key
// for each request.
func TestALimitByClientHoldsAClientThatInventsKeys(t *testing.T) {
	overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		c := s.dial(t)
		served := 0
		for n := range 20 {
			if c.Do(keyed{"a.test", fmt.Sprintf("X-Tenant: %d\r\n", n)}.raw()).StatusCode == 200 {
				served++
			}
		}
		assert.Equal(t, 5, served)
	}, func(s *site) {
		s.router.RateLimit = &hostproxy.RateLimit{Rate: 1e-6, Burst: 5}
		s.upstream.RateLimit = &hostproxy.RateLimit{Rate: 1e-6, Burst: 1, By: hostproxy.LimitKey{Header: "X-Tenant"}}
	})
}

// The header of the proxy's request identifier, which differs each time, cannot
// be a key.
func TestTheRequestIDHeaderCannotBeAKey(t *testing.T) {
	t.Parallel()
	l := hostproxy.RateLimit{Rate: 1e-6, Burst: 2, By: hostproxy.LimitKey{Header: "x-request-ID"}}
	sets := limited(l)
	sets["Guard"] = func(s *site) {
		s.router.Handle("a.test/guarded/", &hostproxy.Guard{RateLimit: &l, Next: s.upstream})
	}
	for place, set := range sets {
		t.Run(place, func(t *testing.T) {
			overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
				c := s.dial(t)
				for n, want := range []int{200, 200, 429, 429} {
					raw := strings.Replace(keyed{"a.test", "X-Request-Id: " + itoa(n) + "\r\n"}.raw(), "GET /", "GET /guarded/", 1)
					assert.Equal(t, want, c.Do(raw).StatusCode)
				}
			}, set, func(s *site) { s.router.RequestID.Name = "X-Request-Id" })
		})
	}
}

// A client that waits for the end of each response has only one request in
// flight, however fast it continues. Over HTTP/2 a request waits only 6 ms for
// the place of the last one, so the test does not run beside others.
func TestConsecutiveRequestsCountAsOneInFlight(t *testing.T) {
	overEachLane(t, good, func(t *testing.T, s *site) {
		c := s.dial(t)
		for range 300 {
			require.Equal(t, 200, c.Do(request("POST /", sized("hello"))).StatusCode)
		}
	}, alone)
	for _, handler := range []bool{false, true} {
		t.Run(fmt.Sprint("HTTP/2, handler lane ", handler), func(t *testing.T) {
			s := newSite(t, lane{secure: true, handler: handler}, proxytest.Reply("HTTP/1.1 200 OK\r\n"+sized(strings.Repeat("x", 5000))), alone)
			c := proxytest.HTTPClient(t, s.addr, s.tls.RootCAs, "h2")
			for range 500 {
				require.Equal(t, 200, keyed{host: "a.test"}.over2(t, c), "on another stream")
			}
		})
	}
}

func TestAKeyedLimitWorksWithoutARouter(t *testing.T) {
	for name, by := range map[string]hostproxy.LimitKey{"header": {Header: "X-Tenant"}, "func": {Func: tenant}} {
		t.Run(name, func(t *testing.T) {
			u := hostproxy.To(proxytest.NewBackend(t, good).Addr())
			u.RateLimit = &hostproxy.RateLimit{Rate: 1e-6, Burst: 1, MaxInFlight: 1, By: by}
			c := proxytest.Dial(t, proxytest.NewServer(t, u).Addr())
			for _, tt := range []struct {
				tenant string
				want   int
			}{{"a", 200}, {"a", 429}, {"b", 200}, {"", 200}, {"", 429}} {
				assert.Equal(t, tt.want, c.Do(keyed{"a.test", "X-Tenant: " + tt.tenant + "\r\n"}.raw()).StatusCode)
			}
		})
	}
}
