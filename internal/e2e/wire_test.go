package e2e_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// RFC 9112, 7.1.1: white space is allowed around the semicolon and the equals
// sign of a chunk extension.
func TestWhiteSpaceInChunkExtensionsIsRead(t *testing.T) {
	const chunks = "5 ; a=b\r\nhello\r\n1\t; c = \"d\" ;e\r\n!\r\n0 ;f\r\n\r\n"
	t.Run("of a request", func(t *testing.T) {
		overOurLanes(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
			for _, step := range []int{len(chunks), 1} {
				n := len(s.backend.Requests())
				c := s.dial(t)
				c.Send("POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n")
				for rest := chunks; rest != ""; rest = rest[min(step, len(rest)):] {
					c.Send(rest[:min(step, len(rest))])
				}
				assert.Equal(t, 200, c.Response("POST").StatusCode)
				assert.Equal(t, "hello!", string(s.backend.WaitRequests(n + 1)[n].Content))
				assert.Equal(t, 200, c.Do(get).StatusCode, "the next request begins behind it")
			}
		})
	})
	t.Run("of a response", func(t *testing.T) {
		overEachLane(t, proxytest.Reply("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+chunks), func(t *testing.T, s *site) {
			c := s.dial(t)
			for range 2 {
				assert.Equal(t, "hello!", string(c.Do(get).Content))
			}
			assert.Equal(t, 1, s.backend.Conns())
		})
	})
}

// White space after a chunk size without an extension has no meaning. It is
// accepted from servers, which may pad sizes, but not from clients.
func TestWhiteSpaceBehindAChunkSizeIsRefused(t *testing.T) {
	for _, body := range []string{"5 \r\nhello\r\n0\r\n\r\n", "5 a\r\nhello\r\n0\r\n\r\n", " 5\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n0 \r\n\r\n", "5 \n;a\r\nhello\r\n0\r\n\r\n"} {
		t.Run(label(body), func(t *testing.T) {
			overOurLanes(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
				c := s.dial(t)
				_ = c.Conn.Send("POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n" + body + smuggled)
				answer := c.Rest()
				assert.True(t, strings.HasPrefix(answer, "HTTP/1.1 400 "), "%q", answer)
				assert.Equal(t, 1, strings.Count(answer, "HTTP/1."), "one answer, then the end: %q", answer)
			})
		})
	}
}

// RFC 9112, 3: the status says which part of a head is too long.
func TestATargetThatIsTooLongIs414AndFieldsTooLongAre431(t *testing.T) {
	long := strings.Repeat("a", 20<<10)
	for _, tt := range []struct{ raw, status string }{
		{"GET /" + long + " HTTP/1.1\r\n" + host + "\r\n", "414"},
		{"GET /?" + long + " HTTP/1.1\r\n" + host + "\r\n", "414"},
		{"GET / HTTP/1.1\r\n" + host + "X-Long: " + long + "\r\n\r\n", "431"},
		{"GET /" + long[:12<<10] + " HTTP/1.1\r\n" + host + "X-Long: " + long[:12<<10] + "\r\n\r\n", "431"},
	} {
		t.Run(label(tt.raw), func(t *testing.T) {
			overOurLanes(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
				c := s.dial(t)
				_ = c.Conn.Send(tt.raw + smuggled)
				answer := c.Rest()
				assert.True(t, strings.HasPrefix(answer, "HTTP/1.1 "+tt.status+" "), "%q", answer)
				assert.Equal(t, 1, strings.Count(answer, "HTTP/1."), "one answer, then the end: %q", answer)
				assert.Empty(t, s.backend.Requests())
			})
		})
	}
}

