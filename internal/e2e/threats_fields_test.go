package e2e_test

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// threats.md, response splitting: an upstream's control bytes do not add lines
// to our response.
func TestAnUpstreamCannotSplitTheResponse(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ about, answer string }{
		{"a bare CR in a value", "HTTP/1.1 200 OK\r\nX-A: a\rX-Evil: 1\r\nContent-Length: 2\r\n\r\nok"},
		{"a bare LF in a value", "HTTP/1.1 200 OK\r\nX-A: a\nX-Evil: 1\r\nContent-Length: 2\r\n\r\nok"},
		{"a NUL in a value", "HTTP/1.1 200 OK\r\nX-A: a\x00X-Evil: 1\r\nContent-Length: 2\r\n\r\nok"},
		{"a bare CR in a name", "HTTP/1.1 200 OK\r\nX-A\rX-Evil: 1\r\nContent-Length: 2\r\n\r\nok"},
		{"a bare CR in the reason", "HTTP/1.1 200 OK\rX-Evil: 1\r\nContent-Length: 2\r\n\r\nok"},
		{"a bare LF in the reason", "HTTP/1.1 200 OK\nX-Evil: 1\r\nContent-Length: 2\r\n\r\nok"},
		{"a bare CR in early hints", "HTTP/1.1 103 Early Hints\r\nX-A: a\rX-Evil: 1\r\n\r\n" + ok},
		{"a bare CR in an upgrade", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-A: a\rX-Evil: 1\r\n\r\n"},
	} {
		t.Run(tt.about, func(t *testing.T) {
			script := func(c *proxytest.BackendConn) {
				if _, err := c.ReadRequest(); err == nil {
					_ = c.Send(tt.answer)
				}
			}
			overEachLane(t, script, func(t *testing.T, s *site) {
				c := s.dial(t)
				fields := "Connection: close\r\n"
				if strings.Contains(tt.about, "upgrade") {
					fields = "Connection: Upgrade\r\nUpgrade: websocket\r\n" + token
				}
				c.Send("POST / HTTP/1.1\r\nHost: a.test\r\n" + fields + sized(""))
				assert.Equal(t, 502, c.Response("POST").StatusCode)
			})
		})
	}
}

// In a trailer it is too late for a 502, since the response has begun: the
// client is cut off.
func TestAnUpstreamCannotSplitTrailers(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"X-A: a\rX-Evil: 1\r\n", "X-A: a\nX-Evil: 1\r\n", "X-A: \x00\r\n", "X A: 1\r\n", " X-A: 1\r\n"} {
		begun := make(chan struct{})
		script := func(c *proxytest.BackendConn) {
			if _, err := c.ReadRequest(); err == nil && c.Send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n") == nil && c.Wait(begun) {
				_ = c.Send("0\r\n" + line + "\r\n")
			}
		}
		overEachLane(t, script, func(t *testing.T, s *site) {
			c := s.dial(t)
			c.Send(get)
			c.Head()
			c.Expect("2\r\nok\r\n")
			begun <- struct{}{}
			assert.Empty(t, c.Rest(), "%q", line)
		})
	}
}

// RFC 9110, 15.2: an HTTP/1.0 client must not get interim responses.
func TestAnHTTP10ClientGetsNoInterimResponse(t *testing.T) {
	script := proxytest.Reply("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + ok)
	overEachLane(t, script, func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send("GET / HTTP/1.0\r\nHost: a.test\r\n\r\n")
		answer := c.Rest()
		assert.NotContains(t, answer, "103 ")
		assert.Contains(t, answer, " 200 OK\r\n")
	})
}

