package e2e_test

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// counts answers immediately, and counts its responses.
func counts(n *atomic.Int64) func(*proxytest.BackendConn) {
	return func(c *proxytest.BackendConn) {
		for {
			if head, err := c.ReadHead(); err != nil || head == "" {
				return
			}
			n.Add(1)
			if c.Send(ok) != nil {
				return
			}
		}
	}
}

func TestAMirrorGetsItsShareOfTheRequests(t *testing.T) {
	t.Parallel()
	var asked, copied atomic.Int64
	one, two := proxytest.NewBackend(t, counts(&asked)), proxytest.NewBackend(t, counts(&copied))
	var to *hostproxy.Upstream
	inLanes(t, func() *hostproxy.Upstream {
		u := hostproxy.To(one.Addr())
		to = hostproxy.To(two.Addr())
		require.NoError(t, u.Mirror(to, 0.5))
		return u
	}, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
		before, copies := asked.Load(), copied.Load()
		for range 20 { // in parallel to save time, but no more than the limit of copies
			c.Send(strings.Repeat(get, 100))
			for range 100 {
				assert.Equal(t, 200, c.Response("GET").StatusCode)
				<-records
			}
			noneInFlight(t, to)
		}
		assert.Equal(t, int64(2000), asked.Load()-before)
		assert.InDelta(t, 1000, copied.Load()-copies, 200)
	})
}

func TestAnUpgradeIsNotCopied(t *testing.T) {
	copies := proxytest.NewServer(t, nil)
	mirrored := func(s *site) { require.NoError(t, s.upstream.Mirror(hostproxy.To(copies.Addr()), 1)) }
	script := func(c *proxytest.BackendConn) { // it answers other requests than upgrades
		for {
			switch head, err := c.ReadHead(); {
			case err != nil:
				return
			case strings.HasPrefix(head, "GET /ws "):
				if c.Send(switched) == nil {
					_, _ = c.ReadAll()
				}
				return
			}
			if c.Send(ok) != nil {
				return
			}
		}
	}
	overEachLane(t, script, func(t *testing.T, s *site) {
		before := len(copies.Seen())
		c := s.dial(t)
		c.Send(upgrade)
		require.Contains(t, c.Head(), " 101 ")
		require.NoError(t, c.Close())
		assert.Equal(t, 101, s.record(t, 1).Status)
		c = s.dial(t)
		assert.Equal(t, 200, c.Do(strings.Replace(upgrade, "/ws", "/refused", 1)).StatusCode)
		c = s.dial(t)
		assert.Equal(t, 200, c.Do(strings.Replace(get, "GET / ", "GET /last ", 1)).StatusCode)
		last := func() bool { return len(copies.Seen()) > before && copies.Last(t).Target == "/last" }
		proxytest.Eventually(t, "the copy of what is no upgrade", last)
		assert.Len(t, copies.Seen(), before+1)
		require.NoError(t, s.upstream.Mirror(nil, 0)) // or it outlives a foreign server
	}, mirrored)
}

// A mirror that does not answer gets a limited number of copies, and does not
// affect clients.
func TestAMirrorThatHangsGetsABoundedNumberOfCopies(t *testing.T) {
	t.Parallel()
	const most = 128
	var hung atomic.Int64
	free := make(chan struct{})
	slow := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		hung.Add(1)
		defer hung.Add(-1)
		select {
		case <-free:
		case <-q.Context().Done():
		}
	}))
	var asked atomic.Int64
	one := proxytest.NewBackend(t, counts(&asked))
	inLanes(t, func() *hostproxy.Upstream {
		u := hostproxy.To(one.Addr())
		require.NoError(t, u.Mirror(hostproxy.To(slow.Addr()), 1))
		return u
	}, func(t *testing.T, c *proxytest.Client, _ <-chan hostproxy.Exchange) {
		seen := len(slow.Seen())
		for range 3 {
			c.Send(strings.Repeat(get, most))
			for range most {
				assert.Equal(t, 200, c.Response("GET").StatusCode)
			}
		}
		proxytest.Eventually(t, "copies", func() bool { return hung.Load() == most })
		never(t, "another copy", func() bool { return len(slow.Seen()) > seen+most })
		free <- struct{}{}
		proxytest.Eventually(t, "room for another one", func() bool {
			assert.Equal(t, 200, c.Do(get).StatusCode)
			return len(slow.Seen()) > seen+most
		})
	})
}
