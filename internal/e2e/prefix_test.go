package e2e_test

//lint:file-ignore SA1019 http.Transport refuses the pseudo-header :protocol; x/net's sends it

import (
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// below gives a site's target the path base, and sets the prefixes.
func below(base, strip, add string) setting {
	return func(s *site) {
		s.upstream = hostproxy.To("http://" + s.backend.Addr() + base)
		s.upstream.StripPrefix, s.upstream.AddPrefix = strip, add
	}
}

func TestAPrefixOfThePathIsReplaced(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ base, strip, add, target, want string }{
		{"", "/api", "", "/api/x?q=/api/", "/x?q=/api/"},
		{"", "/api", "", "/api", "/"},
		{"", "/api", "", "/api?q", "/?q"},
		{"", "/api", "", "/api?", "/?"},
		{"", "/api/", "", "/api/", "/"},
		{"", "/api", "", "http://a.test/api/x?q", "/x?q"},
		{"", "/api/v1", "", "/api/v1/x/", "/x/"},
		{"", "/api", "/v2/", "/api/x", "/v2/x"},
		{"", "/api", "/v2", "/api", "/v2/"},
		{"/base/", "/api", "", "/api/x", "/base/x"},
		{"/base", "/api", "/v2", "/api/x", "/base/v2/x"},
		{"", "", "/v2", "/x", "/v2/x"},
		{"", "", "/v2", "//x", "/v2//x"},
		{"", "/api", "", "/api/a%2Fb//c;d/e%20f+g", "/a%2Fb//c;d/e%20f+g"},
		{"", "/api", "", "/api/a^b|c", "/a^b|c"},
		{"", "/api", "/v2", "/api/x/../y", "/v2/x/../y"},
		{"", "/caf%C3%A9", "", "/caf%C3%A9/x", "/x"},
	} {
		t.Run(tt.strip+" by "+tt.add+" in "+strings.ReplaceAll(tt.target, "/", "|"), func(t *testing.T) {
			overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
				assert.Equal(t, 200, s.dial(t).Do("GET "+tt.target+" HTTP/1.1\r\nHost: a.test\r\n\r\n").StatusCode)
				assert.Equal(t, "GET "+tt.want+" HTTP/1.1", lines(s.backend.WaitRequests(1)[0].Raw)[0])
				x := s.record(t, 1)
				path, _, _ := strings.Cut(strings.TrimPrefix(tt.target, "http://a.test"), "?")
				assert.Equal(t, path, x.Path, "the record has the client's path")
			}, below(tt.base, tt.strip, tt.add))
		})
	}
}

func TestARequestOutsideThePrefixReachesNoTarget(t *testing.T) {
	t.Parallel()
	overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		for target, status := range map[string]int{
			"/": 404, "/apix": 404, "/API/x": 404, "//api/x": 404, "/%61pi/x": 404, "/api%2Fx": 404, "/x/../api/y": 404, "/api;v=1/x": 404, "/ap": 404,
			"http://a.test": 404, "http://a.test?/api": 404,
			"/api//x": 400, "/api//evil.test/x": 400, "/api/../x": 400, "/api/../api/x": 400, "/api/..": 400, "/api/x/../../y": 400, "/api/%2e%2e/x": 400,
			"/api/.%2E%2fx": 400, "/api/..%5cx": 400, "/api/..;/x": 400, "/api/;/../x": 400,
		} {
			c := s.dial(t)
			a := c.Do("POST " + target + " HTTP/1.1\r\nHost: a.test\r\n" + sized("hello"))
			assert.Equal(t, status, a.StatusCode, target)
			assert.NotContains(t, string(a.Content), "api", target)
		}
		assert.Empty(t, s.backend.Requests())
		c := s.dial(t) // and the connection is kept
		assert.Equal(t, 404, c.Do("GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n").StatusCode)
		assert.Equal(t, 200, c.Do("GET /api/x HTTP/1.1\r\nHost: a.test\r\n\r\n").StatusCode)
		assert.Equal(t, 200, c.Do("OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n").StatusCode)
		if !s.lane.foreign { // net/http itself answers
			assert.Equal(t, "OPTIONS * HTTP/1.1", lines(s.backend.WaitRequests(2)[1].Raw)[0])
		}
	}, below("", "/api", "/v2"))
}

