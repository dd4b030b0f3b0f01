package hostproxy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestAnInvalidTargetIsRefusedWithItsRule(t *testing.T) {
	for _, good := range []string{
		"localhost:4006", "127.0.0.1:80", "[::1]:80", "my_service:8080", "http://a.test", "https://a.test/base", "http://a.test/b,c", "h2c://a.test:50051", "unix:/run/a.sock", "http:8080",
	} {
		_, err := hostproxy.NewUpstream(good)
		assert.NoError(t, err, good)
	}
	for bad, rule := range map[string]string{
		"":                         "it is empty: write host:port",
		"localhost":                "the port is missing: write localhost:80",
		":":                        "the name is empty",
		"4006":                     "a port needs a host: write localhost:4006",
		":4006":                    "a port needs a host: write localhost:4006",
		"http://:4006":             "a port needs a host: write http://localhost:4006",
		"h2c://50051":              "a port needs a host: write h2c://localhost:50051",
		"0":                        "a name whose last label is a number must be an IPv4 address",
		":65536":                   "a port is a number from 1 to 65535",
		"a.test:99999":             "a port is a number from 1 to 65535",
		"a.test:http":              "a port is a number from 1 to 65535",
		"::1:8080":                 "an IPv6 address needs brackets, as in [::1]",
		"[::1]":                    "the port is missing: write [::1]:80",
		"a b:80":                   "the character ' ' is not allowed",
		"a.test:80/api":            "a path requires a scheme: write http://a.test:80/api",
		"http://":                  "the name is empty",
		"a.test:80?q":              "a target has no user, query or fragment: write only",
		"me@a.test:80":             "a target has no user, query or fragment: write only",
		"http:/a.test:80":          "a scheme ends with a colon and two slashes: write http://a.test:80",
		"http//a.test:80":          "a scheme ends with a colon and two slashes: write http://a.test:80",
		"https:a.test:443":         "a scheme ends with a colon and two slashes: write https://a.test:443",
		"h2c:a.test:80":            "a scheme ends with a colon and two slashes: write h2c://a.test:80",
		"a.test:1,b.test:2":        "a target is one address: pass each one as a separate argument",
		"http://a.test:1, b.test":  "a target is one address: pass each one as a separate argument",
		"http://a.test:80:80":      "invalid port",
		"http://u:p@a.test":        "no user, query or fragment",
		"http://a.test?q":          "no user, query or fragment",
		"http://a.test?":           "no user, query or fragment",
		"http://a.test#f":          "no user, query or fragment",
		"http://a.test/%zz":        `invalid URL escape "%zz"`,
		"h2c://a.test":             "the port is missing, and h2c has no default",
		"ftp://a.test":             `the scheme "ftp" is not supported: use http, https, h2c or unix`,
		"ws://a.test":              "the scheme \"ws\" is not supported: for WebSocket write http://a.test",
		"wss://a.test":             "for WebSocket over TLS write https://a.test",
		"grpc://a.test:50051":      "the scheme \"grpc\" is not supported: for gRPC write h2c://a.test:50051",
		"dns:///a.test:50051":      "for gRPC write h2c://a.test:50051",
		"unix:relative":            "unix requires an absolute path: write unix:/run/app.sock",
		"unix:":                    "unix requires an absolute path",
		"unix://run/app.sock":      "unix requires an absolute path",
		"unix:/run/app.sock:/api/": "unix takes only the path of the socket",
	} {
		_, err := hostproxy.NewUpstream(bad)
		if assert.ErrorContains(t, err, rule, bad) {
			assert.True(t, strings.HasPrefix(err.Error(), fmt.Sprintf("hostproxy: target %q: ", bad)), "%v", err)
			assert.Equal(t, 1, strings.Count(err.Error(), "hostproxy"), "%v", err)
		}
	}
	err := hostproxy.To("a.test:1").Replace(t.Context(), "6102")
	assert.EqualError(t, err, `hostproxy: target "6102": a port needs a host: write localhost:6102`)
	_, err = hostproxy.NewUpstream("nope", "nix")
	assert.ErrorContains(t, err, `"nope"`)
	assert.ErrorContains(t, err, `"nix"`, "all faults at once")
	_, err = hostproxy.NewUpstream()
	assert.ErrorContains(t, err, "no targets")
	assert.PanicsWithValue(t, `hostproxy: target "nope": the port is missing: write nope:80 or another port`, func() { hostproxy.To("nope") })
}

