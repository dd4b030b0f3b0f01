package e2e_test

import (
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

// thinks reads a request and does not answer. left gets what ends its
// connection.
func thinks(left chan<- string) func(*proxytest.BackendConn) {
	return afterRequest(func(c *proxytest.BackendConn) {
		rest, _ := c.ReadAll()
		left <- rest
	})
}

// slowAndFast starts a target that does not answer, and one that answers once
// the first has its request: on a busy machine the race could be over earlier.
func slowAndFast(t *testing.T, left chan<- string) (slow, fast *proxytest.Backend) {
	t.Helper()
	asked := make(chan struct{}, 9)
	slow = proxytest.NewBackend(t, afterRequest(func(c *proxytest.BackendConn) {
		asked <- struct{}{}
		rest, _ := c.ReadAll()
		left <- rest
	}))
	fast = proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		for {
			q, err := c.ReadRequest()
			if err != nil || !c.Wait(asked) {
				return
			}
			_ = c.Send(goodFor(q))
		}
	})
	return slow, fast
}

// hedged returns a builder of upstreams that try these targets in this order.
func hedged(targets ...*proxytest.Backend) func() *hostproxy.Upstream {
	return func() *hostproxy.Upstream {
		var addrs []string
		for _, b := range targets {
			addrs = append(addrs, b.Addr())
		}
		u := hostproxy.To(addrs...)
		u.Policy, u.Hedge = hostproxy.FirstAvailable, 20*time.Millisecond
		return u
	}
}

// noneInFlight waits until no attempt is in flight.
func noneInFlight(t *testing.T, u *hostproxy.Upstream) {
	t.Helper()
	for target := range u.All() {
		proxytest.Eventually(t, "rest at "+target.String(), func() bool { return target.InFlight() == 0 })
	}
}

func TestTheSecondTargetOfAHedgedRequestMayAnswerFirst(t *testing.T) {
	for _, method := range []string{"GET", "HEAD"} {
		t.Run(method, func(t *testing.T) {
			proxytest.NoLeaks(t)
			left := make(chan string, 9)
			slow, fast := slowAndFast(t, left)
			var u *hostproxy.Upstream
			build := func() *hostproxy.Upstream { u = hedged(slow, fast)(); return u }
			inLanes(t, build, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
				for range 2 { // the second time on a kept connection
					a := c.Do(request(method+" /p", "\r\n"))
					assert.Equal(t, 200, a.StatusCode)
					assert.Equal(t, fast.Addr(), (<-records).Target)
					assert.Empty(t, <-left, "the slow target is given up")
				}
				assert.Equal(t, "/p", fast.Requests()[0].URL.Path)
				noneInFlight(t, u)
			})
		})
	}
}

func TestTheRecordOfAHedgedRequestHasBothAttempts(t *testing.T) {
	left := make(chan string, 9)
	slow, fast := slowAndFast(t, left)
	inLanes(t, hedged(slow, fast), func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
		assert.Equal(t, "good 0", string(c.Do(request("GET /", "\r\n")).Content))
		x := <-records
		assert.Equal(t, 2, x.Attempts)
		require.Len(t, x.Retried, 1)
		var e *hostproxy.Error
		require.ErrorAs(t, x.Retried[0], &e)
		assert.Equal(t, slow.Addr(), e.Target)
		assert.Equal(t, hostproxy.SideProxy, e.Side)
		assert.ErrorContains(t, e, "another target was faster")
		assert.NoError(t, x.Err)
		<-left
	})
}

// The first target wins if it answers first, and the other is given up.
func TestTheFirstTargetOfAHedgedRequestMayStillAnswerFirst(t *testing.T) {
	left := make(chan string, 9)
	asked := make(chan struct{}, 9)
	second := proxytest.NewBackend(t, afterRequest(func(c *proxytest.BackendConn) {
		asked <- struct{}{}
		rest, _ := c.ReadAll()
		left <- rest
	}))
	first := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		for {
			if _, err := c.ReadRequest(); err != nil || !c.Wait(asked) {
				return
			}
			_ = c.Send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst")
		}
	})
	inLanes(t, hedged(first, second), func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
		for range 2 {
			assert.Equal(t, "first", string(c.Do(request("GET /", "\r\n")).Content))
			assert.Equal(t, first.Addr(), (<-records).Target)
			assert.Empty(t, <-left)
		}
	})
}