func TestARequestCannotLeaveThePathThatAddPrefixAdds(t *testing.T) {
	overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		c := s.dial(t)
		assert.Equal(t, 400, c.Do("GET /../other/x HTTP/1.1\r\nHost: a.test\r\n\r\n").StatusCode)
		assert.Equal(t, 200, c.Do("GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n").StatusCode)
		raw := s.backend.WaitRequests(1)[0].Raw
		assert.Equal(t, "GET /tenant/x HTTP/1.1", lines(raw)[0])
		assert.Empty(t, field(raw, "X-Forwarded-Prefix"), "nothing was stripped")
	}, below("", "", "/tenant"))
}

func TestPathsInResponsesAreThoseOfTheClient(t *testing.T) {
	t.Parallel()
	const target = "{target}"
	for _, tt := range []struct{ base, strip, add, field, want string }{
		{"", "/api", "", "Location: /x?q=/y#/z", "Location: /api/x?q=/y#/z"},
		{"", "/api", "", "Location: /", "Location: /api/"},
		{"", "/api", "", "Location: /?q", "Location: /api/?q"},
		{"", "/api", "", "location: /x", "location: /api/x"},
		{"", "/api", "", "Content-Location: /x", "Content-Location: /api/x"},
		{"", "/api", "", "Location: /apix", "Location: /api/apix"},
		{"", "/api", "", "Location: /api/x", "Location: /api/x"}, // X-Forwarded-Prefix was heeded
		{"", "/api", "", "Location: /api", "Location: /api"},
		{"", "/api", "", "Location: x/y", "Location: x/y"},
		{"", "/api", "", "Location: ?q", "Location: ?q"},
		{"", "/api", "", "Location: #f", "Location: #f"},
		{"", "/api", "", "Location: ", "Location: "},
		{"", "/api", "", "Location: //other.test/x", "Location: //other.test/x"},
		{"", "/api", "", "Location: https://other.test/x", "Location: https://other.test/x"},
		{"", "/api", "", "Location: https://a.test:8443/x", "Location: https://a.test:8443/x"},
		{"", "/api", "", "Location: https://u@a.test/x", "Location: https://u@a.test/x"},
		{"", "/api", "", "Location: ftp://a.test/x", "Location: ftp://a.test/x"},
		{"", "/api", "", "Location: mailto:x@a.test", "Location: mailto:x@a.test"},
		{"", "/api", "", "Location: https://a.test/x?q", "Location: https://a.test/api/x?q"},
		{"", "/api", "", "Location: HTTP://A.TEST:80/x", "Location: HTTP://A.TEST:80/api/x"},
		{"", "/api", "", "Location: https://a.test:443", "Location: https://a.test:443/api"},
		{"", "/api", "", "Location: //a.test/x", "Location: //a.test/api/x"},
		{"", "/api", "", "Location: https://a.test/api/x", "Location: https://a.test/api/x"},
		{"", "/api", "", "Location: http://" + target + "/x?q", "Location: /api/x?q"},
		{"", "/api", "", "Location: http://" + target + "/api/x", "Location: /api/x"},
		{"", "/api", "", "Location: https://" + target + "/x", "Location: https://" + target + "/x"},
		{"", "/api", "", "Location: /\\other.test/", "Location: /api/\\other.test/"},
		{"", "/api", "/v2", "Location: /v2/x", "Location: /api/x"},
		{"", "/api", "/v2", "Location: /v2", "Location: /api"},
		{"", "/api", "/v2", "Location: /v2x", "Location: /v2x"},
		{"", "/api", "/v2", "Location: /login", "Location: /login"},
		{"", "/api", "/v2", "Location: http://" + target + "/login", "Location: http://" + target + "/login"},
		{"/base", "/api", "/v2", "Location: /base/v2/x", "Location: /api/x"},
		{"/base", "/api", "", "Location: /base/x", "Location: /api/x"},
		{"", "", "/v2", "Location: /v2/x", "Location: /x"},
		{"", "", "/v2", "Location: /v2", "Location: /"},
		// the result would lead to another host
		{"", "", "/v2", "Location: /v2//other.test/x", "Location: /v2//other.test/x"},
		{"", "", "/v2", "Location: /v2/\\other.test/x", "Location: /v2/\\other.test/x"},
		{"/base", "", "", "Location: /base/x", "Location: /base/x"}, // no prefix, no translation

		{"", "/api", "", "Set-Cookie: a=b; Path=/; Secure", "Set-Cookie: a=b; Path=/api; Secure"},
		{"", "/api", "", "Set-Cookie: a=b; path = /x/ ;HttpOnly", "Set-Cookie: a=b; path = /api/x/ ;HttpOnly"},
		{"", "/api", "", "Set-Cookie: a=b;Path=/api/x", "Set-Cookie: a=b;Path=/api/x"},
		{"", "/api", "", "Set-Cookie: a=b; Path=/x; PATH=/y", "Set-Cookie: a=b; Path=/api/x; PATH=/api/y"},
		{"", "/api", "", "Set-Cookie: Path=/; Secure", "Set-Cookie: Path=/; Secure"},
		{"", "/api", "", "Set-Cookie: a=b", "Set-Cookie: a=b"},
		{"", "/api", "", "Set-Cookie: a=b; Path", "Set-Cookie: a=b; Path"},
		{"", "/api", "", "Set-Cookie: a=b; Path=", "Set-Cookie: a=b; Path="},
		{"", "/api", "", "Set-Cookie: a=b; Path=x; Domain=/", "Set-Cookie: a=b; Path=x; Domain=/"},
		{"", "/api", "", "Set-Cookie: __Host-a=b; Path=/; Secure", "Set-Cookie: __Host-a=b; Path=/; Secure"},
		{"", "/api", "", "Set-Cookie: __Secure-a=b; Path=/; Secure", "Set-Cookie: __Secure-a=b; Path=/api; Secure"},
		{"", "/api", "/v2", "Set-Cookie: a=b; Path=/", "Set-Cookie: a=b; Path=/api"},
		{"", "/api", "/v2", "Set-Cookie: a=b; Path=/v2/", "Set-Cookie: a=b; Path=/api"},
		{"", "/api", "/v2", "Set-Cookie: a=b; Path=/v2/x", "Set-Cookie: a=b; Path=/api/x"},
		{"", "/api", "/v2", "Set-Cookie: a=b; Path=/other", "Set-Cookie: a=b; Path=/other"},
		{"", "", "/v2", "Set-Cookie: a=b; Path=/v2", "Set-Cookie: a=b; Path=/"},
		{"", "", "/v2", "Set-Cookie: a=b; Path=/", "Set-Cookie: a=b; Path=/"},
		{"", "/api", "", "Link: </x>; rel=next", "Link: </x>; rel=next"},
		{"", "/api", "", "Refresh: 5; url=/x", "Refresh: 5; url=/x"},
	} {
		t.Run(tt.base+tt.strip+tt.add+" "+strings.ReplaceAll(tt.field, "/", "|"), func(t *testing.T) {
			script := func(c *proxytest.BackendConn) {
				given := strings.ReplaceAll(tt.field, target, c.LocalAddr().String())
				proxytest.Reply("HTTP/1.1 302 Found\r\nX-First: 1\r\n" + given + "\r\nX-Last: 1\r\nContent-Length: 2\r\n\r\nok")(c)
			}
			overEachLane(t, script, func(t *testing.T, s *site) {
				a := s.dial(t).Do("GET " + tt.strip + "/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
				assert.Equal(t, 302, a.StatusCode)
				name, value, _ := strings.Cut(strings.ReplaceAll(tt.want, target, s.backend.Addr()), ":")
				assert.Equal(t, []string{strings.TrimSpace(value)}, field(a.Raw, name))
				assert.Equal(t, []string{"1"}, field(a.Raw, "X-First"))
				assert.Equal(t, []string{"1"}, field(a.Raw, "X-Last"))
			}, below(tt.base, tt.strip, tt.add))
		})
	}
}

func TestARedirectToTheHostThatATrustedProxyNamesGetsThePrefix(t *testing.T) {
	for _, trusted := range []bool{true, false} {
		want := map[bool]string{true: "https://public.test/api/x", false: "https://public.test/x"}[trusted]
		overEachLane(t, proxytest.Reply("HTTP/1.1 302 Found\r\nLocation: https://public.test/x\r\nContent-Length: 0\r\n\r\n"), func(t *testing.T, s *site) {
			a := s.dial(t).Do("GET /api/ HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-Host: public.test\r\n\r\n")
			assert.Equal(t, want, a.Header.Get("Location"))
		}, below("", "/api", ""), believing(trusted))
	}
}

// believing is trusting if yes, and otherwise no change.
func believing(yes bool) setting {
	return func(s *site) {
		if yes {
			trusting(s)
		}
	}
}

func TestTheTargetIsToldThePrefix(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		strip   string
		trusted bool
		said    string
		want    []string
	}{
		{"/api", false, "", []string{"/api"}},
		{"/api", false, "X-Forwarded-Prefix: /evil\r\nX_Forwarded_Prefix: /evil\r\n", []string{"/api"}},
		{"/api", true, "", []string{"/api"}},
		{"/api", true, "X-Forwarded-Prefix: /outer\r\nX-FORWARDED-PREFIX:  /more \r\n", []string{"/outer, /more, /api"}},
		{"", true, "X-Forwarded-Prefix: /outer\r\n", []string{"/outer"}},
		{"", false, "X-Forwarded-Prefix: /evil\r\n", nil},
	} {
		overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
			for _, connection := range []string{"", "Connection: X-Forwarded-Prefix\r\n"} {
				if connection != "" && tt.strip == "" {
					continue
				}
				require.Equal(t, 200, s.dial(t).Do("GET /api/x HTTP/1.1\r\nHost: a.test\r\n"+tt.said+connection+"\r\n").StatusCode)
			}
			raw := s.backend.WaitRequests(1)[0].Raw
			assert.Equal(t, tt.want, field(raw, "X-Forwarded-Prefix"))
			assert.Empty(t, field(raw, "X_Forwarded_Prefix"))
			if all := s.backend.Requests(); len(all) > 1 {
				got := field(all[1].Raw, "X-Forwarded-Prefix")
				require.Len(t, got, 1, "what Connection names is not ours")
				assert.True(t, strings.HasSuffix(got[0], tt.strip))
			}
		}, below("", tt.strip, ""), believing(tt.trusted))
	}
}