// front serves h on a free port and returns the address.
func front(t *testing.T, h http.Handler) string {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func TestUpstreamForwardsWithoutARouter(t *testing.T) {
	backend := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Connection", "X-Hop")
		w.Header().Set("X-Hop", "1")
		w.Header().Set("X-End", "1")
		w.Header()["Content-Type"] = nil
		w.WriteHeader(http.StatusTeapot)
		io.Copy(w, q.Body)
	}))
	addr := front(t, hostproxy.To(backend.Addr()))
	res := proxytest.Dial(t, addr).Do("POST /a%2Fb//c;d?x=%zz&y HTTP/1.1\r\nHost: site.test\r\nContent-Length: 5\r\n" +
		"Connection: x-private, x-forwarded-for\r\nX-Private: 1\r\nX-Forwarded-For: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\n\r\nhello")
	assert.Equal(t, 418, res.StatusCode)
	assert.Equal(t, "hello", string(res.Content))
	assert.Equal(t, "1", res.Header.Get("X-End"))
	assert.Empty(t, res.Header.Get("X-Hop"))
	assert.Empty(t, res.Header["Content-Type"], "no type is guessed")

	seen := backend.Last(t)
	assert.Equal(t, "/a%2Fb//c;d?x=%zz&y", seen.Target)
	assert.Equal(t, "site.test", seen.Host)
	assert.Equal(t, []string{"127.0.0.1"}, seen.Header["X-Forwarded-For"])
	assert.Equal(t, "site.test", seen.Header.Get("X-Forwarded-Host"))
	assert.Equal(t, "http", seen.Header.Get("X-Forwarded-Proto"))
	assert.Equal(t, "127.0.0.1", seen.Header.Get("X-Real-Ip"))
	assert.Regexp(t, "^1.1 hostproxy-[a-z2-7]{8}$", seen.Header.Get("Via"))
	assert.Empty(t, seen.Header.Values("X-Private"))
	assert.Empty(t, seen.Header.Values("X_forwarded_for"))
	assert.NotContains(t, seen.Header, "User-Agent")
}

func TestEachKindOfUpstreamFailureHasItsStatusAndReason(t *testing.T) {
	garbage := proxytest.NewBackend(t, proxytest.Reply("SSH-2.0-x\r\n\r\n"))
	mute := proxytest.NewBackend(t, func(c *proxytest.BackendConn) { c.ReadRequest(); c.Wait(nil) })
	gone := proxytest.NewBackend(t, func(c *proxytest.BackendConn) { c.ReadRequest() })
	for _, tt := range []struct {
		name, target string
		status       int
		reason, op   string
	}{
		{"no listener", proxytest.Refused(t), 502, "connection_refused", "dial"},
		{"garbage", garbage.Addr(), 502, "http_protocol_error", "read"},
		{"no answer in time", mute.Addr(), 504, "http_response_timeout", "read"},
		{"closed without an answer", gone.Addr(), 502, "connection_terminated", "read"},
		{"no such socket", "unix:/nonexistent/sock", 502, "connection_refused", "dial"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u := hostproxy.To(tt.target)
			if tt.status == 504 {
				u.ResponseHeaderTimeout = 50 * time.Millisecond
			}
			var got error
			var r hostproxy.Router
			r.Observe = func(x *hostproxy.Exchange) { got = x.Err }
			r.Handle("*", u)
			w := ask(&r, "GET", "http://a.test/")
			assert.Equal(t, tt.status, w.Code)
			assert.Equal(t, "hostproxy; error="+tt.reason, w.Header().Get("Proxy-Status"))
			assert.Contains(t, w.Body.String(), tt.reason)
			assert.NotContains(t, w.Body.String(), "127.0.0.1", "no internals")
			var e *hostproxy.Error
			require.ErrorAs(t, got, &e)
			assert.Equal(t, tt.op, e.Op)
			assert.Equal(t, hostproxy.SideUpstream, e.Side)
			assert.Contains(t, e.Error(), e.Target)
		})
	}
}

