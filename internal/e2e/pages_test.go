package e2e_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// page writes a different page for each status.
func page(w http.ResponseWriter, q *http.Request) {
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(http.StatusOK) // has no effect: a page cannot choose the status
	body, _ := io.ReadAll(q.Body)
	fmt.Fprintf(w, "page for %s %s%s%s%s", q.Method, q.URL.Path, q.Header.Get("Range"), q.Header.Get("If-None-Match"), body)
}

// pages makes h the page of each of the statuses.
func pages(h http.HandlerFunc, statuses ...int) setting {
	return func(s *site) {
		s.upstream.Pages = make(map[int]http.Handler)
		for _, status := range statuses {
			s.upstream.Pages[status] = h
		}
	}
}

const sorry = "HTTP/1.1 503 Service Unavailable\r\nServer: inside\r\nSet-Cookie: a=b\r\nRetry-After: 7\r\nETag: \"x\"\r\nContent-Encoding: gzip\r\n" +
	"Content-Security-Policy: default-src 'none'\r\nLast-Modified: x\r\nAccept-Ranges: bytes\r\nTrailer: X-Trailer\r\n"

func TestAPageReplacesTheBodyOfATarget(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"sized": sized("secret"), "chunked": "Transfer-Encoding: chunked\r\n\r\n" + chunked("secret", 3, "X-Trailer: 1"), "none": "Content-Length: 0\r\n\r\n",
		"large": sized(strings.Repeat("secret", 100_000)), "until the end": "Connection: close\r\n\r\nsecret",
	} {
		t.Run(name, func(t *testing.T) {
			closes := strings.Contains(body, "close")
			script := func(c *proxytest.BackendConn) {
				for {
					q, err := c.ReadRequest()
					if err != nil || q == nil {
						return
					}
					raw := sorry + body
					if q.RequestURI == "/fine" {
						raw = ok
					}
					if name == "sized" {
						_ = c.Send("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
					}
					if head, _, _ := strings.Cut(raw, "\r\n\r\n"); q.Method == "HEAD" {
						raw = head + "\r\n\r\n"
					}
					if c.Send(raw) != nil || closes {
						return
					}
				}
			}
			overEachLane(t, script, func(t *testing.T, s *site) {
				c := s.dial(t)
				n := 0
				for _, request := range []string{"GET /x HTTP/1.1\r\n" + host + "Range: bytes=0-\r\nIf-None-Match: x\r\n\r\n", "POST /x HTTP/1.1\r\n" + host + sized("hello"),
					"POST /x HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n" + chunked("hello", 2), "HEAD /x HTTP/1.1\r\n" + host + "\r\n", "DELETE /x HTTP/1.1\r\n" + host + "Content-Length: 0\r\n\r\n"} {
					n++
					a := c.Do(request)
					method, _, _ := strings.Cut(request, " ")
					require.Equal(t, 503, a.StatusCode)
					if method != "HEAD" {
						assert.Equal(t, "page for "+method+" /x", string(a.Content))
					}
					for name, want := range map[string][]string{
						"Content-Type": {"text/html"}, "Set-Cookie": {"a=b"}, "Retry-After": {"7"}, "Server": {"inside"}, "X-Env": {"prod"},
						"Etag": nil, "Content-Encoding": nil, "Content-Security-Policy": nil, "Last-Modified": nil, "Accept-Ranges": nil, "Trailer": nil, "Proxy-Status": nil,
					} {
						assert.Equal(t, want, field(a.Raw, name), "%s of %s", name, method)
					}
					x := s.record(t, n)
					assert.Equal(t, 503, x.Status)
					assert.NoError(t, x.Err)
					assert.Equal(t, 1, x.Attempts)
					assert.Equal(t, s.backend.Addr(), x.Target)
					assert.Equal(t, "a.test", x.Pattern)
					if method != "HEAD" {
						assert.Equal(t, int64(len(a.Content)), x.ResponseBytes)
					}
				}
				assert.Equal(t, "ok", string(c.Do("GET /fine HTTP/1.1\r\n"+host+"\r\n").Content), "of another status")
				noneInFlight(t, s.upstream)
			}, pages(page, 503), func(s *site) { s.upstream.ResponseHeader = hostproxy.HeaderEdit{Set: http.Header{"X-Env": {"prod"}}} })
		})
	}
}

