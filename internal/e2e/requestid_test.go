package e2e_test

import (
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// made matches an identifier that the proxy has made.
const made = "^[0-9a-f]{32}$"

// numbered makes the proxy give requests identifiers, which clients get too.
func numbered(s *site) {
	s.router.RequestID = hostproxy.RequestIDHeader{Name: "X-Request-Id", Respond: true}
}

// spelled returns the names of a message's fields, including trailers, that a
// CGI-like program reads as X-Request-Id.
func spelled(raw []byte) (names []string) {
	for line := range strings.SplitSeq(string(raw), "\r\n") {
		name, _, ok := strings.Cut(line, ":")
		if ok && strings.ToLower(strings.ReplaceAll(name, "_", "-")) == "x-request-id" {
			names = append(names, name)
		}
	}
	return names
}

// forged and forgedTrailers are a client's own copies of the identifier, in a
// head and in a trailer section.
const (
	forged         = "X-Request-Id: forged\r\nX_Request_Id: forged\r\nx-request_id: forged\r\n"
	forgedTrailers = "X-Request-Id: forged\r\nX_Request_Id: forged\r\n"
)

func TestAClientsOwnRequestIDIsReplaced(t *testing.T) {
	overEachLane(t, good, func(t *testing.T, s *site) {
		c := s.dial(t)
		seen := make(map[string]bool)
		for i, raw := range []string{
			"GET / HTTP/1.1\r\n" + host + forged + "\r\n",
			"GET / HTTP/1.1\r\n" + host + forged + "\r\n",
			"POST / HTTP/1.1\r\n" + host + forged + sized("hello"),
			"POST / HTTP/1.1\r\n" + host + forged + "Transfer-Encoding: chunked\r\n\r\n" + chunked("hello", 2, forgedTrailers+"X-Sum: 1"),
			"POST / HTTP/1.1\r\n" + host + forged + "Trailer: X-Request-Id, X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n" +
				chunked(strings.Repeat("x", 70_000), 9000, forgedTrailers+"X-Sum: 1"),
			"GET / HTTP/1.1\r\n" + host + forged + "Connection: x-request-id\r\n\r\n",
		} {
			a := c.Do(raw)
			require.Equal(t, 200, a.StatusCode)
			q := s.backend.WaitRequests(i + 1)[i]
			id := s.record(t, i+1).RequestID
			assert.Regexp(t, made, id)
			assert.False(t, seen[id], "each request has its own")
			seen[id] = true
			assert.Equal(t, []string{id}, field(q.Raw, "X-Request-Id"))
			assert.Equal(t, []string{"X-Request-Id"}, spelled(q.Raw))
			assert.Equal(t, []string{id}, field(a.Raw, "X-Request-Id"))
			assert.Equal(t, strings.Contains(raw, "X-Sum: 1"), strings.Contains(string(q.Raw), "X-Sum: 1"))
		}
	}, numbered)
}

func TestATrustedPeersRequestIDIsKept(t *testing.T) {
	overEachLane(t, good, func(t *testing.T, s *site) {
		c := s.dial(t)
		for i, tt := range []struct{ fields, want string }{
			{"X-Request-Id: a-1.b_2\r\n", "^a-1.b_2$"},
			{"x-request-id: second\r\n", "^second$"},
			{"X-Request-Id: " + strings.Repeat("x", 128) + "\r\n", "^x{128}$"},
			{"X-Request-Id: good\r\nX_Request_Id: other\r\n", "^good$"},
			{"X_Request_Id: alias\r\n", made},
			{"", made},
			{"X-Request-Id:\r\n", made},
			{"X-Request-Id: " + strings.Repeat("x", 129) + "\r\n", made},
			{"X-Request-Id: a b\r\n", made},
			{"X-Request-Id: a,b\r\n", made},
			{"X-Request-Id: caf\xc3\xa9\r\n", made},
			{"X-Request-Id: one\r\nX-Request-Id: two\r\n", made},
		} {
			a := c.Do("GET / HTTP/1.1\r\n" + host + tt.fields + "\r\n")
			q := s.backend.WaitRequests(i + 1)[i]
			id := s.record(t, i+1).RequestID
			assert.Regexp(t, tt.want, id)
			assert.Equal(t, []string{id}, field(q.Raw, "X-Request-Id"), "%q", tt.fields)
			assert.Equal(t, []string{"X-Request-Id"}, spelled(q.Raw))
			assert.Equal(t, []string{id}, field(a.Raw, "X-Request-Id"))
		}
	}, numbered, trusting)
}

func TestWithoutRequestIDTheHeaderIsLikeAnyOther(t *testing.T) {
	overEachLane(t, proxytest.Reply("HTTP/1.1 200 OK\r\nX-Request-Id: theirs\r\nContent-Length: 0\r\n\r\n"), func(t *testing.T, s *site) {
		a := s.dial(t).Do("GET / HTTP/1.1\r\n" + host + forged + "\r\n")
		assert.Len(t, spelled(s.backend.WaitRequests(1)[0].Raw), 3)
		assert.Equal(t, []string{"theirs"}, field(a.Raw, "X-Request-Id"))
		assert.Empty(t, s.record(t, 1).RequestID)
	})
}

func TestClientsGetTheRequestIDOnlyWhenAskedFor(t *testing.T) {
	theirs := "HTTP/1.1 200 OK\r\nX-Request-Id: theirs\r\nX_Request_Id: theirs\r\nContent-Length: 0\r\n\r\n"
	for _, respond := range []bool{true, false} {
		overEachLane(t, proxytest.Reply(theirs), func(t *testing.T, s *site) {
			c := s.dial(t)
			for i := range 2 {
				a := c.Do(get)
				id := s.record(t, i+1).RequestID
				if respond {
					assert.Equal(t, []string{id}, field(a.Raw, "X-Request-Id"))
					assert.Len(t, spelled(a.Raw), 1)
				} else {
					assert.Equal(t, []string{"theirs"}, field(a.Raw, "X-Request-Id"))
				}
			}
		}, numbered, func(s *site) { s.router.RequestID.Respond = respond })
	}
}

func TestTheProxysOwnAnswersCarryTheRequestID(t *testing.T) {
	overEachLane(t, good, func(t *testing.T, s *site) {
		for i, tt := range []struct {
			raw    string
			status int
		}{
			{"GET / HTTP/1.1\r\nHost: down.test\r\n\r\n", 502},
			{"GET / HTTP/1.1\r\nHost: denied.test\r\n\r\n", 403},
			{"GET / HTTP/1.1\r\nHost: moved.test\r\n\r\n", 308},
			{"GET / HTTP/1.1\r\nHost: nobody.test\r\n\r\n", 0},
		} {
			a := s.dial(t).Do(tt.raw)
			if tt.status > 0 {
				assert.Equal(t, tt.status, a.StatusCode)
			}
			id := s.record(t, i+1).RequestID
			assert.Regexp(t, made, id)
			assert.Equal(t, []string{id}, field(a.Raw, "X-Request-Id"), "%s", tt.raw)
		}
	}, numbered, func(s *site) {
		denied := hostproxy.To(s.backend.Addr())
		denied.Deny = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
		s.router.Handle("denied.test", denied)
		s.router.Handle("down.test", hostproxy.To("127.0.0.1:1"))
		s.router.Handle("moved.test", hostproxy.Redirect("a.test"))
	})
}

func TestHeaderEditsComeAfterTheRequestID(t *testing.T) {
	for about, tt := range map[string]struct {
		edit hostproxy.HeaderEdit
		want func(id string) []string
	}{
		"Remove": {hostproxy.HeaderEdit{Remove: []string{"X-Request-Id"}}, func(string) []string { return nil }},
		"Set":    {hostproxy.HeaderEdit{Set: http.Header{"X-Request-Id": {"set"}}}, func(string) []string { return []string{"set"} }},
		"Add":    {hostproxy.HeaderEdit{Add: http.Header{"X-Request-Id": {"more"}}}, func(id string) []string { return []string{id, "more"} }},
	} {
		t.Run(about, func(t *testing.T) {
			overEachLane(t, good, func(t *testing.T, s *site) {
				a := s.dial(t).Do("GET / HTTP/1.1\r\n" + host + forged + "\r\n")
				want := tt.want(s.record(t, 1).RequestID)
				assert.Equal(t, want, field(s.backend.WaitRequests(1)[0].Raw, "X-Request-Id"))
				assert.Equal(t, want, field(a.Raw, "X-Request-Id"))
			}, numbered, func(s *site) { s.upstream.RequestHeader, s.upstream.ResponseHeader = tt.edit, tt.edit })
		})
	}
}

func TestAnUpgradeCarriesTheRequestIDOnce(t *testing.T) {
	script := func(c *proxytest.BackendConn) {
		if _, err := c.ReadHead(); err == nil && c.Send(switched) == nil {
			_, _ = c.ReadAll()
		}
	}
	for _, removed := range []bool{false, true} {
		overEachLane(t, script, func(t *testing.T, s *site) {
			c := s.dial(t)
			c.Send(upgrade)
			head := c.Head()
			require.Contains(t, head, " 101 ")
			require.NoError(t, c.Close())
			id := s.record(t, 1).RequestID
			if removed {
				assert.Empty(t, spelled([]byte(head)))
			} else {
				assert.Equal(t, []string{id}, field([]byte(head), "X-Request-Id"))
			}
		}, numbered, func(s *site) {
			if removed {
				s.upstream.ResponseHeader.Remove = []string{"x-request-id"}
			}
		})
	}
}

// All attempts, and the request to an authentication server, have the same
// identifier, with every kind of client to targets.
func TestAllAttemptsAndTheAuthenticationServerGetTheSameRequestID(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"http", "h2c", "unix"} {
		t.Run(kind, func(t *testing.T) {
			asked, attempts := make(chan []string, 10), make(chan []string, 10)
			_, u := newUpstream(t, kind, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				attempts <- q.Header["X-Request-Id"]
				w.WriteHeader(503)
			}))
			_, next := newUpstream(t, kind, http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) { attempts <- q.Header["X-Request-Id"] }))
			auth := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				asked <- q.Header["X-Request-Id"]
				w.Header().Set("X-Request-Id", "auth")
				w.Header().Set("X-User", "ann")
			}))
			u.Targets = append(u.Targets, next.Targets...)
			u.Policy, u.Retry = hostproxy.FirstAvailable, hostproxy.Retry{Attempts: 2, Statuses: []int{503}}
			overEachLane(t, good, func(t *testing.T, s *site) {
				c := s.dial(t)
				for i, host := range []string{"b.test", "c.test", "b.test", "c.test"} {
					a := c.Do("GET / HTTP/1.1\r\nHost: " + host + "\r\n" + forged + "\r\n")
					require.Equal(t, 200, a.StatusCode)
					x := s.record(t, i+1)
					want := []string{x.RequestID}
					assert.Equal(t, want, <-attempts)
					assert.Equal(t, want, <-attempts)
					assert.Equal(t, 2, x.Attempts)
					assert.Equal(t, want, field(a.Raw, "X-Request-Id"))
					if host == "c.test" {
						assert.Equal(t, want, <-asked)
						assert.Equal(t, "ann", x.User)
					} else {
						assert.Empty(t, x.User)
					}
				}
			}, numbered, func(s *site) {
				s.router.Handle("b.test", u)
				s.router.Handle("c.test", &hostproxy.ForwardAuth{Auth: hostproxy.To(auth.Addr()), Fields: []string{"X-User"}, User: "x-user", Next: u})
			})
		})
	}
}