func TestUpstreamGoesToAnotherTargetWhenOneRefuses(t *testing.T) {
	backend := proxytest.NewServer(t, nil)
	u := hostproxy.To(proxytest.Refused(t), proxytest.Refused(t), backend.Addr())
	addr := front(t, u)
	for range 10 {
		res := proxytest.Dial(t, addr).Do("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
		assert.Equal(t, 200, res.StatusCode)
	}
	assert.Len(t, backend.Seen(), 10)
}

func TestUpstreamHooksChangeRequestAndResponse(t *testing.T) {
	backend := proxytest.NewServer(t, nil)
	u := hostproxy.To(backend.Addr())
	u.Rewrite = func(p *httputil.ProxyRequest) {
		p.Out.URL.Path = "/rewritten"
		p.Out.Header.Set("X-Query", p.Out.URL.Query().Encode())
	}
	u.ModifyResponse = func(res *http.Response) error {
		if res.Request != nil && res.StatusCode == 200 {
			res.Header.Set("X-Modified", "1")
		}
		return nil
	}
	u.RequestHeader = hostproxy.HeaderEdit{Remove: []string{"Cookie"}, Set: http.Header{"x-env": {"prod"}}}
	u.ResponseHeader = hostproxy.HeaderEdit{Add: http.Header{"Strict-Transport-Security": {"max-age=1"}}}
	q := httptest.NewRequest("GET", "http://a.test/x?a=1;b=2&c=3", nil)
	q.Header.Set("Cookie", "secret")
	w := httptest.NewRecorder()
	u.ServeHTTP(w, q)
	assert.Equal(t, 200, w.Code)
	assert.Equal(t, "max-age=1", w.Header().Get("Strict-Transport-Security"))
	seen := backend.Last(t)
	assert.Equal(t, "/rewritten?c=3", seen.Target, "the target gets the query that Rewrite saw (CVE-2022-2880)")
	assert.Equal(t, "c=3", seen.Header.Get("X-Query"))
	assert.Equal(t, "prod", seen.Header.Get("X-Env"))
	assert.Empty(t, seen.Header.Get("Cookie"))
	assert.Equal(t, "secret", q.Header.Get("Cookie"), "the client's request is not changed")
}

// A tripper is a Transport.
type tripper func(*http.Request) (*http.Response, error)

func (f tripper) RoundTrip(q *http.Request) (*http.Response, error) { return f(q) }

// secondPanics returns a Pick that panics when it is called a second time.
func secondPanics() func(*http.Request, []*hostproxy.Target) *hostproxy.Target {
	asked := false
	return func(_ *http.Request, left []*hostproxy.Target) *hostproxy.Target {
		if asked {
			panic("oh")
		}
		asked = true
		return left[0]
	}
}

func TestUpstreamContainsPanicsOfHooks(t *testing.T) {
	backend, other := proxytest.NewServer(t, http.NotFoundHandler()), proxytest.NewServer(t, http.NotFoundHandler())
	for name, tt := range map[string]struct {
		u      *hostproxy.Upstream
		status int
		cause  string
	}{
		"Pick": {&hostproxy.Upstream{Pick: func(*http.Request, []*hostproxy.Target) *hostproxy.Target { panic("oh") }}, 500, "panic in Pick: oh"},
		"Pick of a second target": {&hostproxy.Upstream{Pick: secondPanics(), Retry: hostproxy.Retry{Statuses: []int{502}},
			Transport: tripper(func(*http.Request) (*http.Response, error) { return nil, errors.New("no") })}, 500, "panic in Pick: oh"},
		"Pick after an answer": {&hostproxy.Upstream{Pick: secondPanics(), Retry: hostproxy.Retry{Statuses: []int{404}}}, 500, "panic in Pick: oh"},
		"Pick for a hedge": {&hostproxy.Upstream{Pick: secondPanics(), Hedge: time.Millisecond, Transport: tripper(func(q *http.Request) (*http.Response, error) {
			<-q.Context().Done()
			return nil, q.Context().Err()
		})}, 500, "panic in Pick: oh"},
		"Rewrite":        {&hostproxy.Upstream{Rewrite: func(*httputil.ProxyRequest) { panic("oh") }}, 500, "panic in Rewrite: oh"},
		"ModifyResponse": {&hostproxy.Upstream{ModifyResponse: func(*http.Response) error { panic("oh") }}, 500, "panic in ModifyResponse: oh"},
		"ErrorHandler": {&hostproxy.Upstream{ModifyResponse: func(*http.Response) error { return errors.New("no") },
			ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic("oh") }}, 500, "panic in ErrorHandler: oh"},
		"Transport": {&hostproxy.Upstream{Transport: tripper(func(*http.Request) (*http.Response, error) { panic("oh") })}, 500, "panic in Transport: oh"},
		"hedged Transport": {&hostproxy.Upstream{Transport: tripper(func(*http.Request) (*http.Response, error) { panic("oh") }), Hedge: time.Second,
			Retry: hostproxy.Retry{Attempts: 2}}, 500, "panic in Transport: oh"},
		"no response": {&hostproxy.Upstream{Transport: tripper(func(*http.Request) (*http.Response, error) { return nil, nil })}, 502, "Upstream.Transport returned no response with a body and no error"},
		"an error":    {&hostproxy.Upstream{ModifyResponse: func(*http.Response) error { return errors.New("oh") }}, 502, "oh"},
	} {
		t.Run(name, func(t *testing.T) {
			var log strings.Builder
			r := hostproxy.Router{Logger: slog.New(slog.NewTextHandler(&log, nil))}
			u := tt.u
			u.Targets = hostproxy.To(backend.Addr(), other.Addr()).Targets
			r.Handle("a.test", u)
			a := ask(&r, "GET", "http://a.test/")
			assert.Equal(t, tt.status, a.Code)
			assert.NotContains(t, a.Body.String(), "oh", "the client sees nothing of the panic")
			assert.Equal(t, 1, strings.Count(log.String(), "exchange failed"))
			assert.Contains(t, log.String(), tt.cause)
			assert.Equal(t, tt.status == 500, strings.Contains(log.String(), "upstream_test.go"), "the stack, for a panic")
			for target := range u.All() {
				assert.Zero(t, target.InFlight())
			}
		})
	}
}

// In the goroutine of a health check, an uncaught panic would end the program.
func TestAPanicInACheckIsTheTargetsFailure(t *testing.T) {
	u := hostproxy.To("127.0.0.1:1")
	u.Transport = tripper(func(*http.Request) (*http.Response, error) { panic("oh") })
	u.Health = &hostproxy.HealthCheck{Path: "/", Interval: time.Hour, Fall: 1}
	down := make(chan string, 1)
	u.TargetChanged = func(_ *hostproxy.Target, h hostproxy.Health) { down <- h.State + " " + h.Reason }
	defer u.Drain(t.Context())
	u.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "http://a.test/", nil))
	select {
	case got := <-down:
		assert.Contains(t, got, "down ")
		assert.Contains(t, got, "panic in Transport: oh")
	case <-time.After(proxytest.Patience):
		t.Fatal("no check was made")
	}
}