func TestPrefixesWorkOverEachProtocol(t *testing.T) {
	t.Parallel()
	h := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Location", "/v2/there")
		w.Header().Add("Set-Cookie", "a=b; Path=/v2")
		w.Header().Add("Set-Cookie", "c=d")
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, q.RequestURI)
	})
	for _, front := range []string{"h1", "h2"} {
		for _, back := range []string{"http", "h2c", "https", "unix"} {
			for _, hooked := range []bool{false, true} {
				t.Run(front+" to "+back, func(t *testing.T) {
					proxytest.NoLeaks(t)
					_, u := newUpstream(t, back, h)
					u.StripPrefix, u.AddPrefix = "/api", "/v2"
					if hooked {
						u.Rewrite = func(p *httputil.ProxyRequest) {
							assert.Contains(t, p.Out.URL.Path, "/v2/")
							assert.Contains(t, p.In.URL.Path, "/api")
						}
						u.ModifyResponse = func(res *http.Response) error {
							assert.Equal(t, "/api/there", res.Header.Get("Location"))
							return nil
						}
					}
					client := clientOf(t, front, u)
					for in, want := range map[string]string{"/api/x%2Fy?q": "/v2/x%2Fy?q", "/api": "/v2/", "/api?q": "/v2/?q", "/api/a%20b": "/v2/a%20b"} {
						p, body := do(t, client, newRequest(t, "POST", in, strings.NewReader("hello")))
						assert.Equal(t, http.StatusCreated, p.StatusCode)
						assert.Equal(t, want, body)
						assert.Equal(t, "/api/there", p.Header.Get("Location"))
						assert.Equal(t, []string{"a=b; Path=/api", "c=d"}, p.Header["Set-Cookie"])
					}
					p, _ := do(t, client, newRequest(t, "GET", "/x", nil))
					assert.Equal(t, http.StatusNotFound, p.StatusCode)
					p, _ = do(t, client, newRequest(t, "GET", "/api/%2e%2e/x", nil))
					assert.Equal(t, http.StatusBadRequest, p.StatusCode)
				})
			}
		}
	}
}

