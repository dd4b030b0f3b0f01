package e2e_test

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// trustLoopback makes all clients of the tests trusted proxies.
func trustLoopback(s *site) {
	s.router.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
}

func TestHopByHopFieldsDoNotReachTheUpstream(t *testing.T) {
	overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		s.dial(t).Do("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: x-a ,X-B\r\nConnection: keep-alive\r\nX-A: 1\r\nx-b: 2\r\nX-C: 3\r\n" +
			"Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: gzip, trailers;q=0.5\r\nTrailer: T\r\n\r\n")
		raw := s.backend.WaitRequests(1)[0].Raw
		for _, name := range []string{"X-A", "X-B", "Keep-Alive", "Proxy-Connection", "Trailer", "Upgrade"} {
			assert.Empty(t, field(raw, name), name)
		}
		assert.Equal(t, []string{"3"}, field(raw, "X-C"))
		for _, te := range field(raw, "TE") {
			assert.Equal(t, "trailers", te)
		}
	})
}

func TestConnectionCannotDeleteOurFields(t *testing.T) {
	for _, line := range []string{
		"Connection: close, x-forwarded-for, X-Forwarded-Host, x-forwarded-proto, X-Real-Ip",
		"connection: X-FORWARDED-FOR\r\nConnection:\r\nConnection: x-forwarded-proto , X-Forwarded-Host\r\nConnection: x-real-ip, host, via, ,",
	} {
		t.Run(line, func(t *testing.T) {
			overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
				c := s.dial(t)
				c.Send("GET / HTTP/1.1\r\nHost: a.test\r\n" + line + "\r\n\r\n")
				assert.Equal(t, 200, c.Response("GET").StatusCode)
				raw := s.backend.WaitRequests(1)[0].Raw
				assert.Equal(t, []string{ip(c)}, field(raw, "X-Forwarded-For"))
				assert.Equal(t, []string{ip(c)}, field(raw, "X-Real-IP"))
				assert.Equal(t, []string{"a.test"}, field(raw, "X-Forwarded-Host"))
				assert.Len(t, field(raw, "X-Forwarded-Proto"), 1)
				assert.Equal(t, []string{"a.test"}, field(raw, "Host"))
			})
		})
	}
}

// Connection cannot delete the headers that the program sets.
func TestConnectionCannotDeleteTheOwnersFields(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ about, fields string }{
		{"a plain request", "Connection: X-Own, x-forwarded-for, x-forwarded-proto, X-Forwarded-Host, x-real-ip\r\n"},
		{"with a field of that name", "Connection: x-own, X-Forwarded-For\r\nX-Own: theirs\r\n"},
		{"an upgrade", "Connection: Upgrade, X-Own, x-forwarded-for, x-forwarded-proto, X-Forwarded-Host, x-real-ip\r\nUpgrade: websocket\r\n" + token},
		{"an upgrade on two lines", "Connection: x-own, x-real-ip\r\nConnection: upgrade, x-forwarded-for\r\nUpgrade: websocket\r\nX-Own: theirs\r\n" + token},
	} {
		t.Run(tt.about, func(t *testing.T) {
			overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
				c := s.dial(t)
				// the second one comes after a request in the same lane
				for _, first := range []bool{true, false} {
					n := len(s.backend.Requests())
					assert.Equal(t, 200, c.Do(request("GET /", tt.fields+"\r\n")).StatusCode)
					raw := s.backend.WaitRequests(n + 1)[n].Raw
					assert.Equal(t, []string{"ours"}, field(raw, "X-Own"), "first: %v", first)
					assert.Equal(t, []string{ip(c)}, field(raw, "X-Forwarded-For"))
					assert.Equal(t, []string{ip(c)}, field(raw, "X-Real-Ip"))
					assert.Equal(t, []string{"a.test"}, field(raw, "X-Forwarded-Host"))
					assert.Equal(t, []string{s.scheme()}, field(raw, "X-Forwarded-Proto"))
					assert.NotContains(t, strings.ToLower(strings.Join(field(raw, "Connection"), ",")), "x-")
					if strings.Contains(tt.fields, "Upgrade: ") {
						assert.Equal(t, []string{"websocket"}, field(raw, "Upgrade"))
					}
				}
			}, func(s *site) { s.upstream.RequestHeader.Set = http.Header{"X-Own": {"ours"}} })
		})
	}
}

// scheme returns the scheme that clients of the site use.
func (s *site) scheme() string {
	if s.lane.secure {
		return "https"
	}
	return "http"
}

