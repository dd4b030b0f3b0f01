package e2e_test

import (
	"encoding/base64"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func credentials(user, password string) string {
	return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password)) + "\r\n"
}

func TestOnlyAValidPasswordLetsARequestPass(t *testing.T) {
	t.Parallel()
	hash, err := bcrypt.GenerateFromPassword([]byte("s3cret"), bcrypt.MinCost)
	require.NoError(t, err)
	protect := func(s *site) {
		s.router.Handle("b.test", &hostproxy.BasicAuth{Users: map[string]string{"ann": string(hash)}, Realm: `the "back" door`, UserHeader: "X-User", Next: s.upstream})
	}
	right := credentials("ann", "s3cret")
	overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		for name, tt := range map[string]struct {
			fields string
			status int
		}{
			"none":            {"", 401},
			"right":           {right, 200},
			"right again":     {right, 200},
			"wrong":           {credentials("ann", "secret"), 401},
			"another user":    {credentials("bob", "s3cret"), 401},
			"two":             {credentials("bob", "x") + right, 401},
			"two, right":      {right + credentials("bob", "x"), 401},
			"another scheme":  {"Authorization: Bearer s3cret\r\n", 401},
			"no base64":       {"Authorization: Basic ann:s3cret\r\n", 401},
			"a forged name":   {"X-User: root\r\n", 401},
			"taken out again": {right + "Connection: x-user, keep-alive\r\n", 200},
			"forged, but ann": {right + "X-User: root\r\nX_User: root\r\nx-user: root\r\n", 200},
		} {
			t.Run(name, func(t *testing.T) {
				before := len(s.backend.Requests())
				a := s.dial(t).Do("POST / HTTP/1.1\r\nHost: b.test\r\n" + tt.fields + sized("hello"))
				assert.Equal(t, tt.status, a.StatusCode)
				if tt.status == 401 {
					assert.Equal(t, `Basic realm="the \"back\" door", charset="UTF-8"`, a.Header.Get("WWW-Authenticate"))
					assert.Len(t, s.backend.Requests(), before)
					return
				}
				q := s.backend.WaitRequests(before + 1)[before]
				assert.Equal(t, []string{"ann"}, field(q.Raw, "X-User"))
				assert.Empty(t, field(q.Raw, "X_User"))
				assert.Equal(t, []string{strings.TrimSpace(strings.TrimPrefix(right, "Authorization:"))}, field(q.Raw, "Authorization"))
				assert.Equal(t, "hello", string(q.Content))
			})
		}
	}, protect)
}

// overJudges runs check over each lane, each with an authentication server for
// b.test that runs verdict.
func overJudges(t *testing.T, script, verdict func(*proxytest.BackendConn), guard func(auth string, next *hostproxy.Upstream) http.Handler,
	check func(t *testing.T, s *site, auth *proxytest.Backend)) {
	t.Helper()
	for _, l := range lanes {
		t.Run(l.name, func(t *testing.T) {
			proxytest.NoLeaks(t)
			auth := proxytest.NewBackend(t, verdict)
			check(t, newSite(t, l, script, func(s *site) { s.router.Handle("b.test", guard(auth.Addr(), s.upstream)) }), auth)
		})
	}
}

// asks returns a ForwardAuth with only the required fields.
func asks(auth string, next *hostproxy.Upstream) http.Handler {
	return &hostproxy.ForwardAuth{Auth: hostproxy.To(auth), Next: next}
}

