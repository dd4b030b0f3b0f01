package e2e_test

import (
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestTheTargetsPathIsPutBeforeThatOfTheRequest(t *testing.T) {
	t.Parallel()
	tests := []struct{ base, target, want string }{
		{"/base", "/x", "/base/x"},
		{"/base/", "/x", "/base/x"},
		{"/base", "/", "/base/"},
		{"/base", "/a%2Fb//c?d=%zz", "/base/a%2Fb//c?d=%zz"},
		{"/b%2Fase", "/x", "/b%2Fase/x"},
		{"/", "/x", "/x"},
		{"", "//x", "//x"},
	}
	for _, tt := range tests {
		t.Run(tt.base+" then "+tt.target, func(t *testing.T) {
			overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
				assert.Equal(t, 200, s.dial(t).Do("GET "+tt.target+" HTTP/1.1\r\nHost: a.test\r\n\r\n").StatusCode)
				assert.Equal(t, "GET "+tt.want+" HTTP/1.1", lines(s.backend.WaitRequests(1)[0].Raw)[0])
			}, func(s *site) { s.upstream = hostproxy.To("http://" + s.backend.Addr() + tt.base) })
		})
	}
}

func TestFixedEditsAreAppliedLast(t *testing.T) {
	script := proxytest.Reply("HTTP/1.1 200 OK\r\nServer: inside\r\nX-Keep: 1\r\nContent-Length: 2\r\n\r\nok")
	overEachLane(t, script, func(t *testing.T, s *site) {
		p := s.dial(t).Do("GET / HTTP/1.1\r\nHost: a.test\r\nCookie: secret\r\nX-Env: client\r\nX-Tag: 1\r\n\r\n")
		raw := s.backend.WaitRequests(1)[0].Raw
		assert.Empty(t, field(raw, "Cookie"))
		assert.Equal(t, []string{"prod"}, field(raw, "X-Env"))
		assert.Equal(t, []string{"1", "2"}, field(raw, "X-Tag"))
		assert.Empty(t, field(p.Raw, "Server"))
		assert.Equal(t, []string{"max-age=1"}, field(p.Raw, "Strict-Transport-Security"))
		assert.Equal(t, []string{"1"}, field(p.Raw, "X-Keep"))
	}, func(s *site) {
		s.upstream.RequestHeader = hostproxy.HeaderEdit{
			Remove: []string{"cookie"}, Set: http.Header{"X-Env": {"prod"}}, Add: http.Header{"X-Tag": {"2"}},
		}
		s.upstream.ResponseHeader = hostproxy.HeaderEdit{
			Remove: []string{"Server"}, Set: http.Header{"Strict-Transport-Security": {"max-age=1"}},
		}
	})
}

func TestTargetHostSendsTheTargetsOwnHost(t *testing.T) {
	overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		s.dial(t).Do(get)
		raw := s.backend.WaitRequests(1)[0].Raw
		assert.Equal(t, []string{s.backend.Addr()}, field(raw, "Host"))
		assert.Equal(t, []string{"a.test"}, field(raw, "X-Forwarded-Host"))
	}, func(s *site) { s.upstream.TargetHost = true })
}

// CVE-2022-2880: the query that Rewrite sees is sent byte by byte, and has no
// parameter that Rewrite cannot see.
func TestRewriteSeesTheQueryThatIsSent(t *testing.T) {
	many := strings.Repeat("a=b&", 19_999) + "last=1" // more than net/url counts
	for _, query := range []string{"a=1;b=2&c=3", "a=1&b=%x&c=3", "a=1;b=2&c=%x", "a=1&c=%x", "c=3", "c=3&c=%3B", "?", many} {
		for _, start := range []func(testing.TB, shape) *track{newFast, newAdapter, newForeign} {
			var raw string
			var parsed url.Values
			k := start(t, shape{
				change: func(u *hostproxy.Upstream) {
					u.Rewrite = func(p *httputil.ProxyRequest) { raw, parsed = p.Out.URL.RawQuery, p.Out.URL.Query() }
				},
				tune: func(s *hostproxy.Server) { s.MaxHeaderBytes = 1 << 20 },
			})
			k.mirror.answer.Store(&say)
			c := k.connect(t)
			require.NoError(t, c.Send("GET /?"+query+" HTTP/1.1\r\nHost: a.test\r\n\r\n"))
			p, err := c.ReadResponse("GET")
			require.NoError(t, err)
			require.Equal(t, 200, p.StatusCode)
			sent := strings.TrimPrefix(strings.Fields(lines(k.mirror.taken()[0].Raw)[0])[1], "/")
			assert.Equal(t, raw, strings.TrimPrefix(sent, "?"), "%s: %s", k.name, short(query))
			assertAllSeen(t, raw, parsed)
		}
	}
}