func TestAPrefixIsStrippedOffUpgrades(t *testing.T) {
	script := func(c *proxytest.BackendConn) {
		if q, err := c.ReadRequest(); err == nil && q != nil {
			_ = c.Send(strings.Replace(switched, "\r\n\r\n", "\r\nSet-Cookie: a=b; Path=/\r\n\r\n", 1))
			_, _ = io.Copy(c, c)
		}
	}
	overEachLane(t, script, func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send(strings.Replace(upgrade, "/ws", "/api/ws?q", 1))
		head := c.Head()
		require.Contains(t, head, " 101 ")
		assert.Equal(t, []string{"a=b; Path=/api"}, field([]byte(head), "Set-Cookie"))
		c.Send("hello")
		c.Expect("hello")
		raw := s.backend.WaitRequests(1)[0].Raw
		assert.Equal(t, "GET /ws?q HTTP/1.1", lines(raw)[0])
		assert.Equal(t, []string{"/api"}, field(raw, "X-Forwarded-Prefix"))
		require.NoError(t, c.Close())
	}, below("", "/api", ""))
}

func TestAPrefixIsStrippedOffWebSocketsOverHTTP2(t *testing.T) {
	proxytest.NoLeaks(t)
	backend := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		if q, err := c.ReadRequest(); err == nil && q != nil {
			_ = c.Send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + proxytest.Accept(q.Header) + "\r\n\r\n")
			_, _ = io.Copy(c, c)
		}
	})
	u := hostproxy.To(backend.Addr())
	u.StripPrefix = "/api"
	conf, roots := proxytest.TLS(t, "a.test")
	r := hostproxy.Router{Logger: silent(), TLS: hostproxy.TLS{Config: conf}}
	r.TLS.Storage = newStorage(t)
	r.Handle("a.test/api", u)
	s := proxytest.Start(t, &hostproxy.Server{Router: &r})
	transport := &http2.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "a.test"}}
	defer transport.CloseIdleConnections()
	body, send := io.Pipe()
	res, err := transport.RoundTrip(&http.Request{Method: http.MethodConnect, URL: &url.URL{Scheme: "https", Host: s.HTTPS, Path: "/api/ws"}, Host: "a.test",
		Header: http.Header{":protocol": {"websocket"}, "Sec-Websocket-Version": {"13"}}, Body: body})
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, 200, res.StatusCode)
	assert.Equal(t, "GET /ws HTTP/1.1", lines(backend.WaitRequests(1)[0].Raw)[0])
	send.Close()
}