func TestAMirroredCopyHasTheRequestID(t *testing.T) {
	copies := proxytest.NewServer(t, nil)
	overEachLane(t, good, func(t *testing.T, s *site) {
		before := len(copies.Seen())
		for i, raw := range []string{"GET / HTTP/1.1\r\n" + host + forged + "\r\n", "POST / HTTP/1.1\r\n" + host + forged + sized("hello")} {
			require.Equal(t, 200, s.dial(t).Do(raw).StatusCode)
			id := s.record(t, i+1).RequestID
			proxytest.Eventually(t, "the copy", func() bool { return len(copies.Seen()) > before+i })
			h := copies.Seen()[before+i].Header
			assert.Equal(t, []string{id}, h["X-Request-Id"])
			for name := range h {
				assert.NotContains(t, name, "_")
			}
		}
	}, numbered, func(s *site) { require.NoError(t, s.upstream.Mirror(hostproxy.To(copies.Addr()), 1)) })
}

// An exchange that waited in the fast lane continues in the other lane with the
// same identifier.
func TestTheRequestIDStaysTheSameWhenTheLaneChanges(t *testing.T) {
	seen, arrived := make(chan string, 10), make(doorbell, 10)
	backend := proxytest.NewH2CServer(t, http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) { seen <- q.Header.Get("X-Request-Id") }))
	overEachLane(t, good, func(t *testing.T, s *site) {
		require.NoError(t, s.upstream.Pause(time.Minute))
		c := s.dial(t)
		c.Send("GET / HTTP/1.1\r\n" + host + "X-Request-Id: trusted\r\n\r\n" + "GET / HTTP/1.1\r\n" + host + "\r\n")
		<-arrived
		require.NoError(t, s.upstream.Replace(t.Context(), "h2c://"+backend.Addr()))
		require.NoError(t, s.upstream.Resume())
		for i := range 2 {
			a := c.Response("GET")
			require.Equal(t, 200, a.StatusCode)
			id := s.record(t, i+1).RequestID
			assert.Equal(t, id, <-seen)
			assert.Equal(t, []string{id}, field(a.Raw, "X-Request-Id"))
			if i == 0 {
				assert.Equal(t, "trusted", id)
			} else {
				assert.Regexp(t, made, id)
			}
		}
		<-arrived
	}, numbered, trusting, func(s *site) { s.upstream.RateLimit = &hostproxy.RateLimit{Rate: 1, Limiter: arrived} })
}

