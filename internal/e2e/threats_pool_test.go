package e2e_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// forwarding.md, Failures: only idempotent requests are retried after a write.
// The backend answers one request of its first connection, then reads another
// one and closes: the proxy cannot know whether it has processed that one.
func TestARequestThatMayHaveBeenCarriedOutIsNotSentTwice(t *testing.T) {
	t.Parallel()
	script := func(c *proxytest.BackendConn) {
		for i := 0; ; i++ {
			if _, err := c.ReadRequest(); err != nil || c.Number == 0 && i == 1 || c.Send(ok) != nil {
				return
			}
		}
	}
	for _, tt := range []struct {
		about, raw string
		sent       int
	}{
		{"GET", get, 2},
		{"HEAD", strings.Replace(get, "GET", "HEAD", 1), 2},
		{"DELETE", strings.Replace(get, "GET", "DELETE", 1), 2},
		{"POST", "POST / HTTP/1.1\r\nHost: a.test\r\n" + sized("hello"), 1},
		{"POST of nothing", "POST / HTTP/1.1\r\nHost: a.test\r\n" + sized(""), 1},
		{"POST in chunks", "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked("hello", 2), 1},
		{"POST of much", "POST / HTTP/1.1\r\nHost: a.test\r\n" + sized(strings.Repeat("x", 200_000)), 1},
		{"PUT of much", "PUT / HTTP/1.1\r\nHost: a.test\r\n" + sized(strings.Repeat("x", 200_000)), 1},
		{"PATCH", "PATCH / HTTP/1.1\r\nHost: a.test\r\n" + sized("hello"), 1},
		{"an unknown method", purge, 1},
	} {
		t.Run(tt.about, func(t *testing.T) {
			overEachLane(t, script, func(t *testing.T, s *site) {
				// on one connection, the second request arrives after the
				// target's connection was put back
				c := s.dial(t)
				require.Equal(t, 200, c.Do(get).StatusCode)
				p := c.Do(tt.raw)
				assert.Equal(t, map[int]int{1: 502, 2: 200}[tt.sent], p.StatusCode)
				assert.Len(t, s.backend.Requests(), 1+tt.sent)
				assert.Equal(t, tt.sent, s.backend.Conns())
			})
		})
	}
}

// No request of any kind is lost on a kept connection that was closed
// meanwhile, since nothing was written to it.
func TestAStaleConnectionCostsNoRequest(t *testing.T) {
	for _, tt := range []struct{ about, raw string }{
		{"GET", get},
		{"POST", "POST / HTTP/1.1\r\nHost: a.test\r\n" + sized("hello")},
		{"POST in chunks", "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked("hello", 2)},
		{"POST of much", "POST / HTTP/1.1\r\nHost: a.test\r\n" + sized(strings.Repeat("x", 200_000))},
		{"an unknown method", purge},
	} {
		t.Run(tt.about, func(t *testing.T) {
			closed := make(chan struct{}, 16)
			script := func(c *proxytest.BackendConn) {
				if _, err := c.ReadRequest(); err == nil {
					_ = c.Send(ok)
				}
				c.Close()
				closed <- struct{}{}
			}
			overEachLane(t, script, func(t *testing.T, s *site) {
				for i := range 3 {
					assert.Equal(t, 200, s.dial(t).Do(tt.raw).StatusCode, "request %d", i)
					<-closed
				}
				assert.Len(t, s.backend.Requests(), 3)
			})
		})
	}
}

// forwarding.md, Framing: a connection is reused only after its request was
// read to the end. The rest of the body contains another request, for a proxy
// that loses count on either side.
func TestTheRestOfAnUnreadBodyIsNoRequest(t *testing.T) {
	t.Parallel()
	hidden := strings.Repeat(smuggled, 200_000/len(smuggled))
	for _, raw := range []string{
		"POST / HTTP/1.1\r\nHost: a.test\r\n" + sized(hidden),
		"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(hidden, 50_000),
	} {
		targets := make(chan string, 1024)
		script := func(c *proxytest.BackendConn) { // it answers before it reads the body
			r := bufio.NewReader(c)
			for {
				q, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				targets <- q.RequestURI
				if c.Send(ok) != nil {
					return
				}
				if _, err := io.Copy(io.Discard, q.Body); err != nil {
					return
				}
			}
		}
		overEachLane(t, script, func(t *testing.T, s *site) {
			for range 5 {
				c := s.dial(t)
				go func() { _ = c.Conn.Send(raw + strings.Replace(get, "Host", "Connection: close\r\nHost", 1)) }()
				assert.Equal(t, "ok", string(c.Response("POST").Content))
				assert.LessOrEqual(t, strings.Count(c.Rest(), "HTTP/1.1 "), 1, "the request behind the body may be answered, but nothing in it")
				assert.Equal(t, "ok", string(s.dial(t).Do(get).Content), "others are served as before")
			}
			for len(targets) > 0 {
				assert.Equal(t, "/", <-targets)
			}
		})
	}
}

// Bytes that an upstream sends after a response without a body must not answer
// another request.
func TestBytesAfterABodilessResponseAnswerNoOtherRequest(t *testing.T) {
	t.Parallel()
	poison := "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
	for _, tt := range []struct{ about, method, answer string }{
		{"HEAD", "HEAD", poison},
		{"204", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 45\r\n\r\n" + poison},
		{"304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 45\r\n\r\n" + poison},
		{"204 in chunks", "GET", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n2d\r\n" + poison + "\r\n0\r\n\r\n"},
		{"a length of zero", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" + poison},
		{"behind the last chunk", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + poison},
	} {
		t.Run(tt.about, func(t *testing.T) {
			script := func(c *proxytest.BackendConn) {
				for {
					q, err := c.ReadRequest()
					if err != nil {
						return
					}
					raw := ok
					if q.RequestURI == "/first" {
						raw = tt.answer
					}
					if c.Send(raw) != nil {
						return
					}
				}
			}
			overEachLane(t, script, func(t *testing.T, s *site) {
				for range 5 {
					c := s.dial(t)
					c.Send(tt.method + " /first HTTP/1.1\r\nHost: a.test\r\n\r\n")
					assert.Empty(t, c.Response(tt.method).Content)
					assert.Equal(t, "ok", string(c.Do(get).Content))
				}
			})
		})
	}
}

// threats.md, ambiguous pooled reuse: two upstreams with one address and
// different identities never share a connection.
func TestUpstreamsOfDifferentIdentityShareNoConnection(t *testing.T) {
	names := make(chan string, 64)
	backend, roots := proxytest.NewTLSServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		names <- q.Host + " by " + q.TLS.ServerName
	}))
	var r hostproxy.Router
	for _, host := range []string{"a.test", "b.test"} {
		u := hostproxy.To("https://" + backend.Addr())
		// accepts any name: only the requested one matters
		u.TLS = &tls.Config{RootCAs: roots, ServerName: host, InsecureSkipVerify: true}
		r.Handle(host, u)
	}
	addr := proxytest.StartPlain(t, &hostproxy.Server{Router: &r}).Plain
	for _, method := range []string{"GET", "PURGE"} { // both lanes
		c := proxytest.Dial(t, addr)
		for i := range 8 {
			host := []string{"a.test", "b.test"}[i%2]
			require.Equal(t, 200, c.Do(method+" / HTTP/1.1\r\nHost: "+host+"\r\n\r\n").StatusCode)
			assert.Equal(t, host+" by "+host, <-names)
		}
	}
}

// CVE-2020-15586, CVE-2021-36221: races and panics with bodies that are
// abandoned while the response arrives.
func TestClientsThatLeaveInTheMiddleCauseNoDataRace(t *testing.T) {
	script := func(c *proxytest.BackendConn) {
		for {
			if _, err := c.ReadHead(); err != nil || c.Send(ok) != nil {
				return
			}
		}
	}
	overEachLane(t, script, func(t *testing.T, s *site) {
		for i := range 60 {
			c := s.dial(t)
			expect := []string{"", "Expect: 100-continue\r\n"}[i%2]
			c.Send("POST / HTTP/1.1\r\nHost: a.test\r\n" + expect + "Content-Length: 100000\r\n\r\n")
			if i%3 == 0 {
				_ = c.Conn.Send(strings.Repeat("x", 1000*i))
			}
			if i%5 == 0 {
				_, _ = c.ReadResponse("POST")
			}
			if i%4 == 0 {
				_ = c.Reset()
			} else {
				_ = c.Close()
			}
		}
		assert.Equal(t, "ok", string(s.dial(t).Do(get).Content))
	})
}
