package e2e_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestAClientThatLeavesIs499AndNoFailureOfTheTarget(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	gone := make(chan struct{}, 1)
	script := func(c *proxytest.BackendConn) {
		if _, err := c.ReadRequest(); err == nil {
			_, _ = c.ReadAll() // until the proxy gives up
			gone <- struct{}{}
		}
	}
	overLanesAtOnce(t, script, func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send(get)
		s.backend.WaitRequests(1)
		require.NoError(t, c.Close())
		<-gone
		x := s.record(t, 1)
		assert.Equal(t, 499, x.Status)
		var failure *hostproxy.Error
		require.ErrorAs(t, x.Err, &failure)
		assert.Equal(t, hostproxy.SideClient, failure.Side)
	})
}

// A client may disconnect at any time: the record blames the client, and the
// target notices.
func TestAClientMayLeaveAtAnyTime(t *testing.T) {
	endless := func(c *proxytest.BackendConn) {
		if _, err := c.ReadHead(); err != nil {
			return
		}
		err := c.Send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
		for piece := strings.Repeat("x", 64<<10); err == nil; {
			err = c.Send(piece)
		}
	}
	patient := func(c *proxytest.BackendConn) { _, _ = c.ReadRequest() }
	tests := []struct {
		about  string
		script func(*proxytest.BackendConn)
		leave  func(*testing.T, *proxytest.Client)
	}{
		{"in the middle of its body", patient, func(_ *testing.T, c *proxytest.Client) {
			c.Send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 200000\r\n\r\n" + strings.Repeat("x", 100_000))
		}},
		{"in the middle of the answer", endless, func(t *testing.T, c *proxytest.Client) {
			c.Send(get)
			c.Head()
			_, err := c.ReadString(100_000)
			require.NoError(t, err)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.about, func(t *testing.T) {
			overEachLane(t, tt.script, func(t *testing.T, s *site) {
				c := s.dial(t)
				tt.leave(t, c)
				s.backend.WaitConns(1)
				require.NoError(t, c.Close())
				x := s.record(t, 1)
				assert.Equal(t, 499, x.Status)
				var failure *hostproxy.Error
				require.ErrorAs(t, x.Err, &failure)
				assert.Equal(t, hostproxy.SideClient, failure.Side)
			})
		})
	}
}

// A fault of the client during the response is the client's fault too.
func TestTheClientIsToBlameForItsFaultDuringTheResponse(t *testing.T) {
	script := func(c *proxytest.BackendConn) {
		if _, err := c.ReadHead(); err == nil {
			_ = c.Send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n")
			_, _ = c.ReadAll() // until the proxy gives up
		}
	}
	tests := []struct {
		about string
		do    func(*testing.T, *proxytest.Client)
	}{
		{"leaves in the middle of its body", func(t *testing.T, c *proxytest.Client) { require.NoError(t, c.Close()) }},
		{"sends a bad chunk", func(_ *testing.T, c *proxytest.Client) { c.Send("zz\r\n") }},
	}
	for _, tt := range tests {
		t.Run(tt.about, func(t *testing.T) {
			overEachLane(t, script, func(t *testing.T, s *site) {
				c := s.dial(t)
				c.Send("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
				c.Head()
				tt.do(t, c)
				x := s.record(t, 1)
				assert.Equal(t, 499, x.Status)
				var failure *hostproxy.Error
				require.ErrorAs(t, x.Err, &failure)
				assert.Equal(t, hostproxy.SideClient, failure.Side)
				assert.Equal(t, "copy", failure.Op)
			})
		})
	}
}

func TestADialErrorIsRetriedAtAnotherTargetWithTheWholeBody(t *testing.T) {
	overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		for range 8 { // the first choice is random
			p := s.dial(t).Do("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello")
			assert.Equal(t, 200, p.StatusCode)
		}
		for _, q := range s.backend.Requests() {
			assert.Equal(t, "hello", string(q.Content))
		}
	}, func(s *site) { s.upstream = hostproxy.To("127.0.0.1:1", s.backend.Addr()) })
}

func TestASilentUpstreamIs504(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	script := func(c *proxytest.BackendConn) {
		if _, err := c.ReadRequest(); err == nil {
			c.Wait(nil)
		}
	}
	overEachLane(t, script, func(t *testing.T, s *site) {
		p := s.dial(t).Do("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n")
		assert.Equal(t, 504, p.StatusCode)
		var failure *hostproxy.Error
		require.ErrorAs(t, s.record(t, 1).Err, &failure)
		assert.Equal(t, "read", failure.Op)
		assert.Equal(t, hostproxy.SideUpstream, failure.Side)
	}, func(s *site) { s.upstream.ResponseHeaderTimeout = 50 * time.Millisecond })
}