func TestAnAuthenticationServerLetsARequestPass(t *testing.T) {
	yes := "HTTP/1.1 204 No Content\r\nRemote-User: ann\r\nRemote-Groups: a\r\nRemote-Groups: b\r\nSecret: x\r\n\r\n"
	guard := func(auth string, next *hostproxy.Upstream) http.Handler {
		return &hostproxy.ForwardAuth{Auth: hostproxy.To("http://" + auth + "/base"), Path: "/verify?rd=1",
			Fields: []string{"Remote-User", "Remote-Groups", "Remote-Email"}, Next: next}
	}
	overJudges(t, proxytest.Reply(ok), proxytest.Reply(yes), guard, func(t *testing.T, s *site, auth *proxytest.Backend) {
		c := s.dial(t)
		a := c.Do("POST /a%2Fb?c=d HTTP/1.1\r\nHost: b.test\r\nCookie: session=1\r\nRemote-User: root\r\nRemote_User: root\r\n" +
			"REMOTE-EMAIL: root@\r\nX-Forwarded-For: 8.8.8.8\r\nX-Forwarded-Uri: /public\r\nX-Forwarded-Method: HEAD\r\nX-Forwarded-Host: c.test\r\n" +
			"Connection: keep-alive, remote-user, X-Forwarded-Uri\r\nConnection: X-Mine, Remote-Groups\r\nX-Mine: 1\r\nIf-None-Match: *\r\nRange: bytes=0-\r\nContent-Type: text/plain\r\n" + sized("hello"))
		assert.Equal(t, 200, a.StatusCode)
		asked := auth.WaitRequests(1)[0]
		assert.Equal(t, "GET /base/verify?rd=1 HTTP/1.1", lines(asked.Raw)[0])
		for name, want := range map[string][]string{
			"Host": {"b.test"}, "Cookie": {"session=1"}, "X-Forwarded-Method": {"POST"}, "X-Forwarded-Uri": {"/a%2Fb?c=d"},
			"X-Forwarded-Host": {"b.test"}, "X-Forwarded-For": {ip(c)}, "X-Forwarded-Proto": {map[bool]string{true: "https", false: "http"}[s.lane.secure]},
			"Content-Length": nil, "Transfer-Encoding": nil, "Content-Type": nil, "Range": nil, "If-None-Match": nil, "X-Mine": nil,
			"Remote-User": nil, "Remote_User": nil, "Remote-Email": nil,
		} {
			assert.Equal(t, want, field(asked.Raw, name), name)
		}
		served := s.backend.WaitRequests(1)[0]
		assert.Equal(t, "POST /a%2Fb?c=d HTTP/1.1", lines(served.Raw)[0])
		for name, want := range map[string][]string{
			"X-Mine": nil, "Remote-User": {"ann"}, "Remote-Groups": {"a", "b"}, "Remote-Email": nil, "Remote_User": nil, "Secret": nil,
			"Cookie": {"session=1"}, "Range": {"bytes=0-"}, "X-Forwarded-For": {ip(c)}, "X-Forwarded-Uri": nil, "X-Forwarded-Method": nil,
		} {
			assert.Equal(t, want, field(served.Raw, name), name)
		}
		assert.Equal(t, "hello", string(served.Content))
		x := s.record(t, 1)
		assert.Equal(t, s.backend.Addr(), x.Target, "the question is not the exchange's attempt")
		assert.Equal(t, 1, x.Attempts)
		assert.NoError(t, x.Err)
	})
}

// An authentication server that decides by the path must get the path that the
// target gets.
func TestAnAuthenticationServerIsToldThePathThatTheTargetGets(t *testing.T) {
	overJudges(t, proxytest.Reply(ok), proxytest.Reply(ok), asks, func(t *testing.T, s *site, auth *proxytest.Backend) {
		for i, tt := range []struct{ target, want string }{
			{"http://b.test", "/"}, {"http://b.test?x=/y", "/?x=/y"}, {"http://b.test/p?u=http://c.test", "/p?u=http://c.test"}, {"//b.test", "//b.test"},
		} {
			require.Equal(t, 200, s.dial(t).Do("GET "+tt.target+" HTTP/1.1\r\nHost: b.test\r\n\r\n").StatusCode, tt.target)
			assert.Equal(t, []string{tt.want}, field(auth.WaitRequests(i + 1)[i].Raw, "X-Forwarded-Uri"), tt.target)
			assert.Equal(t, "GET "+tt.want+" HTTP/1.1", lines(s.backend.WaitRequests(i + 1)[i].Raw)[0], tt.target)
		}
	})
}

func TestARefusalOfAnAuthenticationServerReachesTheClient(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 200_000)
	for name, tt := range map[string]struct {
		verdict string
		status  int
		body    string
		fields  map[string]string
		fails   bool
	}{
		"by a redirect": {"HTTP/1.1 302 Found\r\nLocation: https://login.test/\r\nSet-Cookie: a=b\r\nContent-Length: 4\r\n\r\ngone", 302, "gone", map[string]string{"Location": "https://login.test/", "Set-Cookie": "a=b"}, false},
		"by 401":        {"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: 0\r\n\r\n", 401, "", map[string]string{"WWW-Authenticate": "Bearer"}, false},
		"by a long 403": {"HTTP/1.1 403 Forbidden\r\n" + sized(long), 403, long, nil, false},
		"by closing":    {"", 502, "502 Bad Gateway: connection_terminated\n", nil, true},
		"by nonsense":   {"nonsense\r\n\r\n", 502, "502 Bad Gateway: http_protocol_error\n", nil, true},
		"by an upgrade": {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 502, "", nil, true},
		"by 503":        {"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", 503, "", nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			overJudges(t, proxytest.Reply(ok), proxytest.Reply(tt.verdict), asks, func(t *testing.T, s *site, auth *proxytest.Backend) {
				a := s.dial(t).Do("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n")
				assert.Equal(t, tt.status, a.StatusCode)
				if tt.body != "" {
					assert.Equal(t, tt.body, string(a.Content))
				}
				for k, v := range tt.fields {
					assert.Equal(t, v, a.Header.Get(k))
				}
				assert.Empty(t, s.backend.Requests())
				x := s.record(t, 1)
				assert.Equal(t, tt.status, x.Status)
				assert.Equal(t, tt.fails, x.Err != nil, "%v", x.Err)
			})
		})
	}
}