// CVE-2022-32148, XFF spoofing: peers without an IPv4 address.
func TestForwardingFieldsNamePeersOfEveryKind(t *testing.T) {
	unix := filepath.Join(t.TempDir(), "front")
	for _, tt := range []struct{ about, network, addr, trusted, forwarded, real string }{
		{"IPv6", "tcp", "[::1]:0", "", "::1", "::1"},
		{"IPv6, trusted", "tcp", "[::1]:0", "::1/128", "10.0.0.1, ::1", "10.0.0.1"},
		{"a unix socket", "unix", unix, "", "", ""},
		{"a unix socket, trusted", "unix", unix, "127.0.0.1/32", "10.0.0.1", "10.0.0.1"},
	} {
		for _, method := range []string{"GET", "PURGE"} { // both lanes
			t.Run(tt.about+" "+method, func(t *testing.T) {
				ln, err := net.Listen(tt.network, tt.addr)
				if err != nil {
					require.Contains(t, tt.about, "IPv6", "%v", err)
					t.Logf("this machine has no IPv6: %v", err)
					return
				}
				backend := proxytest.NewBackend(t, proxytest.Reply(ok))
				r := hostproxy.Router{Logger: silent()}
				if tt.trusted != "" {
					r.TrustedProxies = []netip.Prefix{netip.MustParsePrefix(tt.trusted)}
				}
				r.Handle("a.test", hostproxy.To(backend.Addr()))
				ctx, cancel := context.WithCancel(context.Background())
				done := make(chan error, 1)
				go func() { done <- (&hostproxy.Server{Router: &r}).Serve(ctx, nil, ln) }()
				defer func() { cancel(); assert.NoError(t, <-done) }()

				nc, err := net.Dial(tt.network, ln.Addr().String())
				require.NoError(t, err)
				c := proxytest.NewConn(nc)
				defer c.Close()
				require.NoError(t, c.Send(method+" / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 10.0.0.1\r\nX-Real-Ip: 10.0.0.2\r\n\r\n"))
				p, err := c.ReadResponse(method)
				require.NoError(t, err)
				require.Equal(t, 200, p.StatusCode)
				raw := backend.WaitRequests(1)[0].Raw
				assert.Equal(t, tt.forwarded, strings.Join(field(raw, "X-Forwarded-For"), "|"))
				assert.Equal(t, tt.real, strings.Join(field(raw, "X-Real-Ip"), "|"))
			})
		}
	}
}

// If a handler in front changes the URL, its URL counts, not the client's.
func TestHandlersInFrontMayChangeTheRequestTarget(t *testing.T) {
	backend := proxytest.NewBackend(t, proxytest.Reply(ok))
	var r hostproxy.Router
	r.Handle("a.test/app/", http.StripPrefix("/app", hostproxy.To(backend.Addr())))
	r.Handle("b.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		q = q.Clone(q.Context())
		q.URL.RawQuery = "ours"
		if q.URL.Path == "/query" {
			q.URL.Path, q.URL.RawPath = "/a?b", "/a?b"
		}
		q.Host = "c.test"
		hostproxy.To(backend.Addr()).ServeHTTP(w, q)
	}))
	c := proxytest.Dial(t, proxytest.StartPlain(t, &hostproxy.Server{Router: &r}).Plain)
	for i, tt := range []struct{ raw, target, host string }{
		{"GET /app/x HTTP/1.1\r\nHost: a.test\r\n\r\n", "/x", "a.test"},
		{"GET /app/x%2Fy|z?q=| HTTP/1.1\r\nHost: a.test\r\n\r\n", "/x%2Fy|z?q=|", "a.test"},
		{"POST /app/x? HTTP/1.1\r\nHost: a.test\r\n" + sized("hello"), "/x?", "a.test"},
		{"GET /|?theirs HTTP/1.1\r\nHost: b.test\r\n\r\n", "/|?ours", "c.test"},
		{"GET /query HTTP/1.1\r\nHost: b.test\r\n\r\n", "/a%3Fb?ours", "c.test"},
		{"GET /x?theirs HTTP/1.1\r\nHost: b.test\r\n\r\n", "/x?ours", "c.test"},
	} {
		require.Equal(t, 200, c.Do(tt.raw).StatusCode)
		q := backend.WaitRequests(i + 1)[i]
		assert.Equal(t, tt.target, strings.Fields(lines(q.Raw)[0])[1], short(tt.raw))
		assert.Equal(t, tt.host, q.Host)
	}
}

// A request target that only net/http accepts is the client's fault, and no
// failure of the backend.
func TestATargetBeyondASCIIIsRefused(t *testing.T) {
	overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		for i, target := range []string{"/caf\xc3\xa9", "/\xff", "/?q=\xc3\xa9"} {
			assert.Equal(t, 400, s.dial(t).Do("GET "+target+" HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").StatusCode)
			var failure *hostproxy.Error
			require.ErrorAs(t, s.record(t, i+1).Err, &failure)
			assert.Equal(t, hostproxy.SideClient, failure.Side)
		}
		assert.Empty(t, s.backend.Requests())
	})
}