// assertAllSeen checks that parsed has all parameters of raw, also for targets
// that split at ";" or do not limit the number of parameters.
func assertAllSeen(t *testing.T, raw string, parsed url.Values) {
	t.Helper()
	seen := 0
	for _, values := range parsed {
		seen += len(values)
	}
	sent := strings.FieldsFunc(raw, func(r rune) bool { return r == '&' || r == ';' })
	assert.Len(t, sent, seen)
	for _, pair := range sent {
		name, value, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(name)
		if !assert.NoError(t, err) {
			return
		}
		value, err = url.QueryUnescape(value)
		if !assert.NoError(t, err) || !assert.Contains(t, parsed[name], value) {
			return
		}
	}
}

func TestPathRoutesChooseAndForwardTheSameBytes(t *testing.T) {
	tests := []struct {
		target string
		status int
		by     string
	}{
		{"/", 200, "host"},
		{"/api", 200, "api"},
		{"/api/", 200, "api"},
		{"/api/v1?x", 200, "api"},
		{"/api/v2/x", 200, "v2"},
		{"/apix", 200, "host"},
		{"/api%2Fv2", 400, ""}, // decoded it would choose another route
		{"/x/../api/", 400, ""},
		{"//api/", 400, ""},
		{"/%61pi/", 400, ""},
		{"/x%2Fy", 200, "host"},
	}
	overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		for _, tt := range tests {
			before := len(s.backend.Requests())
			p := s.dial(t).Do("GET " + tt.target + " HTTP/1.1\r\nHost: a.test\r\n\r\n")
			require.Equal(t, tt.status, p.StatusCode, tt.target)
			if tt.status != 200 {
				assert.Len(t, s.backend.Requests(), before, tt.target)
				continue
			}
			q := s.backend.WaitRequests(before + 1)[before]
			assert.Equal(t, tt.by, q.Header.Get("X-Route"), tt.target)
			assert.Equal(t, "GET "+tt.target+" HTTP/1.1", lines(q.Raw)[0])
		}
	}, func(s *site) {
		named := func(name string) *hostproxy.Upstream {
			u := hostproxy.To(s.backend.Addr())
			u.RequestHeader.Set = http.Header{"X-Route": {name}}
			return u
		}
		s.upstream = named("host")
		s.router.Handle("a.test/api/", named("api"))
		s.router.Handle("a.test/api/v2", named("v2"))
	})
}

func TestARedirectToAnotherHostKeepsPortPathAndQuery(t *testing.T) {
	overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		p := s.dial(t).Do("GET /x%2Fy?z=//e HTTP/1.1\r\nHost: b.test:8443\r\n\r\n")
		scheme := "http"
		if s.lane.secure {
			scheme = "https"
		}
		assert.Equal(t, 308, p.StatusCode)
		assert.Equal(t, scheme+"://a.test:8443/x%2Fy?z=//e", p.Header.Get("Location"))
	}, func(s *site) { s.router.Handle("b.test", hostproxy.Redirect("a.test")) })
}