// Only the head of an allowing response counts: its body is read if it is
// short, and otherwise abandoned.
func TestAnAllowingResponseMayHaveABodyOfAnyLength(t *testing.T) {
	t.Parallel()
	for name, verdict := range map[string]string{
		"short":                  ok,
		"long":                   "HTTP/1.1 200 OK\r\n" + sized(strings.Repeat("x", 1<<20)),
		"with no length":         "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nyes",
		"with an early response": "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + ok,
	} {
		answers := func(c *proxytest.BackendConn) {
			if _, err := c.ReadRequest(); err == nil {
				_ = c.Send(verdict)
			}
		}
		t.Run(name, func(t *testing.T) {
			overJudges(t, proxytest.Reply(ok), answers, asks, func(t *testing.T, s *site, auth *proxytest.Backend) {
				c := s.dial(t)
				c.Send("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n")
				assert.Contains(t, c.Head(), "HTTP/1.1 200 OK", "no early hints of another server's")
				c.Expect("ok")
			})
		})
	}
}

// An incomplete response allows nothing.
func TestAnIncompleteResponseAllowsNothing(t *testing.T) {
	verdict := afterRequest(func(c *proxytest.BackendConn) { _ = c.Send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nyes") })
	overJudges(t, proxytest.Reply(ok), verdict, asks, func(t *testing.T, s *site, auth *proxytest.Backend) {
		a := s.dial(t).Do("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n")
		assert.Equal(t, 502, a.StatusCode)
		assert.Equal(t, "502 Bad Gateway: http_response_incomplete\n", string(a.Content))
		assert.Empty(t, s.backend.Requests())
		x := s.record(t, 1)
		assert.Equal(t, 502, x.Status)
		assert.ErrorContains(t, x.Err, auth.Addr())
	})
}

// A WebSocket passes guards like any request.
func TestAWebSocketPassesGuards(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("p"), bcrypt.MinCost)
	require.NoError(t, err)
	echo := func(c *proxytest.BackendConn) {
		if _, err := c.ReadRequest(); err != nil {
			return
		}
		_ = c.Send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		if s, err := c.ReadString(4); err == nil {
			_ = c.Send(s)
		}
	}
	guard := func(auth string, next *hostproxy.Upstream) http.Handler {
		return &hostproxy.BasicAuth{Users: map[string]string{"ann": string(hash)}, Next: asks(auth, next)}
	}
	overJudges(t, echo, proxytest.Reply("HTTP/1.1 204 No Content\r\n\r\n"), guard, func(t *testing.T, s *site, auth *proxytest.Backend) {
		c := s.dial(t)
		c.Send("GET / HTTP/1.1\r\nHost: b.test\r\n" + credentials("ann", "p") + "Connection: Upgrade\r\nUpgrade: websocket\r\n" + token + "\r\n")
		assert.Contains(t, c.Head(), "101 Switching")
		c.Send("ping")
		c.Expect("ping")
		assert.Empty(t, field(auth.Requests()[0].Raw, "Upgrade"))
	})
}

// Only a response of the authentication server allows a request: a page of the
// proxy in its place does not, regardless of its status.
func TestAPageInPlaceOfTheAuthServerAllowsNothing(t *testing.T) {
	yes := proxytest.Reply("HTTP/1.1 204 No Content\r\n\r\n")
	for name, set := range map[string]func(*hostproxy.Upstream){
		"a page": func(u *hostproxy.Upstream) {
			_ = u.Maintain(hostproxy.Page{Status: 200, Body: []byte("soon")})
		},
		"an ErrorHandler": func(u *hostproxy.Upstream) {
			u.Pick = func(*http.Request, []*hostproxy.Target) *hostproxy.Target { return nil }
			u.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { _, _ = io.WriteString(w, "soon") }
		},
	} {
		t.Run(name, func(t *testing.T) {
			guard := func(addr string, next *hostproxy.Upstream) http.Handler {
				auth := hostproxy.To(addr)
				set(auth)
				return &hostproxy.ForwardAuth{Auth: auth, Next: next}
			}
			overJudges(t, proxytest.Reply(ok), yes, guard, func(t *testing.T, s *site, auth *proxytest.Backend) {
				a := s.dial(t).Do("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n")
				assert.Equal(t, "soon", string(a.Content))
				assert.Equal(t, 200, a.StatusCode, "it is the answer, as any other that is no yes")
				assert.Empty(t, s.backend.Requests())
				assert.Empty(t, auth.Requests())
				assert.Equal(t, 200, s.record(t, 1).Status)
			})
		})
	}
}
