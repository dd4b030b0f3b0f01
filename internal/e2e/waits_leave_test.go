package e2e_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// An unreadBody is the rest of a waiting request, whose body is not read yet.
type unreadBody struct{ name, rest string }

// unread has requests of which not all of the body has arrived when they begin
// to wait. Read-only.
var unread = []unreadBody{
	{"none of a body", "Content-Length: 5\r\n\r\n"},
	{"more than is buffered", "Content-Length: 200000\r\n\r\n" + string(make([]byte, 100_000))},
	{"part of a chunked body", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"},
	{"100-continue", "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"},
}

// hangUp closes the sending side of c. To close c could send a reset, which is
// easier to notice.
func hangUp(t *testing.T, c *proxytest.Client) {
	t.Helper()
	nc := c.Conn.Conn
	if tc, ok := nc.(*tls.Conn); ok {
		require.NoError(t, tc.CloseWrite())
		nc = tc.NetConn()
	}
	require.NoError(t, nc.(*net.TCPConn).CloseWrite())
}

// A disconnect while a request waits is noticed, even after a body that was not
// read yet.
func TestAClientThatLeavesABodyWhileItWaitsIs499(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	if !seesBehind {
		t.Skip("no portable way is known to see the end of a stream behind bytes")
	}
	whileItWaits(t, func(t *testing.T, s *site, queued bool) {
		if !s.lane.foreign { // there only net/http knows the connection
			leavesWaiting(t, s, queued, unread)
		}
	})
}

// whileItWaits runs check on sites whose requests wait: once the target has one
// request in flight if queued, and otherwise since the upstream is paused.
func whileItWaits(t *testing.T, check func(t *testing.T, s *site, queued bool)) {
	t.Helper()
	hold := func(c *proxytest.BackendConn) {
		if _, err := c.ReadRequest(); err == nil {
			c.Wait(nil)
		}
	}
	for name, queued := range map[string]bool{"paused": false, "queued": true} {
		t.Run(name, func(t *testing.T) {
			overLanesAtOnce(t, hold, func(t *testing.T, s *site) { check(t, s, queued) }, func(s *site) {
				s.upstream.MaxInFlight, s.upstream.Queue = 1, hostproxy.Queue{Max: len(unread), Wait: time.Hour}
				s.upstream.RateLimit = &hostproxy.RateLimit{Rate: 1, Limiter: make(doorbell, len(unread)+1)}
			})
		})
	}
}

func leavesWaiting(t *testing.T, s *site, queued bool, bodies []unreadBody) {
	t.Helper()
	arrived, before := s.upstream.RateLimit.Limiter.(doorbell), 0
	if queued {
		s.dial(t).Send(get)
		<-arrived
		s.backend.WaitRequests(1)
		before = 1
	} else {
		require.NoError(t, s.upstream.Pause(time.Hour))
	}
	for i, tt := range bodies {
		c := s.dial(t)
		c.Send(request("POST /", tt.rest))
		<-arrived
		hangUp(t, c)
		x := s.record(t, i+1)
		assert.Equal(t, 499, x.Status, tt.name)
		var fail *hostproxy.Error
		require.ErrorAs(t, x.Err, &fail, tt.name)
		assert.Equal(t, hostproxy.SideClient, fail.Side, tt.name)
	}
	assert.Len(t, s.backend.Requests(), before, "no target gets them")
}

// A client that resets its connection has disconnected, like one that closes
// it: its body does not count as invalid.
func TestAClientThatResetsItsConnectionInABodyIs499(t *testing.T) {
	hold := func(c *proxytest.BackendConn) { c.Wait(nil) }
	overLanesAtOnce(t, hold, func(t *testing.T, s *site) {
		arrived := s.upstream.RateLimit.Limiter.(doorbell)
		for i, rest := range []string{
			"Content-Length: 200000\r\n\r\nhello",
			"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
			"Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
		} {
			c := s.dial(t)
			c.Send(request("POST /", rest))
			<-arrived
			nc := c.Conn.Conn
			if tc, ok := nc.(*tls.Conn); ok {
				nc = tc.NetConn()
			}
			require.NoError(t, nc.(*net.TCPConn).SetLinger(0))
			require.NoError(t, nc.Close())
			x := s.record(t, i+1)
			assert.Equal(t, 499, x.Status, rest)
			var fail *hostproxy.Error
			require.ErrorAs(t, x.Err, &fail, rest)
			assert.Equal(t, hostproxy.SideClient, fail.Side, rest)
		}
	}, func(s *site) { s.upstream.RateLimit = &hostproxy.RateLimit{Rate: 1, Limiter: make(doorbell, 4)} })
}

// The same over HTTP/2, where other streams share the connection.
func TestAStreamWhoseClientLeavesABodyWhileItWaitsIs499(t *testing.T) {
	for _, l := range lanes {
		if !l.secure {
			continue
		}
		t.Run(l.name, func(t *testing.T) {
			arrived := make(doorbell, 1)
			s := newSite(t, l, good, func(s *site) { s.upstream.RateLimit = &hostproxy.RateLimit{Rate: 1, Limiter: arrived} })
			client := proxytest.HTTPClient(t, s.addr, s.tls.RootCAs, "h2")
			require.NoError(t, s.upstream.Pause(time.Hour))
			body, more := io.Pipe()
			ctx, leave := context.WithCancel(t.Context())
			q := newRequest(t, "POST", "/", body).WithContext(ctx)
			failed := make(chan error, 1)
			go func() {
				p, err := client.Do(q)
				if err == nil {
					p.Body.Close()
				}
				failed <- err
			}()
			_, err := more.Write([]byte("hello"))
			require.NoError(t, err)
			<-arrived
			leave()
			assert.ErrorIs(t, <-failed, context.Canceled)
			x := s.record(t, 1)
			assert.Equal(t, 499, x.Status)
			require.NoError(t, s.upstream.Resume())
			p, err := client.Do(newRequest(t, "GET", "/", nil))
			require.NoError(t, err)
			require.NoError(t, p.Body.Close())
			assert.Equal(t, 200, p.StatusCode, "the connection goes on")
			assert.Empty(t, errors.Join(more.Close(), body.Close()))
		})
	}
}
