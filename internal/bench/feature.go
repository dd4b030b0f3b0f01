package main

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/hostproxy/hostproxy"
)

// A feature is what an upstream can do besides forwarding. Each has a row of its
// own, which compares the fast lane with it and without.
type feature struct {
	name, title string
	use         func(r *hostproxy.Router, u *hostproxy.Upstream, backend string) error
}

// Names of a feature row's peers: the fast lane without it and with it.
const (
	withPrefix = "with "
	dearest    = 1.05 // what a request with a feature may cost, as a multiple of one without
)

// features are measured with two targets, which are one and the same backend.
func features() []feature {
	set := func(f func(*hostproxy.Upstream)) func(*hostproxy.Router, *hostproxy.Upstream, string) error {
		return func(_ *hostproxy.Router, u *hostproxy.Upstream, _ string) error { f(u); return nil }
	}
	beside := func(f func(u, other *hostproxy.Upstream) error) func(*hostproxy.Router, *hostproxy.Upstream, string) error {
		return func(_ *hostproxy.Router, u *hostproxy.Upstream, backend string) error {
			return f(u, hostproxy.To(backend))
		}
	}
	return []feature{
		{"round-robin", "round robin", set(func(u *hostproxy.Upstream) { u.Policy = hostproxy.RoundRobin })},
		{"least", "least in flight", set(func(u *hostproxy.Upstream) { u.Policy = hostproxy.LeastInFlight })},
		{"hash", "consistent hash by URI", set(func(u *hostproxy.Upstream) { u.Policy, u.HashBy.URI = hostproxy.ConsistentHash, true })},
		{"weights", "weights", set(func(u *hostproxy.Upstream) { u.Weights = []int{3, 1} })},
		{"sticky", "sticky cookie, set each time", set(func(u *hostproxy.Upstream) { u.Sticky = &hostproxy.Sticky{} })},
		{"health", "health checks", set(func(u *hostproxy.Upstream) {
			u.Health = &hostproxy.HealthCheck{Path: "/small", Interval: 100 * time.Millisecond}
		})},
		{"breaker", "circuit breaker by all that it knows", set(func(u *hostproxy.Upstream) {
			u.Breaker = &hostproxy.Breaker{Share: 0.5, Slow: time.Second, Statuses: []int{502}}
		})},
		{"retries", "retries by status", set(func(u *hostproxy.Upstream) { u.Retry.Statuses = []int{502, 503, 504} })},
		{"hedge", "hedged requests", set(func(u *hostproxy.Upstream) { u.Hedge = time.Second })},
		{"bounds", "bounds of what is in flight, and a queue", set(func(u *hostproxy.Upstream) {
			u.MaxInFlight, u.MaxTargetInFlight, u.Queue.Max = 1000, 500, 1000
		})},
		{"rate-limit", "rate limit", set(func(u *hostproxy.Upstream) { u.RateLimit = &hostproxy.RateLimit{Rate: 1e6} })},
		{"lists", "address lists, and a bound of bodies", set(func(u *hostproxy.Upstream) {
			u.Deny = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
			u.MaxRequestBody = 1 << 20
		})},
		{"headers", "two header edits each way", set(func(u *hostproxy.Upstream) {
			u.RequestHeader = hostproxy.HeaderEdit{Remove: []string{"X-Debug"}, Set: http.Header{"X-Env": {"prod"}}}
			u.ResponseHeader = u.RequestHeader
		})},
		{"discovery", "targets from a source", set(func(u *hostproxy.Upstream) {
			ts := u.Targets
			u.Discover = func(ctx context.Context, publish func([]hostproxy.Endpoint)) error {
				publish([]hostproxy.Endpoint{{Target: ts[0].String()}, {Target: ts[1].String()}})
				<-ctx.Done()
				return nil
			}
		})},
		{"canary", "canary of all clients", beside(func(u, other *hostproxy.Upstream) error { return u.Canary(other, 1) })},
		{"mirror", "mirror of one request in a thousand", beside(func(u, other *hostproxy.Upstream) error { return u.Mirror(other, 0.001) })},
		{"access-log", "access log, written nowhere", func(r *hostproxy.Router, _ *hostproxy.Upstream, _ string) error {
			r.Observe = hostproxy.AccessLog(slog.New(discard{}))
			return nil
		}},
	}
}

// discard is a slog.Handler that wants everything and does nothing with it.
type discard struct{}

// Enabled implements slog.Handler.
func (discard) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler.
func (discard) Handle(context.Context, slog.Record) error { return nil }

// WithAttrs implements slog.Handler.
func (d discard) WithAttrs([]slog.Attr) slog.Handler { return d }

// WithGroup implements slog.Handler.
func (d discard) WithGroup(string) slog.Handler { return d }

// featureRows are the rows of all features.
func featureRows() (rows []*row) {
	for _, f := range features() {
		rows = append(rows, &row{name: "feature-" + f.name, title: "feature: " + f.title, kind: requests, proto: h1Plain, path: "/small",
			conns: 64, feature: f.name, targets: []target{{peer: withPrefix + f.name, of: fastLaneName, must: dearest}}})
	}
	return rows
}

// featurePeers are the peers of a feature's row. The first is what the other is
// compared with.
func featurePeers(name string) []*peer {
	return []*peer{{name: fastLaneName, command: inTree}, {name: withPrefix + name, command: inTree}}
}

// featureOf returns the feature that a peer of that name has, nil without one.
func featureOf(peer string) *feature {
	for _, f := range features() {
		if peer == withPrefix+f.name {
			return &f
		}
	}
	return nil
}