// A shown has the results of the functions for handlers for a request.
type shown struct {
	client  netip.Addr
	id      string
	pattern string
}

func showOf(q *http.Request) shown {
	return shown{hostproxy.ClientAddr(q), hostproxy.RequestID(q), q.Pattern}
}

// Handlers, middleware and all hooks can get the client and the identifier from
// the request, on kept connections too.
func TestHooksSeeTheClientAndTheRequestID(t *testing.T) {
	var mu sync.Mutex
	saw := make(map[string]shown)
	note := func(where string, q *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		saw[where] = showOf(q)
	}
	modified := func(r *http.Response) error { note("ModifyResponse", r.Request); return nil }
	overEachLane(t, good, func(t *testing.T, s *site) {
		c := s.dial(t)
		n := 0
		for range 2 {
			for host, want := range map[string][]string{
				"b.test":      {"Rewrite.In", "Rewrite.Out", "ModifyResponse", "Pick", "Transport"},
				"modify.test": {"ModifyResponse"},
				"down.test":   {"ErrorHandler"},
				"mine.test":   {"handler"},
				"behind.test": {"middleware", "Rewrite.In", "Rewrite.Out", "ModifyResponse", "Pick", "Transport"},
				"canary.test": {"Rewrite.In", "Rewrite.Out", "ModifyResponse", "Pick", "Transport"},
				"none.test":   {"NotFound"},
			} {
				clear(saw)
				c.Do("GET / HTTP/1.1\r\nHost: " + host + "\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n")
				n++
				x := s.record(t, n)
				mu.Lock()
				assert.Len(t, saw, len(want), host)
				for _, where := range want {
					assert.Equal(t, shown{netip.MustParseAddr("192.0.2.7"), x.RequestID, x.Pattern}, saw[where], "%s at %s", where, host)
				}
				mu.Unlock()
				assert.Regexp(t, made, x.RequestID)
			}
		}
	}, numbered, trusting, func(s *site) {
		hooked := hostproxy.To(s.backend.Addr())
		tr := &http.Transport{}
		t.Cleanup(tr.CloseIdleConnections)
		hooked.Transport = trip(func(q *http.Request) (*http.Response, error) { note("Transport", q); return tr.RoundTrip(q) })
		hooked.Rewrite = func(p *httputil.ProxyRequest) { note("Rewrite.In", p.In); note("Rewrite.Out", p.Out) }
		hooked.Pick = func(q *http.Request, left []*hostproxy.Target) *hostproxy.Target { note("Pick", q); return left[0] }
		hooked.ModifyResponse = modified
		s.router.Handle("b.test", hooked)
		modify := hostproxy.To(s.backend.Addr())
		modify.ModifyResponse = modified
		s.router.Handle("modify.test", modify)
		down := hostproxy.To("127.0.0.1:1")
		down.ErrorHandler = func(w http.ResponseWriter, q *http.Request, _ error) {
			note("ErrorHandler", q)
			w.WriteHeader(502)
		}
		s.router.Handle("down.test", down)
		s.router.Handle("mine.test", http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) { note("handler", q) }))
		s.router.Handle("behind.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { note("middleware", q); hooked.ServeHTTP(w, q) }))
		diverted := hostproxy.To(s.backend.Addr())
		require.NoError(t, diverted.Canary(hooked, 1))
		s.router.Handle("canary.test", diverted)
		s.router.NotFound = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { note("NotFound", q); w.WriteHeader(404) })
	})
}

