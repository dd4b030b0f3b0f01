package e2e_test

import (
	"bytes"
	"context"
	"io"
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

// everywhere is the edit of a Router, whose effects correct finds.
func everywhere(s *site) {
	s.router.ResponseHeader = hostproxy.HeaderEdit{
		Remove: []string{"X-Powered-By"},
		Set:    http.Header{"x-frame-options": {"DENY"}},
		Add:    http.Header{"X-Extra": {"ours"}},
	}
	s.router.HSTS = &hostproxy.HSTS{MaxAge: time.Hour}
}

// correct checks that h has been edited by everywhere, once. extra are the
// values of X-Extra of whoever made the response.
func correct(t *testing.T, s *site, h http.Header, extra ...string) {
	t.Helper()
	assert.Equal(t, []string{"DENY"}, h["X-Frame-Options"])
	assert.Empty(t, h["X-Powered-By"])
	assert.Empty(t, h["X_powered_by"], "CGI reads it as the same name")
	assert.Equal(t, append(extra, "ours"), h["X-Extra"])
	if s.lane.secure {
		assert.Equal(t, []string{"max-age=3600"}, h["Strict-Transport-Security"])
	} else {
		assert.Empty(t, h["Strict-Transport-Security"])
	}
}

// theirs are fields that everywhere changes.
const theirs = "X-Powered-By: them\r\nX_Powered_By: them\r\nX-Frame-Options: ALLOW\r\nX-Extra: theirs\r\nStrict-Transport-Security: max-age=1\r\n"

// byPath answers with the status of the path.
func byPath(c *proxytest.BackendConn) {
	for {
		q, err := c.ReadRequest()
		if err != nil || q == nil {
			return
		}
		status := strings.TrimPrefix(q.RequestURI, "/")
		body := theirs + sized("body")
		switch status {
		case "204", "304":
			body = theirs + "\r\n"
		case "chunked":
			status, body = "200", theirs+"Trailer: X-Powered-By, X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n"+chunked("body", 4, "X-Powered-By: them", "X-Sum: 1")
		}
		if q.Method == "HEAD" {
			body, _, _ = strings.Cut(body, "body")
		}
		if c.Send("HTTP/1.1 "+status+" X\r\n"+body) != nil {
			return
		}
	}
}

// setTheirs sets theirs in a handler of the program.
func setTheirs(h http.Header) {
	for line := range strings.Lines(theirs) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		h.Set(name, value)
	}
}

// A maker is whoever made a response.
type maker struct {
	name, method, path string
	status             int
	handler            func(s *site) http.Handler // of the route; nil means no route
	extra              []string
}

