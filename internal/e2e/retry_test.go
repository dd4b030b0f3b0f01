package e2e_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// inLanes runs test with an upstream in the fast lane and one in the handler
// lane.
func inLanes(t *testing.T, upstream func() *hostproxy.Upstream, test func(*testing.T, *proxytest.Client, <-chan hostproxy.Exchange)) {
	for _, lane := range []string{"fast", "full"} {
		t.Run(lane, func(t *testing.T) {
			records := make(chan hostproxy.Exchange, 1000)
			r := &hostproxy.Router{Logger: silent(), Observe: func(x *hostproxy.Exchange) { records <- *x }}
			r.Handle("a.test", upstream())
			s := &hostproxy.Server{Router: r}
			if lane == "full" {
				s.Handler = http.HandlerFunc(r.ServeHTTP)
			}
			test(t, proxytest.Dial(t, proxytest.StartPlain(t, s).Plain), records)
		})
	}
}

// good answers every request with the length of its body.
func good(c *proxytest.BackendConn) {
	for {
		q, err := c.ReadRequest()
		if err != nil || q == nil {
			return
		}
		_ = c.Send(goodFor(q))
	}
}

func goodFor(q *proxytest.Request) string {
	body := fmt.Sprint("good ", len(q.Content))
	if q.Method == "HEAD" {
		body = ""
	}
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// afterRequest reads one request and then calls do.
func afterRequest(do func(*proxytest.BackendConn)) func(*proxytest.BackendConn) {
	return func(c *proxytest.BackendConn) {
		if q, err := c.ReadRequest(); err == nil && q != nil {
			do(c)
		}
	}
}

func TestAFailedRequestIsRetriedAtAnotherTargetIfThatIsSafe(t *testing.T) {
	t.Parallel()
	send := func(raw string) func(*proxytest.BackendConn) {
		return afterRequest(func(c *proxytest.BackendConn) { _ = c.Send(raw) })
	}
	failures := []struct {
		name   string
		script func(*proxytest.BackendConn) // nil refuses connections
		wrote  bool
		status int // of the client's response without another attempt
		why    string
	}{
		{"nobody listens", nil, false, 502, "connection refused"},
		{"closes without an answer", send(""), true, 502, "EOF"},
		{"resets", afterRequest(func(c *proxytest.BackendConn) { _ = c.Reset() }), true, 502, "reset"},
		{"half a head", send("HTTP/1.1 200 OK\r\nX-A: "), true, 502, "EOF"},
		{"garbage", send("SSH-2.0-OpenSSH_9.2p1\r\n\r\n"), true, 502, ""},
		{"silence", afterRequest(func(c *proxytest.BackendConn) { c.Wait(nil) }), true, 504, "timeout"},
		{"a status", send("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"), true, 503, "answered with status 503"},
	}
	requests := []struct {
		raw        string
		idempotent bool
		answer     string
	}{
		{request("GET /p", "\r\n"), true, "good 0"},
		{request("HEAD /p", "\r\n"), true, ""},
		{request("DELETE /p", "\r\n"), true, "good 0"},
		{request("PUT /p", sized("hello")), true, "good 5"},
		{request("PUT /p", sized(strings.Repeat("x", 30_000))), true, "good 30000"},
		{request("PUT /p", "Transfer-Encoding: chunked\r\n\r\n"+chunked("hello", 2)), true, "good 5"},
		{request("POST /p", sized("hello")), false, "good 5"},
		{request("PATCH /p", sized("hello")), false, "good 5"},
	}
	for _, f := range failures {
		for _, q := range requests {
			method, _, _ := strings.Cut(q.raw, " ")
			t.Run(f.name+" "+method, func(t *testing.T) {
				t.Parallel()
				patience := proxytest.Patience
				if f.status == 504 {
					patience = 2 * patient // short enough to wait for
				}
				second := proxytest.NewBackend(t, good)
				upstream := func() *hostproxy.Upstream {
					first := proxytest.Refused(t)
					if f.script != nil {
						first = proxytest.NewBackend(t, f.script).Addr()
					}
					u := hostproxy.To(first, second.Addr())
					u.Policy, u.ResponseHeaderTimeout, u.Retry.Statuses = hostproxy.FirstAvailable, patience, []int{503}
					return u
				}
				inLanes(t, upstream, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
					before := len(second.Requests())
					c.Send(q.raw)
					a := c.Response(method)
					x := <-records
					if f.wrote && !q.idempotent {
						assert.Equal(t, f.status, a.StatusCode)
						assert.Len(t, second.Requests(), before, "it may have been carried out already")
						assert.Equal(t, 1, x.Attempts)
						assert.Empty(t, x.Retried)
						return
					}
					assert.Equal(t, 200, a.StatusCode)
					assert.Equal(t, q.answer, string(a.Content))
					assert.Equal(t, 2, x.Attempts)
					assert.Equal(t, second.Addr(), x.Target)
					assert.NoError(t, x.Err)
					require.Len(t, x.Retried, 1)
					var e *hostproxy.Error
					require.ErrorAs(t, x.Retried[0], &e)
					assert.Equal(t, hostproxy.SideUpstream, e.Side)
					assert.NotEqual(t, second.Addr(), e.Target)
					assert.ErrorContains(t, e, f.why)
				})
			})
		}
	}
}

