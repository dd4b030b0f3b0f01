package e2e_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A breaker works with a Pick as it does with a Policy: it closes when its
// target serves again, and opens when that fails again.
func TestABreakerClosesAndOpensAgainWithPick(t *testing.T) {
	first, ill, asked, changed, build := failing(t, moment)
	pick := func() *hostproxy.Upstream {
		u := build()
		u.Policy, u.Pick = hostproxy.LessBusy, preferring(first)
		return u
	}
	inLanes(t, pick, func(t *testing.T, c *proxytest.Client, _ <-chan hostproxy.Exchange) {
		ask := func() string { return string(c.Do(get).Content) }
		for range 2 {
			ill.Store(true)
			for range 3 {
				assert.Equal(t, "second", ask())
			}
			changed.await(t, first+" open")
			n := asked.Load()
			assert.Equal(t, "second", ask())
			assert.Equal(t, n, asked.Load(), "an open breaker")
			ill.Store(false)
			proxytest.Eventually(t, "a trial", func() bool { return ask() == "first" })
			changed.await(t, first+" half-open")
			changed.await(t, first+" up")
		}
	})
}

// Pick is not shown a target whose trial is in flight.
func TestPickGetsNoTargetWhoseTrialIsInFlight(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	for _, l := range lanes {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			asked, answer := make(chan bool, 9), make(chan bool)
			ill := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
				if q, err := c.ReadRequest(); err != nil || q == nil {
					return
				}
				asked <- true
				if <-answer {
					_ = c.Send("HTTP/1.1 200 OK\r\nConnection: close\r\n" + sized("first"))
				}
			})
			s := newSite(t, l, says("second"), func(s *site) {
				u := hostproxy.To(ill.Addr(), s.backend.Addr())
				u.Breaker = &hostproxy.Breaker{Failures: 1, OpenFor: 2 * time.Second}
				u.Pick = preferring(ill.Addr())
				s.upstream = u
			})
			c := s.dial(t)
			fails := make(chan string, 1)
			go func() { fails <- string(c.Do(get).Content) }()
			<-asked
			answer <- false
			assert.Equal(t, "second", <-fails)
			assert.Equal(t, "second", string(c.Do(get).Content), "it is open")
			trial := s.dial(t)
			got := make(chan string, 1)
			proxytest.Eventually(t, "a trial", func() bool {
				go func() { got <- string(trial.Do(get).Content) }()
				select {
				case <-asked:
					return true
				case <-got:
					return false
				}
			})
			assert.Equal(t, "second", string(c.Do(get).Content), "one trial at a time")
			answer <- true
			assert.Equal(t, "first", <-got)
		})
	}
}

// preferring returns a Pick that takes the target of that name if it is shown.
func preferring(name string) func(q *http.Request, left []*hostproxy.Target) *hostproxy.Target {
	return func(_ *http.Request, left []*hostproxy.Target) *hostproxy.Target {
		for _, t := range left {
			if t.String() == name {
				return t
			}
		}
		return left[0]
	}
}
