package e2e_test

import (
	"net/http"
	"net/http/httputil"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// post is the head of a request with trailers to b.test.
const post = "PUT / HTTP/1.1\r\nHost: b.test\r\nTransfer-Encoding: chunked\r\n"

// announcements are the ways to announce trailers. Read-only.
var announcements = map[string]string{"announced": "Trailer: X-Sum, X-Debug, X-User\r\n", "not announced": ""}

func TestTrailersObeyHeaderEdits(t *testing.T) {
	script := proxytest.Reply("HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nTrailer: X-Sum, X-Inside, X-Hop\r\nTransfer-Encoding: chunked\r\n\r\n" +
		chunked("ok", 9, "X-Inside: 1", "x_inside: 2", "X-Sum: 7", "X-Hop: 1", "X-Set: theirs", "Strict-Transport-Security: max-age=666"))
	for name, announced := range announcements {
		t.Run(name, func(t *testing.T) {
			overEachLane(t, script, func(t *testing.T, s *site) {
				a := s.dial(t).Do(post + announced + "\r\n" +
					chunked("hello", 3, "X-Debug: 1", "x_debug: 2", "X-Sum: 8", "X-Env: client"))
				q := s.backend.WaitRequests(1)[0]
				assert.Equal(t, []string{"8"}, q.Trailer["X-Sum"])
				for _, gone := range []string{"x-debug", "x_debug", "client"} {
					assert.NotContains(t, strings.ToLower(string(q.Raw)), gone)
				}
				assert.Equal(t, []string{"prod"}, q.Header["X-Env"])
				assert.Equal(t, http.Header{"X-Sum": {"7"}}, a.Trailer)
				for _, gone := range []string{"x-inside", "x_inside", "x-hop", "theirs", "max-age=666"} {
					assert.NotContains(t, strings.ToLower(string(a.Raw)), gone)
				}
			}, func(s *site) {
				s.upstream.RequestHeader = hostproxy.HeaderEdit{Remove: []string{"X-Debug"}, Set: http.Header{"X-Env": {"prod"}}}
				s.upstream.ResponseHeader = hostproxy.HeaderEdit{Remove: []string{"X-Inside"}, Set: http.Header{"X-Set": {"ours"}}}
				s.upstream.HSTS = new(hostproxy.HSTS)
				s.router.Handle("b.test", s.upstream)
			})
		})
	}
}

// A trailer that the client's Connection names is dropped.
func TestTrailersThatConnectionNamesDoNotPass(t *testing.T) {
	overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		s.dial(t).Do(post + "Connection: X-Hop\r\nTrailer: X-Hop\r\n\r\n" + chunked("hello", 3, "X-Hop: 1", "X-Sum: 8"))
		q := s.backend.WaitRequests(1)[0]
		assert.Equal(t, http.Header{"X-Sum": {"8"}}, q.Trailer)
		assert.NotContains(t, string(q.Raw), "X-Hop")
	}, func(s *site) { s.router.Handle("b.test", s.upstream) })
}