func TestRetriesAreLimited(t *testing.T) {
	closes := func(c *proxytest.BackendConn) { _, _ = c.ReadRequest() }
	var all []*proxytest.Backend
	upstream := func(change func(*hostproxy.Upstream)) func() *hostproxy.Upstream {
		return func() *hostproxy.Upstream {
			all = nil
			var addrs []string
			for range 6 {
				all = append(all, proxytest.NewBackend(t, closes))
				addrs = append(addrs, all[len(all)-1].Addr())
			}
			u := hostproxy.To(addrs...)
			change(u)
			return u
		}
	}
	for _, tt := range []struct {
		name   string
		change func(*hostproxy.Upstream)
		raw    string
		want   int
	}{
		{"three attempts by default", func(*hostproxy.Upstream) {}, request("GET /", "\r\n"), 3},
		{"as many as are wanted", func(u *hostproxy.Upstream) { u.Retry.Attempts = 5 }, request("GET /", "\r\n"), 5},
		{"never more than there are targets", func(u *hostproxy.Upstream) { u.Retry.Attempts = 10 }, request("GET /", "\r\n"), 6},
		{"none", func(u *hostproxy.Upstream) { u.Retry.Attempts = 1 }, request("GET /", "\r\n"), 1},
		{"no time left", func(u *hostproxy.Upstream) { u.Retry.Timeout = 1000 }, request("GET /", "\r\n"), 1},
		{"a body that is not kept", func(*hostproxy.Upstream) {}, request("PUT /", sized(strings.Repeat("x", 100_000))), 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inLanes(t, upstream(tt.change), func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
				c.Send(tt.raw)
				assert.Equal(t, 502, c.Response("GET").StatusCode)
				x := <-records
				assert.Equal(t, tt.want, x.Attempts)
				assert.Len(t, x.Retried, tt.want-1)
				asked := 0
				for _, b := range all {
					asked += b.Conns()
				}
				assert.Equal(t, tt.want, asked)
			})
		})
	}
}