// RFC 9110, 2.5.
func TestLaterMinorVersionsAreProcessedAsHTTP11(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"HTTP/1.2", "HTTP/1.9"} {
		t.Run(version, func(t *testing.T) {
			overEachLane(t, proxytest.Reply(version+" 200 OK\r\nContent-Length: 2\r\n\r\nok"), func(t *testing.T, s *site) {
				c := s.dial(t)
				for range 2 {
					p := c.Do("POST / " + version + "\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n" + chunked("hello", 2))
					assert.Equal(t, "ok", string(p.Content))
					assert.Equal(t, "HTTP/1.1", p.Proto)
				}
				for _, q := range s.backend.WaitRequests(2) {
					assert.Equal(t, "POST / HTTP/1.1", lines(q.Raw)[0])
					assert.Equal(t, "hello", string(q.Content))
				}
				assert.Equal(t, 1, s.backend.Conns(), "both connections are kept")
			})
		})
	}
	for _, version := range []string{"HTTP/0.9", "HTTP/2.0", "HTTP/2.1", "HTTP/3.0"} {
		t.Run(version, func(t *testing.T) {
			overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
				c := s.dial(t)
				_ = c.Conn.Send("GET / " + version + "\r\n" + host + "\r\n" + smuggled)
				assert.True(t, strings.HasPrefix(c.Rest(), "HTTP/1.1 505 "))
				assert.Empty(t, s.backend.Requests())
			})
		})
	}
}

// RFC 9112, 3.2: HTTP/1.0 has no Host. Then the route for any host serves the
// request.
func TestHTTP10WithoutHostGoesToTheRouteForAnyHost(t *testing.T) {
	const bare = "GET /x HTTP/1.0\r\n\r\n"
	t.Run("without such a route it is refused", func(t *testing.T) {
		overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
			assert.Equal(t, 400, s.dial(t).Do(bare).StatusCode)
			assert.Empty(t, s.backend.Requests())
			assert.Equal(t, 400, s.record(t, 1).Status)
		})
	})
	t.Run("with one it is served", func(t *testing.T) {
		overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
			others := proxytest.NewBackend(t, proxytest.Reply(ok))
			s.router.Handle("*", hostproxy.To(others.Addr()))
			s.router.Handle("*/auth/", withPassword(s.upstream))
			assert.Equal(t, "ok", string(s.dial(t).Do(bare).Content))
			raw := others.WaitRequests(1)[0].Raw
			assert.Equal(t, "GET /x HTTP/1.1", lines(raw)[0])
			assert.Equal(t, []string{others.Addr()}, field(raw, "Host"))
			assert.Empty(t, field(raw, "X-Forwarded-Host"))
			assert.Equal(t, "*", s.record(t, 1).Pattern)

			assert.Equal(t, 401, s.dial(t).Do("GET /auth/ HTTP/1.0\r\n\r\n").StatusCode)
			assert.Equal(t, 400, s.dial(t).Do("GET /x HTTP/1.1\r\n\r\n").StatusCode, "HTTP/1.1 has a Host")
			assert.Empty(t, s.backend.Requests())
			assert.Len(t, others.Requests(), 1)
		})
	})
}

// RFC 9110, 7.8 and 10.1.1: a recipient ignores both in an HTTP/1.0 request.
func TestUpgradeAndExpectOfHTTP10AreIgnored(t *testing.T) {
	script := func(c *proxytest.BackendConn) {
		for {
			q, err := c.ReadRequest()
			if err != nil || c.Send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\n"+sized(string(q.Content))) != nil {
				return
			}
		}
	}
	overEachLane(t, script, func(t *testing.T, s *site) {
		for i, fields := range []string{"Connection: Upgrade\r\nUpgrade: websocket\r\n" + token, "Expect: 100-continue\r\n",
			"Connection: Upgrade, keep-alive\r\nUpgrade: websocket\r\nExpect: 100-continue\r\n" + token} {
			c := s.dial(t)
			c.Send("PUT / HTTP/1.0\r\n" + host + fields + sized("hello"))
			p := c.Response("PUT")
			assert.Equal(t, 200, p.StatusCode, "no interim response comes first")
			assert.Equal(t, "hello", string(p.Content))
			raw := s.backend.WaitRequests(i + 1)[i].Raw
			for _, name := range []string{"Upgrade", "Connection", "Expect"} {
				assert.Empty(t, field(raw, name), name)
			}
		}
	})
}