func TestEachAttemptIsWithoutThePrefix(t *testing.T) {
	busy := proxytest.NewBackend(t, proxytest.Reply("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"))
	calm := proxytest.NewBackend(t, proxytest.Reply("HTTP/1.1 201 Created\r\nLocation: /new/x\r\nContent-Length: 0\r\n\r\n"))
	inLanes(t, func() *hostproxy.Upstream {
		u := hostproxy.To("http://"+busy.Addr()+"/old", "http://"+calm.Addr()+"/new")
		u.StripPrefix, u.Policy, u.Retry.Statuses = "/api", hostproxy.FirstAvailable, []int{503}
		return u
	}, func(t *testing.T, c *proxytest.Client, _ <-chan hostproxy.Exchange) {
		n, m := len(busy.Requests()), len(calm.Requests())
		a := c.Do("GET /api/x HTTP/1.1\r\nHost: a.test\r\n\r\n")
		assert.Equal(t, 201, a.StatusCode)
		assert.Equal(t, "/api/x", a.Header.Get("Location"), "by the prefix of the target that has answered")
		assert.Equal(t, "GET /old/x HTTP/1.1", lines(busy.WaitRequests(n + 1)[n].Raw)[0])
		assert.Equal(t, "GET /new/x HTTP/1.1", lines(calm.WaitRequests(m + 1)[m].Raw)[0])
	})
}