func TestHeaderEditsAreChecked(t *testing.T) {
	u := hostproxy.To("127.0.0.1:1")
	u.RequestHeader.Set = http.Header{"Host": {"x"}, "X-A": {"a\r\nb"}}
	var r hostproxy.Router
	err := r.Set("a.test", u)
	assert.ErrorContains(t, err, `"Host"`)
	assert.ErrorContains(t, err, `"a\r\nb"`)
}

// Adding a route with an invalid field fails with an error that names the
// field. The routes stay as they were.
func TestAnInvalidFieldIsRefusedByItsName(t *testing.T) {
	prefixes := []netip.Prefix{{}}
	mapped := []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")}
	for want, change := range map[string]func(*hostproxy.Upstream){
		"no targets":                         func(u *hostproxy.Upstream) { u.Targets = nil },
		"target 0: \"gopher://a\"":           func(u *hostproxy.Upstream) { u.Targets[0] = &url.URL{Scheme: "gopher", Host: "a"} },
		"target 0: nil URL":                  func(u *hostproxy.Upstream) { u.Targets[0] = nil },
		"Policy is 77":                       func(u *hostproxy.Upstream) { u.Policy = 77 },
		"Weights has 1 values for 2 Targets": func(u *hostproxy.Upstream) { u.Weights = []int{1} },
		"weight is -1":                       func(u *hostproxy.Upstream) { u.Weights = []int{1, -1} },
		"Weights has no value above 0":       func(u *hostproxy.Upstream) { u.Weights = []int{0, 0} },
		"HashBy":                             func(u *hostproxy.Upstream) { u.HashBy = hostproxy.HashKey{Header: "X", Cookie: "y"} },
		"HashBy requires Policy":             func(u *hostproxy.Upstream) { u.HashBy.URI = true },
		"Pick cannot": func(u *hostproxy.Upstream) {
			u.Policy, u.Pick = hostproxy.Random, func(*http.Request, []*hostproxy.Target) *hostproxy.Target { return nil }
		},
		"Health.StartDown":     func(u *hostproxy.Upstream) { u.Health = &hostproxy.HealthCheck{StartDown: true, Interval: -1} },
		"HashBy.Header":        func(u *hostproxy.Upstream) { u.HashBy.Header = "a b" },
		"HashBy.Cookie":        func(u *hostproxy.Upstream) { u.HashBy.Cookie = "a;b" },
		"Sticky.Key":           func(u *hostproxy.Upstream) { u.Sticky = &hostproxy.Sticky{Key: []byte("short")} },
		"Sticky.Cookie":        func(u *hostproxy.Upstream) { u.Sticky = &hostproxy.Sticky{Cookie: "a=b"} },
		"Sticky.MaxAge":        func(u *hostproxy.Upstream) { u.Sticky = &hostproxy.Sticky{MaxAge: -1} },
		"RequestHeader.Remove": func(u *hostproxy.Upstream) { u.RequestHeader.Remove = []string{"Connection"} },
		"ResponseHeader.Add":   func(u *hostproxy.Upstream) { u.ResponseHeader.Add = http.Header{"A": {"b\r\nc"}} },
		"HSTS.MaxAge":          func(u *hostproxy.Upstream) { u.HSTS = &hostproxy.HSTS{MaxAge: -1} },
		"Health.Path":          func(u *hostproxy.Upstream) { u.Health = &hostproxy.HealthCheck{Path: "up"} },
		"Health.Statuses":      func(u *hostproxy.Upstream) { u.Health = &hostproxy.HealthCheck{Path: "/", Statuses: []int{99}} },
		"Health.Timeout":       func(u *hostproxy.Upstream) { u.Health = &hostproxy.HealthCheck{Timeout: -1} },
		"Health.Rise":          func(u *hostproxy.Upstream) { u.Health = &hostproxy.HealthCheck{Rise: -1} },
		"Health.Fall":          func(u *hostproxy.Upstream) { u.Health = &hostproxy.HealthCheck{Fall: -1} },
		"Health.GRPC requires HTTP/2: write h2c://a.test:1, or https://a.test:1 over TLS": func(u *hostproxy.Upstream) {
			u.Targets[0].Host, u.Health = "a.test:1", &hostproxy.HealthCheck{GRPC: true}
		},
		"Health.Path cannot be combined": func(u *hostproxy.Upstream) { u.Health = &hostproxy.HealthCheck{GRPC: true, Path: "/"} },
		"Health.Service":                 func(u *hostproxy.Upstream) { u.Health = &hostproxy.HealthCheck{Service: "a"} },
		"Health.Header": func(u *hostproxy.Upstream) {
			u.Health = &hostproxy.HealthCheck{Path: "/", Header: http.Header{"A b": {"c"}}}
		},
		"Breaker.Failures is negative":      func(u *hostproxy.Upstream) { u.Breaker = &hostproxy.Breaker{Failures: -1} },
		"Breaker.FailureRatio":              func(u *hostproxy.Upstream) { u.Breaker = &hostproxy.Breaker{FailureRatio: 1.5} },
		"Breaker.Window":                    func(u *hostproxy.Upstream) { u.Breaker = &hostproxy.Breaker{Window: -1} },
		"Breaker.MinRequests":               func(u *hostproxy.Upstream) { u.Breaker = &hostproxy.Breaker{MinRequests: -1} },
		"Breaker.Slow":                      func(u *hostproxy.Upstream) { u.Breaker = &hostproxy.Breaker{Slow: -1} },
		"Breaker.OpenFor":                   func(u *hostproxy.Upstream) { u.Breaker = &hostproxy.Breaker{OpenFor: -1} },
		"Breaker.Trials":                    func(u *hostproxy.Upstream) { u.Breaker = &hostproxy.Breaker{Trials: -1} },
		"Breaker.Statuses":                  func(u *hostproxy.Upstream) { u.Breaker = &hostproxy.Breaker{Statuses: []int{1000}} },
		"SlowStart is negative":             func(u *hostproxy.Upstream) { u.SlowStart = -1 },
		"SlowStart requires Health":         func(u *hostproxy.Upstream) { u.SlowStart = time.Second },
		"SlowStart requires Health or":      func(u *hostproxy.Upstream) { u.SlowStart, u.Health = time.Second, &hostproxy.HealthCheck{Interval: -1} },
		"Allow[0]":                          func(u *hostproxy.Upstream) { u.Allow = prefixes },
		"Deny[0]":                           func(u *hostproxy.Upstream) { u.Deny = mapped },
		"RateLimit: Rate":                   func(u *hostproxy.Upstream) { u.RateLimit = &hostproxy.RateLimit{Rate: -1} },
		"RateLimit: Burst":                  func(u *hostproxy.Upstream) { u.RateLimit = &hostproxy.RateLimit{Rate: 1, Burst: -1} },
		"RateLimit: field Burst":            func(u *hostproxy.Upstream) { u.RateLimit = &hostproxy.RateLimit{MaxInFlight: 1, Burst: 1} },
		"RateLimit: MaxInFlight is -1":      func(u *hostproxy.Upstream) { u.RateLimit = &hostproxy.RateLimit{Rate: 1, MaxInFlight: -1} },
		"RateLimit: Rate is 0":              func(u *hostproxy.Upstream) { u.RateLimit = &hostproxy.RateLimit{By: hostproxy.LimitKey{Host: true}} },
		"RateLimit: field Limiter requires": func(u *hostproxy.Upstream) { u.RateLimit = &hostproxy.RateLimit{MaxInFlight: 1, Limiter: never{}} },
		"needs a method AllowKey": func(u *hostproxy.Upstream) {
			u.RateLimit = &hostproxy.RateLimit{Rate: 1, Limiter: never{}, By: hostproxy.LimitKey{Host: true}}
		},
		"RateLimit: field By has more than one": func(u *hostproxy.Upstream) {
			u.RateLimit = &hostproxy.RateLimit{Rate: 1, By: hostproxy.LimitKey{Host: true, Cookie: "a"}}
		},
		`By.Header is "host": set By.Host`:  func(u *hostproxy.Upstream) { u.RateLimit = byHeader("host") },
		`By.Header: "connection"`:           func(u *hostproxy.Upstream) { u.RateLimit = byHeader("connection") },
		`By.Header: "x y"`:                  func(u *hostproxy.Upstream) { u.RateLimit = byHeader("x y") },
		`By.Header is "X_Forwarded_For", w`: func(u *hostproxy.Upstream) { u.RateLimit = byHeader("X_Forwarded_For") },
		`By.Header is "x-real-ip", which a`: func(u *hostproxy.Upstream) { u.RateLimit = byHeader("x-real-ip") },
		`By.Cookie is "a b"`: func(u *hostproxy.Upstream) {
			u.RateLimit = &hostproxy.RateLimit{Rate: 1, By: hostproxy.LimitKey{Cookie: "a b"}}
		},
		"MaxRequestBody is negative":        func(u *hostproxy.Upstream) { u.MaxRequestBody = -1 },
		"MaxInFlight is negative":           func(u *hostproxy.Upstream) { u.MaxInFlight = -1 },
		"MaxTargetInFlight is negative":     func(u *hostproxy.Upstream) { u.MaxTargetInFlight = -1 },
		"Queue.Max is negative":             func(u *hostproxy.Upstream) { u.MaxInFlight, u.Queue.Max = 1, -1 },
		"Queue.Wait is negative":            func(u *hostproxy.Upstream) { u.MaxInFlight, u.Queue.Wait = 1, -1 },
		"Hedge requires Retry.Attempts of":  func(u *hostproxy.Upstream) { u.Hedge, u.Retry.Attempts = time.Second, 1 },
		"Hedge cannot be combined":          func(u *hostproxy.Upstream) { u.Hedge, u.Sticky = time.Second, &hostproxy.Sticky{} },
		"field Hedge is negative":           func(u *hostproxy.Upstream) { u.Hedge = -1 },
		"Queue requires MaxInFlight":        func(u *hostproxy.Upstream) { u.Queue.Max = 1 },
		"Retry.Attempts is -1":              func(u *hostproxy.Upstream) { u.Retry.Attempts = -1 },
		"Retry.Attempts is 11":              func(u *hostproxy.Upstream) { u.Retry.Attempts = 11 },
		"Retry.Statuses has 200":            func(u *hostproxy.Upstream) { u.Retry.Statuses = []int{200} },
		"Retry.Budget is 2":                 func(u *hostproxy.Upstream) { u.Retry.Budget = 2 },
		"Retry.Statuses requires":           func(u *hostproxy.Upstream) { u.Retry.Attempts, u.Retry.Statuses = 1, []int{503} },
		"Queue.Wait requires Queue.Max":     func(u *hostproxy.Upstream) { u.Queue.Wait = time.Second },
		"Health.Statuses requires":          func(u *hostproxy.Upstream) { u.Health = &hostproxy.HealthCheck{Statuses: []int{200}} },
		"Health.Host requires":              func(u *hostproxy.Upstream) { u.Health = &hostproxy.HealthCheck{Host: "a.test"} },
		"Health.Header requires":            func(u *hostproxy.Upstream) { u.Health = &hostproxy.HealthCheck{Header: http.Header{"A": {"1"}}} },
		"Breaker.Window and":                func(u *hostproxy.Upstream) { u.Breaker = &hostproxy.Breaker{Window: time.Second} },
		"TLS cannot be combined":            func(u *hostproxy.Upstream) { u.Transport, u.TLS = http.DefaultTransport, new(tls.Config) },
		`Upgrades has "WebSocket"`:          func(u *hostproxy.Upstream) { u.Upgrades = []string{"WebSocket"} },
		`Upgrades has ""`:                   func(u *hostproxy.Upstream) { u.Upgrades = []string{""} },
		`"a.test": DialTimeout is 5ns`:      func(u *hostproxy.Upstream) { u.DialTimeout = 5 },
		`"a.test": Health.Interval is 10ns`: func(u *hostproxy.Upstream) { u.Health = &hostproxy.HealthCheck{Interval: 10} },
		"HSTS.MaxAge is 300ns":              func(u *hostproxy.Upstream) { u.HSTS = &hostproxy.HSTS{MaxAge: 300} },
	} {
		t.Run(want, func(t *testing.T) {
			u := hostproxy.To("127.0.0.1:1", "127.0.0.1:2")
			change(u)
			var r hostproxy.Router
			err := r.Set("a.test", u)
			assert.ErrorContains(t, err, want)
			assert.ErrorContains(t, err, `pattern "a.test"`)
			for range r.All() {
				t.Error("the route was added")
			}
			assert.Equal(t, 500, ask(u, "GET", "http://a.test/").Code, "without a Router it answers 500")
		})
	}
	for want, h := range map[string]http.Handler{
		"pattern \"a.test\": nil handler":           (*hostproxy.Upstream)(nil),
		"pattern \"a.test\": nil handler ":          http.HandlerFunc(nil),
		"BasicAuth: no users":                       &hostproxy.BasicAuth{Next: http.NotFoundHandler()},
		"BasicAuth.Next: nil handler":               &hostproxy.BasicAuth{},
		"BasicAuth.UserHeader":                      &hostproxy.BasicAuth{UserHeader: "Host"},
		"BasicAuth: realm":                          &hostproxy.BasicAuth{Realm: "\n"},
		"BasicAuth.Next is a Passthrough":           &hostproxy.BasicAuth{Next: &hostproxy.Passthrough{Addr: "a.test:1"}},
		"Guard.Next: nil handler":                   &hostproxy.Guard{},
		"Guard.Next is a Passthrough":               &hostproxy.Guard{Next: &hostproxy.Passthrough{Addr: "a.test:1"}},
		"Guard.Deny[0] is the zero netip.Prefix":    &hostproxy.Guard{Deny: prefixes[:1], Next: http.NotFoundHandler()},
		"Guard.RateLimit: Rate is -1":               &hostproxy.Guard{RateLimit: &hostproxy.RateLimit{Rate: -1}, Next: http.NotFoundHandler()},
		"Guard.RateLimit: field By has":             &hostproxy.Guard{RateLimit: &hostproxy.RateLimit{Rate: 1, By: hostproxy.LimitKey{Host: true, Header: "A"}}, Next: http.NotFoundHandler()},
		"ForwardAuth.Auth: nil handler":             &hostproxy.ForwardAuth{},
		"ForwardAuth.Next: nil handler":             &hostproxy.ForwardAuth{Next: (*hostproxy.Upstream)(nil)},
		"ForwardAuth.Path is \"verify\"":            &hostproxy.ForwardAuth{Path: "verify"},
		"ForwardAuth.Fields: \"Connection\"":        &hostproxy.ForwardAuth{Fields: []string{"Connection"}},
		"ForwardAuth.Auth: upstream has no targets": &hostproxy.ForwardAuth{Auth: new(hostproxy.Upstream)},
	} {
		t.Run(want, func(t *testing.T) {
			var r hostproxy.Router
			err := r.Set("a.test", h)
			assert.ErrorContains(t, err, strings.TrimSpace(want))
			assert.Equal(t, 1, strings.Count(err.Error(), "hostproxy:"), "the prefix comes once: %v", err)
		})
	}
}

