package e2e_test

import (
	"crypto/tls"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// Expect desyncs (HTTP/1.1 must die), CVE-2024-24791: the upstream sends its
// final response immediately, and reads the bytes after the head as the next
// request, or as the body. The client sends its body nevertheless.
func TestABodySentDespiteAnEarlyAnswerIsNoRequest(t *testing.T) {
	t.Parallel()
	const expect = "Expect: 100-continue\r\n"
	for _, tt := range []struct{ about, method, fields string }{
		{"an expectation", "POST", expect},
		{"an expectation of GET", "GET", expect},
		{"none, but it looks like one", "POST", "Expect: y 100-continue\r\n"},
		{"two of them", "POST", expect + expect},
		{"two that differ", "POST", "Expect: y\r\n" + expect},
		{"two that differ, the other way round", "POST", expect + "Expect: y\r\n"},
		{"one behind an empty one", "POST", "Expect:\r\n" + expect},
		{"a list", "POST", "Expect: y, 100-continue\r\n"},
	} {
		for _, early := range []string{"HTTP/1.1 417 No, and no body", "HTTP/1.1 200 OK, and no body", "HTTP/1.1 417 No", "HTTP/1.1 200 OK"} {
			t.Run(tt.about+", "+early[9:], func(t *testing.T) {
				targets := make(chan string, 1024)
				script := func(c *proxytest.BackendConn) {
					for head, err := c.ReadHead(); err == nil; head, err = c.ReadHead() {
						targets <- lines([]byte(head))[0]
						if !strings.Contains(head, "\r\nExpect:") {
							_ = c.Send(ok)
							continue
						}
						_ = c.Send(early + "\r\n" + sized("early"))
						if !strings.Contains(early, "no body") {
							_, _ = c.ReadString(len(smuggled))
						}
					}
				}
				overEachLane(t, script, func(t *testing.T, s *site) {
					head := tt.method + " /first HTTP/1.1\r\nHost: a.test\r\n" + tt.fields + "Content-Length: " + itoa(len(smuggled)) + "\r\n\r\n"
					s.sendDespite(t, head, false)
					// here net/http sees no expectation, and waits for the body
					if !strings.HasPrefix(tt.fields, "Expect:\r\n") {
						s.sendDespite(t, head, true)
					}
				})
				for len(targets) > 0 {
					assert.Contains(t, []string{"GET / HTTP/1.1", tt.method + " /first HTTP/1.1"}, <-targets)
				}
			})
		}
	}
}

// sendDespite sends a head with a request as its body, and then another
// request. If late, it sends the body after the response.
func (s *site) sendDespite(t *testing.T, head string, late bool) {
	t.Helper()
	method, _, _ := strings.Cut(head, " ")
	c := s.dial(t)
	if late {
		c.Send(head)
	} else {
		c.Send(head + smuggled)
	}
	p := c.Response(method)
	for p.StatusCode == 100 {
		p = c.Response(method)
	}
	assert.Contains(t, []int{200, 417}, p.StatusCode)
	if late {
		_ = c.Conn.Send(smuggled) // fails if the connection is closed
	}
	_ = c.Conn.Send(get)
	if p.Close {
		assert.Empty(t, c.Rest(), "no other answer")
	} else {
		assert.Equal(t, "ok", string(c.Response("GET").Content))
	}
	assert.Equal(t, "ok", string(s.dial(t).Do(get).Content), "others are served as before")
}

// RFC 9112, 3.2.2: if a target's authority and Host differ, the authority
// counts for the route, the backend and the forwarding fields.
func TestTheAuthorityOfTheTargetOverridesHostEverywhere(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ about, first, method string }{
		{"first", "", "GET"},
		{"first, for net/http", "", "PURGE"},
		{"behind a request that net/http took", purge, "GET"},
		{"behind another", get, "GET"},
	} {
		t.Run(tt.about, func(t *testing.T) {
			overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
				others := proxytest.NewBackend(t, proxytest.Reply(ok))
				s.router.Handle("b.test", hostproxy.To(others.Addr()))
				backends := map[string]*proxytest.Backend{"a.test": s.backend, "b.test": others}
				for _, hosts := range [][2]string{{"a.test", "b.test"}, {"b.test", "a.test"}, {"b.test", "b.test"}} {
					c := s.dial(t)
					if tt.first != "" {
						require.Equal(t, 200, c.Do(tt.first).StatusCode)
					}
					named := backends[hosts[0]]
					before := map[*proxytest.Backend]int{s.backend: len(s.backend.Requests()), others: len(others.Requests())}
					p := c.Do(tt.method + " http://" + hosts[0] + "/named HTTP/1.1\r\nHost: " + hosts[1] + "\r\n\r\n")
					require.Equal(t, 200, p.StatusCode)
					assertAuthority(t, named.WaitRequests(before[named] + 1)[before[named]].Raw, hosts[0])
					before[named]++
					for b, n := range before {
						assert.Len(t, b.Requests(), n, "%s", hosts)
					}
				}
			})
		})
	}
}