func TestForwardingFieldsOfAnUntrustedClientAreReplaced(t *testing.T) {
	overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Do("GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 6.6.6.6\r\nx-forwarded-for: 6.6.6.6\r\nX-Forwarded-Proto: evil1\r\n" +
			"X-Forwarded-Host: evil1\r\nX-Forwarded-Port: 999\r\nX-Forwarded-Prefix: /evil1\r\nX-Real-Ip: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n" +
			"X_Forwarded_For: 6.6.6.6\r\nX.Forwarded.For: 6.6.6.6\r\nX_Real_Ip: 6.6.6.6\r\nX-Forwarded_For: 6.6.6.6\r\n\r\n")
		raw := string(s.backend.WaitRequests(1)[0].Raw)
		assert.NotContains(t, raw, "6.6.6.6")
		assert.NotContains(t, raw, "evil1")
		assert.NotContains(t, raw, "999") // digits that the name in Via cannot have
		assert.Equal(t, []string{ip(c)}, field([]byte(raw), "X-Forwarded-For"))
		assert.Equal(t, []string{s.scheme()}, field([]byte(raw), "X-Forwarded-Proto"))
		assert.Equal(t, netip.MustParseAddr(ip(c)), s.record(t, 1).Client)
	})
}

func TestForwardingFieldsOfATrustedProxyAreUsed(t *testing.T) {
	t.Parallel()
	tests := []struct{ sent, client string }{
		{"203.0.113.9", "203.0.113.9"},
		{"198.51.100.1, 203.0.113.9", "203.0.113.9"},
		{"203.0.113.9, 127.0.0.2", "203.0.113.9"},
		{"2001:db8::1", "2001:db8::1"},
		{"[2001:db8::1]:443", "2001:db8::1"},
	}
	for _, tt := range tests {
		t.Run(tt.sent, func(t *testing.T) {
			overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
				c := s.dial(t)
				c.Do("GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: " + tt.sent + "\r\nX-Forwarded-Proto: https\r\n\r\n")
				raw := s.backend.WaitRequests(1)[0].Raw
				assert.Equal(t, tt.sent+", "+ip(c), strings.Join(field(raw, "X-Forwarded-For"), ", "))
				assert.Equal(t, []string{tt.client}, field(raw, "X-Real-IP"))
				assert.Equal(t, []string{"https"}, field(raw, "X-Forwarded-Proto"))
				assert.Equal(t, netip.MustParseAddr(tt.client), s.record(t, 1).Client)
			}, trustLoopback)
		})
	}
}

// The same over HTTP/2, for each kind of target.
func TestForwardingFieldsOverHTTP2AreBelievedOfTrustedProxiesOnly(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ about, trusted, clients, real, proto, host string }{
		{"trusted", "127.0.0.0/8", "198.51.100.1, 203.0.113.9, 127.0.0.1", "203.0.113.9", "http", "c.test"},
		{"another is trusted", "192.0.2.0/24", "127.0.0.1", "127.0.0.1", "https", "a.test"},
		{"nobody is trusted", "", "127.0.0.1", "127.0.0.1", "https", "a.test"},
	} {
		for _, kind := range []string{"http", "h2c", "https"} {
			t.Run(tt.about+" "+kind, func(t *testing.T) {
				proxytest.NoLeaks(t)
				backend, upstream := newUpstream(t, kind, nil)
				var r hostproxy.Router
				if tt.trusted != "" {
					r.TrustedProxies = []netip.Prefix{netip.MustParsePrefix(tt.trusted)}
				}
				clients := make(chan netip.Addr, 1)
				r.Observe = func(x *hostproxy.Exchange) { clients <- x.Client }
				r.Handle("a.test", upstream)
				config, roots := proxytest.TLS(t, "a.test")
				r.TLS.Config = config
				server := proxytest.Start(t, &hostproxy.Server{Router: &r})
				q := newRequest(t, "POST", "/", strings.NewReader("hello"))
				for name, value := range map[string]string{
					"X-Forwarded-For": "198.51.100.1, 203.0.113.9", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "c.test",
					"X-Real-Ip": "6.6.6.6", "Forwarded": "for=6.6.6.6", "X_Forwarded_For": "6.6.6.6",
				} {
					q.Header[name] = []string{value}
				}
				p, _ := do(t, proxytest.HTTPClient(t, server.HTTPS, roots, "h2"), q)
				require.Equal(t, 200, p.StatusCode)
				require.Equal(t, 2, p.ProtoMajor)
				got := backend.Last(t).Header
				assert.Equal(t, tt.clients, strings.Join(got["X-Forwarded-For"], ", "))
				assert.Equal(t, []string{tt.real}, got["X-Real-Ip"])
				assert.Equal(t, []string{tt.proto}, got["X-Forwarded-Proto"])
				assert.Equal(t, []string{tt.host}, got["X-Forwarded-Host"])
				assert.NotContains(t, got, "X_forwarded_for")
				assert.NotContains(t, got, "Forwarded")
				assert.Equal(t, "a.test", backend.Last(t).Host)
				assert.Equal(t, tt.real, (<-clients).String())
			})
		}
	}
}