func TestAHedgedRequestIsWithoutThePrefix(t *testing.T) {
	slow := proxytest.NewBackend(t, func(c *proxytest.BackendConn) { _, _ = c.ReadRequest(); _, _ = c.ReadAll() })
	quick := proxytest.NewBackend(t, proxytest.Reply("HTTP/1.1 201 Created\r\nLocation: /new/x\r\nContent-Length: 0\r\n\r\n"))
	inLanes(t, func() *hostproxy.Upstream {
		u := hostproxy.To("http://"+slow.Addr()+"/old", "http://"+quick.Addr()+"/new")
		u.StripPrefix, u.Policy, u.Hedge = "/api", hostproxy.FirstAvailable, time.Millisecond
		return u
	}, func(t *testing.T, c *proxytest.Client, _ <-chan hostproxy.Exchange) {
		n := len(quick.Requests())
		a := c.Do("GET /api/x HTTP/1.1\r\nHost: a.test\r\n\r\n")
		assert.Equal(t, "/api/x", a.Header.Get("Location"))
		assert.Equal(t, "GET /new/x HTTP/1.1", lines(quick.WaitRequests(n + 1)[n].Raw)[0])
	})
}

func TestCanariesAndMirrorsHaveTheirOwnPrefix(t *testing.T) {
	stable, other := proxytest.NewBackend(t, says("stable")), proxytest.NewBackend(t, says("other"))
	for _, what := range []string{"canary", "mirror"} {
		t.Run(what, func(t *testing.T) {
			inLanes(t, func() *hostproxy.Upstream {
				u, to := hostproxy.To(stable.Addr()), hostproxy.To(other.Addr())
				u.StripPrefix, to.StripPrefix, to.AddPrefix = "/api", "/api/v1", "/v2"
				if what == "canary" {
					require.NoError(t, u.Canary(to, 1))
				} else {
					require.NoError(t, u.Mirror(to, 1))
				}
				return u
			}, func(t *testing.T, c *proxytest.Client, _ <-chan hostproxy.Exchange) {
				n := len(other.Requests())
				assert.Equal(t, 200, c.Do("GET /api/v1/x HTTP/1.1\r\nHost: a.test\r\n\r\n").StatusCode)
				got := other.WaitRequests(n + 1)[n].Raw
				assert.Equal(t, "GET /v2/x HTTP/1.1", lines(got)[0])
				assert.Equal(t, []string{"/api/v1"}, field(got, "X-Forwarded-Prefix"))
				if what == "canary" {
					assert.Equal(t, 404, c.Do("GET /api/x HTTP/1.1\r\nHost: a.test\r\n\r\n").StatusCode, "only the canary's settings apply")
				}
			})
		})
	}
}

func TestTheAuthenticationServerIsToldTheWholePath(t *testing.T) {
	guard := func(auth string, next *hostproxy.Upstream) http.Handler {
		next.StripPrefix = "/api"
		judge := hostproxy.To(auth)
		judge.StripPrefix = "/auth"
		return &hostproxy.ForwardAuth{Auth: judge, Path: "/auth/verify", Next: next}
	}
	overJudges(t, proxytest.Reply(ok), proxytest.Reply(ok), guard, func(t *testing.T, s *site, auth *proxytest.Backend) {
		assert.Equal(t, 200, s.dial(t).Do("GET /api/x HTTP/1.1\r\nHost: b.test\r\n\r\n").StatusCode)
		asked := auth.WaitRequests(1)[0].Raw
		assert.Equal(t, "GET /verify HTTP/1.1", lines(asked)[0])
		assert.Equal(t, []string{"/api/x"}, field(asked, "X-Forwarded-Uri"))
		assert.Equal(t, "GET /x HTTP/1.1", lines(s.backend.WaitRequests(1)[0].Raw)[0])
	})
}