func TestAnUnknownExpectationOfHTTP10IsIgnored(t *testing.T) {
	backend := proxytest.NewBackend(t, proxytest.Reply(ok))
	for proto, status := range map[string]int{"HTTP/1.0": 200, "HTTP/1.1": 417} {
		q := httptest.NewRequest("GET", "/", nil)
		q.Proto, q.ProtoMinor = proto, int(proto[len(proto)-1]-'0')
		q.Header.Set("Expect", "the-unexpected")
		w := httptest.NewRecorder()
		hostproxy.To(backend.Addr()).ServeHTTP(w, q)
		assert.Equal(t, status, w.Code, proto)
	}
	require.Len(t, backend.Requests(), 1)
	assert.Empty(t, field(backend.Requests()[0].Raw, "Expect"))
}

// RFC 9110, 15.5.22: a 426 must name the protocol that it requires. Other
// responses, and responses to HTTP/1.0 and HTTP/2 clients, have no Upgrade.
func TestA426SaysWhichProtocolIsRequired(t *testing.T) {
	script := func(c *proxytest.BackendConn) {
		for {
			q, err := c.ReadRequest()
			if err != nil || c.Send("HTTP/1.1 "+q.URL.Path[1:]+" Whatever\r\nConnection: Upgrade, X-Hop\r\nUpgrade: TLS/1.3, HTTP/2.0\r\nX-Hop: 1\r\nX-A: 1\r\n"+sized("no")) != nil {
				return
			}
		}
	}
	overEachLane(t, script, func(t *testing.T, s *site) {
		c := s.dial(t)
		for range 2 {
			for path, want := range map[string][]string{"/426": {"TLS/1.3, HTTP/2.0"}, "/200": nil, "/400": nil} {
				p := c.Do("GET " + path + " HTTP/1.1\r\n" + host + "\r\n")
				assert.Equal(t, want, field(p.Raw, "Upgrade"), path)
				assert.Equal(t, want != nil, strings.Join(field(p.Raw, "Connection"), ",") == "Upgrade", path)
				assert.Empty(t, field(p.Raw, "X-Hop"))
				assert.Equal(t, []string{"1"}, field(p.Raw, "X-A"))
				assert.Equal(t, "no", string(p.Content))
			}
		}
		p := s.dial(t).Do("GET /426 HTTP/1.1\r\n" + host + "Connection: close\r\n\r\n")
		assert.Equal(t, []string{"TLS/1.3, HTTP/2.0"}, field(p.Raw, "Upgrade"))
		if !s.lane.foreign {
			assert.Equal(t, []string{"Upgrade", "close"}, field(p.Raw, "Connection"))
		}
		p = s.dial(t).Do("GET /426 HTTP/1.0\r\n" + host + "\r\n")
		assert.Equal(t, 426, p.StatusCode)
		assert.Empty(t, field(p.Raw, "Upgrade"))
		assert.NotContains(t, field(p.Raw, "Connection"), "Upgrade")
		if s.lane.secure {
			p, body := do(t, proxytest.HTTPClient(t, s.addr, s.tls.RootCAs, "h2"), newRequest(t, "GET", "/426", nil))
			assert.Equal(t, 2, p.ProtoMajor)
			assert.Equal(t, 426, p.StatusCode)
			assert.Equal(t, "no", body)
			assert.Empty(t, p.Header["Upgrade"])
		}
	})
}

// RFC 9110, 8.6: neither a 1xx nor a 204 has a Content-Length, even if the
// target sends one.
func TestResponsesThatHaveNoBodyByTheirStatusHaveNoLength(t *testing.T) {
	t.Parallel()
	for _, head := range []string{"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n"} {
		t.Run(head, func(t *testing.T) {
			script := proxytest.Reply("HTTP/1.1 103 Early Hints\r\nContent-Length: 3\r\n\r\n" + head + "X-A: 1\r\n\r\n")
			overEachLane(t, script, func(t *testing.T, s *site) {
				c := s.dial(t)
				for _, start := range []string{"GET / ", "HEAD / ", "PURGE / "} {
					c.Send(start + "HTTP/1.1\r\n" + host + "\r\n")
					for _, status := range []int{103, 204} {
						p := c.Response(strings.Fields(start)[0])
						assert.Equal(t, status, p.StatusCode)
						assert.Empty(t, field(p.Raw, "Content-Length"))
						assert.Empty(t, field(p.Raw, "Transfer-Encoding"))
					}
				}
				if s.lane.secure {
					p, _ := do(t, proxytest.HTTPClient(t, s.addr, s.tls.RootCAs, "h2"), newRequest(t, "GET", "/", nil))
					assert.Equal(t, 2, p.ProtoMajor)
					assert.Equal(t, 204, p.StatusCode)
					assert.Equal(t, []string{"1"}, p.Header["X-A"])
					assert.Empty(t, p.Header["Content-Length"])
				}
			})
		})
	}
}