// In both directions, in all spellings of Connection, and with all kinds of
// hooks.
func TestTrailersThatConnectionNamesPassInNoDirection(t *testing.T) {
	t.Parallel()
	for about, connection := range map[string]string{
		"on one line": "Connection: x-hop , X-OTHER\r\n", "on several": "connection: keep-alive\r\nConnection:\r\nCONNECTION: , X-Other ,\r\nConnection:\tX-Hop\r\n",
	} {
		for name, announced := range map[string]string{"announced": "Trailer: X-Sum, X-Hop\r\nTrailer: x-other\r\n", "not announced": ""} {
			script := proxytest.Reply("HTTP/1.1 200 OK\r\n" + connection + announced + "Transfer-Encoding: chunked\r\n\r\n" +
				chunked("ok", 9, "X-Hop: 1", "X-Sum: 7", "x-oTHER: 2"))
			for look, set := range map[string]setting{
				"alone":  func(*site) {},
				"hooked": func(s *site) { s.upstream.Rewrite = func(*httputil.ProxyRequest) {} },
				"answer hooked": func(s *site) {
					s.upstream.ModifyResponse = func(*http.Response) error { return nil }
				},
			} {
				t.Run(about+", "+name+", "+look, func(t *testing.T) {
					overEachLane(t, script, func(t *testing.T, s *site) {
						c := s.dial(t)
						for i := range 2 {
							p := c.Do(post + connection + announced + "\r\n" + chunked("hello", 3, "X-Hop: 1", "X-Sum: 8", "x-other: 2"))
							assert.Equal(t, "ok", string(p.Content))
							assert.Equal(t, http.Header{"X-Sum": {"7"}}, p.Trailer)
							q := s.backend.WaitRequests(i + 1)[i]
							assert.Equal(t, http.Header{"X-Sum": {"8"}}, q.Trailer)
							for _, raw := range []string{string(q.Raw), string(p.Raw)} {
								assert.NotContains(t, strings.ToLower(raw), "x-hop")
								assert.NotContains(t, strings.ToLower(raw), "x-other")
							}
						}
						if s.lane.secure {
							p, _ := do(t, proxytest.HTTPClient(t, s.addr, s.tls.RootCAs, "h2"), newRequest(t, "GET", "/", nil))
							assert.Equal(t, 2, p.ProtoMajor)
							assert.Equal(t, http.Header{"X-Sum": {"7"}}, p.Trailer)
						}
					}, set, func(s *site) { s.router.Handle("b.test", s.upstream) })
				})
			}
		}
	}
}

func TestTrailersAreSentOnceOnEachAttempt(t *testing.T) {
	for name, announced := range announcements {
		t.Run(name, func(t *testing.T) {
			broken := proxytest.NewBackend(t, afterRequest(func(*proxytest.BackendConn) {})).Addr()
			overEachLane(t, good, func(t *testing.T, s *site) {
				c := s.dial(t)
				for range 4 { // for each target that may be first
					require.Equal(t, 200, c.Do(post+announced+"\r\n"+chunked("hello", 9, "Host: evil", "Content-Length: 1", "X-Sum: 8")).StatusCode)
				}
				requests := s.backend.WaitRequests(4)
				for _, q := range requests {
					assert.Equal(t, []string{"8"}, q.Trailer["X-Sum"])
					assert.Equal(t, 1, strings.Count(string(q.Raw), "X-Sum: 8"), "%s", q.Raw)
				}
			}, func(s *site) {
				s.upstream = hostproxy.To(broken, s.backend.Addr())
				s.upstream.Policy = hostproxy.RoundRobin
				s.router.Handle("b.test", s.upstream)
			})
		})
	}
}

// A client that a header identifies must not be able to forge that header by a
// trailer.
func TestATrailerCannotForgeTheHeaderThatAGuardSets(t *testing.T) {
	t.Parallel()
	hash, err := bcrypt.GenerateFromPassword([]byte("s3cret"), bcrypt.MinCost)
	require.NoError(t, err)
	yes := proxytest.Reply("HTTP/1.1 204 No Content\r\nX-User: ann\r\n\r\n")
	guards := map[string]func(auth string, next *hostproxy.Upstream) http.Handler{
		"BasicAuth": func(_ string, next *hostproxy.Upstream) http.Handler {
			return &hostproxy.BasicAuth{Users: map[string]string{"ann": string(hash)}, UserHeader: "X-User", Next: next}
		},
		"ForwardAuth": func(auth string, next *hostproxy.Upstream) http.Handler {
			return &hostproxy.ForwardAuth{Auth: hostproxy.To(auth), Fields: []string{"X-User"}, Next: next}
		},
		"one around the other": func(auth string, next *hostproxy.Upstream) http.Handler {
			return &hostproxy.BasicAuth{Users: map[string]string{"ann": string(hash)}, UserHeader: "X-User",
				Next: &hostproxy.ForwardAuth{Auth: hostproxy.To(auth), Fields: []string{"X-User"}, Next: next}}
		},
		"middleware": func(_ string, next *hostproxy.Upstream) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				q = q.WithContext(q.Context())
				q.Header.Set("X-User", "ann")
				q.Trailer.Del("X-User")
				next.ServeHTTP(w, q)
			})
		},
	}
	for name, guard := range guards {
		for how, announced := range announcements {
			if name == "middleware" && announced != "" {
				continue // it removes announced trailers itself
			}
			t.Run(name+", "+how, func(t *testing.T) {
				overJudges(t, proxytest.Reply(ok), yes, guard, func(t *testing.T, s *site, _ *proxytest.Backend) {
					forged := []string{"X-User: root", "x_user: root", "X-Hop: root", "X-Sum: 8"}
					if name == "middleware" {
						forged = forged[2:]
					}
					a := s.dial(t).Do(post + credentials("ann", "s3cret") + "Connection: X-Hop, X-User\r\n" + announced + "\r\n" + chunked("hello", 3, forged...))
					require.Equal(t, 200, a.StatusCode)
					q := s.backend.WaitRequests(1)[0]
					assert.Equal(t, []string{"8"}, q.Trailer["X-Sum"])
					if name != "middleware" {
						assert.Equal(t, []string{"ann"}, field(q.Raw, "X-User"))
					}
					assert.NotContains(t, string(q.Raw), "root")
					assert.Equal(t, "hello", string(q.Content))
				})
			})
		}
	}
}