// makers make all kinds of responses. Read-only.
var makers = []maker{
	{name: "a target", path: "/200", status: 200, handler: theSite, extra: []string{"theirs"}},
	{name: "a target, HEAD", method: "HEAD", path: "/200", status: 200, handler: theSite, extra: []string{"theirs"}},
	{name: "a target, POST", method: "POST", path: "/200", status: 200, handler: theSite, extra: []string{"theirs"}},
	{name: "a target without content", path: "/204", status: 204, handler: theSite, extra: []string{"theirs"}},
	{name: "a target that fails", path: "/500", status: 500, handler: theSite, extra: []string{"theirs"}},
	{name: "chunks", path: "/chunked", status: 200, handler: theSite, extra: []string{"theirs"}},
	{name: "a page for a target", path: "/503", status: 503, extra: []string{"theirs"}, handler: func(s *site) http.Handler {
		u := hostproxy.To(s.backend.Addr())
		u.Pages = map[int]http.Handler{503: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Frame-Options", "PAGE") })}
		return u
	}},
	{name: "a page for no target", path: "/", status: 502, handler: func(s *site) http.Handler {
		u := hostproxy.To("127.0.0.1:1")
		u.Pages = map[int]http.Handler{502: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Frame-Options", "PAGE") })}
		return u
	}},
	{name: "no target", path: "/", status: 502, handler: func(*site) http.Handler { return hostproxy.To("127.0.0.1:1") }},
	{name: "an ErrorHandler that writes nothing", path: "/", status: 200, handler: func(*site) http.Handler {
		u := hostproxy.To("127.0.0.1:1")
		u.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) {
			w.Header().Set("X-Frame-Options", "E")
		}
		return u
	}},
	{name: "maintenance", path: "/", status: 503, handler: func(s *site) http.Handler {
		u := hostproxy.To(s.backend.Addr())
		u.Maintain(hostproxy.Page{ContentType: "text/html", Body: []byte("soon")})
		return u
	}},
	{name: "a refused body", method: "POST", path: "/", status: 413, handler: func(s *site) http.Handler {
		u := hostproxy.To(s.backend.Addr())
		u.MaxRequestBody = 1
		return u
	}},
	{name: "a refused client", path: "/", status: 403, handler: func(s *site) http.Handler {
		u := hostproxy.To(s.backend.Addr())
		u.Deny = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		return u
	}},
	{name: "a Guard", path: "/", status: 403, handler: func(s *site) http.Handler {
		return &hostproxy.Guard{Deny: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Next: s.upstream}
	}},
	{name: "a limiter", path: "/", status: 429, handler: func(s *site) http.Handler {
		u := hostproxy.To(s.backend.Addr())
		u.RateLimit = &hostproxy.RateLimit{Rate: 1, Limiter: noLimiter{}}
		return u
	}},
	{name: "no credentials", path: "/", status: 401, handler: func(s *site) http.Handler {
		return &hostproxy.BasicAuth{Users: map[string]string{"ali": "$2a$04$r.H.IwusjCYoQM/2jE2t1ex2PJE9s8XUMzwU8yUGnPrQeuF57GLjS"}, Next: s.upstream}
	}},
	{name: "an authentication server", path: "/", status: 403, extra: []string{"theirs"}, handler: func(s *site) http.Handler {
		return &hostproxy.ForwardAuth{Auth: hostproxy.To(s.backend.Addr()), Path: "/403", Next: s.upstream}
	}},
	{name: "no authentication server", path: "/", status: 502, handler: func(s *site) http.Handler {
		return &hostproxy.ForwardAuth{Auth: hostproxy.To("127.0.0.1:1"), Next: s.upstream}
	}},
	{name: "a redirect", path: "/", status: 308, handler: func(*site) http.Handler { return hostproxy.Redirect("www.test") }},
	{name: "no route", path: "/", status: 404},
	{name: "a handler", path: "/", status: 200, extra: []string{"theirs"}, handler: program(func(w http.ResponseWriter, _ *http.Request) {
		setTheirs(w.Header())
		_, _ = io.WriteString(w, "ours")
	})},
	{name: "a handler that flushes", path: "/", status: 200, extra: []string{"theirs"}, handler: program(func(w http.ResponseWriter, _ *http.Request) {
		setTheirs(w.Header())
		w.(http.Flusher).Flush()
		_, _ = io.WriteString(w, "ours")
	})},
	{name: "a handler that copies", path: "/", status: 200, extra: []string{"theirs"}, handler: program(func(w http.ResponseWriter, _ *http.Request) {
		setTheirs(w.Header())
		_, _ = io.Copy(w, strings.NewReader("ours"))
	})},
	{name: "a handler that writes nothing", path: "/", status: 200, extra: []string{"theirs"}, handler: program(func(w http.ResponseWriter, _ *http.Request) {
		setTheirs(w.Header())
	})},
	{name: "a handler that says more before", path: "/", status: 201, extra: []string{"theirs"}, handler: program(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</x>")
		w.WriteHeader(103)
		setTheirs(w.Header())
		w.WriteHeader(201)
	})},
	{name: "middleware in front of a target", path: "/200", status: 200, extra: []string{"middleware", "theirs"}, handler: around(func(w http.ResponseWriter, q *http.Request, next http.Handler) {
		w.Header().Set("X-Frame-Options", "MIDDLEWARE")
		w.Header().Set("X-Extra", "middleware")
		next.ServeHTTP(w, q)
	})},
	{name: "middleware that sets what is removed", path: "/204", status: 204, extra: []string{"theirs"}, handler: around(func(w http.ResponseWriter, q *http.Request, next http.Handler) {
		w.Header().Set("X_Powered_By", "middleware")
		next.ServeHTTP(w, q)
	})},
	{name: "middleware that keeps the response", path: "/200", status: 200, extra: []string{"theirs"}, handler: around(func(w http.ResponseWriter, q *http.Request, next http.Handler) {
		http.TimeoutHandler(next, proxytest.Patience, "late").ServeHTTP(w, q)
	})},
	{name: "middleware that replaces the response", path: "/200", status: 418, extra: []string{"middleware"}, handler: around(func(w http.ResponseWriter, q *http.Request, next http.Handler) {
		next.ServeHTTP(&kept{h: make(http.Header)}, q)
		w.Header().Set("X-Frame-Options", "MIDDLEWARE")
		w.Header().Set("X-Extra", "middleware")
		w.WriteHeader(418)
	})},
}