func TestEveryExchangeHasItsRecord(t *testing.T) {
	overEachLane(t, proxytest.Reply("HTTP/1.1 201 Created\r\nContent-Length: 7\r\n\r\ncreated"), func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Do("POST /a%2Fb?c=d HTTP/1.1\r\nHost: A.test:80\r\nContent-Length: 5\r\n\r\nhello")
		x := s.record(t, 1)
		assert.Equal(t, "POST", x.Method)
		assert.Equal(t, "HTTP/1.1", x.Proto)
		assert.Equal(t, "A.test:80", x.Host)
		assert.Equal(t, "/a%2Fb", x.Path)
		assert.Equal(t, "c=d", x.Query)
		assert.Equal(t, "a.test", x.Pattern)
		assert.Equal(t, s.backend.Addr(), x.Target)
		assert.Equal(t, 201, x.Status)
		assert.Equal(t, int64(5), x.RequestBytes)
		assert.Equal(t, int64(7), x.ResponseBytes)
		assert.Equal(t, 1, x.Attempts)
		assert.Equal(t, ip(c), x.Peer.String())
		assert.Positive(t, x.Duration)
		assert.Positive(t, x.Dial)
		assert.Positive(t, x.FirstByte)
		assert.GreaterOrEqual(t, x.Duration, x.FirstByte)
		assert.NoError(t, x.Err)

		c.Do("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
		x = s.record(t, 2)
		assert.Zero(t, x.Dial, "the connection was kept")
		assert.Positive(t, x.FirstByte)

		c = s.dial(t)
		c.Send("GET / HTTP/1.1\r\nHost: nobody.test\r\n\r\n")
		refused := c.Response("GET")
		x = s.record(t, 3)
		assert.Equal(t, refused.StatusCode, x.Status)
		assert.Empty(t, x.Pattern)
		assert.Empty(t, x.Target)
	})
}

func TestAPanicFailsOnlyItsRequest(t *testing.T) {
	overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n")
		answer := c.Rest()
		assert.True(t, answer == "" || strings.HasPrefix(answer, "HTTP/1.1 5"), "%q", answer)
		assert.Equal(t, "ok", string(s.dial(t).Do(get).Content))
	}, func(s *site) {
		s.router.Logger = slog.New(slog.DiscardHandler)
		s.router.Handle("b.test", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("oops") }))
	})
}

func TestAnErrorOfModifyResponseIs502AndAnErrorHandlerAnswersFailures(t *testing.T) {
	overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		assert.Equal(t, 502, s.dial(t).Do(get).StatusCode)
	}, func(s *site) {
		s.upstream.ModifyResponse = func(*http.Response) error { return io.ErrUnexpectedEOF }
	})
	overEachLane(t, proxytest.Reply(""), func(t *testing.T, s *site) {
		p := s.dial(t).Do(get)
		assert.Equal(t, 418, p.StatusCode)
		assert.Equal(t, "sorry", string(p.Content))
	}, func(s *site) {
		s.upstream.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, err error) {
			w.WriteHeader(http.StatusTeapot)
			_, _ = io.WriteString(w, "sorry")
		}
	})
}

func TestHostsAreCanonicalOrRefused(t *testing.T) {
	t.Parallel()
	tests := []struct {
		host   string
		status int
	}{
		{"a.test", 200}, {"A.TEST", 200}, {"a.test.", 200}, {"a.test:80", 200}, {"A.Test.:65535", 200},
		{"[abcd::1", 400}, {"a:1:2", 400}, {"..x", 400}, {".", 400}, {"a..test", 400}, {"a.test:98777", 400}, {"a.test:-1", 400}, {"", 400},
		{"user@a.test", 400}, {"\"a.test\"", 400}, {"[::1%25.a.test]:80", 400}, {"[a.test]", 400}, {"xn--a.test-.test", 400},
		{strings.Repeat("a", 10<<10) + ".test", 400}, {"a.test/x", 400}, {"a.test a.test", 400}, {"a_b,a.test", 400},
	}
	overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		for _, tt := range tests {
			p := s.dial(t).Do("GET / HTTP/1.1\r\nHost: " + tt.host + "\r\nConnection: close\r\n\r\n")
			assert.Equal(t, tt.status, p.StatusCode, "%.80q", tt.host)
		}
		for _, q := range s.backend.Requests() {
			assert.Contains(t, strings.ToLower(q.Host), "a.test")
		}
	})
}

