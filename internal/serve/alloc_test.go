//go:build !race && !portable

package serve_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// The race detector makes sync.Pool drop items at random, so these tests run
// without it. Where the pool cannot peek at sockets, it allocates for each
// exchange; the pool's own tests say how much.

// backend responds to every head with answer, and allocates nothing.
func backend(t *testing.T, answer string) string {
	ln := proxytest.Listen(t)
	raw := []byte(answer)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 64<<10)
				for n := 0; ; {
					m, err := c.Read(buf[n:])
					if err != nil {
						return
					}
					if n += m; bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) || bytes.HasSuffix(buf[:n], []byte("END")) {
						n = 0
						if _, err := c.Write(raw); err != nil {
							return
						}
					}
				}
			}()
		}
	}()
	return ln.Addr().String()
}

func TestAFastLaneRequestAllocatesNothing(t *testing.T) {
	proxytest.NoLeaks(t)
	for _, tt := range []struct{ name, request, answer string }{
		{"GET, sized", "GET /p?q HTTP/1.1\r\nHost: a.test\r\nUser-Agent: x\r\nReferer: y\r\nAccept: */*\r\nCookie: a=b\r\n\r\n",
			"HTTP/1.1 200 OK\r\nServer: x\r\nDate: Mon, 23 Nov 2026 00:00:00 GMT\r\nContent-Length: 2\r\n\r\nok"},
		{"GET, chunked, no Date", "GET / HTTP/1.1\r\nHost: A.test:80\r\n\r\n",
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"},
		{"POST, sized", "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 7\r\n\r\nbodyEND",
			"HTTP/1.1 204 No Content\r\n\r\n"},
		{"POST, chunked", "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
			"HTTP/1.1 204 No Content\r\n\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr := backend(t, tt.answer)
			for name, observe := range map[string]func(*hostproxy.Exchange){
				"unobserved": nil,
				"observed":   func(*hostproxy.Exchange) {},
				"logged":     hostproxy.AccessLog(slog.New(slog.NewJSONHandler(io.Discard, nil))),
			} {
				r := hostproxy.Router{Observe: observe}
				r.Handle("a.test", hostproxy.To(addr))
				assert.Less(t, newLink(t, &r).perRequest(tt.request), 0.05, name)
			}
		})
	}
}