// The kept part of a slow client's body is sent again, and the second attempt
// reads the rest.
func TestABodyThatIsStillComingIsSentAgain(t *testing.T) {
	second := proxytest.NewBackend(t, good)
	var first *proxytest.Backend
	upstream := func() *hostproxy.Upstream {
		first = proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
			if head, err := c.ReadHead(); err == nil && strings.HasPrefix(head, "PUT") {
				if _, err := c.ReadString(10_000); err == nil {
					_ = c.Reset()
				}
			}
		})
		u := hostproxy.To(first.Addr(), second.Addr())
		u.Policy = hostproxy.FirstAvailable
		return u
	}
	inLanes(t, upstream, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
		body := strings.Repeat("0123456789", 3000)
		before, conns := len(second.Requests()), second.Conns()
		c.Send(request("PUT /p", fmt.Sprintf("Content-Length: %d\r\n\r\n", len(body))) + body[:10_000])
		first.WaitConns(1)
		second.WaitConns(conns + 1)
		c.Send(body[10_000:])
		a := c.Response("PUT")
		assert.Equal(t, 200, a.StatusCode)
		assert.Equal(t, "good 30000", string(a.Content))
		assert.Equal(t, body, string(second.WaitRequests(before + 1)[before].Content))
		x := <-records
		assert.Equal(t, 2, x.Attempts)
		assert.EqualValues(t, len(body), x.RequestBytes)
		assert.NoError(t, x.Err)

		c.Send(request("GET /p", "\r\n")) // the connection goes on
		assert.Equal(t, 200, c.Response("GET").StatusCode)
	})
}

// If no other target is left, the client gets a response with a status to
// retry.
func TestTheLastAnswerGoesToTheClient(t *testing.T) {
	busy := func(c *proxytest.BackendConn) {
		for {
			if q, err := c.ReadRequest(); err != nil || q == nil {
				return
			}
			_ = c.Send("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\nX-Own: 1\r\n\r\nbusy")
		}
	}
	upstream := func() *hostproxy.Upstream {
		u := hostproxy.To(proxytest.NewBackend(t, busy).Addr(), proxytest.NewBackend(t, busy).Addr())
		u.Retry.Statuses = []int{503}
		return u
	}
	inLanes(t, upstream, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
		a := c.Do(request("GET /", "\r\n"))
		assert.Equal(t, 503, a.StatusCode)
		assert.Equal(t, "busy", string(a.Content))
		assert.Equal(t, []string{"1"}, a.Header["X-Own"])
		x := <-records
		assert.Equal(t, 2, x.Attempts)
		assert.NoError(t, x.Err)
	})
}

// Whatever fails, at most a share of the requests in flight is sent twice.
func TestTheRetryBudgetBoundsWhatIsSentTwice(t *testing.T) {
	const clients = 60
	hold := make(chan struct{})
	failing := func(c *proxytest.BackendConn) { _, _ = c.ReadRequest() }
	slow := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		if _, err := c.ReadRequest(); err == nil && c.Wait(hold) {
			_ = c.Send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		}
	})
	u := hostproxy.To(proxytest.NewBackend(t, failing).Addr(), slow.Addr())
	u.Policy, u.Retry.Budget = hostproxy.FirstAvailable, 0.1
	r := &hostproxy.Router{Observe: func(*hostproxy.Exchange) {}}
	r.Handle("a.test", u)
	s := proxytest.StartPlain(t, &hostproxy.Server{Router: r})
	answers := make(chan int, clients)
	for range clients {
		go func() {
			q, _ := http.NewRequest("GET", "http://"+s.Plain, nil)
			q.Host, q.Close = "a.test", true
			res, err := http.DefaultTransport.RoundTrip(q)
			if err != nil {
				answers <- 0
				return
			}
			_, _ = io.Copy(io.Discard, res.Body)
			res.Body.Close()
			answers <- res.StatusCode
		}()
	}
	refused := 0
	for refused < clients-6 {
		require.Equal(t, 502, <-answers)
		refused++
	}
	close(hold)
	for i := refused; i < clients; i++ {
		assert.Contains(t, []int{200, 502}, <-answers)
	}
	assert.LessOrEqual(t, len(slow.Requests()), 6)
	assert.GreaterOrEqual(t, len(slow.Requests()), 3, "so many are free")
}
