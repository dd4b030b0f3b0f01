package e2e_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// crowded is an upstream of which each request waits until it is let go.
func crowded(t *testing.T, change func(*hostproxy.Upstream)) (build func() *hostproxy.Upstream, b *proxytest.Backend, let chan struct{}, most *atomic.Int64) {
	let, most = make(chan struct{}), new(atomic.Int64)
	var now atomic.Int64
	b = proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		for {
			if q, err := c.ReadRequest(); err != nil || q == nil {
				return
			}
			n := now.Add(1)
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
			ok := c.Wait(let)
			now.Add(-1)
			if !ok {
				return
			}
			_ = c.Send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	return func() *hostproxy.Upstream {
		u := hostproxy.To(b.Addr())
		change(u)
		return u
	}, b, let, most
}

func TestRequestsAboveABoundWaitForRoom(t *testing.T) {
	for name, change := range map[string]func(*hostproxy.Upstream){
		"of the upstream": func(u *hostproxy.Upstream) { u.MaxInFlight = 2 },
		"of the target":   func(u *hostproxy.Upstream) { u.MaxTargetInFlight = 2 },
	} {
		t.Run(name, func(t *testing.T) {
			build, b, let, most := crowded(t, func(u *hostproxy.Upstream) {
				change(u)
				u.Queue = hostproxy.Queue{Max: 3, Wait: time.Minute}
			})
			inLanes(t, build, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
				before := len(b.Requests())
				var all []*proxytest.Client
				for i := range 9 {
					k := proxytest.Dial(t, c.RemoteAddr().String())
					k.Send(request("GET /", "\r\n"))
					all = append(all, k)
					if i < 2 {
						b.WaitRequests(before + i + 1)
					}
				}
				for range 4 { // for whom there is no room to wait
					x := <-records
					assert.Equal(t, 503, x.Status)
					assert.Zero(t, x.Queue.Round(time.Second))
				}
				for range 5 {
					let <- struct{}{}
				}
				served := 0
				for _, k := range all {
					a := k.Response("GET")
					if a.StatusCode == 200 {
						served++
						continue
					}
					assert.Equal(t, 503, a.StatusCode)
					assert.Equal(t, []string{"1"}, a.Header["Retry-After"])
					assert.Contains(t, string(a.Content), "connection_limit_reached")
				}
				assert.Equal(t, 5, served)
				assert.EqualValues(t, 2, most.Load())
				waited := 0
				for range 5 {
					if x := <-records; x.Queue > 0 {
						waited++
					}
				}
				assert.Equal(t, 3, waited)
			})
		})
	}
}

func TestWhoWaitsTooLongOrLeavesIsNotServed(t *testing.T) {
	build, b, let, _ := crowded(t, func(u *hostproxy.Upstream) {
		u.MaxInFlight, u.Queue = 1, hostproxy.Queue{Max: 5, Wait: 200 * time.Millisecond}
	})
	inLanes(t, build, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
		before := len(b.Requests())
		c.Send(request("GET /", "\r\n"))
		b.WaitRequests(before + 1)
		late, left := proxytest.Dial(t, c.RemoteAddr().String()), proxytest.Dial(t, c.RemoteAddr().String())
		late.Send(request("GET /late", "\r\n"))
		left.Send(request("GET /left", "\r\n"))
		left.Close()
		assert.Equal(t, 503, late.Response("GET").StatusCode)
		for range 2 {
			x := <-records
			var e *hostproxy.Error
			require.ErrorAs(t, x.Err, &e)
			switch x.Path {
			case "/late":
				assert.Equal(t, 503, x.Status)
				assert.Equal(t, hostproxy.SideProxy, e.Side)
				assert.GreaterOrEqual(t, x.Queue, 200*time.Millisecond)
			case "/left":
				assert.Equal(t, 499, x.Status)
				assert.Equal(t, hostproxy.SideClient, e.Side)
			default:
				t.Errorf("unexpected %s", x.Path)
			}
		}
		let <- struct{}{}
		assert.Equal(t, 200, c.Response("GET").StatusCode)
		assert.Len(t, b.Requests(), before+1)
	})
}