func TestABodyThatTheTargetCutsOffIsNotEndedCleanly(t *testing.T) {
	backend := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		c.ReadRequest()
		c.Send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
	})
	addr := front(t, hostproxy.To(backend.Addr()))
	c := proxytest.Dial(t, addr)
	c.Send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	assert.NotContains(t, c.Rest(), "\r\n0\r\n", "never a clean end")
}

func TestUpstreamRelaysInterimResponsesTrailersAndStreams(t *testing.T) {
	next := make(chan struct{})
	backend := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Link", "</a.css>")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		w.Header().Set("Trailer", "X-Sum")
		io.WriteString(w, "one")
		http.NewResponseController(w).Flush()
		<-next
		io.WriteString(w, "two")
		w.Header().Set("X-Sum", "6")
		w.Header().Set(http.TrailerPrefix+"X-Late", "1")
		w.Header().Set(http.TrailerPrefix+"Set-Cookie", "evil=1")
	}))
	addr := front(t, hostproxy.To(backend.Addr()))
	c := proxytest.Dial(t, addr)
	c.Send("GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n")
	early := c.Head()
	assert.Contains(t, early, "103 Early Hints")
	assert.Contains(t, early, "Link: </a.css>")
	final := c.Head()
	assert.Contains(t, final, "200 OK")
	assert.NotContains(t, final, "Link:")
	c.Expect("3\r\none\r\n")
	close(next)
	c.Expect("3\r\ntwo\r\n0\r\n")
	trailers := c.Head()
	assert.Contains(t, trailers, "X-Sum: 6")
	assert.Contains(t, trailers, "X-Late: 1")
	assert.NotContains(t, trailers, "evil")
}

