package main

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/hostproxy/hostproxy"
)

// A feature is a capability of an upstream besides forwarding. Each has a row
// of its own, which compares the fast lane with and without it.
type feature struct {
	name, title string
	must        float64 // maximum cost of a request with it, relative to one without
	use         func(r *hostproxy.Router, u *hostproxy.Upstream, backend string) error
}

// withPrefix begins the name of the peer that has the feature. The other peer
// is the fast lane without it.
const withPrefix = "with "

// stripped is the prefix that one row strips. The backend answers with and
// without it.
const stripped = "/p"

// Maximum costs of features.
const (
	dearest = 1.05
	logged  = 1.25 // a log line: log/slog needs nearly all of this for formatting
	// a span: OpenTelemetry's SDK needs nearly all of this, and causes more
	// garbage collections
	traced = 1.5
)

// features returns all features. They are measured with two targets, both of
// which are the same backend.
func features() []feature {
	return slices.Concat(choosing(), limiting(), editing(), observing(), hookFeatures(), metricsFeatures())
}

// set makes a feature from a change of the upstream.
func set(f func(*hostproxy.Upstream)) func(*hostproxy.Router, *hostproxy.Upstream, string) error {
	return func(_ *hostproxy.Router, u *hostproxy.Upstream, _ string) error { f(u); return nil }
}

// beside makes a feature that also sends requests to another upstream.
func beside(f func(u, other *hostproxy.Upstream) error) func(*hostproxy.Router, *hostproxy.Upstream, string) error {
	return func(_ *hostproxy.Router, u *hostproxy.Upstream, backend string) error {
		return f(u, hostproxy.To(backend))
	}
}

// choosing returns the features that choose a target.
func choosing() []feature {
	return []feature{
		{"round-robin", "round robin", dearest, set(func(u *hostproxy.Upstream) { u.Policy = hostproxy.RoundRobin })},
		{"least", "least in flight", dearest, set(func(u *hostproxy.Upstream) { u.Policy = hostproxy.LeastInFlight })},
		{"hash", "consistent hash by URI", dearest, set(func(u *hostproxy.Upstream) { u.Policy, u.HashBy.URI = hostproxy.ConsistentHash, true })},
		{"weights", "weights", dearest, set(func(u *hostproxy.Upstream) { u.Weights = []int{3, 1} })},
		{"sticky", "sticky cookie, set each time", dearest, set(func(u *hostproxy.Upstream) { u.Sticky = &hostproxy.Sticky{} })},
		{"health", "health checks", dearest, set(func(u *hostproxy.Upstream) {
			u.Health = &hostproxy.HealthCheck{Path: "/small", Interval: 100 * time.Millisecond}
		})},
		{"breaker", "circuit breaker by all that it knows", dearest, set(func(u *hostproxy.Upstream) {
			u.Breaker = &hostproxy.Breaker{FailureRatio: 0.5, Slow: time.Second, Statuses: []int{502}}
		})},
		{"retries", "retries by status", dearest, set(func(u *hostproxy.Upstream) { u.Retry.Statuses = []int{502, 503, 504} })},
		{"hedge", "hedged requests", dearest, set(func(u *hostproxy.Upstream) { u.Hedge = time.Second })},
		{"discovery", "targets from a source", dearest, set(func(u *hostproxy.Upstream) {
			ts := u.Targets
			u.Discover = func(ctx context.Context, publish func([]hostproxy.Endpoint)) error {
				publish([]hostproxy.Endpoint{{Target: ts[0].String()}, {Target: ts[1].String()}})
				<-ctx.Done()
				return nil
			}
		})},
		{"canary", "canary of all clients", dearest, beside(func(u, other *hostproxy.Upstream) error { return u.Canary(other, 1) })},
		{"mirror", "mirror of one request in a thousand", dearest, beside(func(u, other *hostproxy.Upstream) error { return u.Mirror(other, 0.001) })},
	}
}