// RFC 9110, 7.6.2: a client can query the proxies of a chain one after the
// other.
func TestOptionsIsForwardedAsOftenAsMaxForwardsAllows(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ about, fields, want string }{
		{"one", "Max-Forwards: 1\r\n", "0"},
		{"several", "max-forwards: 10\r\n", "9"},
		{"the least of two", "Max-Forwards: 7\r\nMax-Forwards: 3\r\n", "2"},
		{"more than is counted", "Max-Forwards: 99999999999999999999999\r\n", "999999998"},
		{"no number", "Max-Forwards: -1\r\n", "-1"},
		{"nothing", "", ""},
	} {
		t.Run(tt.about, func(t *testing.T) {
			overOurLanes(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
				c := s.dial(t)
				for i, target := range []string{"/x", "*"} {
					assert.Equal(t, 200, c.Do("OPTIONS "+target+" HTTP/1.1\r\n"+host+tt.fields+"\r\n").StatusCode)
					raw := s.backend.WaitRequests(i + 1)[i].Raw
					assert.Equal(t, tt.want, strings.Join(field(raw, "Max-Forwards"), ","))
				}
				c.Do("GET / HTTP/1.1\r\n" + host + "Max-Forwards: 0\r\n\r\n")
				assert.Equal(t, []string{"0"}, field(s.backend.WaitRequests(3)[2].Raw, "Max-Forwards"), "it means nothing to other methods")
			})
		})
	}
}

func TestTheLastOptionsIsAnsweredBehindTheGuards(t *testing.T) {
	const last = " HTTP/1.1\r\nMax-Forwards: 0\r\n"
	limited := func(s *site) { s.upstream.RateLimit = &hostproxy.RateLimit{Rate: 0.001, Burst: 2} }
	overOurLanes(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		s.router.Handle("b.test", withPassword(s.upstream))
		denied := hostproxy.To(s.backend.Addr())
		denied.Deny = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		s.router.Handle("c.test", denied)

		c := s.dial(t)
		for i, target := range []string{"/x", "*"} {
			p := c.Do("OPTIONS " + target + last + host + "\r\n")
			assert.Equal(t, 200, p.StatusCode)
			assert.Equal(t, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS", p.Header.Get("Allow"))
			assert.Empty(t, p.Content)
			x := s.record(t, i+1)
			assert.Equal(t, 200, x.Status)
			assert.NoError(t, x.Err)
			assert.Zero(t, x.Attempts)
		}
		assert.Equal(t, 429, c.Do("OPTIONS /x"+last+host+"\r\n").StatusCode)
		assert.Equal(t, 401, c.Do("OPTIONS /x"+last+"Host: b.test\r\n\r\n").StatusCode)
		assert.Equal(t, 403, c.Do("OPTIONS /x"+last+"Host: c.test\r\n\r\n").StatusCode)
		assert.Empty(t, s.backend.Requests())
	}, limited)
}

// The same over HTTP/2.
func TestMaxForwardsOfOptionsIsCountedOverHTTP2(t *testing.T) {
	s := newSite(t, lane{secure: true}, proxytest.Reply(ok))
	client := proxytest.HTTPClient(t, s.addr, s.tls.RootCAs, "h2")
	for n, want := range map[string]int{"0": 0, "2": 1} {
		q := newRequest(t, "OPTIONS", "/", nil)
		q.Header.Set("Max-Forwards", n)
		p, _ := do(t, client, q)
		assert.Equal(t, 2, p.ProtoMajor)
		assert.Equal(t, 200, p.StatusCode)
		assert.Equal(t, want == 0, p.Header.Get("Allow") != "")
	}
	require.Len(t, s.backend.Requests(), 1)
	assert.Equal(t, []string{"1"}, field(s.backend.Requests()[0].Raw, "Max-Forwards"))
}