// If the winner's response counts as a failure, the target that was given up is
// tried again.
func TestATargetThatAHedgedRequestGaveUpMayGetTheRetry(t *testing.T) {
	asked := make(chan struct{}, 9)
	first := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		if _, err := c.ReadRequest(); err == nil && c.Wait(asked) {
			_ = c.Send("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
		}
	})
	var conns atomic.Int64
	second := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		if _, err := c.ReadRequest(); err != nil {
			return
		}
		if conns.Add(1)%2 == 0 {
			_ = c.Send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecond")
			return
		}
		asked <- struct{}{}
		_, _ = c.ReadAll()
	})
	var u *hostproxy.Upstream
	build := func() *hostproxy.Upstream {
		u = hedged(first, second)()
		u.Retry.Statuses = []int{503}
		return u
	}
	inLanes(t, build, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
		assert.Equal(t, "second", string(c.Do(request("GET /", "\r\n")).Content))
		x := <-records
		assert.Equal(t, second.Addr(), x.Target)
		assert.Equal(t, 3, x.Attempts)
		assert.Len(t, x.Retried, 2)
		noneInFlight(t, u)
	})
}

// A response that began before the time to hedge, and takes longer, is
// complete.
func TestAnAnswerThatHasBegunIsNotHedged(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	slowly := func(c *proxytest.BackendConn) {
		if _, err := c.ReadRequest(); err != nil {
			return
		}
		for i, part := range []string{"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", "HTTP/1.1 200 OK\r\nCont", "ent-Length: 4\r\n\r\nsl", "ow"} {
			_ = c.Send(part)
			dawdle([]time.Duration{3100 * time.Millisecond, 40 * time.Millisecond, 40 * time.Millisecond, 0}[i])
		}
	}
	first, second := proxytest.NewBackend(t, slowly), proxytest.NewBackend(t, good)
	build := func() *hostproxy.Upstream {
		u := hedged(first, second)()
		u.Hedge = 3 * time.Second // longer than the first bytes take on a busy machine
		return u
	}
	inLanes(t, build, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
		c.Send(request("GET /", "\r\n"))
		assert.Contains(t, c.Head(), "103 Early Hints")
		a := c.Response("GET")
		assert.Equal(t, "slow", string(a.Content))
		assert.Equal(t, 1, (<-records).Attempts)
		assert.Empty(t, second.Requests())
	})
}

func TestARequestThatMustNotBeSentTwiceIsNotHedged(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	for _, raw := range []string{request("POST /", sized("hello")), request("POST /", "Content-Length: 0\r\n\r\n"), request("PUT /", sized("hello")),
		request("DELETE /", "\r\n"), request("GET /", sized("hello"))} {
		method, _, _ := strings.Cut(raw, " ")
		t.Run(method, func(t *testing.T) {
			slowly := func(c *proxytest.BackendConn) {
				for {
					if _, err := c.ReadRequest(); err != nil {
						return
					}
					dawdle(60 * time.Millisecond)
					_ = c.Send(ok)
				}
			}
			first, second := proxytest.NewBackend(t, slowly), proxytest.NewBackend(t, good)
			inLanes(t, hedged(first, second), func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
				assert.Equal(t, "ok", string(c.Do(raw).Content))
				assert.Equal(t, 1, (<-records).Attempts)
				assert.Empty(t, second.Requests())
			})
		})
	}
}