// A noLimiter allows nothing.
type noLimiter struct{}

func (noLimiter) Allow(context.Context, netip.Addr) (hostproxy.Quota, error) {
	return hostproxy.Quota{}, nil
}

func theSite(s *site) http.Handler { return s.upstream }

func program(h http.HandlerFunc) func(*site) http.Handler {
	return func(*site) http.Handler { return h }
}

// around makes a handler of middleware around the site's upstream.
func around(h func(w http.ResponseWriter, q *http.Request, next http.Handler)) func(*site) http.Handler {
	return func(s *site) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { h(w, q, s.upstream) })
	}
}

// A kept response goes nowhere.
type kept struct {
	bytes.Buffer
	h http.Header
}

func (k *kept) Header() http.Header { return k.h }

func (k *kept) WriteHeader(int) {}

func TestTheRoutersHeadersAreOnEveryResponse(t *testing.T) {
	t.Parallel()
	overEachLane(t, byPath, func(t *testing.T, s *site) {
		for _, protocol := range s.protocols() {
			client := s.client(t, protocol)
			for _, m := range makers {
				t.Run(protocol+" "+m.name, func(t *testing.T) {
					p, _ := do(t, client, m.request(t, s))
					want := m.status
					if m.handler == nil && s.lane.secure {
						want = 421
					}
					assert.Equal(t, want, p.StatusCode)
					correct(t, s, p.Header, m.extra...)
					assert.Empty(t, p.Trailer["X-Powered-By"])
				})
			}
		}
	}, everywhere, func(s *site) {
		for _, m := range makers {
			if m.handler != nil {
				s.router.Handle(m.host(), m.handler(s))
			}
		}
	})
}

// host is that of the maker's route.
func (m *maker) host() string {
	return strings.NewReplacer(" ", "-", ",", "").Replace(strings.ToLower(m.name)) + ".test"
}

func (m *maker) request(t *testing.T, s *site) *http.Request {
	t.Helper()
	var body io.Reader
	if m.method == "POST" {
		body = strings.NewReader("hello")
	}
	q := newRequest(t, m.method, m.path, body)
	q.Host = m.host()
	if !s.lane.secure {
		q.URL.Scheme = "http"
	}
	return q
}

// protocols are those of clients of the site.
func (s *site) protocols() []string {
	if s.lane.secure {
		return []string{"h1", "h2"}
	}
	return []string{"h1"}
}

func (s *site) client(t *testing.T, protocol string) *http.Client {
	t.Helper()
	if s.tls == nil {
		return proxytest.HTTPClient(t, s.addr, nil, protocol)
	}
	return proxytest.HTTPClient(t, s.addr, s.tls.RootCAs, protocol)
}

// The fast lane keeps its requests.
func TestTheRoutersHeadersStayOnTheFastLane(t *testing.T) {
	t.Parallel()
	overEachLane(t, byPath, func(t *testing.T, s *site) {
		for _, protocol := range s.protocols() {
			client, before := s.client(t, protocol), s.recorded()
			q := newRequest(t, "GET", "/200", nil)
			q.URL.Scheme = s.scheme()
			p, _ := do(t, client, q)
			correct(t, s, p.Header, "theirs")
			s.record(t, before+1)
			s.mu.Lock()
			assert.Equal(t, (s.lane.handler || s.lane.hooked) && !s.lane.foreign, s.handled > 0)
			s.mu.Unlock()
		}
	}, everywhere)
}