func TestUpstreamSwitchesToWebSocketOnly(t *testing.T) {
	backend := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		if _, err := c.ReadRequest(); err != nil {
			return
		}
		c.Send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nKeep-Alive: x\r\n\r\nearly")
		got, _ := c.ReadAll()
		c.Send("got:" + got)
	})
	addr := front(t, hostproxy.To(backend.Addr()))

	c := proxytest.Dial(t, addr)
	c.Send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nahead")
	head := c.Head()
	assert.Contains(t, head, "101 Switching")
	assert.NotContains(t, head, "Keep-Alive")
	c.Expect("early")
	c.Send("!")
	require.NoError(t, c.CloseWrite())
	assert.Equal(t, "got:ahead!", c.Rest(), "bytes of both sides survive the switch, and the half-close")

	c = proxytest.Dial(t, addr)
	res := c.Do("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")
	assert.Equal(t, 502, res.StatusCode, "a 101 that was not requested")
	last := backend.WaitRequests(2)[1]
	assert.NotContains(t, strings.ToLower(string(last.Raw)), "upgrade")
	assert.NotContains(t, strings.ToLower(string(last.Raw)), "http2-settings")
}

func TestDrainWaitsForRequestsInFlight(t *testing.T) {
	release := make(chan struct{})
	entered := make(chan struct{})
	var once sync.Once
	backend := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path != "/slow" {
			return
		}
		once.Do(func() { close(entered) })
		<-release
	}))
	u := hostproxy.To(backend.Addr())
	answered := make(chan int)
	go func() { answered <- ask(u, "GET", "http://a.test/slow").Code }()
	<-entered
	drained := make(chan error)
	go func() { drained <- u.Drain(context.Background()) }()
	proxytest.Eventually(t, "refusal", func() bool { return ask(u, "GET", "http://a.test/").Code == 503 })
	close(release)
	assert.Equal(t, 200, <-answered, "the request in flight finishes")
	assert.NoError(t, <-drained)
}