func TestAPageReplacesFailuresOfTheProxyToo(t *testing.T) {
	overEachLane(t, nil, func(t *testing.T, s *site) {
		c := s.dial(t)
		for i, request := range []string{get, "POST / HTTP/1.1\r\n" + host + sized("hello")} {
			a := c.Do(request)
			assert.Equal(t, 502, a.StatusCode)
			assert.Equal(t, "page for "+[]string{"GET", "POST"}[i]+" /", string(a.Content))
			assert.Equal(t, []string{"hostproxy; error=connection_refused"}, field(a.Raw, "Proxy-Status"))
			assert.Equal(t, []string{"no-store"}, field(a.Raw, "Cache-Control"))
			x := s.record(t, i+1)
			assert.Equal(t, 502, x.Status)
			var failure *hostproxy.Error
			require.ErrorAs(t, x.Err, &failure)
			assert.Equal(t, "dial", failure.Op)
		}
	}, pages(page, 502), func(s *site) { s.upstream = replaceTarget(s.upstream, proxytest.Refused(t)) })
}

// replaceTarget returns an upstream with another target.
func replaceTarget(u *hostproxy.Upstream, addr string) *hostproxy.Upstream {
	v := hostproxy.To(addr)
	v.Pages, v.ErrorHandler = u.Pages, u.ErrorHandler
	return v
}

func TestAPageReplacesRefusalsOfTheUpstream(t *testing.T) {
	overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		c := s.dial(t)
		assert.Equal(t, 200, c.Do("GET /api/x HTTP/1.1\r\n"+host+"\r\n").StatusCode)
		a := c.Do("GET /x HTTP/1.1\r\n" + host + "\r\n")
		assert.Equal(t, 404, a.StatusCode)
		assert.Equal(t, "page for GET /x", string(a.Content))
		assert.NoError(t, s.record(t, 2).Err)
		require.NoError(t, s.upstream.Maintain(hostproxy.Page{Status: 404, Body: []byte("maintained")}))
		assert.Equal(t, "maintained", string(c.Do("GET /api/x HTTP/1.1\r\n"+host+"\r\n").Content), "a page has been chosen already")
	}, below("", "/api", ""), pages(page, 404))
}

func TestAnErrorHandlerTakesPrecedenceOverPages(t *testing.T) {
	handle := func(s *site) {
		s.upstream.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) {
			w.WriteHeader(http.StatusBadGateway)
			_, _ = io.WriteString(w, "handled")
		}
	}
	overEachLane(t, proxytest.Reply("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\nno"), func(t *testing.T, s *site) {
		assert.Equal(t, "page for GET /", string(s.dial(t).Do(get).Content), "what a target answers is no failure")
	}, pages(page, 502), handle)
	overEachLane(t, nil, func(t *testing.T, s *site) {
		assert.Equal(t, "handled", string(s.dial(t).Do(get).Content))
	}, pages(page, 502), handle, func(s *site) { s.upstream = replaceTarget(s.upstream, proxytest.Refused(t)) })
}