func TestARoutesHeaderEditOverridesTheRouters(t *testing.T) {
	t.Parallel()
	overEachLane(t, byPath, func(t *testing.T, s *site) {
		for _, protocol := range s.protocols() {
			client := s.client(t, protocol)
			for _, path := range []string{"/200", "/503"} {
				for _, host := range []string{"a.test", "wrapped.test", "timed.test", "asked.test"} {
					q := newRequest(t, "GET", path, nil)
					q.URL.Scheme, q.Host = s.scheme(), host
					p, _ := do(t, client, q)
					assert.Equal(t, []string{"SAMEORIGIN"}, p.Header["X-Frame-Options"], host)
					assert.Empty(t, p.Header["X-Powered-By"])
					assert.Equal(t, []string{"theirs", "route"}, p.Header["X-Extra"], "the route names it: the Router adds nothing")
					assert.Equal(t, []string{"1"}, p.Header["X-Other"], "which the route does not name")
					assert.Equal(t, map[bool][]string{true: {"max-age=60"}}[s.lane.secure], p.Header["Strict-Transport-Security"])
					if assert.Len(t, p.Header["Set-Cookie"], 1, "the sticky one: the target has sent none") {
						assert.Contains(t, p.Header["Set-Cookie"][0], "hostproxy=")
					}
				}
			}
		}
	}, everywhere, func(s *site) {
		s.router.ResponseHeader.Set.Set("X-Other", "1")
		s.router.ResponseHeader.Remove = append(s.router.ResponseHeader.Remove, "Set-Cookie")
		edited := func(u *hostproxy.Upstream) *hostproxy.Upstream {
			u.ResponseHeader = hostproxy.HeaderEdit{Set: http.Header{"X-Frame-Options": {"SAMEORIGIN"}}, Add: http.Header{"X-Extra": {"route"}}}
			u.HSTS, u.Sticky = &hostproxy.HSTS{MaxAge: time.Minute}, new(hostproxy.Sticky)
			u.Pages = map[int]http.Handler{503: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
			return u
		}
		u := edited(s.upstream)
		s.router.Handle("wrapped.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { u.ServeHTTP(w, q) }))
		s.router.Handle("timed.test", http.TimeoutHandler(u, proxytest.Patience, "late"))
		auth := edited(hostproxy.To(s.backend.Addr()))
		s.router.Handle("asked.test", &hostproxy.ForwardAuth{Auth: auth, Path: "/403", Next: u})
	})
}

func TestTheRoutersHeadersAreOnRefusalsOfInvalidRequests(t *testing.T) {
	t.Parallel()
	overOurLanes(t, byPath, func(t *testing.T, s *site) {
		for raw, status := range map[string]int{
			"GET / HTTP/1.1\r\n\r\n":                                                      400,
			"GET / HTTP/1.1\r\nHost: a.test\r\nA b\r\n\r\n":                               400,
			"GET / HTTP/3.7\r\n" + host + "\r\n":                                          505,
			"GET / HTTP/1.1\r\n" + host + "A: " + strings.Repeat("x", 1<<17) + "\r\n\r\n": 431,
		} {
			c := s.dial(t)
			c.Send(raw)
			p := c.Response("GET")
			assert.Equal(t, status, p.StatusCode)
			correct(t, s, p.Header)
		}
	}, everywhere)
}

func TestTheRoutersHeadersAreOnNotFound(t *testing.T) {
	t.Parallel()
	overEachLane(t, byPath, func(t *testing.T, s *site) {
		q := newRequest(t, "GET", "/", nil)
		q.URL.Scheme, q.Host = s.scheme(), "none.test"
		p, _ := do(t, s.client(t, "h1"), q)
		correct(t, s, p.Header, "theirs")
	}, everywhere, func(s *site) {
		s.router.NotFound = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { setTheirs(w.Header()) })
	})
}

func TestTheRoutersHeadersReplaceThoseOfMiddlewareInFront(t *testing.T) {
	t.Parallel()
	proxytest.NoLeaks(t)
	s := &site{router: new(hostproxy.Router), backend: proxytest.NewBackend(t, byPath)}
	everywhere(s)
	s.router.Handle("a.test", hostproxy.To(s.backend.Addr()))
	addr := proxytest.StartPlain(t, &hostproxy.Server{Router: s.router, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("X-Frame-Options", "FRONT")
		s.router.ServeHTTP(w, q)
	})}).Plain
	for _, path := range []string{"/200", "/503"} {
		p := proxytest.Dial(t, addr).Do("GET " + path + " HTTP/1.1\r\n" + host + "\r\n")
		correct(t, s, p.Header, "theirs")
	}
}

