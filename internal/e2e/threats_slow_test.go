package e2e_test

import (
	"crypto/tls"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

const purge = "PURGE / HTTP/1.1\r\nHost: a.test\r\n\r\n" // a method for the handler lane

// connect opens a client connection to the track, until the end of the test.
func (k *track) connect(t testing.TB) *proxytest.Conn {
	t.Helper()
	c, err := k.dial()
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// drip sends s byte by byte, one per tenth of a moment, until that fails or the
// test ends.
func drip(t testing.TB, c *proxytest.Conn, s string) {
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(moment / 10)
		defer tick.Stop()
		for i := range len(s) {
			select {
			case <-tick.C:
			case <-done:
				return
			}
			if c.Send(s[i:i+1]) != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { close(done); <-ended })
}

// threats.md: slowloris. A head has a time limit from its first byte on,
// however steadily it moves.
func TestSlowlorisIsCutOff(t *testing.T) {
	endless := "GET / HTTP/1.1\r\nHost: a.test\r\nX: " + strings.Repeat("x", 1000)
	tune := func(s *hostproxy.Server) { s.ReadHeaderTimeout = patient }
	tests := []struct{ about, first, slow string }{
		{"the first head of a connection", "", endless},
		{"one byte and nothing else", "", "G"},
		{"a head behind a request", get, endless},
		{"a head behind a request of the handler lane", purge, endless},
		{"a head that came with the request before", get + endless[:40], endless[40:]},
		{"the preface of HTTP/2 (CVE-2026-56853)", "", "PRI *"},
	}
	overFronts(t, shape{tune: tune}, func(t *testing.T, k *track) {
		k.mirror.answer.Store(&say)
		conns := make([]*proxytest.Conn, len(tests))
		for i, tt := range tests {
			conns[i] = k.connect(t)
			k.first(t, conns[i], tt.first)
			drip(t, conns[i], tt.slow)
		}
		for i, tt := range tests {
			rest, err := conns[i].ReadAll()
			require.NoError(t, err, "%s: the connection is closed", tt.about)
			assert.NotContains(t, rest, " 200 ", tt.about)
			if tt.slow != "PRI *" { // no HTTP/1.x
				assert.True(t, strings.HasPrefix(rest, "HTTP/1.1 408 "), "%s: %q", tt.about, rest)
			}
		}
		assert.Empty(t, k.mirror.taken(), "nothing of it reaches the backend")
	})
}

// narrow limits the receive buffer of the client's socket to about size.
func (k *track) narrow(t testing.TB, c *proxytest.Conn, size int) {
	t.Helper()
	nc := c.Conn
	if tc, ok := nc.(*tls.Conn); ok {
		nc = tc.NetConn()
	}
	require.NoError(t, nc.(*net.TCPConn).SetReadBuffer(size))
}

// first sends a complete request, unless raw is empty, and reads the response.
func (k *track) first(t testing.TB, c *proxytest.Conn, raw string) {
	t.Helper()
	if raw == "" {
		return
	}
	require.NoError(t, c.Send(raw))
	_, err := c.ReadResponse("GET")
	require.NoError(t, err)
	require.Len(t, k.mirror.taken(), 1)
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	overFronts(t, shape{tune: func(s *hostproxy.Server) { s.IdleTimeout = 2 * patient }}, func(t *testing.T, k *track) {
		k.mirror.answer.Store(&say)
		var conns []*proxytest.Conn
		for _, raw := range []string{"", get, purge} {
			conns = append(conns, k.connect(t))
			k.first(t, conns[len(conns)-1], raw)
		}
		for _, c := range conns {
			rest, err := c.ReadAll()
			require.NoError(t, err, "the connection is closed")
			assert.Empty(t, rest)
		}
	})
}

// threats.md: slow body; CVE-2024-28869: a GET with Content-Length and no body
// hangs for ever.
func TestARequestWhoseBodyStopsEnds(t *testing.T) {
	impatient := func(u *hostproxy.Upstream) { u.IdleTimeout = 4 * moment }
	tests := []struct{ about, raw string }{
		{"GET with a length and no body", "GET / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\n"},
		{"a sized body that stops", "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 70_000)},
		{"a chunked body that stops in a chunk", "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe"},
		{"a chunked body that stops between two chunks", "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"},
		{"trailers that do not come", "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\n"},
		{"a body to an unusual method", "PURGE / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhe"},
	}
	overFronts(t, shape{change: impatient}, func(t *testing.T, k *track) {
		k.mirror.answer.Store(&say)
		conns := make([]*proxytest.Conn, len(tests))
		for i, tt := range tests {
			conns[i] = k.connect(t)
			require.NoError(t, conns[i].Send(tt.raw))
		}
		for i, tt := range tests {
			rest, err := conns[i].ReadAll()
			require.NoError(t, err, "%s: the connection is closed", tt.about)
			assert.True(t, strings.HasPrefix(rest, "HTTP/1.1 408 "), "%s: %q", tt.about, rest)
			assert.Equal(t, 1, strings.Count(rest, "HTTP/1.1 "), tt.about)
		}
		assert.Empty(t, k.mirror.taken(), "no whole request reaches the backend")
		for range tests {
			k.expectFailure(t, hostproxy.SideClient, 408)
		}
	})
}

// If a target stops in the middle of its response, the client is cut off after
// IdleTimeout, and the target is to blame.
func TestATargetThatStopsInMidBodyIsGivenUp(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	for _, head := range []string{"Content-Length: 100", "Transfer-Encoding: chunked", "Connection: close"} {
		t.Run(head, func(t *testing.T) {
			script := func(c *proxytest.BackendConn) {
				if _, err := c.ReadRequest(); err == nil {
					_ = c.Send("HTTP/1.1 200 OK\r\n" + head + "\r\n\r\n4\r\npart\r\n")
					_, _ = c.ReadAll() // until the proxy gives up
				}
			}
			overLanesAtOnce(t, script, func(t *testing.T, s *site) {
				c := s.dial(t)
				c.Send(get)
				rest, err := c.ReadAll()
				assert.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the client is cut off")
				assert.NotContains(t, rest, "\r\n0\r\n\r\n", "the response does not look complete")
				var failure *hostproxy.Error
				require.ErrorAs(t, s.record(t, 1).Err, &failure)
				assert.Equal(t, hostproxy.SideUpstream, failure.Side)
				assert.Equal(t, "copy", failure.Op)
			}, func(s *site) { s.upstream.IdleTimeout = moment })
		})
	}
}

// A tunnel without traffic ends after IdleTimeout.
func TestAnIdleTunnelEnds(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	overLanesAtOnce(t, echoes, func(t *testing.T, s *site) {
		c, tunnels := moving(t, s)
		c.Rest()
		x := s.record(t, tunnels)
		assert.Equal(t, 101, x.Status)
		assert.GreaterOrEqual(t, x.Duration, 2*patient)
	}, func(s *site) { s.upstream.IdleTimeout = patient })
}

// moving returns a tunnel on which bytes have moved for longer than
// IdleTimeout. If the machine stood still for nearly as long, it opens another
// one; tunnels is how many it has opened.
func moving(t *testing.T, s *site) (c *proxytest.Client, tunnels int) {
	stills := proxytest.WatchStandstills(t)
	for tunnels = 1; ; tunnels++ {
		before := stills.Total()
		c = s.dial(t)
		c.Send(upgrade)
		c.Head()
		for began := time.Now(); ; {
			if time.Since(began) > 2*patient {
				return c, tunnels
			}
			dawdle(patient / 8)
			_ = c.Conn.Send("tick")
			if _, err := c.ReadString(len("tick")); err != nil {
				require.Greater(t, stills.Total()-before, patient/2, "what moves goes on")
				break
			}
		}
	}
}

// The other direction: a target that reads nothing of an upload.
func TestATargetThatDoesNotReadIsGivenUp(t *testing.T) {
	full := proxytest.NewBackend(t, func(c *proxytest.BackendConn) { c.Wait(nil) })
	impatient := func(u *hostproxy.Upstream) {
		u.IdleTimeout, u.ResponseHeaderTimeout = patient, patient
		u.Targets[0].Host = full.Addr()
	}
	overFronts(t, shape{change: impatient}, func(t *testing.T, k *track) {
		methods := []string{"POST", "PURGE"}
		conns := make([]*proxytest.Conn, len(methods))
		for i, method := range methods {
			conns[i] = k.connect(t)
			// this much takes long on a busy machine
			_ = conns[i].SetDeadline(time.Now().Add(4 * proxytest.Patience))
			go func() {
				_ = conns[i].Send(method + " / HTTP/1.1\r\nHost: a.test\r\n" + sized(strings.Repeat("x", 8<<20)))
			}()
		}
		for i, method := range methods {
			p, err := conns[i].ReadResponse(method)
			require.NoError(t, err)
			assert.Equal(t, 504, p.StatusCode)
			k.expectFailure(t, hostproxy.SideUpstream, 504)
		}
	})
}

// threats.md: slow read. A client that reads nothing keeps neither its
// connection nor the backend's.
func TestAClientThatDoesNotReadIsCutOff(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 1<<19) // more than sockets hold
	impatient := func(u *hostproxy.Upstream) { u.IdleTimeout = 4 * moment }
	tests := []struct{ about, method, raw string }{
		{"a sized answer", "GET", "HTTP/1.1 200 OK\r\n" + sized(big)},
		{"a chunked answer", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(big, 10_000)},
		{"an answer until the end", "GET", "HTTP/1.1 200 OK\r\n\r\n" + big},
		{"an answer through net/http", "PURGE", "HTTP/1.1 200 OK\r\n" + sized(big)},
	}
	overFronts(t, shape{change: impatient}, func(t *testing.T, k *track) {
		conns := make([]*proxytest.Conn, len(tests))
		for i, tt := range tests {
			k.mirror.answer.Store(&answer{raw: tt.raw, close: true})
			conns[i] = k.connect(t)
			k.narrow(t, conns[i], 16<<10)
			require.NoError(t, conns[i].Send(tt.method+" / HTTP/1.1\r\nHost: a.test\r\n\r\n"))
			head, err := conns[i].ReadHead()
			require.NoError(t, err)
			assert.True(t, strings.HasPrefix(head, "HTTP/1.1 200 "), "%s: %q", tt.about, head)
		}
		for range tests {
			k.expectFailure(t, hostproxy.SideClient, 499)
		}
		for i, tt := range tests {
			rest, err := conns[i].ReadAll()
			require.NoError(t, err, "%s: the connection is closed", tt.about)
			assert.Less(t, len(rest), len(big), tt.about)
			assert.False(t, strings.HasSuffix(rest, "\r\n0\r\n\r\n"), "%s: the response does not look complete", tt.about)
		}
	})
}

// A slow client is not cut off as long as it reads. Its buffer has a fixed
// size: with a growing one, the kernel may send nothing for seconds on a busy
// machine.
func TestASlowClientThatReadsIsNotCutOff(t *testing.T) {
	const idle = 16 * moment
	body := strings.Repeat("0123456789abcdef", 1<<18)
	impatient := func(u *hostproxy.Upstream) { u.IdleTimeout = idle }
	overFronts(t, shape{change: impatient}, func(t *testing.T, k *track) {
		k.mirror.answer.Store(&answer{raw: "HTTP/1.1 200 OK\r\n" + sized(body)})
		stills := proxytest.WatchStandstills(t)
		for { // again if the machine stood still for nearly as long
			before := stills.Total()
			got, err := k.readSlowly(t, len(body))
			if err == nil {
				return
			}
			require.Greater(t, stills.Total()-before, idle/2, "what moves goes on: %v after %d bytes", err, got)
		}
	})
}

// readSlowly requests size bytes and reads them piece by piece. It returns how
// many it got.
func (k *track) readSlowly(t *testing.T, size int) (got int, err error) {
	c := k.connect(t)
	k.narrow(t, c, 256<<10)
	require.NoError(t, c.Send(get))
	head, err := c.ReadHead()
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(head, "HTTP/1.1 200 "))
	tick := time.NewTicker(moment / 4)
	defer tick.Stop()
	for got < size && err == nil {
		<-tick.C
		var part string
		part, err = c.ReadString(min(size/96, size-got))
		got += len(part)
	}
	return got, err
}

// expectFailure waits for the record of a failed exchange.
func (k *track) expectFailure(t testing.TB, side hostproxy.Side, status int) {
	t.Helper()
	select {
	case x := <-k.records:
		var e *hostproxy.Error
		require.ErrorAs(t, x.Err, &e, "%+v", x)
		assert.Equal(t, side, e.Side, "%v", e)
		assert.Equal(t, status, x.Status, "%v", e)
	case <-time.After(proxytest.Patience):
		t.Fatal("no record of the exchange")
	}
}