// A trip is a func as an http.RoundTripper.
type trip func(*http.Request) (*http.Response, error)

func (f trip) RoundTrip(q *http.Request) (*http.Response, error) { return f(q) }

func TestMiddlewareAroundTheRouterSeesWhatTheRecordSees(t *testing.T) {
	var before, after, below shown
	records := make(chan hostproxy.Exchange, 1)
	r := &hostproxy.Router{Logger: silent(), Observe: func(x *hostproxy.Exchange) { records <- *x }}
	r.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	r.RequestID = hostproxy.RequestIDHeader{Name: "X-Request-Id", Respond: true}
	r.Handle("a.test/x/", http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) { below = showOf(q) }))
	addr := proxytest.StartPlain(t, &hostproxy.Server{Router: r, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		before = showOf(q)
		if q.URL.Path == "/teapot" {
			w.WriteHeader(418)
			return
		}
		r.ServeHTTP(w, q)
		after = showOf(q)
	})}).Plain
	c := proxytest.Dial(t, addr)
	last := ""
	for range 2 {
		a := c.Do("GET /x/ HTTP/1.1\r\n" + host + "X-Forwarded-For: 192.0.2.7\r\n\r\n")
		x := <-records
		assert.NotEqual(t, last, x.RequestID)
		last = x.RequestID
		assert.Regexp(t, made, x.RequestID)
		assert.Equal(t, []string{x.RequestID}, field(a.Raw, "X-Request-Id"))
		assert.Equal(t, shown{x.Client, x.RequestID, ""}, before)
		assert.Equal(t, shown{netip.MustParseAddr("192.0.2.7"), x.RequestID, "a.test/x/"}, after)
		assert.Equal(t, after, below)
	}
	a := c.Do("GET /teapot HTTP/1.1\r\n" + host + "\r\n")
	assert.Equal(t, []string{before.id}, field(a.Raw, "X-Request-Id"), "middleware that answers itself")
}