func TestDrainCancelsRequestsThatDoNotFinish(t *testing.T) {
	backend := proxytest.NewBackend(t, func(c *proxytest.BackendConn) { c.ReadRequest(); c.ReadAll() })
	u := hostproxy.To(backend.Addr())
	answered := make(chan int)
	go func() { answered <- ask(u, "GET", "http://a.test/").Code }()
	backend.WaitRequests(1)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err := u.Drain(ctx)
	assert.ErrorIs(t, err, context.Canceled)
	assert.ErrorContains(t, err, "cut off 1 request: ")
	assert.Equal(t, 503, <-answered)
}

// Below a server other than hostproxy.Server, Close ends the background work of
// a Router's upstreams.
func TestCloseEndsTheBackgroundWorkOfUpstreams(t *testing.T) {
	proxytest.NoLeaks(t)
	backend := proxytest.NewServer(t, nil)
	u := hostproxy.To(backend.Addr())
	u.Health = &hostproxy.HealthCheck{Path: "/up", Interval: time.Millisecond}
	u.Discover = func(ctx context.Context, publish func([]hostproxy.Endpoint)) error {
		publish([]hostproxy.Endpoint{{Target: backend.Addr()}})
		<-ctx.Done()
		return nil
	}
	var r hostproxy.Router
	r.Handle("a.test", &hostproxy.ForwardAuth{Auth: u, Next: u})
	for range 2 {
		assert.Equal(t, 200, ask(&r, "GET", "http://a.test/").Code)
		proxytest.Eventually(t, "a check", func() bool { return backend.Last(t).Target == "/up" })
		require.NoError(t, r.Close())
	}
}