func TestTheRoutersHeadersAreOnAnUpgrade(t *testing.T) {
	t.Parallel()
	answer := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" + theirs + "\r\n"
	overEachLane(t, proxytest.Reply(answer), func(t *testing.T, s *site) {
		for _, host := range []string{"a.test", "wrapped.test"} {
			c := s.dial(t)
			c.Send("GET / HTTP/1.1\r\nHost: " + host + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + token + "\r\n")
			p := c.Response("GET")
			require.Equal(t, 101, p.StatusCode)
			correct(t, s, p.Header, "theirs")
		}
	}, everywhere, func(s *site) {
		u := s.upstream
		s.router.Handle("wrapped.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("X_Powered_By", "middleware")
			w.Header().Set("X-Frame-Options", "middleware")
			u.ServeHTTP(w, q)
		}))
	})
}

func TestTheRoutersHeadersOnInterimResponses(t *testing.T) {
	t.Parallel()
	overEachLane(t, proxytest.Reply("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n"+theirs+"\r\n"+ok), func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send(get)
		p := c.Response("GET")
		require.Equal(t, 103, p.StatusCode)
		assert.Equal(t, []string{"</x>"}, p.Header["Link"])
		assert.Equal(t, []string{"theirs"}, p.Header["X-Extra"])
		assert.Empty(t, p.Header["X-Frame-Options"])
		assert.Empty(t, p.Header["X-Powered-By"])
		correct(t, s, c.Response("GET").Header)
	}, everywhere)
}

func TestTheRoutersHeadersAreOnTheRedirectToHTTPS(t *testing.T) {
	t.Parallel()
	overOurLanes(t, byPath, func(t *testing.T, s *site) {
		if !s.lane.secure {
			return
		}
		plain := &site{lane: lane{}}
		for raw, status := range map[string]int{
			get: 308, "GET / HTTP/1.1\r\nHost: none.test\r\n\r\n": 404, "TRACE / HTTP/1.1\r\n" + host + "\r\n": 405,
			"GET / HTTP/1.1\r\nHost: a b\r\n\r\n": 400,
		} {
			c := proxytest.Dial(t, s.server.Plain)
			c.Send(raw)
			p := c.Response("GET")
			assert.Equal(t, status, p.StatusCode)
			correct(t, plain, p.Header)
		}
	}, everywhere)
}

func TestTheRoutersHeadersAreOnErrorsForGRPC(t *testing.T) {
	t.Parallel()
	overHTTP2(t, func(_ *testing.T, s *site) { everywhere(s) }, func(t *testing.T, s *site) {
		q := newRequest(t, "POST", "/", strings.NewReader("x"))
		q.Host = "none.test"
		q.Header.Set("Content-Type", "application/grpc")
		p, _ := do(t, s.client(t, "h2"), q)
		assert.NotEmpty(t, p.Header["Grpc-Status"])
		correct(t, s, p.Header)
	})
}

// Date is the front's: an edit of it is for the handler lane.
func TestTheRouterCanSetTheDate(t *testing.T) {
	t.Parallel()
	overOurLanes(t, byPath, func(t *testing.T, s *site) {
		for _, raw := range []string{get, "GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: none.test\r\n\r\n"} {
			c := s.dial(t)
			c.Send(raw)
			assert.Equal(t, []string{"never"}, c.Response("GET").Header["Date"])
		}
	}, func(s *site) { s.router.ResponseHeader.Set = http.Header{"Date": {"never"}} })
}