func TestAPageThatPanicsIs500AndOneThatWritesNothingIsEmpty(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		page   http.HandlerFunc
		status int
		body   string
		fails  bool
	}{
		{"writes nothing", func(http.ResponseWriter, *http.Request) {}, 404, "", false},
		{"panics", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Encoding", "gzip"); panic("no") }, 500, "500 Internal Server Error: proxy_internal_error\n", true},
		{"sends interim responses", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(103); w.WriteHeader(200) }, 404, "", false},
		{"flushes", func(w http.ResponseWriter, _ *http.Request) {
			assert.NoError(t, http.NewResponseController(w).Flush())
			_, _ = io.WriteString(w, "flushed")
		}, 404, "flushed", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			overEachLane(t, proxytest.Reply("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno"), func(t *testing.T, s *site) {
				c := s.dial(t)
				for range 2 { // the connection is kept
					a := c.Do(get)
					assert.Equal(t, tt.status, a.StatusCode)
					assert.Equal(t, tt.body, string(a.Content))
					assert.Empty(t, a.Header.Get("Content-Encoding"))
				}
				var failure *hostproxy.Error
				if err := s.record(t, 2).Err; tt.fails && assert.ErrorAs(t, err, &failure) {
					assert.Equal(t, hostproxy.SideProxy, failure.Side)
					assert.ErrorContains(t, err, "panic in Pages: no")
				} else if !tt.fails {
					assert.NoError(t, err)
				}
			}, pages(tt.page, 404))
		})
	}
}

func TestAPageThatPanicsLateCutsItsResponseOff(t *testing.T) {
	late := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "some")
		_ = http.NewResponseController(w).Flush()
		panic("no")
	}
	overEachLane(t, proxytest.Reply("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno"), func(t *testing.T, s *site) {
		c := s.dial(t)
		require.NoError(t, c.Conn.Send(get))
		_, err := c.ReadResponse("GET")
		assert.Error(t, err)
		assert.ErrorContains(t, s.record(t, 1).Err, "panic in Pages: no")
	}, pages(late, 404))
}

func TestRetriesComeBeforePages(t *testing.T) {
	busy, calm := proxytest.NewBackend(t, proxytest.Reply("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")), proxytest.NewBackend(t, good)
	inLanes(t, func() *hostproxy.Upstream {
		u := hostproxy.To(busy.Addr(), calm.Addr())
		u.Policy, u.Retry.Statuses, u.Pages = hostproxy.FirstAvailable, []int{503}, map[int]http.Handler{503: http.HandlerFunc(page)}
		return u
	}, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
		assert.Equal(t, "good 0", string(c.Do(get).Content))
		assert.Equal(t, 2, (<-records).Attempts)
	})
	inLanes(t, func() *hostproxy.Upstream {
		u := hostproxy.To(busy.Addr())
		u.Retry.Statuses, u.Pages = []int{503}, map[int]http.Handler{503: http.HandlerFunc(page)}
		return u
	}, func(t *testing.T, c *proxytest.Client, _ <-chan hostproxy.Exchange) {
		assert.Equal(t, "page for GET /", string(c.Do(get).Content), "the last attempt's answer")
	})
}

func TestPagesWorkOverEachProtocol(t *testing.T) {
	t.Parallel()
	h := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Grpc-Status", "5")
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, "secret")
	})
	for _, front := range []string{"h1", "h2"} {
		for _, back := range []string{"http", "h2c", "https", "unix"} {
			t.Run(front+" to "+back, func(t *testing.T) {
				proxytest.NoLeaks(t)
				_, u := newUpstream(t, back, h)
				u.Pages = map[int]http.Handler{404: http.HandlerFunc(page)}
				client := clientOf(t, front, u)
				for range 3 {
					p, body := do(t, client, newRequest(t, "GET", "/x", nil))
					assert.Equal(t, http.StatusNotFound, p.StatusCode)
					assert.Equal(t, "page for GET /x", body)
					p, body = do(t, client, newRequest(t, "POST", "/x", strings.NewReader(strings.Repeat("x", 100_000))))
					assert.Equal(t, http.StatusNotFound, p.StatusCode)
					assert.Equal(t, "page for POST /x", body)
				}
				q := newRequest(t, "POST", "/x", strings.NewReader("hello"))
				q.Header.Set("Content-Type", "application/grpc")
				_, body := do(t, client, q)
				assert.Equal(t, "secret", body, "what speaks gRPC gets no page")
			})
		}
	}
}

