package e2e_test

import (
	"context"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// diverting returns an upstream for inLanes that diverts all clients to its
// canary.
func diverting(t *testing.T, stable, canary string, change func(u, to *hostproxy.Upstream)) (build, last func() *hostproxy.Upstream) {
	var u *hostproxy.Upstream
	return func() *hostproxy.Upstream {
		u = hostproxy.To(stable)
		to := hostproxy.To(canary)
		change(u, to)
		require.NoError(t, u.Canary(to, 1))
		return u
	}, func() *hostproxy.Upstream { return u }
}

func TestTheGuardsOfAnUpstreamAndOfItsCanaryBothApply(t *testing.T) {
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	elsewhere := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	sizedBody, chunkedBody := request("POST /", sized("hello")), request("POST /", "Transfer-Encoding: chunked\r\n\r\n"+chunked("hello", 5))
	for _, tt := range []struct {
		name   string
		guard  func(*hostproxy.Upstream)
		raw    string
		status int
	}{
		{"Deny", func(u *hostproxy.Upstream) { u.Deny = loopback }, sizedBody, 403},
		{"Allow", func(u *hostproxy.Upstream) { u.Allow = elsewhere }, sizedBody, 403},
		{"RateLimit", func(u *hostproxy.Upstream) { u.RateLimit = &hostproxy.RateLimit{Rate: 1e-6, Limiter: nobody{}} }, sizedBody, 429},
		{"MaxRequestBody", func(u *hostproxy.Upstream) { u.MaxRequestBody = 4 }, sizedBody, 413},
		{"MaxRequestBody of a body in chunks", func(u *hostproxy.Upstream) { u.MaxRequestBody = 4 }, chunkedBody, 413},
		{"a MaxRequestBody that is not reached", func(u *hostproxy.Upstream) { u.MaxRequestBody = 5 }, chunkedBody, 200},
	} {
		for _, whose := range []string{"upstream", "canary"} {
			t.Run(tt.name+"/"+whose, func(t *testing.T) {
				stable, canary := proxytest.NewBackend(t, says("stable")), proxytest.NewBackend(t, says("canary"))
				build, _ := diverting(t, stable.Addr(), canary.Addr(), func(u, to *hostproxy.Upstream) {
					if whose == "canary" {
						u = to
						to.MaxRequestBody = 1000 // larger, so the upstream's limit applies
					}
					tt.guard(u)
				})
				inLanes(t, build, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
					before := len(canary.Requests())
					assert.Equal(t, tt.status, c.Do(tt.raw).StatusCode)
					assert.Equal(t, tt.status, (<-records).Status)
					assert.Empty(t, stable.Requests())
					if tt.status == 403 || tt.status == 429 {
						assert.Len(t, canary.Requests(), before)
					}
				})
			})
		}
	}
}

// nobody is a Limiter that refuses all clients.
type nobody struct{}

func (nobody) Allow(context.Context, netip.Addr) (hostproxy.Quota, error) {
	return hostproxy.Quota{Retry: time.Minute}, nil
}

func TestMaintainAndPauseApplyToTheCanaryToo(t *testing.T) {
	stable, canary := proxytest.NewBackend(t, says("stable")), proxytest.NewBackend(t, says("canary"))
	arrived := make(doorbell, 10)
	build, last := diverting(t, stable.Addr(), canary.Addr(), func(u, _ *hostproxy.Upstream) {
		u.RateLimit = &hostproxy.RateLimit{Rate: 1, Limiter: arrived}
	})
	inLanes(t, build, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
		u, before := last(), len(canary.Requests())
		require.NoError(t, u.Maintain(hostproxy.Page{Body: []byte("back soon")}))
		assert.Equal(t, "back soon", string(c.Do(request("GET /", "\r\n")).Content))
		<-arrived
		<-records

		require.NoError(t, u.Pause(time.Minute))
		c.Send(request("GET /", "\r\n"))
		<-arrived
		assert.Len(t, canary.Requests(), before)
		require.NoError(t, u.Resume())
		assert.Equal(t, "canary", string(c.Response("GET").Content))
		<-records

		require.NoError(t, u.Pause(time.Minute))
		c.Send(request("GET /", "\r\n"))
		<-arrived
		require.NoError(t, u.Canary(nil, 0)) // removed before the wait ends
		require.NoError(t, u.Resume())
		assert.Equal(t, "stable", string(c.Response("GET").Content))
		<-records

		require.NoError(t, u.Pause(time.Minute))
		c.Send(request("POST /", sized("hello")))
		<-arrived
		hooked := hostproxy.To(canary.Addr()) // needs the handler lane
		hooked.Rewrite = func(p *httputil.ProxyRequest) { p.Out.Header.Set("X-Rewritten", "yes") }
		require.NoError(t, u.Canary(hooked, 1))
		require.NoError(t, u.Resume())
		assert.Equal(t, "canary", string(c.Response("POST").Content))
		assert.NoError(t, (<-records).Err)
		all := canary.Requests()
		assert.Equal(t, "yes", all[len(all)-1].Header.Get("X-Rewritten"))
		assert.Equal(t, "hello", string(all[len(all)-1].Content))
		assert.Empty(t, arrived)
	})
}