func TestChangesOfRoutesUnderLoadFailNoRequest(t *testing.T) {
	overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		stop := make(chan struct{})
		var clients sync.WaitGroup
		for range 4 {
			c := s.dial(t)
			clients.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if c.Conn.Send(get) != nil {
						t.Error("the connection was closed")
						return
					}
					p, err := c.ReadResponse("GET")
					if err != nil || p.StatusCode != 200 {
						t.Errorf("a request fails while others change routes: %v, %v", p, err)
						return
					}
				}
			})
		}
		for i := range 300 {
			host := fmt.Sprintf("h%d.test", i)
			require.NoError(t, s.router.Set(host, s.upstream))
			require.NoError(t, s.router.Set("a.test", hostproxy.To(s.backend.Addr())))
			if i%3 == 0 {
				require.True(t, s.router.Remove(host))
			}
			if i%100 == 50 {
				require.NoError(t, s.router.Replace(map[string]http.Handler{"a.test": s.upstream, "b.test": s.upstream}))
			}
		}
		close(stop)
		clients.Wait()
	})
}

// Tomcat and similar servers drop the parameters of segments first: a path that
// they read as /admin/secret must not reach the route without the password.
func TestParametersCannotGoAroundAPathPrefix(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("s3cret"), bcrypt.MinCost)
	require.NoError(t, err)
	overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		for path, status := range map[string]int{
			"/admin/secret": 401, "/admin": 401, "/admin/secret;x=1": 401,
			"/admin;x/secret": 400, "/;x/admin/secret": 400, "/admin%3Bx/secret": 400, "/x%2Fy/../admin/secret": 400, `/a\..\admin`: 400,
			"/shop;x=1/item;jsessionid=2": 200, "/ad;min/secret": 200, "/a%3Bb//c": 200,
		} {
			asked := len(s.backend.Requests())
			a := s.dial(t).Do("GET " + path + "?q=;x HTTP/1.1\r\nHost: b.test\r\n\r\n")
			assert.Equal(t, status, a.StatusCode, path)
			if status != 200 {
				assert.Len(t, s.backend.Requests(), asked, path)
				continue
			}
			assert.Equal(t, "GET "+path+"?q=;x HTTP/1.1", lines(s.backend.WaitRequests(asked + 1)[asked].Raw)[0])
		}
	}, func(s *site) {
		s.router.Handle("b.test/admin/", &hostproxy.BasicAuth{Users: map[string]string{"ann": string(hash)}, Next: s.upstream})
		s.router.Handle("b.test", s.upstream)
	})
}

// trusting makes the test's client a trusted proxy.
func trusting(s *site) {
	s.router.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
}

// The fields of a trusted proxy decide where a redirect leads, and whether the
// client gets HSTS and secure cookies.
func TestATrustedProxyIsBelievedOnTLS(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, fields  string
		trusted       bool
		http, https   string // client's scheme if the peer uses HTTP, or HTTPS
		port, tlsPort string
	}{
		{"nothing said", "", true, "http", "https", ":8443", ":8443"},
		{"https", "X-Forwarded-Proto: https\r\n", true, "https", "https", ":8443", ":8443"},
		{"HTTPS", "X-Forwarded-Proto:  HTTPS \r\n", true, "https", "https", ":8443", ":8443"},
		{"http", "X-Forwarded-Proto: http\r\n", true, "http", "http", ":8443", ":8443"},
		{"a secure WebSocket", "X-Forwarded-Proto: wss\r\n", true, "https", "https", ":8443", ":8443"},
		{"https, and the host", "X-Forwarded-Proto: https\r\nX-Forwarded-Host: b.test\r\n", true, "https", "https", "", ""},
		{"https, and another port", "X-Forwarded-Proto: https\r\nX-Forwarded-Host: b.test:9443\r\n", true, "https", "https", ":9443", ":9443"},
		{"https, and a port of http", "X-Forwarded-Proto: https\r\nX-Forwarded-Host: b.test:80\r\n", true, "https", "https", "", ""},
		{"nonsense", "X-Forwarded-Proto: javascript\r\nX-Forwarded-Host: b.test:x\r\n", true, "http", "https", "", ""},
		{"two that differ", "X-Forwarded-Proto: https\r\nX-Forwarded-Proto: http\r\n", true, "http", "https", ":8443", ":8443"},
		{"https, by nobody who is trusted", "X-Forwarded-Proto: https\r\nX-Forwarded-Host: b.test:9443\r\n", false, "http", "https", ":8443", ":8443"},
		{"http, by nobody who is trusted", "X-Forwarded-Proto: http\r\n", false, "http", "https", ":8443", ":8443"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
				scheme, port := tt.http, tt.port
				if s.lane.secure {
					scheme, port = tt.https, tt.tlsPort
				}
				c := s.dial(t)
				a := c.Do("GET /x%2Fy?z HTTP/1.1\r\nHost: b.test:8443\r\n" + tt.fields + "\r\n")
				assert.Equal(t, scheme+"://c.test"+port+"/x%2Fy?z", a.Header.Get("Location"))
				for range 2 { // the second one must not get values of the first
					a = c.Do("GET / HTTP/1.1\r\nHost: a.test\r\n" + tt.fields + "\r\n")
					require.Len(t, a.Cookies(), 1)
					assert.Equal(t, scheme == "https", a.Cookies()[0].Secure)
					assert.Equal(t, scheme == "https", a.Header.Get("Strict-Transport-Security") != "")
				}
				a = c.Do(get)
				assert.Equal(t, s.lane.secure, a.Cookies()[0].Secure, "what was said of another request")
			}, func(s *site) {
				if tt.trusted {
					trusting(s)
				}
				s.upstream.Sticky, s.upstream.HSTS = new(hostproxy.Sticky), new(hostproxy.HSTS)
				s.router.Handle("b.test", hostproxy.Redirect("c.test"))
			})
		})
	}
}