func TestPagesAreChosenAfterHooks(t *testing.T) {
	overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		a := s.dial(t).Do(get)
		assert.Equal(t, 418, a.StatusCode)
		assert.Equal(t, "page for GET /", string(a.Content))
	}, pages(page, 418, 502), func(s *site) {
		s.upstream.ModifyResponse = func(res *http.Response) error { res.StatusCode = 418; return nil }
	})
	overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		assert.Equal(t, "page for GET /", string(s.dial(t).Do(get).Content))
	}, pages(page, 418, 502), func(s *site) {
		s.upstream.ModifyResponse = func(*http.Response) error { return errors.New("no") }
	})
}

func TestACopyForAMirrorGetsNoPage(t *testing.T) {
	other := proxytest.NewBackend(t, proxytest.Reply("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"))
	stable := proxytest.NewBackend(t, proxytest.Reply("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"))
	inLanes(t, func() *hostproxy.Upstream {
		u, to := hostproxy.To(stable.Addr()), hostproxy.To(other.Addr())
		u.Pages = map[int]http.Handler{404: http.HandlerFunc(page)}
		to.Pages = map[int]http.Handler{404: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a page for no client") })}
		require.NoError(t, u.Mirror(to, 1))
		return u
	}, func(t *testing.T, c *proxytest.Client, _ <-chan hostproxy.Exchange) {
		n := len(other.Requests())
		assert.Equal(t, "page for GET /", string(c.Do(get).Content))
		other.WaitRequests(n + 1)
	})
}

// 499 is the status in records of clients that have disconnected: no client
// would read its page.
func TestAClientThatHasLeftGetsNoPage(t *testing.T) {
	t.Parallel()
	overEachLane(t, thinks(make(chan string, 99)), func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send(get)
		s.backend.WaitRequests(1)
		require.NoError(t, c.Close())
		assert.Equal(t, 499, s.record(t, 1).Status)
	}, pages(func(http.ResponseWriter, *http.Request) { t.Error("a page was asked for") }, 499))
}

// Pages can show the identifier in logs and the client, for responses of
// targets and of the proxy.
func TestAPageCanShowTheRequestIDAndTheClient(t *testing.T) {
	overEachLane(t, proxytest.Reply("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno"), func(t *testing.T, s *site) {
		c := s.dial(t)
		for i, raw := range []string{get, "GET / HTTP/1.1\r\nHost: down.test\r\n\r\n", "POST / HTTP/1.1\r\n" + host + sized("hello")} {
			a := c.Do(strings.Replace(raw, "\r\n\r\n", "\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n", 1))
			x := s.record(t, i+1)
			require.NotEmpty(t, x.RequestID)
			assert.Equal(t, "192.0.2.1 "+x.RequestID, string(a.Content), "%d", a.StatusCode)
		}
	}, numbered, pages(func(w http.ResponseWriter, q *http.Request) {
		fmt.Fprint(w, hostproxy.ClientAddr(q), " ", hostproxy.RequestID(q))
	}, 404, 502), func(s *site) {
		s.router.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		s.router.Handle("down.test", replaceTarget(s.upstream, proxytest.Refused(t)))
	})
}

func TestAPageHasThePathsThatClientsKnow(t *testing.T) {
	overEachLane(t, proxytest.Reply("HTTP/1.1 401 Unauthorized\r\nLocation: /v2/login\r\nSet-Cookie: a=b; Path=/\r\nContent-Length: 2\r\n\r\nno"), func(t *testing.T, s *site) {
		a := s.dial(t).Do("GET /api/x HTTP/1.1\r\n" + host + "\r\n")
		assert.Equal(t, "page for GET /api/x", string(a.Content))
		assert.Equal(t, []string{"/api/login"}, field(a.Raw, "Location"))
		assert.Equal(t, []string{"a=b; Path=/api"}, field(a.Raw, "Set-Cookie"))
	}, below("", "/api", "/v2"), pages(page, 401))
}
