package e2e_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestTargetsAreFoundWhileRequestsGoOn(t *testing.T) {
	addrs := named(t, 2)
	type list = []hostproxy.Endpoint
	lists := make(chan list)
	var running atomic.Int64
	build := func() *hostproxy.Upstream {
		return &hostproxy.Upstream{Discover: func(ctx context.Context, publish func([]hostproxy.Endpoint)) error {
			running.Add(1)
			defer running.Add(-1)
			for {
				select {
				case es := <-lists:
					publish(es)
				case <-ctx.Done():
					return nil
				}
			}
		}}
	}
	inLanes(t, build, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
		assert.Zero(t, running.Load(), "it does not run before it is needed")
		c.Send(request("GET /", "\r\n"))
		lists <- list{{Target: "http://nowhere.test:80", Addr: addrs[0]}, {Target: "::nonsense"}}
		assert.Equal(t, "0", string(c.Response("GET").Content), "the first request waits until there are targets")
		x := <-records
		assert.Equal(t, "nowhere.test:80 ("+addrs[0]+")", x.Target)
		assert.Positive(t, x.Queue)

		lists <- list{{Target: addrs[1]}}
		lists <- nil // changes nothing
		lists <- list{{Target: "nonsense"}}
		for range 5 {
			assert.Equal(t, "1", string(c.Do(request("GET /", "\r\n")).Content))
		}
	})
	assert.Zero(t, running.Load(), "it has ended with its server")
}

func TestANameIsResolvedToItsAddresses(t *testing.T) {
	b := proxytest.NewBackend(t, says("here"))
	_, port, err := net.SplitHostPort(b.Addr())
	require.NoError(t, err)
	u := &hostproxy.Upstream{Discover: hostproxy.DNS("localhost:"+port, 0)}
	r := new(hostproxy.Router)
	require.NoError(t, r.Set("a.test", u))
	s := proxytest.StartPlain(t, &hostproxy.Server{Router: r})
	assert.Equal(t, "here", string(proxytest.Dial(t, s.Plain).Do(request("GET /", "\r\n")).Content))
	require.NoError(t, u.Drain(t.Context()))
	assert.Panics(t, func() { hostproxy.DNS("nonsense", 0) })
}

// A name that does not resolve fails its own requests, in time, and nothing else.
func TestANameThatDoesNotResolveStopsNothing(t *testing.T) {
	b := proxytest.NewBackend(t, says("here"))
	failing := hostproxy.To(b.Addr())
	failing.Discover = hostproxy.DNS("does-not-exist.invalid:80", 0)
	build := func() *hostproxy.Upstream { return failing }
	inLanes(t, build, func(t *testing.T, c *proxytest.Client, _ <-chan hostproxy.Exchange) {
		assert.Equal(t, "here", string(c.Do(request("GET /", "\r\n")).Content), "Targets serve until others are found")
	})
}