func TestADrainWaitsForTheCanaryAndCutsItOff(t *testing.T) {
	for _, kind := range []string{"request", "stream"} {
		t.Run(kind, func(t *testing.T) {
			canary := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
				if q, err := c.ReadRequest(); err == nil {
					if kind == "stream" {
						_ = c.Send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: " + q.Header.Get("Upgrade") + "\r\nConnection: Upgrade\r\n\r\n")
					}
					c.Wait(nil)
				}
			})
			build, last := diverting(t, proxytest.Refused(t), canary.Addr(), func(_, _ *hostproxy.Upstream) {})
			inLanes(t, build, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
				before := len(canary.Requests())
				raw, want := get, "cut off 1 request: "
				if kind == "stream" {
					raw, want = upgrade, "cut off 1 stream: "
				}
				c.Send(raw)
				canary.WaitRequests(before + 1)
				if kind == "stream" {
					require.Contains(t, c.Head(), " 101 ")
				}
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				defer cancel()
				err := last().Drain(ctx)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				assert.ErrorContains(t, err, want)
				if kind == "stream" {
					c.Rest()
					<-records
				} else {
					assert.Equal(t, 503, c.Response("GET").StatusCode)
					assert.Equal(t, hostproxy.SideDrain, (<-records).Err.(*hostproxy.Error).Side)
				}
				late := proxytest.Dial(t, c.RemoteAddr().String())
				assert.Equal(t, 503, late.Do(get).StatusCode)
				assert.Equal(t, hostproxy.SideDrain, (<-records).Err.(*hostproxy.Error).Side)
			})
		})
	}
}

func TestTheLimitOfAnUpstreamCountsItsCanarysRequests(t *testing.T) {
	let := make(chan struct{})
	canary := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		for {
			if q, err := c.ReadRequest(); err != nil || q == nil || !c.Wait(let) {
				return
			}
			_ = c.Send("HTTP/1.1 200 OK\r\n" + sized("canary"))
		}
	})
	build, _ := diverting(t, proxytest.Refused(t), canary.Addr(), func(u, _ *hostproxy.Upstream) {
		u.MaxInFlight, u.Queue = 1, hostproxy.Queue{Max: 1, Wait: time.Minute}
	})
	inLanes(t, build, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
		before := len(canary.Requests())
		c.Send(get)
		canary.WaitRequests(before + 1)
		one, two := proxytest.Dial(t, c.RemoteAddr().String()), proxytest.Dial(t, c.RemoteAddr().String())
		one.Send(get)
		two.Send(get)
		x := <-records // of one of them, since the queue has one place
		assert.Equal(t, 503, x.Status)
		assert.Len(t, canary.Requests(), before+1)
		let <- struct{}{}
		assert.Equal(t, "canary", string(c.Response("GET").Content))
		let <- struct{}{}
		got := []int{one.Response("GET").StatusCode, two.Response("GET").StatusCode}
		assert.ElementsMatch(t, []int{200, 503}, got)
	})
}

// A canary that is removed and drained fails no request.
func TestRemovingAndDrainingACanaryFailsNoRequest(t *testing.T) {
	stable, canary := proxytest.NewBackend(t, says("stable")).Addr(), proxytest.NewBackend(t, says("canary")).Addr()
	var u *hostproxy.Upstream
	stile := newTurnstile()
	inLanes(t, func() *hostproxy.Upstream {
		u = hostproxy.To(stable)
		u.RateLimit = &hostproxy.RateLimit{Rate: 1, Limiter: stile}
		return u
	}, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
		storm(t, c, records, stile, func(int) {
			to := hostproxy.To(canary)
			require.NoError(t, u.Canary(to, 1))
			stile.turn()
			require.NoError(t, u.Canary(nil, 0))
			require.NoError(t, to.Drain(t.Context()))
		})
	})
}

func TestTheStatusShowsTheTargetsOfACanary(t *testing.T) {
	var r hostproxy.Router
	u, canary := hostproxy.To("stable.test:80"), hostproxy.To("canary.test:80")
	r.Handle("a.test", u)
	shown := func() string {
		w := httptest.NewRecorder()
		hostproxy.StatusHandler(&r).ServeHTTP(w, httptest.NewRequest("GET", "/?format=json", nil))
		return w.Body.String()
	}
	require.NoError(t, u.Canary(canary, 0.1))
	assert.Contains(t, shown(), "stable.test:80")
	assert.Contains(t, shown(), "canary.test:80")
	require.NoError(t, u.Canary(nil, 0))
	assert.NotContains(t, shown(), "canary.test:80")
}