func TestAnUnknownHostIs404Or421OverTLS(t *testing.T) {
	overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		p := s.dial(t).Do("GET / HTTP/1.1\r\nHost: nobody.test\r\n\r\n")
		if s.lane.secure {
			assert.Equal(t, 421, p.StatusCode)
		} else {
			assert.Equal(t, 404, p.StatusCode)
		}
		assert.Zero(t, s.backend.Conns())
	})
}

func TestThePlainListenerRedirectsKnownHostsOnly(t *testing.T) {
	backend := proxytest.NewBackend(t, proxytest.Reply(ok))
	var r hostproxy.Router
	r.Handle("a.test", hostproxy.To(backend.Addr()))
	r.Handle("*.b.test", hostproxy.To(backend.Addr()))
	r.TLS.Config, _ = proxytest.TLS(t, "a.test", "*.b.test")
	server := proxytest.Start(t, &hostproxy.Server{Router: &r})
	_, port, _ := strings.Cut(server.HTTPS, ":")
	_, plain, _ := strings.Cut(server.Plain, ":")
	tests := []struct {
		host, target string
		status       int
		location     string
	}{
		{"a.test:" + plain, "/x%2Fy?z", 308, "https://a.test:" + port + "/x%2Fy?z"},
		{"A.TEST.:" + plain, "/", 308, "https://a.test:" + port + "/"},
		{"c.b.test:" + plain, "//evil.test/", 308, "https://c.b.test:" + port + "//evil.test/"},
		{"evil.test", "/", 404, ""},
		{"a.test@evil.test", "/", 400, ""},
		{"a.test", "/.well-known/acme-challenge/unknown-token", 308, ""},
	}
	for _, tt := range tests {
		t.Run(tt.host+tt.target, func(t *testing.T) {
			p := proxytest.Dial(t, server.Plain).Do("GET " + tt.target + " HTTP/1.1\r\nHost: " + tt.host + "\r\n\r\n")
			if strings.HasPrefix(tt.target, "/.well-known/") {
				assert.Contains(t, []int{308, 404}, p.StatusCode, "answered here, whatever it is")
			} else {
				assert.Equal(t, tt.status, p.StatusCode)
				assert.Equal(t, tt.location, p.Header.Get("Location"))
			}
		})
	}
	assert.Zero(t, backend.Conns())
}

func TestAnUpstreamWithoutARouterIsAHandler(t *testing.T) {
	backend := proxytest.NewServer(t, nil)
	u := hostproxy.To(backend.Addr())
	front := proxytest.NewServer(t, u)
	client := proxytest.HTTPClient(t, front.Addr(), nil, "h1")
	p, err := client.Get("http://anything.test/a%2Fb")
	require.NoError(t, err)
	require.NoError(t, p.Body.Close())
	assert.Equal(t, 200, p.StatusCode)
	got := backend.Last(t)
	assert.Equal(t, "/a%2Fb", got.Target)
	assert.Equal(t, "anything.test", got.Host)
	assert.Equal(t, "127.0.0.1", got.Header.Get("X-Forwarded-For"))
	require.NoError(t, u.Drain(context.Background()))
}

func TestA502AppearsWhenTheBackendStopsAndDisappearsWhenItReturns(t *testing.T) {
	overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		target, release := proxytest.Reserve(t)
		require.NoError(t, s.router.Set("a.test", hostproxy.To(target)))
		c := s.dial(t)
		assert.Equal(t, 502, c.Do(get).StatusCode)
		release()
		for range 2 {
			backend := answering(t, target)
			assert.Equal(t, 200, c.Do(get).StatusCode)
			require.NoError(t, backend.Close())
			p := c.Do(get)
			assert.Equal(t, 502, p.StatusCode)
			assert.Contains(t, string(p.Content), "502")
		}
	})
}

// answering serves "ok" on addr until it is closed.
func answering(t *testing.T, addr string) *http.Server {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	hs := &http.Server{ReadHeaderTimeout: proxytest.Patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok")
	})}
	go func() { _ = hs.Serve(ln) }()
	t.Cleanup(func() { hs.Close() })
	return hs
}
