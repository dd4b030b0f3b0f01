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

// crowded returns an upstream whose target answers each request only after a
// value on let.
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
				for range 4 { // requests that find the queue full
					x := <-records
					assert.Equal(t, 503, x.Status)
					assert.Less(t, x.Queue, proxytest.Patience, "none of the minute")
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

func TestAQueuedRequestThatTimesOutOrLeavesIsNotServed(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	for name, tt := range map[string]struct {
		wait   time.Duration
		leaves bool
		status int
		side   hostproxy.Side
	}{
		"waits too long": {wait: 200 * time.Millisecond, status: 503, side: hostproxy.SideProxy},
		"leaves":         {wait: time.Minute, leaves: true, status: 499, side: hostproxy.SideClient},
	} {
		t.Run(name, func(t *testing.T) {
			build, b, let, _ := crowded(t, func(u *hostproxy.Upstream) {
				u.MaxInFlight, u.Queue = 1, hostproxy.Queue{Max: 5, Wait: tt.wait}
			})
			inLanes(t, build, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
				before := len(b.Requests())
				c.Send(get)
				b.WaitRequests(before + 1)
				other := proxytest.Dial(t, c.RemoteAddr().String())
				other.Send(get)
				if tt.leaves {
					other.Close()
				} else {
					assert.Equal(t, 503, other.Response("GET").StatusCode)
				}
				x := <-records
				var e *hostproxy.Error
				require.ErrorAs(t, x.Err, &e)
				assert.Equal(t, tt.status, x.Status)
				assert.Equal(t, tt.side, e.Side)
				assert.Equal(t, !tt.leaves, x.Queue >= tt.wait, "it waited for %v", x.Queue)
				let <- struct{}{}
				assert.Equal(t, 200, c.Response("GET").StatusCode)
				assert.Len(t, b.Requests(), before+1)
			})
		})
	}
}