// limiting returns the features that refuse requests.
func limiting() []feature {
	return []feature{
		{"bounds", "bounds of what is in flight, and a queue", dearest, set(func(u *hostproxy.Upstream) {
			u.MaxInFlight, u.MaxTargetInFlight, u.Queue.Max = 1000, 500, 1000
		})},
		{"rate-limit", "rate limit", dearest, set(func(u *hostproxy.Upstream) { u.RateLimit = &hostproxy.RateLimit{Rate: 1e6} })},
		{"keyed-limit", "rate and in-flight limits by a header", dearest, set(func(u *hostproxy.Upstream) {
			u.RateLimit = &hostproxy.RateLimit{Rate: 1e6, MaxInFlight: 1000, By: hostproxy.LimitKey{Header: "User-Agent"}}
		})},
		{"lists", "address lists, and a bound of bodies", dearest, set(func(u *hostproxy.Upstream) {
			u.Deny = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
			u.MaxRequestBody = 1 << 20
		})},
	}
}

// editing returns the features that change requests.
func editing() []feature {
	return []feature{
		{"headers", "two header edits each way", dearest, set(func(u *hostproxy.Upstream) {
			u.RequestHeader = hostproxy.HeaderEdit{Remove: []string{"X-Debug"}, Set: http.Header{"X-Env": {"prod"}}}
			u.ResponseHeader = u.RequestHeader
		})},
		{"stripprefix", "a prefix of the path, stripped", dearest, set(func(u *hostproxy.Upstream) { u.StripPrefix = stripped })},
		{"pages", "pages by status, of another one", dearest, set(func(u *hostproxy.Upstream) {
			u.Pages = map[int]http.Handler{502: http.NotFoundHandler(), 503: http.NotFoundHandler()}
		})},
	}
}

// observing returns the features that act before the lanes, and the access log.
func observing() []feature {
	return []feature{
		{"access-log", "access log, as JSON that is written nowhere", logged, func(r *hostproxy.Router, _ *hostproxy.Upstream, _ string) error {
			r.Observe = hostproxy.AccessLog(slog.New(slog.NewJSONHandler(io.Discard, nil)))
			return nil
		}},
		{"alt-svc", "a companion, announced by Alt-Svc", dearest, set(func(*hostproxy.Upstream) {})},
		// see behindBalancer
		{proxyProtocol, "the PROXY protocol in front", dearest, set(func(*hostproxy.Upstream) {})},
	}
}

// A companion is announced but serves nothing.
type companion struct{}

// Serve implements hostproxy.Companion.
func (companion) Serve(ctx context.Context, _ http.Handler) error {
	<-ctx.Done()
	return nil
}

// AltSvc returns the announcement.
func (companion) AltSvc() string { return `h3=":443"; ma=86400` }

// serverFeatures returns the settings of a Server with TLS, by feature.
func serverFeatures() map[string]func(*hostproxy.Server) {
	return map[string]func(*hostproxy.Server){
		"alt-svc": func(s *hostproxy.Server) { s.Companions = []hostproxy.Companion{companion{}} },
	}
}

// featureRows returns the rows of all features.
func featureRows() (rows []*row) {
	for _, f := range features() {
		proto, path, backend := h1Plain, "/small", backendKind(0)
		if serverFeatures()[f.name] != nil {
			proto = h1TLS
		}
		if f.name == "stripprefix" {
			path, backend = stripped+path, goBackend
		}
		rows = append(rows, &row{name: "feature-" + f.name, title: "feature: " + f.title, kind: requests, proto: proto, path: path, backend: backend,
			conns: 64, feature: f.name, targets: []target{{peer: withPrefix + f.name, of: fastLaneName, must: f.must}}})
	}
	return rows
}

// featurePeers returns the peers of a feature's row. The second is compared
// with the first.
func featurePeers(name string) []*peer {
	return []*peer{{name: fastLaneName, command: inTree}, {name: withPrefix + name, command: inTree}}
}

// featureOf returns the feature of the peer with this name, or nil.
func featureOf(peer string) *feature {
	for _, f := range features() {
		if peer == withPrefix+f.name {
			return &f
		}
	}
	return nil
}
