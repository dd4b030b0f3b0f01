package hostproxy_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A refusing limiter allows nothing.
type refusing struct{}

func (refusing) Allow(context.Context, netip.Addr) (hostproxy.Quota, error) {
	return hostproxy.Quota{}, nil
}

func TestWhatIsChangedLateStaysInForce(t *testing.T) {
	for name, tt := range map[string]struct {
		set, remove func(r *hostproxy.Router, u *hostproxy.Upstream)
		status      int
	}{
		"ErrorHandler": {
			func(_ *hostproxy.Router, u *hostproxy.Upstream) {
				u.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(418) }
			},
			func(_ *hostproxy.Router, u *hostproxy.Upstream) { u.ErrorHandler = nil }, 418,
		},
		"Pick": {
			func(_ *hostproxy.Router, u *hostproxy.Upstream) {
				u.Pick = func(*http.Request, []*hostproxy.Target) *hostproxy.Target { return nil }
			},
			func(_ *hostproxy.Router, u *hostproxy.Upstream) { u.Pick = nil }, 503,
		},
		"RateLimit.Limiter": {
			func(_ *hostproxy.Router, u *hostproxy.Upstream) {
				u.RateLimit = &hostproxy.RateLimit{Rate: 1, Limiter: refusing{}}
			},
			func(_ *hostproxy.Router, u *hostproxy.Upstream) { u.RateLimit.Limiter = nil }, 429,
		},
		"Router.RateLimit.Limiter": {
			func(r *hostproxy.Router, _ *hostproxy.Upstream) {
				r.RateLimit = &hostproxy.RateLimit{Rate: 1, Limiter: refusing{}}
			},
			func(r *hostproxy.Router, _ *hostproxy.Upstream) { r.RateLimit.Limiter = nil }, 429,
		},
		"Deny": {
			func(_ *hostproxy.Router, u *hostproxy.Upstream) {
				u.Deny = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
			},
			func(_ *hostproxy.Router, u *hostproxy.Upstream) { u.Deny[0] = netip.MustParsePrefix("10.0.0.0/8") }, 403,
		},
		"Allow": {
			func(_ *hostproxy.Router, u *hostproxy.Upstream) {
				u.Allow = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
			},
			func(_ *hostproxy.Router, u *hostproxy.Upstream) { u.Allow[0] = netip.MustParsePrefix("0.0.0.0/0") }, 403,
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
			u := hostproxy.To(proxytest.Refused(t))
			tt.set(&r, u)
			r.Handle("a.test", u)
			assert.Equal(t, tt.status, ask(&r, "GET", "http://a.test/").Code)
			tt.remove(&r, u)
			assert.Error(t, r.Check())
			assert.Equal(t, tt.status, ask(&r, "GET", "http://a.test/").Code, "the change has no effect")
		})
	}
}

func TestRouterFieldsThatAreChangedLateStayInForceInBothLanes(t *testing.T) {
	records := make(chan hostproxy.Exchange, 1)
	r := hostproxy.Router{Logger: slog.New(slog.DiscardHandler), Observe: func(x *hostproxy.Exchange) { records <- *x }}
	r.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	r.NotFound = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(418) })
	b := proxytest.NewServer(t, nil)
	r.Handle("fast.test", hostproxy.To(b.Addr()))
	r.Handle("handler.test", &wrapped{hostproxy.To(b.Addr())})
	s := proxytest.StartPlain(t, &hostproxy.Server{Router: &r})
	check := func() {
		t.Helper()
		for host, status := range map[string]int{"fast.test": 200, "handler.test": 200, "other.test": 418} {
			c := proxytest.Dial(t, s.Plain)
			assert.Equal(t, status, c.Do("GET / HTTP/1.1\r\nHost: "+host+"\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n").StatusCode)
			assert.Equal(t, "127.0.0.1", (<-records).Client.String(), host)
		}
	}
	check()
	trusted, notFound := r.TrustedProxies, r.NotFound
	r.TrustedProxies[0] = netip.MustParsePrefix("127.0.0.0/8")
	r.NotFound = nil
	assert.ErrorContains(t, r.Check(), "Router.TrustedProxies was changed")
	check()
	r.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	check()
	trusted[0] = netip.MustParsePrefix("10.0.0.0/8")
	r.TrustedProxies, r.NotFound = trusted, notFound
	assert.NoError(t, r.Check())
}

func TestWhatIsChangedLateInAHandlerStaysInForce(t *testing.T) {
	backend := proxytest.NewServer(t, nil)
	next := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		assert.NotEqual(t, "forged", q.Header.Get("X-User"))
		w.WriteHeader(http.StatusAccepted)
	})
	basic := &hostproxy.BasicAuth{Users: map[string]string{"ann": "$2a$04$IqF/.XT3p3mm9ybVkjOcju/gOTsydksxD8ZPs9CRn8x6UUSQNcTi."}, UserHeader: "X-User", Next: next}
	auth := &hostproxy.ForwardAuth{Auth: hostproxy.To(backend.Addr()), Path: "/", Fields: []string{"X-User"}, Next: next}
	guard := &hostproxy.Guard{Next: &hostproxy.BasicAuth{Users: basic.Users, UserHeader: "X-User", Next: next}}
	for name, tt := range map[string]struct {
		handler http.Handler
		change  func()
	}{
		"BasicAuth":   {basic, func() { basic.Next, basic.UserHeader = nil, "" }},
		"ForwardAuth": {auth, func() { auth.Next, auth.Auth, auth.Fields[0] = nil, nil, "X-Other" }},
		"Guard":       {guard, func() { guard.Next = nil }},
	} {
		t.Run(name, func(t *testing.T) {
			r := hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
			r.Handle("a.test", tt.handler)
			asks := func() {
				w, q := httptest.NewRecorder(), httptest.NewRequest("GET", "http://a.test/", nil)
				q.SetBasicAuth("ann", "secret")
				q.Header.Set("X-User", "forged")
				r.ServeHTTP(w, q)
				assert.Equal(t, http.StatusAccepted, w.Code)
			}
			asks()
			tt.change()
			assert.Error(t, r.Check())
			asks()
		})
	}
}