func TestARedirectMayNameAPort(t *testing.T) {
	t.Parallel()
	for to, want := range map[string][2]string{ // over plain HTTP, and over TLS
		"c.test:9443":   {"http://c.test:9443", "https://c.test:9443"},
		"C.test.:9443":  {"http://c.test:9443", "https://c.test:9443"},
		"c.test:443":    {"https://c.test", "https://c.test"},
		"c.test:80":     {"http://c.test", "http://c.test"},
		"[::1]:9443":    {"http://[::1]:9443", "https://[::1]:9443"},
		"[::1]":         {"http://[::1]:8443", "https://[::1]:8443"},
		"::1":           {"http://[::1]:8443", "https://[::1]:8443"},
		"bücher.test":   {"http://xn--bcher-kva.test:8443", "https://xn--bcher-kva.test:8443"},
		"192.0.2.1:900": {"http://192.0.2.1:900", "https://192.0.2.1:900"},
	} {
		t.Run(to, func(t *testing.T) {
			overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
				c, base := s.dial(t), want[0]
				if s.lane.secure {
					base = want[1]
				}
				for target, path := range map[string]string{"/x%2Fy?z=//e": "/x%2Fy?z=//e", "//e.test/;x?": "//e.test/;x?", "*": "", `/a"b`: `/a"b`} {
					method := "GET"
					if target == "*" {
						method = "OPTIONS"
					}
					if target == "*" && s.lane.foreign {
						continue // net/http itself answers that
					}
					a := c.Do(method + " " + target + " HTTP/1.1\r\nHost: b.test:8443\r\n\r\n")
					assert.Equal(t, 308, a.StatusCode)
					assert.Equal(t, base+path, a.Header.Get("Location"))
				}
			}, func(s *site) { s.router.Handle("b.test", hostproxy.Redirect(to)) })
		})
	}
}

// net/http decodes the escapes of a host in the request line; no target may get
// the result.
func TestAHostWithBytesBeyondASCIIIs400(t *testing.T) {
	overEachLane(t, good, func(t *testing.T, s *site) {
		s.router.Handle("*", s.upstream)
		for i, target := range []string{"http://b%C3%BCcher.test/", "http://b%FCcher.test/"} {
			c := s.dial(t)
			c.Send("GET " + target + " HTTP/1.1\r\nHost: a.test\r\n\r\n")
			assert.Equal(t, 400, c.Response("GET").StatusCode, target)
			x := s.record(t, i+1)
			assert.Equal(t, 400, x.Status)
			var e *hostproxy.Error
			require.ErrorAs(t, x.Err, &e)
			assert.Equal(t, hostproxy.SideClient, e.Side)
			assert.Contains(t, e.Error(), "host")
		}
		assert.Empty(t, s.backend.Requests())
	})
}