// A handler of the program gets the trailers that an Upstream would send.
func TestAHandlerBehindAGuardSeesTheTrailers(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("s3cret"), bcrypt.MinCost)
	require.NoError(t, err)
	overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		a := s.dial(t).Do(post + credentials("ann", "s3cret") + "\r\n" + chunked("hello", 3, "X-User: root", "X-Sum: 8"))
		assert.Equal(t, []string{"8"}, a.Header["Sum"])
		assert.Empty(t, a.Header["User"])
	}, func(s *site) {
		handler := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			for buf := make([]byte, 64); ; {
				if _, err := q.Body.Read(buf); err != nil {
					break
				}
			}
			w.Header()["Sum"], w.Header()["User"] = q.Trailer["X-Sum"], q.Trailer["X-User"]
		})
		s.router.Handle("b.test", &hostproxy.BasicAuth{Users: map[string]string{"ann": string(hash)}, UserHeader: "X-User", Next: handler})
	})
}

// If the client gets the response of the authentication server, it gets its
// trailers too.
func TestTrailersOfARefusalByTheAuthServerGoToTheClient(t *testing.T) {
	no := proxytest.Reply("HTTP/1.1 403 Forbidden\r\nTrailer: X-Why\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked("no", 9, "X-Why: 7"))
	overJudges(t, proxytest.Reply(ok), no, asks, func(t *testing.T, s *site, _ *proxytest.Backend) {
		a := s.dial(t).Do("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n")
		assert.Equal(t, 403, a.StatusCode)
		assert.Equal(t, http.Header{"X-Why": {"7"}}, a.Trailer)
	})
}

// Trailers follow the same edits as the head: those of the canary, if the
// request is diverted.
func TestTrailersOfADivertedRequestObeyTheCanary(t *testing.T) {
	canary := proxytest.NewBackend(t, proxytest.Reply(ok))
	head := "PUT / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n"
	body := chunked("hello", 3, "X-Debug: 1", "X-Env: client", "X-Sum: 8")
	for name, early := range map[string]int{"whole": len(head + body), "streamed": len(head) + 8} {
		t.Run(name, func(t *testing.T) {
			overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
				conns, requests := canary.Conns(), len(canary.Requests())
				c := s.dial(t)
				c.Send((head + body)[:early])
				canary.WaitConns(conns + 1)
				c.Send((head + body)[early:])
				assert.Equal(t, 200, c.Response("PUT").StatusCode)
				assert.Equal(t, http.Header{"X-Sum": {"8"}}, canary.WaitRequests(requests + 1)[requests].Trailer)
				assert.Empty(t, s.backend.Requests())
			}, func(s *site) {
				to := hostproxy.To(canary.Addr())
				to.RequestHeader = hostproxy.HeaderEdit{Remove: []string{"X-Debug"}, Set: http.Header{"X-Env": {"prod"}}}
				s.upstream.RequestHeader = hostproxy.HeaderEdit{Remove: []string{"X-Sum"}}
				require.NoError(t, s.upstream.Canary(to, 1))
			})
		})
	}
}