func TestTheRequestIDCrossesHTTP2(t *testing.T) {
	for _, back := range []string{"http", "h2c", "https", "unix"} {
		t.Run(back, func(t *testing.T) {
			seen := make(chan http.Header, 2)
			_, upstream := newUpstream(t, back, http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) { seen <- q.Header }))
			records := make(chan hostproxy.Exchange, 2)
			r := &hostproxy.Router{Logger: silent(), Observe: func(x *hostproxy.Exchange) { records <- *x }}
			numbered(&site{router: r})
			r.Handle("a.test", upstream)
			config, roots := proxytest.TLS(t, "a.test")
			r.TLS.Config = config
			client := proxytest.HTTPClient(t, proxytest.Start(t, &hostproxy.Server{Router: r}).HTTPS, roots, "h2")
			for range 2 {
				q := newRequest(t, "GET", "/", nil)
				q.Header = http.Header{"X-Request-Id": {"forged"}, "X_request_id": {"forged"}}
				a, _ := do(t, client, q)
				x, h := <-records, <-seen
				assert.Equal(t, "HTTP/2.0", x.Proto)
				assert.Regexp(t, made, x.RequestID)
				assert.Equal(t, []string{x.RequestID}, h["X-Request-Id"])
				assert.NotContains(t, h, "X_request_id")
				assert.Equal(t, []string{x.RequestID}, a.Header["X-Request-Id"])
			}
		})
	}
}