// If one of the two fails, the other one may still answer; if both fail, a
// third one may.
func TestAHedgedAttemptThatFailsLeavesTheRaceToTheOther(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	asked := make(chan struct{}, 9)
	// once the other one has its request
	fails := afterRequest(func(c *proxytest.BackendConn) { c.Wait(asked) })
	answersLate := func(c *proxytest.BackendConn) {
		for {
			if _, err := c.ReadRequest(); err != nil {
				return
			}
			asked <- struct{}{}
			dawdle(60 * time.Millisecond)
			_ = c.Send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
		}
	}
	answersWhenAsked := func(c *proxytest.BackendConn) {
		for {
			if _, err := c.ReadRequest(); err != nil || !c.Wait(asked) {
				return
			}
			dawdle(30 * time.Millisecond) // the other one has failed by then
			_ = c.Send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
		}
	}
	failsAtOnce := afterRequest(func(*proxytest.BackendConn) { asked <- struct{}{} })
	failsLate := afterRequest(func(c *proxytest.BackendConn) { asked <- struct{}{}; dawdle(30 * time.Millisecond) })
	for name, tt := range map[string]struct {
		scripts  []func(*proxytest.BackendConn)
		want     string
		attempts int
	}{
		"the first fails":   {[]func(*proxytest.BackendConn){fails, answersLate}, "late", 2},
		"the second fails":  {[]func(*proxytest.BackendConn){answersWhenAsked, failsAtOnce}, "late", 2},
		"both fail":         {[]func(*proxytest.BackendConn){fails, failsLate, good}, "good 0", 3},
		"there is no other": {[]func(*proxytest.BackendConn){answersLateUnasked}, "late", 1},
	} {
		t.Run(name, func(t *testing.T) {
			var u *hostproxy.Upstream
			var targets []*proxytest.Backend
			for _, script := range tt.scripts {
				targets = append(targets, proxytest.NewBackend(t, script))
			}
			inLanes(t, func() *hostproxy.Upstream { u = hedged(targets...)(); return u }, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
				assert.Equal(t, tt.want, string(c.Do(request("GET /", "\r\n")).Content))
				x := <-records
				assert.Equal(t, tt.attempts, x.Attempts)
				assert.Len(t, x.Retried, tt.attempts-1)
				assert.NoError(t, x.Err)
				noneInFlight(t, u)
			})
		})
	}
}

func answersLateUnasked(c *proxytest.BackendConn) {
	for {
		if _, err := c.ReadRequest(); err != nil {
			return
		}
		dawdle(60 * time.Millisecond)
		_ = c.Send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
	}
}

func TestBothHedgedAttemptsEndWhenTheClientLeaves(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	proxytest.NoLeaks(t)
	left := make(chan string, 9)
	one, two := proxytest.NewBackend(t, thinks(left)), proxytest.NewBackend(t, thinks(left))
	var u *hostproxy.Upstream
	inLanes(t, func() *hostproxy.Upstream { u = hedged(one, two)(); return u }, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
		before := len(two.Requests())
		c.Send(request("GET /", "\r\n"))
		one.WaitRequests(before + 1)
		two.WaitRequests(before + 1)
		require.NoError(t, c.Close())
		<-left
		<-left
		x := <-records
		assert.Equal(t, 499, x.Status)
		noneInFlight(t, u)
	})
}

func TestTheRaceOfHedgedAttemptsEndsAtResponseHeaderTimeout(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	left := make(chan string, 9)
	one, two := proxytest.NewBackend(t, thinks(left)), proxytest.NewBackend(t, thinks(left))
	build := func() *hostproxy.Upstream {
		u := hedged(one, two)()
		u.ResponseHeaderTimeout = time.Second
		return u
	}
	inLanes(t, build, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
		var x hostproxy.Exchange
		// again if the machine stood still during the whole time to hedge
		for tries := 0; tries < 4 && x.Attempts != 2; tries++ {
			assert.Equal(t, 504, c.Do(request("GET /", "\r\n")).StatusCode)
			x = <-records
			assert.Error(t, x.Err)
			for range x.Attempts {
				<-left
			}
		}
		assert.Equal(t, 2, x.Attempts)
	})
}

// Half of the requests may be hedged only if the budget allows it.
func TestTheRacesOfHedgedRequestsAreLimitedByABudget(t *testing.T) {
	raced := make(chan struct{}) // closed when the second target has its request
	var once sync.Once
	first := proxytest.NewBackend(t, afterRequest(func(c *proxytest.BackendConn) {
		<-raced
		dawdle(200 * time.Millisecond) // time for more hedges, which must not come
		_ = c.Send(ok)
	}))
	second := proxytest.NewBackend(t, afterRequest(func(c *proxytest.BackendConn) {
		once.Do(func() { close(raced) })
		dawdle(200 * time.Millisecond)
		_ = c.Send(ok)
	}))
	u := hedged(first, second)()
	r := &hostproxy.Router{Observe: func(*hostproxy.Exchange) {}}
	r.Handle("a.test", u)
	addr := proxytest.StartPlain(t, &hostproxy.Server{Router: r}).Plain
	const clients = 40
	done := make(chan int, clients)
	for range clients {
		c := proxytest.Dial(t, addr)
		c.Send(request("GET /", "\r\n"))
		go func() { done <- c.Response("GET").StatusCode }()
	}
	for range clients {
		assert.Equal(t, 200, <-done)
	}
	assert.Positive(t, len(second.Requests()))
	assert.LessOrEqual(t, len(second.Requests()), clients/5+3)
}