func TestOrdinaryFieldsAreForwardedUnchanged(t *testing.T) {
	script := proxytest.Reply("HTTP/1.1 200 OK\r\nServer: theirs\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n" +
		"Alt-Svc: h3=\":443\"\r\nContent-Encoding: gzip\r\nX-Odd: caf\xc3\xa9\r\nContent-Length: 2\r\n\r\nok")
	overEachLane(t, script, func(t *testing.T, s *site) {
		p := s.dial(t).Do("GET / HTTP/1.1\r\nHost: A.test\r\nAccept-Encoding: br\r\nCookie: a=b; c=d\r\nX-Many: 1\r\nX-Many: 2\r\nX-Empty:\r\n\r\n")
		raw := s.backend.WaitRequests(1)[0].Raw
		assert.Equal(t, []string{"A.test"}, field(raw, "Host"), "as the client wrote it")
		assert.Equal(t, []string{"br"}, field(raw, "Accept-Encoding"))
		assert.Equal(t, []string{"a=b; c=d"}, field(raw, "Cookie"))
		assert.Equal(t, []string{"1", "2"}, field(raw, "X-Many"))
		assert.Equal(t, []string{""}, field(raw, "X-Empty"))
		assert.Empty(t, field(raw, "User-Agent"), "none is invented")
		assert.Len(t, field(raw, "Via"), 1)
		assert.Empty(t, field(raw, "Content-Length"), "a GET without a body stays one")
		assert.Empty(t, field(raw, "Transfer-Encoding"))

		assert.Equal(t, []string{"theirs"}, field(p.Raw, "Server"))
		assert.Equal(t, []string{"Thu, 01 Jan 1970 00:00:00 GMT"}, field(p.Raw, "Date"))
		assert.Equal(t, []string{"a=1", "b=2"}, field(p.Raw, "Set-Cookie"))
		assert.Equal(t, []string{"gzip"}, field(p.Raw, "Content-Encoding"))
		assert.Equal(t, []string{"caf\xc3\xa9"}, field(p.Raw, "X-Odd"))
		assert.Empty(t, field(p.Raw, "Alt-Svc"), "it speaks of the upstream's own ports")
		assert.Equal(t, "ok", string(p.Content))
	})
}

func TestHopByHopFieldsDoNotReachTheClient(t *testing.T) {
	script := proxytest.Reply("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x-hint\r\nX-Hint: 1\r\n\r\n" +
		"HTTP/1.1 200 OK\r\nConnection: x-inner, keep-alive\r\nX-Inner: 1\r\nKeep-Alive: timeout=1\r\nProxy-Connection: x\r\nContent-Length: 2\r\n\r\nok")
	overEachLane(t, script, func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send(get)
		hint := c.Response("GET")
		assert.Equal(t, 103, hint.StatusCode)
		assert.Equal(t, []string{"</a>"}, field(hint.Raw, "Link"))
		assert.Empty(t, field(hint.Raw, "X-Hint"))
		p := c.Response("GET")
		for _, name := range []string{"X-Inner", "Keep-Alive", "Proxy-Connection", "Link"} {
			assert.Empty(t, field(p.Raw, name), name)
		}
	})
}

func TestEarlyHintsDoNotWipeFieldsOfOuterMiddleware(t *testing.T) {
	backend := proxytest.NewBackend(t, proxytest.Reply("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\n"+ok))
	var r hostproxy.Router
	r.Handle("a.test", hostproxy.To(backend.Addr()))
	server := proxytest.StartPlain(t, &hostproxy.Server{Router: &r, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("X-Outer", "stays")
		r.ServeHTTP(w, q)
	})})
	c := proxytest.Dial(t, server.Plain)
	c.Send(get)
	for _, link := range []string{"</a>", "</b>"} {
		hint := c.Response("GET")
		assert.Equal(t, 103, hint.StatusCode)
		assert.Equal(t, []string{link}, field(hint.Raw, "Link"))
	}
	p := c.Response("GET")
	assert.Equal(t, []string{"stays"}, field(p.Raw, "X-Outer"))
	assert.Empty(t, field(p.Raw, "Link"))
}