func TestAnInvalidRequestIDHeaderIsRefused(t *testing.T) {
	for name, want := range map[string]string{
		"X Request": "want the name of a header", "Connection": "want the name of a header", "Host": "want the name of a header",
		"X-Forwarded-For": "has another meaning", "X-Real-Ip": "has another meaning", "Via": "has another meaning",
		"Authorization": "has another meaning", "Cookie": "has another meaning", "Content-Type": "has another meaning", "If-Match": "has another meaning",
	} {
		r := &hostproxy.Router{Logger: silent()}
		r.RequestID.Name = name
		err := (&hostproxy.Server{Router: r}).Serve(t.Context(), nil, proxytest.Listen(t))
		assert.ErrorContains(t, err, "hostproxy: RequestID.Name: \""+name+"\"")
		assert.ErrorContains(t, err, want)
	}
	r := &hostproxy.Router{Logger: silent(), RequestID: hostproxy.RequestIDHeader{Respond: true}, RateLimit: &hostproxy.RateLimit{Rate: -1}}
	err := (&hostproxy.Server{Router: r}).Serve(t.Context(), nil, proxytest.Listen(t))
	assert.ErrorContains(t, err, "RequestID.Respond requires RequestID.Name")
	assert.ErrorContains(t, err, "RateLimit", "all faults at once")
}

// A retry in the other lane has the identifier of the first attempt.
func TestTheRequestIDOfARetryInTheOtherLaneIsThatOfTheFirstAttempt(t *testing.T) {
	seen, release := make(chan string, 10), make(chan struct{})
	backend := proxytest.NewH2CServer(t, http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) { seen <- q.Header.Get("X-Request-Id") }))
	overEachLane(t, func(c *proxytest.BackendConn) {
		if q, err := c.ReadRequest(); err == nil {
			seen <- q.Header.Get("X-Request-Id")
			c.Wait(release)
		}
	}, func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send(get)
		first := <-seen
		replaced := make(chan error, 1)
		go func() { replaced <- s.upstream.Replace(t.Context(), "h2c://"+backend.Addr()) }()
		proxytest.Eventually(t, "the new target", func() bool {
			for target := range s.upstream.All() {
				return strings.Contains(target.String(), backend.Addr())
			}
			return false
		})
		release <- struct{}{}
		require.Equal(t, 200, c.Response("GET").StatusCode)
		require.NoError(t, <-replaced)
		assert.Regexp(t, made, first)
		assert.Equal(t, first, <-seen)
		assert.Equal(t, first, s.record(t, 1).RequestID)
	}, numbered)
}