func TestAFeatureAllocatesNothing(t *testing.T) {
	proxytest.NoLeaks(t)
	const answer = "HTTP/1.1 200 OK\r\nServer: x\r\nX-Debug: 1\r\nLocation: /v2/x\r\nContent-Length: 2\r\n\r\nok"
	targets := []string{backend(t, answer), backend(t, answer)}
	edit := hostproxy.HeaderEdit{Remove: []string{"X-Debug"}, Set: http.Header{"X-Env": {"prod"}}}
	for name, set := range map[string]func(*hostproxy.Router, *hostproxy.Upstream){
		"two targets":        func(*hostproxy.Router, *hostproxy.Upstream) {},
		"two edits each way": func(_ *hostproxy.Router, u *hostproxy.Upstream) { u.RequestHeader, u.ResponseHeader = edit, edit },
		"the Router's edit": func(r *hostproxy.Router, _ *hostproxy.Upstream) {
			r.ResponseHeader, r.HSTS = edit, new(hostproxy.HSTS)
		},
		"the Router's edit and the route's": func(r *hostproxy.Router, u *hostproxy.Upstream) {
			r.ResponseHeader, u.ResponseHeader = hostproxy.HeaderEdit{Set: http.Header{"X-Env": {"any"}, "X-Frame-Options": {"DENY"}}, Add: http.Header{"X-Extra": {"a", "b"}}}, edit
		},
		"HSTS, Forwarded": func(_ *hostproxy.Router, u *hostproxy.Upstream) { u.HSTS, u.Forwarded = new(hostproxy.HSTS), true },
		"a sticky cookie": func(_ *hostproxy.Router, u *hostproxy.Upstream) { u.Sticky = new(hostproxy.Sticky) },
		"RoundRobin":      func(_ *hostproxy.Router, u *hostproxy.Upstream) { u.Policy = hostproxy.RoundRobin },
		"a hash of the address": func(_ *hostproxy.Router, u *hostproxy.Upstream) {
			u.Policy = hostproxy.ConsistentHash
		},
		"a hash of the URI": func(_ *hostproxy.Router, u *hostproxy.Upstream) {
			u.Policy, u.HashBy.URI = hostproxy.ConsistentHash, true
		},
		"a hash of a cookie": func(_ *hostproxy.Router, u *hostproxy.Upstream) {
			u.Policy, u.HashBy.Cookie = hostproxy.ConsistentHash, "id"
		},
		"rate limits": func(r *hostproxy.Router, u *hostproxy.Upstream) {
			r.RateLimit, u.RateLimit = &hostproxy.RateLimit{Rate: 1e6}, &hostproxy.RateLimit{Rate: 1e6}
		},
		"rate limits by keys": func(r *hostproxy.Router, u *hostproxy.Upstream) {
			r.RateLimit = &hostproxy.RateLimit{Rate: 1e6, MaxInFlight: 10, By: hostproxy.LimitKey{Host: true}}
			u.RateLimit = &hostproxy.RateLimit{Rate: 1e6, MaxInFlight: 10, By: hostproxy.LimitKey{Cookie: "id"}}
		},
		"rate limits by headers": func(r *hostproxy.Router, u *hostproxy.Upstream) {
			r.RateLimit = &hostproxy.RateLimit{MaxInFlight: 10, By: hostproxy.LimitKey{Header: "X-Debug"}}
			u.RateLimit = &hostproxy.RateLimit{MaxInFlight: 10, By: hostproxy.LimitKey{Header: "X-Missing"}}
		},
		"Health, Breaker": func(_ *hostproxy.Router, u *hostproxy.Upstream) {
			u.Health, u.Breaker = new(hostproxy.HealthCheck), &hostproxy.Breaker{FailureRatio: 0.5, Slow: time.Minute}
		},
		"bounds, a queue": func(_ *hostproxy.Router, u *hostproxy.Upstream) {
			u.MaxInFlight, u.MaxTargetInFlight, u.Queue.Max = 10, 10, 10
		},
		"request identifiers, told to clients": func(r *hostproxy.Router, _ *hostproxy.Upstream) {
			r.RequestID = hostproxy.RequestIDHeader{Name: "X-Request-Id", Respond: true}
			r.Observe = hostproxy.AccessLog(slog.New(slog.NewTextHandler(io.Discard, nil)))
		},
		"hooks at the beginning": func(r *hostproxy.Router, _ *hostproxy.Upstream) {
			r.Begin = func(b *hostproxy.Beginning) {
				b.Exchange.Value = r
				b.SetHeader("X-Trace", b.Header("X-Debug"))
			}
			r.BeginAttempt = func(b *hostproxy.Beginning) {
				b.Attempt.Value = r
				b.SetHeader("X-Span", b.Exchange.Path)
			}
		},
		"pages": func(_ *hostproxy.Router, u *hostproxy.Upstream) {
			u.Pages = map[int]http.Handler{503: http.NotFoundHandler()}
		},
		"a prefix that is replaced": func(_ *hostproxy.Router, u *hostproxy.Upstream) { u.StripPrefix, u.AddPrefix = "/p", "/v2" },
		"Wake": func(_ *hostproxy.Router, u *hostproxy.Upstream) {
			u.Wake = &hostproxy.Wake{Start: func(context.Context) error { return nil }, IdleAfter: time.Hour, Stop: func(context.Context) error { return nil }}
		},
		"Hedge": func(_ *hostproxy.Router, u *hostproxy.Upstream) {
			u.Hedge, u.Retry.Statuses = time.Minute, []int{503}
		},
	} {
		t.Run(name, func(t *testing.T) {
			u := hostproxy.To(targets...)
			r := &hostproxy.Router{Observe: func(*hostproxy.Exchange) {}}
			set(r, u)
			r.Handle("a.test", u)
			l := newLink(t, r)
			fields := "Host: a.test\r\nX-Debug: 1\r\nCookie: id=1; "
			cookie := l.cookie("GET /p HTTP/1.1\r\n" + fields + "\r\n\r\n")
			assert.Equal(t, u.Sticky != nil, cookie != "")
			assert.Less(t, l.perRequest("GET /p?q HTTP/1.1\r\n"+fields+cookie+"\r\n\r\n"), 0.05)
		})
	}
}

