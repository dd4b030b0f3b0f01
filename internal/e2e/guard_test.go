package e2e_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestAnUpstreamServesOnlyClientsThatItsListsAllow(t *testing.T) {
	prefixes := func(ss ...string) (all []netip.Prefix) {
		for _, s := range ss {
			all = append(all, netip.MustParsePrefix(s))
		}
		return all
	}
	b := proxytest.NewBackend(t, good)
	for _, tt := range []struct {
		name        string
		allow, deny []netip.Prefix
		want        int
	}{
		{"no list", nil, nil, 200},
		{"allowed", prefixes("10.0.0.0/8", "127.0.0.0/8"), nil, 200},
		{"allowed, but denied", prefixes("127.0.0.0/8"), prefixes("127.0.0.1/32"), 403},
		{"not allowed", prefixes("10.0.0.0/8", "::/0"), nil, 403},
		{"denied", nil, prefixes("0.0.0.0/0"), 403},
		{"others denied", nil, prefixes("::/0", "10.0.0.0/8"), 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			build := func() *hostproxy.Upstream {
				u := hostproxy.To(b.Addr())
				u.Allow, u.Deny = tt.allow, tt.deny
				return u
			}
			inLanes(t, build, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
				before := len(b.Requests())
				a := c.Do(request("POST /", sized("hello")))
				assert.Equal(t, tt.want, a.StatusCode)
				x := <-records
				assert.Equal(t, tt.want, x.Status)
				assert.NoError(t, x.Err)
				if tt.want == 403 {
					assert.Len(t, b.Requests(), before)
				}
			})
		})
	}
}

func TestAnUpstreamAcceptsBodiesUpToItsLimit(t *testing.T) {
	b := proxytest.NewBackend(t, func(c *proxytest.BackendConn) { good(c) })
	build := func() *hostproxy.Upstream {
		u := hostproxy.To(b.Addr())
		u.MaxRequestBody = 50_000
		return u
	}
	inChunks := func(s string) string { return "Transfer-Encoding: chunked\r\n\r\n" + chunked(s, 10_000) }
	fits, not := strings.Repeat("x", 50_000), strings.Repeat("x", 50_001)
	for _, tt := range []struct {
		name, raw string
		want      int
	}{
		{"sized, fits", sized(fits), 200},
		{"chunked, fits", inChunks(fits), 200},
		{"sized, too large", sized(not), 413},
		{"chunked, too large", inChunks(not), 413},
		{"chunked, too large at once", "Transfer-Encoding: chunked\r\n\r\n" + chunked(not, 60_000), 413},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inLanes(t, build, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
				c.Send(request("PUT /", tt.raw))
				assert.Equal(t, tt.want, c.Response("PUT").StatusCode)
				x := <-records
				assert.Equal(t, tt.want, x.Status)
				if tt.want == 413 {
					var e *hostproxy.Error
					require.ErrorAs(t, x.Err, &e)
					assert.Equal(t, hostproxy.SideClient, e.Side)
				}
				if tt.name == "sized, too large" { // the rest is read behind the answer
					assert.Equal(t, 200, c.Do(request("GET /", "\r\n")).StatusCode)
				}
			})
		})
	}
}

// limiter is a func as a hostproxy.Limiter.
type limiter func(context.Context, netip.Addr) (hostproxy.Quota, error)

func (l limiter) Allow(ctx context.Context, client netip.Addr) (hostproxy.Quota, error) {
	return l(ctx, client)
}

func TestAnUpstreamHasItsOwnRateLimit(t *testing.T) {
	b := proxytest.NewBackend(t, good)
	build := func() *hostproxy.Upstream {
		u := hostproxy.To(b.Addr())
		u.RateLimit = &hostproxy.RateLimit{Rate: 0.01, Burst: 2}
		return u
	}
	inLanes(t, build, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
		for _, want := range []int{200, 200, 429, 429} {
			a := c.Do(request("GET /", "\r\n"))
			assert.Equal(t, want, a.StatusCode)
			x := <-records
			assert.Equal(t, "a.test", x.Pattern)
			assert.NoError(t, x.Err)
			if want == 429 {
				assert.Equal(t, []string{"100"}, a.Header["Retry-After"])
				assert.Equal(t, []string{`"default";q=2;w=200`}, a.Header["Ratelimit-Policy"])
			}
		}
	})
}

func TestALimiterOfTheProgramDecides(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	b := proxytest.NewBackend(t, good)
	for _, tt := range []struct {
		name string
		l    limiter
		want int
	}{
		{"yes", func(_ context.Context, a netip.Addr) (hostproxy.Quota, error) {
			return hostproxy.Quota{OK: a == netip.MustParseAddr("127.0.0.1")}, nil
		}, 200},
		{"no", func(context.Context, netip.Addr) (hostproxy.Quota, error) {
			return hostproxy.Quota{Retry: 7 * time.Second}, nil
		}, 429},
		{"an error", func(context.Context, netip.Addr) (hostproxy.Quota, error) {
			return hostproxy.Quota{}, errors.New("no connection")
		}, 200},
		{"a panic", func(context.Context, netip.Addr) (hostproxy.Quota, error) { panic("oh") }, 200},
		{"too long", func(ctx context.Context, _ netip.Addr) (hostproxy.Quota, error) {
			<-ctx.Done()
			return hostproxy.Quota{}, ctx.Err()
		}, 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			build := func() *hostproxy.Upstream {
				u := hostproxy.To(b.Addr())
				u.RateLimit = &hostproxy.RateLimit{Rate: 1, Limiter: tt.l}
				return u
			}
			inLanes(t, build, func(t *testing.T, c *proxytest.Client, _ <-chan hostproxy.Exchange) {
				a := c.Do(request("GET /", "\r\n"))
				assert.Equal(t, tt.want, a.StatusCode)
				if tt.want == 429 {
					assert.Equal(t, []string{"7"}, a.Header["Retry-After"])
				}
			})
		})
	}
}
