package e2e_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// features sets each field of an Upstream. Read-only.
var features = map[string]func(*hostproxy.Upstream){
	"Targets": func(u *hostproxy.Upstream) {
		same := *u.Targets[0] // the same target with another name
		same.Host = "localhost:" + same.Port()
		u.Targets = append(u.Targets, &same)
	},
	"Discover": func(u *hostproxy.Upstream) {
		addr := u.Targets[0].String()
		u.Discover = func(ctx context.Context, publish func([]hostproxy.Endpoint)) error {
			publish([]hostproxy.Endpoint{{Target: addr}})
			<-ctx.Done()
			return nil
		}
	},
	"Policy":  func(u *hostproxy.Upstream) { u.Policy = hostproxy.LeastInFlight },
	"Weights": func(u *hostproxy.Upstream) { u.Weights = []int{2} },
	"HashBy":  func(u *hostproxy.Upstream) { u.Policy, u.HashBy.URI = hostproxy.ConsistentHash, true },
	"Sticky":  func(u *hostproxy.Upstream) { u.Sticky = new(hostproxy.Sticky) },
	"Pick": func(u *hostproxy.Upstream) {
		u.Pick = func(_ *http.Request, ts []*hostproxy.Target) *hostproxy.Target { return ts[0] }
	},
	"Transport":      func(u *hostproxy.Upstream) { u.Transport = closing{new(http.Transport)} },
	"Dial":           func(u *hostproxy.Upstream) { u.Dial = new(net.Dialer).DialContext },
	"ProxyProtocol":  func(u *hostproxy.Upstream) { u.ProxyProtocol, u.Dial = 2, dialReserved },
	"TLS":            func(u *hostproxy.Upstream) { u.TLS = &tls.Config{MinVersion: tls.VersionTLS13} },
	"Rewrite":        func(u *hostproxy.Upstream) { u.Rewrite = func(*httputil.ProxyRequest) {} },
	"ModifyResponse": func(u *hostproxy.Upstream) { u.ModifyResponse = func(*http.Response) error { return nil } },
	"ErrorHandler":   func(u *hostproxy.Upstream) { u.ErrorHandler = func(http.ResponseWriter, *http.Request, error) {} },
	"Pages":          func(u *hostproxy.Upstream) { u.Pages = map[int]http.Handler{503: http.NotFoundHandler()} },
	"RequestHeader":  func(u *hostproxy.Upstream) { u.RequestHeader = someEdit },
	"ResponseHeader": func(u *hostproxy.Upstream) { u.ResponseHeader = someEdit },
	"HSTS":           func(u *hostproxy.Upstream) { u.HSTS = new(hostproxy.HSTS) },
	"StripPrefix":    func(u *hostproxy.Upstream) { u.StripPrefix = "/p" },
	"AddPrefix":      func(u *hostproxy.Upstream) { u.AddPrefix = "/v2" },
	"TargetHost":     func(u *hostproxy.Upstream) { u.TargetHost = true },
	"Forwarded":      func(u *hostproxy.Upstream) { u.Forwarded = true },
	"Upgrades":       func(u *hostproxy.Upstream) { u.Upgrades = []string{} },
	"Health": func(u *hostproxy.Upstream) {
		u.Health = &hostproxy.HealthCheck{Path: "/health", Interval: 10 * time.Millisecond}
	},
	"Breaker":               func(u *hostproxy.Upstream) { u.Breaker = &hostproxy.Breaker{FailureRatio: 0.5, Slow: time.Second} },
	"SlowStart":             func(u *hostproxy.Upstream) { u.SlowStart, u.Breaker = time.Second, new(hostproxy.Breaker) },
	"FailClosed":            func(u *hostproxy.Upstream) { u.FailClosed = true },
	"TargetChanged":         func(u *hostproxy.Upstream) { u.TargetChanged = func(*hostproxy.Target, hostproxy.Health) {} },
	"Allow":                 func(u *hostproxy.Upstream) { u.Allow = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} },
	"Deny":                  func(u *hostproxy.Upstream) { u.Deny = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} },
	"RateLimit":             func(u *hostproxy.Upstream) { u.RateLimit = &hostproxy.RateLimit{Rate: 100} },
	"MaxRequestBody":        func(u *hostproxy.Upstream) { u.MaxRequestBody = 100 },
	"BufferRequests":        func(u *hostproxy.Upstream) { u.BufferRequests = 1 << 20 },
	"BufferResponses":       func(u *hostproxy.Upstream) { u.BufferResponses = 1 << 20 },
	"MaxInFlight":           func(u *hostproxy.Upstream) { u.MaxInFlight = 10 },
	"MaxTargetInFlight":     func(u *hostproxy.Upstream) { u.MaxTargetInFlight = 10 },
	"Queue":                 func(u *hostproxy.Upstream) { u.MaxInFlight, u.Queue.Max = 10, 10 },
	"Wake":                  func(u *hostproxy.Upstream) { u.Wake = new(nap).wake(time.Hour) },
	"Retry":                 func(u *hostproxy.Upstream) { u.Retry.Statuses = []int{503} },
	"Hedge":                 func(u *hostproxy.Upstream) { u.Hedge = time.Second },
	"DialTimeout":           func(u *hostproxy.Upstream) { u.DialTimeout = time.Second },
	"ResponseHeaderTimeout": func(u *hostproxy.Upstream) { u.ResponseHeaderTimeout = time.Second },
	"IdleTimeout":           func(u *hostproxy.Upstream) { u.IdleTimeout = time.Second },
	"ReadyTimeout":          func(u *hostproxy.Upstream) { u.ReadyTimeout = time.Second },
	"DrainTimeout":          func(u *hostproxy.Upstream) { u.DrainTimeout = time.Second },
	"StreamGrace":           func(u *hostproxy.Upstream) { u.StreamGrace = time.Second },
	"StreamTimeout":         func(u *hostproxy.Upstream) { u.StreamTimeout = time.Hour },
}