func assertAuthority(t *testing.T, raw []byte, host string) {
	t.Helper()
	assert.Contains(t, lines(raw)[0], " /named ")
	assert.Equal(t, []string{host}, field(raw, "Host"))
	assert.Equal(t, []string{host}, field(raw, "X-Forwarded-Host"))
}

// RFC 9113, 8.3.1: the same for :authority and a host field.
func TestTheAuthorityOverridesAHostFieldEverywhereOverHTTP2(t *testing.T) {
	for _, kind := range []string{"http", "h2c", "https"} {
		t.Run(kind, func(t *testing.T) {
			proxytest.NoLeaks(t)
			var r hostproxy.Router
			backends := make(map[string]*proxytest.Server)
			for _, host := range []string{"a.test", "b.test"} {
				s, u := newUpstream(t, kind, nil)
				r.Handle(host, u)
				backends[host] = s
			}
			config, roots := proxytest.TLS(t, "a.test", "b.test")
			r.TLS.Config = config
			k := &track{addr: proxytest.Start(t, &hostproxy.Server{Router: &r}).HTTPS, tls: &tls.Config{RootCAs: roots, ServerName: "a.test"}}
			for _, pairs := range [][]string{
				append(append([]string(nil), ordinary...), "host", "b.test"),
				append(append([]string(nil), ordinary...), "host", "a.test", "host", "b.test"),
				{":method", "GET", ":scheme", "https", ":path", "/", "host", "a.test", "host", "b.test"},
			} {
				before := len(backends["a.test"].Seen())
				p := newH2(t, k)
				p.listen()
				require.NoError(t, p.ask(1, true, pairs...))
				if outcome := p.outcome(t, 1); outcome == "200" {
					require.Len(t, backends["a.test"].Seen(), before+1)
					q := backends["a.test"].Last(t)
					assert.Equal(t, "a.test", q.Host)
					assert.Equal(t, []string{"a.test"}, q.Header["X-Forwarded-Host"])
					assert.Empty(t, q.Header["Host"])
				} else {
					assert.Contains(t, []string{"400", "reset", "closed"}, outcome)
				}
				assert.Empty(t, backends["b.test"].Seen())
				p.c.Close()
			}
		})
	}
}

// An HTTP/1.0 request has no body without a length (RFC 9112, 6.3), but some
// software does not know that (RFC 1945, 8.3): the bytes after the head must
// not be read as a request.
func TestBytesBehindAnHTTP10HeadAreNoRequest(t *testing.T) {
	t.Parallel()
	const kept = "Connection: keep-alive\r\n"
	for _, tt := range []struct{ about, first, raw string }{
		{"nothing else", "", "POST / HTTP/1.0\r\n" + host},
		{"kept alive", "", "POST / HTTP/1.0\r\n" + host + kept},
		{"closed and kept alive", "", "POST / HTTP/1.0\r\n" + host + "Connection: close, keep-alive\r\n"},
		{"for net/http", "", "PURGE / HTTP/1.0\r\n" + host + kept},
		{"for nobody", "", "POST / HTTP/1.0\r\nHost: nowhere.test\r\n" + kept},
		{"behind a request that net/http took", purge, "POST / HTTP/1.0\r\n" + host},
		{"kept alive behind a request that net/http took", purge, "POST / HTTP/1.0\r\n" + host + kept},
	} {
		t.Run(tt.about, func(t *testing.T) {
			overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
				c := s.dial(t)
				if tt.first != "" {
					require.Equal(t, 200, c.Do(tt.first).StatusCode)
				}
				_ = c.Conn.Send(tt.raw + "\r\n" + smuggled)
				answer := c.Rest()
				assert.Equal(t, 1, strings.Count(answer, "HTTP/1."), "one answer, then the end: %q", answer)
				for _, q := range s.backend.Requests() {
					assert.Equal(t, "/", q.RequestURI)
				}
			})
		})
	}
	t.Run("what says its length goes on", func(t *testing.T) {
		overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
			c := s.dial(t)
			for range 2 {
				assert.Equal(t, 200, c.Do("POST / HTTP/1.0\r\n"+host+kept+sized("hello")).StatusCode)
				assert.Equal(t, 200, c.Do("POST / HTTP/1.0\r\n"+host+kept+sized("")).StatusCode)
				assert.Equal(t, 200, c.Do("GET / HTTP/1.0\r\n"+host+kept+"\r\n").StatusCode)
			}
		})
	})
}