// CVE-2024-24791 and Expect-based poisoning: after an early final response, no
// connection may be left in the middle of a request.
func TestAnEarlyResponseToExpectDisturbsNoOtherRequest(t *testing.T) {
	t.Parallel()
	for _, status := range []string{"417 Expectation Failed", "413 Content Too Large", "200 OK"} {
		t.Run(status, func(t *testing.T) {
			script := func(c *proxytest.BackendConn) {
				for {
					head, err := c.ReadHead()
					if err != nil {
						return
					}
					if strings.Contains(head, "100-continue") {
						_ = c.Send("HTTP/1.1 " + status + "\r\nContent-Length: 5\r\n\r\nearly")
						continue // the body may follow or not
					}
					if !strings.HasPrefix(head, "GET /ok ") {
						_ = c.Send("HTTP/1.1 500 Poisoned\r\nContent-Length: 0\r\n\r\n")
						return
					}
					_ = c.Send(ok)
				}
			}
			overEachLane(t, script, func(t *testing.T, s *site) {
				for range 10 {
					c := s.dial(t)
					c.Send("POST / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
					p := c.Response("POST")
					assert.Equal(t, status[:3], p.Status[:3])
					assert.Equal(t, "early", string(p.Content))
					require.NoError(t, c.Close())
					p = s.dial(t).Do("GET /ok HTTP/1.1\r\nHost: a.test\r\n\r\n")
					require.Equal(t, "ok", string(p.Content), p.Status)
				}
			})
		})
	}
}

func TestContinueIsRelayedOnce(t *testing.T) {
	script := func(c *proxytest.BackendConn) {
		for {
			head, err := c.ReadHead()
			if err != nil {
				return
			}
			if strings.Contains(strings.ToLower(head), "expect: 100-continue") {
				_ = c.Send("HTTP/1.1 100 Continue\r\n\r\n")
			}
			body, err := c.ReadString(5)
			if err != nil {
				return
			}
			_ = c.Send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + body)
		}
	}
	overEachLane(t, script, func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send("POST / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
		assert.Equal(t, 100, c.Response("POST").StatusCode)
		c.Send("hello")
		p := c.Response("POST")
		assert.Equal(t, 200, p.StatusCode)
		assert.Equal(t, "hello", string(p.Content))
		assert.Equal(t, "again", string(c.Do("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nagain").Content))
	})
}

func TestTheProxysOwnResponsesNameTheProxyAndNoInternals(t *testing.T) {
	overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		p := s.dial(t).Do(get)
		assert.Equal(t, 502, p.StatusCode)
		assert.Contains(t, p.Header.Get("Content-Type"), "text/plain")
		assert.Contains(t, p.Header.Get("Proxy-Status"), "hostproxy")
		assert.NotContains(t, string(p.Raw), "127.0.0.1")
		assert.NotContains(t, string(p.Raw), "refused by")
		x := s.record(t, 1)
		var failure *hostproxy.Error
		require.ErrorAs(t, x.Err, &failure)
		assert.Equal(t, "dial", failure.Op)
		assert.ErrorContains(t, failure, "connection refused")
	}, func(s *site) { s.upstream = hostproxy.To("127.0.0.1:1") })
}

// threats.md: underscore or dot aliases of identity fields. A client cannot
// send a header that the program sets or removes.
func TestHeaderEditsApplyToEverySpellingOfAName(t *testing.T) {
	overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		s.dial(t).Do("GET / HTTP/1.1\r\nHost: a.test\r\nX_User: eve\r\nX.User: eve\r\nx-uSER: eve\r\nX_Admin: 1\r\nX.aDMIN: 1\r\nX-Users: 2\r\n\r\n")
		got := s.backend.Requests()[0].Header
		assert.Equal(t, []string{"alice"}, got["X-User"])
		assert.Equal(t, []string{"2"}, got["X-Users"])
		for name := range got {
			assert.NotContains(t, []string{"x_user", "x.user", "x-admin", "x_admin", "x.admin"}, strings.ToLower(name))
		}
	}, func(s *site) {
		s.upstream.RequestHeader = hostproxy.HeaderEdit{Set: http.Header{"X-User": {"alice"}}, Remove: []string{"X-Admin"}}
	})
}

// RFC 6797, 6.1: clients obey the first of several, so there must be one only,
// in every lane.
func TestStrictTransportSecurityIsSentOnceWhateverElseSetsIt(t *testing.T) {
	const name = "Strict-Transport-Security"
	script := proxytest.Reply("HTTP/1.1 200 OK\r\nstrict-transport-security: t\r\nStrict_Transport_Security: t\r\n" + sized("x"))
	for _, l := range lanes {
		t.Run(l.name, func(t *testing.T) {
			proxytest.NoLeaks(t)
			s := newSite(t, l, script, func(s *site) {
				s.upstream.HSTS = &hostproxy.HSTS{MaxAge: time.Hour}
				s.upstream.ResponseHeader.Set = http.Header{"strict-transport-security": {"set"}, "X-Set": {"1"}}
				s.upstream.ResponseHeader.Add = http.Header{name: {"add"}}
			})
			a := s.dial(t).Do(get)
			want := []string{"max-age=3600"}
			if !l.secure {
				want = nil
			}
			assert.Equal(t, want, a.Header.Values(name))
			assert.Empty(t, a.Header.Values("Strict_Transport_Security"))
			assert.Equal(t, "1", a.Header.Get("X-Set"))
		})
	}
}
