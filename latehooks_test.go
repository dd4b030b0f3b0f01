package hostproxy_test

import (
	"context"
	"log/slog"
	"net/http"
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
