package e2e_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// tlsTarget starts a target over TLS that speaks one version of HTTP, and answers with that and the body.
func tlsTarget(t *testing.T, s *site, h2 bool) {
	t.Helper()
	config, roots := proxytest.TLS(t)
	if h2 { // crypto/tls alone lets clients in that offer http/1.1 only, and net/http then hangs up
		picky := config.Clone()
		picky.NextProtos = []string{"none"}
		config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if !slices.Contains(hello.SupportedProtos, "h2") {
				return picky, nil
			}
			return nil, nil
		}
	}
	backend := &http.Server{TLSConfig: config, Protocols: new(http.Protocols), ErrorLog: log.New(io.Discard, "", 0)}
	backend.Protocols.SetHTTP1(!h2)
	backend.Protocols.SetHTTP2(h2)
	backend.Handler = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		fmt.Fprint(w, q.Proto, " ", string(body))
	})
	ln := proxytest.Listen(t)
	go func() { _ = backend.ServeTLS(ln, "", "") }()
	t.Cleanup(func() { backend.Close() })
	s.upstream = hostproxy.To("https://" + ln.Addr().String())
	s.upstream.TLS = &tls.Config{RootCAs: roots}
}

// A target that refuses HTTP/1.1 is asked over HTTP/2, the first request included.
func TestATargetThatRefusesHTTP1IsAskedOverHTTP2(t *testing.T) {
	requests := []struct{ raw, want string }{
		{get, ""},
		{"POST / HTTP/1.1\r\nHost: a.test\r\n" + sized("hello"), "hello"},
		{"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked("hello", 2), "hello"},
		{"POST / HTTP/1.1\r\nHost: a.test\r\n" + sized(strings.Repeat("x", 30_000)), strings.Repeat("x", 30_000)},
	}
	for _, tt := range []struct {
		want   string
		change func(*hostproxy.Upstream)
	}{
		{"HTTP/2.0", nil},
		{"HTTP/2.0", func(u *hostproxy.Upstream) {
			u.Health = &hostproxy.HealthCheck{Path: "/", StartDown: true, Interval: moment}
		}},
		{"HTTP/2.0", func(u *hostproxy.Upstream) { u.Hedge, u.Retry.Attempts = time.Minute, 2 }},
		{"HTTP/1.1", nil},
	} {
		for _, l := range lanes {
			for first := range requests { // each once as the one that is refused
				t.Run(l.name+" "+tt.want, func(t *testing.T) {
					s := newSite(t, l, nil, func(s *site) {
						tlsTarget(t, s, tt.want == "HTTP/2.0")
						if tt.change != nil {
							tt.change(s.upstream)
						}
					})
					c := s.dial(t)
					if s.upstream.Health != nil {
						proxytest.Eventually(t, "a check", func() bool {
							require.NoError(t, c.Conn.Send(get))
							return c.Response("GET").StatusCode == 200
						})
					}
					for i := range requests {
						q := requests[(first+i)%len(requests)]
						require.NoError(t, c.Conn.Send(q.raw))
						p := c.Response("POST")
						require.Equal(t, 200, p.StatusCode, "%s", p.Content)
						assert.Equal(t, tt.want+" "+q.want, string(p.Content))
					}
				})
			}
		}
	}
}

// A target that refuses HTTP/1.1 gets its share beside one that does not.
func TestATargetThatRefusesHTTP1ServesBesideOthers(t *testing.T) {
	for _, l := range lanes {
		t.Run(l.name, func(t *testing.T) {
			s := newSite(t, l, nil, func(s *site) {
				tlsTarget(t, s, true)
				only2 := s.upstream.Targets
				tlsTarget(t, s, false)
				s.upstream.Targets = append(s.upstream.Targets, only2...)
				s.upstream.TLS, s.upstream.Policy = &tls.Config{InsecureSkipVerify: true}, hostproxy.RoundRobin
			})
			c, seen := s.dial(t), make(map[string]int)
			for range 12 {
				p := c.Do(get)
				require.Equal(t, 200, p.StatusCode)
				seen[string(p.Content)]++
			}
			assert.Len(t, seen, 2, "%v", seen)
		})
	}
}
