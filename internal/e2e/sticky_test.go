package e2e_test

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// stickily sends a request with the cookie. It returns the target that answered
// and the value of the cookie that was set, or "".
func stickily(c *proxytest.Client, cookie string) (who, set string) {
	rest := "\r\n"
	if cookie != "" {
		rest = "Cookie: hostproxy=" + cookie + "\r\n\r\n"
	}
	a := c.Do(request("GET /", rest))
	if cookies := a.Cookies(); len(cookies) > 0 {
		set = cookies[0].Value
	}
	return string(a.Content), set
}

// sticky returns a builder of upstreams with RoundRobin and a Sticky with that
// key.
func sticky(key string, addrs ...string) func() *hostproxy.Upstream {
	return func() *hostproxy.Upstream {
		u := hostproxy.To(addrs...)
		u.Policy, u.Sticky = hostproxy.RoundRobin, &hostproxy.Sticky{Key: []byte(key)}
		return u
	}
}

func TestAStickyCookieWorksAtEachUpstreamWithItsKey(t *testing.T) {
	addrs := named(t, 4)
	reversed := []string{addrs[3], addrs[2], addrs[1], addrs[0]}
	const ours, theirs = "0123456789abcdef", "0123456789abcdeF"
	values := map[string]map[string]string{} // value of each target's cookie, by key
	for _, key := range []string{ours, theirs} {
		values[key] = map[string]string{}
		inLanes(t, sticky(key, addrs...), func(t *testing.T, c *proxytest.Client, _ <-chan hostproxy.Exchange) {
			for range addrs {
				who, set := stickily(c, "")
				require.NotEmpty(t, set)
				if old := values[key][who]; old != "" {
					assert.Equal(t, old, set, "both lanes and both upstreams know the target by the same value")
				}
				values[key][who] = set
			}
			assert.Len(t, values[key], 4)
		})
	}
	inLanes(t, sticky(ours, reversed...), func(t *testing.T, c *proxytest.Client, _ <-chan hostproxy.Exchange) {
		for range 3 {
			for who, value := range values[ours] {
				at, set := stickily(c, value)
				assert.Equal(t, who, at)
				assert.Empty(t, set)
			}
		}
		for _, value := range values[theirs] {
			places := map[string]bool{}
			for range addrs {
				at, set := stickily(c, value)
				assert.Equal(t, values[ours][at], set, "a client with the cookie of another key gets a new target and its cookie")
				places[at] = true
			}
			assert.Len(t, places, 4, "clients are distributed as without a cookie")
		}
	})
	inLanes(t, func() *hostproxy.Upstream {
		u := sticky(ours, addrs...)()
		u.Sticky.Key = nil
		return u
	}, func(t *testing.T, c *proxytest.Client, _ <-chan hostproxy.Exchange) {
		for _, value := range values[ours] {
			who, set := stickily(c, value)
			assert.NotEmpty(t, set)
			assert.NotEqual(t, values[ours][who], set, "a generated key differs from the one that was set")
		}
	})
}

func TestAStickyCookieLastsForMaxAge(t *testing.T) {
	b := named(t, 1)
	for age, want := range map[time.Duration]int{0: 0, 90 * time.Minute: 5400} {
		build := func() *hostproxy.Upstream {
			u := hostproxy.To(b...)
			u.Sticky = &hostproxy.Sticky{MaxAge: age}
			return u
		}
		inLanes(t, build, func(t *testing.T, c *proxytest.Client, _ <-chan hostproxy.Exchange) {
			a := c.Do(request("GET /", "\r\n"))
			require.Len(t, a.Cookies(), 1)
			assert.Equal(t, want, a.Cookies()[0].MaxAge)
			assert.Equal(t, want > 0, strings.Contains(a.Header.Get("Set-Cookie"), "Max-Age=5400"))
			assert.True(t, a.Cookies()[0].Expires.IsZero())
		})
	}
}

// A client whose target is down gets a new one, and keeps it.
func TestAClientLeavesATargetThatIsDown(t *testing.T) {
	for _, by := range []string{"checks", "breaker"} {
		t.Run(by, func(t *testing.T) {
			var ill [2]atomic.Bool
			var asked [2]atomic.Int64
			var addrs []string
			for i, name := range []string{"0", "1"} {
				addrs = append(addrs, proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
					if q.URL.Path != "/up" {
						asked[i].Add(1)
					}
					if ill[i].Load() {
						w.WriteHeader(503)
					}
					_, _ = w.Write([]byte(name))
				})).Addr())
			}
			changed := make(states, 100)
			build := func() *hostproxy.Upstream {
				u := sticky("0123456789abcdef", addrs...)()
				u.TargetChanged = changed.hook
				if by == "checks" {
					u.Health = &hostproxy.HealthCheck{Path: "/up", Interval: 5 * time.Millisecond, Fall: 1}
				} else {
					u.Breaker = &hostproxy.Breaker{Failures: 2, Statuses: []int{503}, OpenFor: time.Minute}
				}
				return u
			}
			inLanes(t, build, func(t *testing.T, c *proxytest.Client, _ <-chan hostproxy.Exchange) {
				first, cookie := stickily(c, "")
				i := int(first[0] - '0')
				ill[i].Store(true)
				if by == "breaker" {
					for range 2 {
						who, set := stickily(c, cookie)
						assert.Equal(t, first, who, "it is up until the breaker opens")
						assert.Empty(t, set)
					}
					changed.await(t, addrs[i]+" open")
				} else {
					changed.await(t, addrs[i]+" down")
				}
				before := asked[i].Load()
				who, moved := stickily(c, cookie)
				assert.NotEqual(t, first, who)
				assert.NotEmpty(t, moved)
				for range 5 {
					again, set := stickily(c, moved)
					assert.Equal(t, who, again)
					assert.Empty(t, set)
				}
				assert.Equal(t, before, asked[i].Load())
				ill[i].Store(false)
				if by == "checks" {
					changed.await(t, addrs[i]+" up")
					again, set := stickily(c, cookie)
					assert.Equal(t, first, again, "a client with the old cookie comes back")
					assert.Empty(t, set)
				}
			})
		})
	}
}