// RFC 9110, 9.3.8: TRACE would disclose credentials, for example to a script in
// a browser.
func TestTraceIsNeverForwarded(t *testing.T) {
	overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		s.router.Handle("*/locked/", withPassword(s.upstream))
		for _, head := range []string{"TRACE / HTTP/1.1\r\n" + host, "TRACE / HTTP/1.1\r\n" + host + "Max-Forwards: 0\r\n", "TRACE /locked/ HTTP/1.1\r\nHost: b.test\r\n", "TRACE / HTTP/1.1\r\nHost: nowhere.test\r\n"} {
			c := s.dial(t)
			for range 2 {
				p := c.Do(head + "\r\n")
				assert.Equal(t, 405, p.StatusCode)
				assert.Equal(t, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS", p.Header.Get("Allow"))
			}
		}
		assert.Equal(t, 405, s.record(t, 1).Status)
		assert.ErrorContains(t, s.record(t, 1).Err, "TRACE is not forwarded")
		if s.lane.secure {
			p, _ := do(t, proxytest.HTTPClient(t, s.addr, s.tls.RootCAs, "h2"), newRequest(t, "TRACE", "/", nil))
			assert.Equal(t, 405, p.StatusCode)
			assert.NotEmpty(t, p.Header.Get("Allow"))
		}
		assert.Empty(t, s.backend.Requests())
	})
	backend := proxytest.NewBackend(t, proxytest.Reply(ok))
	w := httptest.NewRecorder()
	hostproxy.To(backend.Addr()).ServeHTTP(w, httptest.NewRequest("TRACE", "/", nil))
	assert.Equal(t, 405, w.Code, "nor by an Upstream alone")
	assert.Empty(t, backend.Requests())
}

// A POST that the program makes has no Content-Length to pass on: without a
// body, the target gets a length of 0 (RFC 9110, 8.6).
func TestABodilessPostOfTheProgramHasALengthOfZero(t *testing.T) {
	b := proxytest.NewBackend(t, good)
	hostproxy.To(b.Addr()).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "http://a.test/", nil))
	assert.Equal(t, []string{"0"}, field(b.WaitRequests(1)[0].Raw, "Content-Length"))
}

// TRACE is refused on every route, but after the limit of the Router, which
// counts all requests.
func TestTraceIsRefusedByEachHandler(t *testing.T) {
	t.Parallel()
	for _, p := range slices.Concat(places(), answerers()) {
		if p.shape.limit != nil {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			k := p.start(t)
			k.records = nil
			c := k.connect(t)
			for range 2 {
				require.NoError(t, c.Send(p.with("TRACE / HTTP/1.1\r\n"+host+"\r\n")))
				a, err := c.ReadResponse("TRACE")
				require.NoError(t, err)
				assert.Equal(t, 405, a.StatusCode)
				assert.Equal(t, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS", a.Header.Get("Allow"))
			}
			assert.Empty(t, k.mirror.taken())
		})
	}
}

// A Content-Length that a handler of the program sets on such a response is not
// sent either.
func TestAHandlersResponsesThatHaveNoBodyHaveNoLength(t *testing.T) {
	overOurLanes(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		s.router.Handle("b.test", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for _, status := range []int{102, 103, 204} {
				w.Header().Set("Content-Length", "3")
				w.WriteHeader(status)
			}
		}))
		c := s.dial(t)
		for range 2 {
			c.Send("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n")
			for _, status := range []int{102, 103, 204} {
				p := c.Response("GET")
				assert.Equal(t, status, p.StatusCode)
				assert.Empty(t, field(p.Raw, "Content-Length"))
			}
		}
	})
}

// HTTP/1.0 has no Host, but an absolute target names the host.
func TestAnAbsoluteTargetOfHTTP10NeedsNoHost(t *testing.T) {
	overOurLanes(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		for i, fields := range []string{"", "Host: b.test\r\n"} {
			assert.Equal(t, 200, s.dial(t).Do("GET http://a.test/x HTTP/1.0\r\n"+fields+"\r\n").StatusCode)
			raw := s.backend.WaitRequests(i + 1)[i].Raw
			assert.Equal(t, "GET /x HTTP/1.1", lines(raw)[0])
			assert.Equal(t, []string{"a.test"}, field(raw, "Host"))
		}
	})
}