func TestAClientDisconnectIsRecordedAs499(t *testing.T) {
	backend := proxytest.NewBackend(t, func(c *proxytest.BackendConn) { c.ReadRequest(); c.ReadAll() })
	seen := make(chan hostproxy.Exchange, 1)
	r := hostproxy.Router{Observe: func(x *hostproxy.Exchange) { seen <- *x }}
	r.Handle("*", hostproxy.To(backend.Addr()))
	c := proxytest.Dial(t, front(t, &r))
	c.Send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	backend.WaitRequests(1)
	c.Close()
	x := <-seen
	assert.Equal(t, 499, x.Status)
	var e *hostproxy.Error
	require.ErrorAs(t, x.Err, &e)
	assert.Equal(t, hostproxy.SideClient, e.Side)
}

func ExampleTo() {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		fmt.Fprintln(w, "blog saw", q.Host)
	}))
	defer backend.Close()
	blog := hostproxy.To(strings.TrimPrefix(backend.URL, "http://"))

	w := httptest.NewRecorder()
	blog.ServeHTTP(w, httptest.NewRequest("GET", "https://blog.example.com/", nil))
	line, _ := bufio.NewReader(w.Body).ReadString('\n')
	fmt.Print(line)
	blog.Drain(context.Background())
	// Output: blog saw blog.example.com
}

func TestErrorsOfAnUpstreamSayHowToKeepTheRule(t *testing.T) {
	u := hostproxy.To("127.0.0.1:1")
	for want, err := range map[string]error{
		"the last target cannot be removed: call Replace":            u.Remove("127.0.0.1:1"),
		`"http://127.0.0.1:2" is not a target of this upstream`:      u.Remove("127.0.0.1:2"),
		"the share of a canary is 10: want 0 to 1":                   u.Canary(hostproxy.To("127.0.0.1:2"), 10),
		"the share of a mirror is -1: want 0 to 1":                   u.Mirror(hostproxy.To("127.0.0.1:2"), -1),
		"Page.Status is 99: want 200 to 599, except 204 and 304":     u.Maintain(hostproxy.Page{Status: 99}),
		`Page.ContentType is "a\nb": want a media type`:              u.Maintain(hostproxy.Page{ContentType: "a\nb"}),
		"upstream has no targets: add at least one, or set Discover": new(hostproxy.Upstream).Pause(1),
	} {
		assert.ErrorContains(t, err, "hostproxy: "+want)
	}
}

func TestMeaninglessArgumentsAndSettingsAreRefused(t *testing.T) {
	u := hostproxy.To("127.0.0.1:1")
	assert.ErrorContains(t, u.Canary(nil, 0.5), "share is 0.5 without an upstream")
	assert.ErrorContains(t, u.Mirror(nil, 0.5), "share is 0.5 without an upstream")
	assert.NoError(t, u.Canary(nil, 0))
	assert.PanicsWithValue(t, `hostproxy: DNSSource: target "unix:/a" has no name to look up: want host:port or a URL with a host`,
		func() { hostproxy.DNSSource("unix:/a", time.Second) })
	for _, label := range []string{"_http", ""} {
		assert.Panics(t, func() { hostproxy.SRVSource("http", label, "tcp", "a.test", time.Second) })
	}
	for want, s := range map[string]*hostproxy.Server{
		"Server.IdleTimeout is 5ns":               {Router: new(hostproxy.Router), IdleTimeout: 5},
		"Server.Router.TLS.HostPolicyTTL is":      {Router: &hostproxy.Router{TLS: hostproxy.TLS{HostPolicyTTL: 1}}},
		"TrustedProxies[0] is \"invalid Prefix\"": {Router: &hostproxy.Router{TrustedProxies: make([]netip.Prefix, 1)}},
	} {
		assert.ErrorContains(t, s.Serve(t.Context(), nil, proxytest.Listen(t)), want)
	}
	for _, email := range []string{"ops", "mailto:ops@example.com"} {
		r := hostproxy.Router{TLS: hostproxy.TLS{Email: email, Storage: files(t)}}
		_, err := r.TLSConfig()
		assert.ErrorContains(t, err, "want an address such as ops@example.com")
	}
}

func TestEachTargetHasANameThatIdentifiesIt(t *testing.T) {
	for target, want := range map[string]string{
		"localhost:1":           "localhost:1",
		"http://localhost:1":    "localhost:1",
		"http://localhost:1/":   "http://localhost:1/",
		"http://localhost:1/a/": "http://localhost:1/a/",
		"https://localhost:1/a": "https://localhost:1/a",
		"unix:/run/a":           "unix:///run/a",
	} {
		u := hostproxy.To(target, "localhost:2")
		names := []string{}
		for t := range u.All() {
			names = append(names, t.String())
		}
		assert.Equal(t, []string{want, "localhost:2"}, names)
		assert.NoError(t, u.Remove(names[0]), "the name is one that Remove knows")
	}
}

// byHeader returns a limit per value of a header.
func byHeader(name string) *hostproxy.RateLimit {
	return &hostproxy.RateLimit{Rate: 1, By: hostproxy.LimitKey{Header: name}}
}
