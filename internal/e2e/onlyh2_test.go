package e2e_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A tlsKind is a kind of target over TLS: its protocol, and how it uses ALPN.
type tlsKind struct {
	name string
	h2   bool                // it speaks only HTTP/2; otherwise only HTTP/1.1
	tell func(c *tls.Config) // sets up its ALPN
}

// tlsKinds are all kinds. Read-only.
var tlsKinds = []tlsKind{
	{"refuses http/1.1", true, func(c *tls.Config) {
		picky := c.Clone()
		picky.NextProtos = []string{"none"}
		c.NextProtos = []string{"h2"}
		c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if !slices.Contains(hello.SupportedProtos, "h2") {
				return picky, nil
			}
			return nil, nil
		}
	}},
	// crypto/tls accepts clients that offer only http/1.1, chooses nothing, and
	// net/http then closes the connection.
	{"knows h2 only", true, func(c *tls.Config) { c.NextProtos = []string{"h2"} }},
	{"chooses http/1.1", false, func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }},
	{"knows no ALPN", false, func(*tls.Config) {}},
}

// proto returns the protocol of requests at the target.
func (k *tlsKind) proto() string {
	if k.h2 {
		return "HTTP/2.0"
	}
	return "HTTP/1.1"
}

// tlsTarget starts a target over TLS, which answers with the HTTP version and
// the body, and counts its connections.
func tlsTarget(t *testing.T, s *site, k tlsKind) *atomic.Int64 {
	t.Helper()
	conns := new(atomic.Int64)
	config, roots := proxytest.TLS(t)
	k.tell(config)
	backend := &http.Server{Protocols: new(http.Protocols), ErrorLog: log.New(io.Discard, "", 0)}
	backend.Protocols.SetHTTP1(!k.h2)
	backend.Protocols.SetHTTP2(k.h2)
	backend.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	backend.Handler = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		fmt.Fprint(w, q.Proto, " ", string(body))
	})
	ln := proxytest.Listen(t)
	go func() { _ = backend.Serve(tls.NewListener(ln, config)) }()
	t.Cleanup(func() { backend.Close() })
	s.upstream = hostproxy.To("https://" + ln.Addr().String())
	s.upstream.TLS = &tls.Config{RootCAs: roots}
	return conns
}

// A target that speaks only HTTP/2 gets all requests over HTTP/2, even the
// first one, however it uses ALPN.
func TestATargetThatRefusesHTTP1IsAskedOverHTTP2(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	for _, kind := range tlsKinds {
		for what, change := range map[string]func(*hostproxy.Upstream){
			"": func(*hostproxy.Upstream) {},
			"checked": func(u *hostproxy.Upstream) {
				u.Health = &hostproxy.HealthCheck{Path: "/", StartDown: true, Interval: moment}
			},
			"hedged": func(u *hostproxy.Upstream) { u.Hedge, u.Retry.Attempts = time.Minute, 2 },
		} {
			for _, l := range lanes {
				t.Run(strings.TrimSpace(l.name+" "+kind.name+" "+what), func(t *testing.T) { asksKind(t, l, kind, change) })
			}
		}
	}
}

// asksKind sends the same requests to targets of a kind. Each request is the
// first one once.
func asksKind(t *testing.T, l lane, kind tlsKind, change func(*hostproxy.Upstream)) {
	requests := []struct{ raw, want string }{
		{get, ""},
		{"POST / HTTP/1.1\r\nHost: a.test\r\n" + sized("hello"), "hello"},
		{"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked("hello", 2), "hello"},
		{"POST / HTTP/1.1\r\nHost: a.test\r\n" + sized(strings.Repeat("x", 30_000)), strings.Repeat("x", 30_000)},
	}
	for first := range requests {
		s := newSite(t, l, nil, func(s *site) {
			tlsTarget(t, s, kind)
			change(s.upstream)
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
			p := answerInTime(t, c, q.raw)
			require.Equal(t, 200, p.StatusCode, "%s", p.Content)
			assert.Equal(t, kind.proto()+" "+q.want, string(p.Content))
		}
	}
}

// answerInTime sends a request, and again if the machine stood still for the
// second in which the target must accept a connection with HTTP/2: then the
// request went over HTTP/1.1.
func answerInTime(t *testing.T, c *proxytest.Client, raw string) *proxytest.Response {
	for {
		began := time.Now()
		require.NoError(t, c.Conn.Send(raw))
		if p := c.Response("POST"); p.StatusCode != 502 || time.Since(began) < time.Second {
			return p
		}
	}
}

// For a target that chooses nothing by ALPN, one more connection finds out what
// it speaks, once.
func TestTheProtocolOfATargetWithoutALPNIsProbedOnce(t *testing.T) {
	for _, kind := range tlsKinds[2:] {
		for _, l := range lanes {
			t.Run(l.name+" "+kind.name, func(t *testing.T) {
				var conns *atomic.Int64
				s := newSite(t, l, nil, func(s *site) { conns = tlsTarget(t, s, kind) })
				want := int64(1)
				if kind.name == "knows no ALPN" {
					want = 2
				}
				c := s.dial(t)
				for range 3 {
					require.Equal(t, 200, c.Do(get).StatusCode)
				}
				assert.Equal(t, want, conns.Load(), "connections are kept")
			})
		}
	}
}

// A target that refuses HTTP/1.1 gets its share of requests beside one that
// does not.
func TestATargetThatRefusesHTTP1ServesBesideOthers(t *testing.T) {
	for _, only := range tlsKinds[:2] {
		for _, l := range lanes {
			t.Run(l.name+" "+only.name, func(t *testing.T) { servesBeside(t, l, only) })
		}
	}
}

func servesBeside(t *testing.T, l lane, only tlsKind) {
	s := newSite(t, l, nil, func(s *site) {
		tlsTarget(t, s, only)
		only2 := s.upstream.Targets
		tlsTarget(t, s, tlsKinds[2])
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
}