// hooks are the fields that need the handler lane: funcs that get types of
// net/http, and BufferResponses. Read-only.
var hooks = map[string]bool{"BufferResponses": true, "Pick": true, "Transport": true, "Rewrite": true, "ModifyResponse": true, "ErrorHandler": true}

// someEdit is an edit of either head. Read-only.
var someEdit = hostproxy.HeaderEdit{Set: http.Header{"X-Env": {"prod"}}, Remove: []string{"X-Debug"}}

// A closing transport keeps no connection after its request.
type closing struct{ *http.Transport }

func (c closing) RoundTrip(q *http.Request) (*http.Response, error) {
	q.Close = true
	return c.Transport.RoundTrip(q)
}

func TestFeaturesStayOnTheFastLane(t *testing.T) {
	upstream := reflect.TypeFor[hostproxy.Upstream]()
	for i := range upstream.NumField() {
		field := upstream.Field(i)
		if !field.IsExported() {
			continue
		}
		t.Run(field.Name, func(t *testing.T) {
			set := features[field.Name]
			require.NotNil(t, set, "a field that no feature sets")
			s := newSite(t, lanes[0], proxytest.Reply(ok), func(s *site) { set(s.upstream) })
			assertLane(t, s, !hooks[field.Name])
		})
	}
}

func TestCanariesMirrorsAndReplacedTargetsStayOnTheFastLane(t *testing.T) {
	copies := proxytest.NewBackend(t, proxytest.Reply(ok)).Addr()
	for name, act := range map[string]func(u *hostproxy.Upstream, addr string) error{
		"Canary": func(u *hostproxy.Upstream, addr string) error { return u.Canary(hostproxy.To(addr), 1) },
		"Mirror": func(u *hostproxy.Upstream, _ string) error { return u.Mirror(hostproxy.To(copies), 1) },
		"Replace": func(u *hostproxy.Upstream, addr string) error {
			return u.Replace(context.Background(), "http://"+addr)
		},
		"Resume": func(u *hostproxy.Upstream, _ string) error { return errors.Join(u.Pause(time.Second), u.Resume()) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, lanes[0], proxytest.Reply(ok))
			require.NoError(t, act(s.upstream, s.backend.Addr()))
			assertLane(t, s, true)
		})
	}
}

// assertLane sends two requests and checks which lane they took.
func assertLane(t *testing.T, s *site, fast bool) {
	t.Helper()
	c := s.dial(t)
	for range 2 {
		require.Equal(t, http.StatusOK, c.Do("GET /p/ HTTP/1.1\r\n"+host+"\r\n").StatusCode)
	}
	s.record(t, 2)
	s.mu.Lock()
	defer s.mu.Unlock()
	want := len(s.records)
	if fast {
		want = 0
	}
	assert.Equal(t, want, s.handled, "requests in the handler lane")
}