// crypto/tls allocates a reader for each record that it reads: one for the
// request, and one for the response.
func TestOnlyCryptoTLSAllocatesOverTLS(t *testing.T) {
	proxytest.NoLeaks(t)
	r := new(hostproxy.Router)
	r.Handle("a.test", hostproxy.To(backend(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")))
	assert.Less(t, newSecureLink(t, r).perRequest("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"), 2.05)
}

// The handler lane allocates what handlers may keep: the request, its header
// and URL, the writer and its header.
func TestARequestOfTheHandlerLaneAllocatesLittle(t *testing.T) {
	proxytest.NoLeaks(t)
	r := new(hostproxy.Router)
	r.Handle("a.test", hostproxy.To(backend(t, "HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 2\r\n\r\nok")))
	for name, tt := range map[string]struct {
		handler http.Handler
		most    float64
	}{
		"a handler without a route": {http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") }), 8.1},
		"middleware around a route": {http.HandlerFunc(r.ServeHTTP), 6.1},
		"middleware that sets a field": {http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("X-A", "1")
			r.ServeHTTP(w, q)
		}), 10.1},
	} {
		server := &hostproxy.Server{Router: r, Handler: tt.handler}
		c, err := net.Dial("tcp", proxytest.StartPlain(t, server).Plain)
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		l := &link{c, t}
		assert.Less(t, l.perRequest("GET /p?q HTTP/1.1\r\nHost: a.test\r\nUser-Agent: x\r\nAccept: */*\r\n\r\n"), tt.most, name)
	}
}

// A link is a connection to a Server.
type link struct {
	net.Conn
	t testing.TB
}

// newLink starts a Server of r and connects to it.
func newLink(t testing.TB, r *hostproxy.Router) *link {
	t.Helper()
	c, err := net.Dial("tcp", proxytest.StartPlain(t, &hostproxy.Server{Router: r}).Plain)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return &link{c, t}
}

// newSecureLink is newLink over TLS.
func newSecureLink(t testing.TB, r *hostproxy.Router) *link {
	t.Helper()
	conf, roots := proxytest.TLS(t, "a.test")
	r.TLS.Config = conf
	addr := proxytest.Start(t, &hostproxy.Server{Router: r}).HTTPS
	c, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: roots, ServerName: "a.test"})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return &link{c, t}
}

// cookie sends a request and returns the cookie that the response sets, or "".
func (l *link) cookie(request string) string {
	l.t.Helper()
	_, err := l.Write([]byte(request))
	require.NoError(l.t, err)
	buf := make([]byte, 4096)
	n, err := l.Read(buf)
	require.NoError(l.t, err)
	_, rest, _ := strings.Cut(string(buf[:n]), "Set-Cookie: ")
	cookie, _, _ := strings.Cut(rest, ";")
	return cookie
}

// perRequest returns how often the process allocates per request.
func (l *link) perRequest(request string) float64 {
	l.t.Helper()
	raw, buf := []byte(request), make([]byte, 4096)
	size := 0
	exchange := func() {
		_, err := l.Write(raw)
		if err == nil && size == 0 {
			size, err = l.Read(buf)
		} else if err == nil {
			_, err = io.ReadFull(l, buf[:size])
		}
		if err != nil {
			l.t.Fatal(err)
		}
	}
	for range 100 {
		exchange()
	}
	return perCall(exchange)
}

// perCall returns the number of allocations of the process per call of do. It
// is the lowest of five averages over 300 calls: a garbage collection
// empties pools.
func perCall(do func()) float64 {
	const n = 300
	least := math.Inf(1)
	for range 5 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range n {
			do()
		}
		runtime.ReadMemStats(&after)
		least = min(least, float64(after.Mallocs-before.Mallocs)/n)
	}
	return least
}
