package hostproxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/balance"
	"github.com/hostproxy/hostproxy/internal/discover"
	"github.com/hostproxy/hostproxy/internal/forward"
	"github.com/hostproxy/hostproxy/internal/health"
	"github.com/hostproxy/hostproxy/internal/settings"
	"github.com/hostproxy/hostproxy/internal/status"
)

// An Upstream is an http.Handler that forwards requests to one of its
// targets. It works as a route of a Router and alone, in any http.Server.
// Only Targets, or Discover, is required. Fields may be set until first use: a
// request, or a call of a method. [Router.Check] reports one that is set later. A
// panic in a hook is that request's 500, and its stack is in the record.
type Upstream struct {
	// Targets are the addresses that serve: http, https, h2c (HTTP/2 without
	// TLS) or unix URLs. An https target is asked over HTTP/1.1, gRPC over HTTP/2;
	// one that refuses HTTP/1.1 by ALPN is asked over HTTP/2 from then on. A path in the URL is put before the request's.
	Targets []*url.URL

	// Discover finds the targets in place of Targets, which serve until it has
	// found some. It runs from the first request for as long as Health checks.
	// Nil means that Targets are all. See DNS and SRV.
	Discover Source

	// Policy is how a target is chosen. The zero value is LessBusy.
	Policy Policy

	// Weights are the targets' shares, in the order of Targets; nil means the
	// same for all. A target of weight 0 gets no requests.
	Weights []int

	// HashBy is what ConsistentHash places a request by.
	HashBy HashKey

	// Sticky keeps a client at the target that served it first, by a cookie, as
	// long as that target is up. Nil disables it.
	Sticky *Sticky

	// Pick chooses the target of an attempt from those that are left; a nil
	// result fails the exchange with 503, a panic with 500. Nil leaves the
	// choice to Policy.
	Pick func(*http.Request, []*Target) *Target

	// Transport replaces the built-in client, for tests or exotic protocols.
	// DialTimeout bounds it as far as it calls the hooks of net/http/httptrace,
	// ResponseHeaderTimeout in any case. One that does not heed the context of its
	// request is abandoned, and a response that comes later closed.
	Transport http.RoundTripper

	// Dial connects to targets: from another source address, over SSH, over a
	// network of the program's own. network is "tcp" or "unix"; addr is the
	// target's host:port, with a name as it is, or its path. It is used for
	// requests, checks and copies, within DialTimeout, and may be called
	// concurrently. An error means that the target cannot be reached.
	// Connections of other types than *net.TCPConn, *net.UnixConn and
	// [UnbufferedConn] carry one request each. It cannot be combined with
	// Transport. Nil means a net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	// TLS is used towards https targets; nil verifies the target's host name
	// against the system's roots.
	TLS *tls.Config

	// Rewrite changes the outgoing request after hop-by-hop and forwarding
	// fields are in place and Out.URL names the target. Query parameters that
	// cannot be parsed are removed first, so that what Rewrite sees is what
	// is sent.
	Rewrite func(*httputil.ProxyRequest)

	// ModifyResponse changes the response before it goes to the client. An
	// error turns it into a 502.
	ModifyResponse func(*http.Response) error

	// ErrorHandler answers the client when forwarding failed before the
	// response began; err is an *Error. Nil answers with the status of the
	// failure, a Proxy-Status field (RFC 9209) and a one-line body; a gRPC
	// client over HTTP/2 gets 200 with a grpc-status in its place. Over
	// HTTP/1.x there is no gRPC, whatever the content type says.
	ErrorHandler func(w http.ResponseWriter, q *http.Request, err error)

	// RequestHeader and ResponseHeader are fixed edits, applied last.
	RequestHeader, ResponseHeader HeaderEdit

	// HSTS sets Strict-Transport-Security on responses over TLS, in place of the
	// target's. Nil leaves it to the target.
	HSTS *HSTS

	// TargetHost sends the target's own host in the Host field. By default
	// the client's goes through unchanged.
	TargetHost bool

	// Forwarded adds the Forwarded field (RFC 7239) to the X-Forwarded-* ones.
	Forwarded bool

	// Upgrades are the protocols that an Upgrade request may ask for, in lower
	// case. Nil means websocket; empty means none.
	Upgrades []string

	// Health checks each target at intervals. Nil disables health checks.
	Health *HealthCheck

	// Breaker leaves a target alone for a while after exchanges with it
	// failed; nil never does.
	Breaker *Breaker

	// SlowStart is the time in which a target that was down grows into its
	// share again, with Health or Breaker. Zero gives it the whole share at once.
	SlowStart time.Duration

	// FailClosed answers with 503 when no target is up. By default they are
	// then tried as if all were: a check that is wrong must not stop a service.
	FailClosed bool

	// TargetChanged is called after each change of a target's health. Calls for one
	// target come in order; calls for several targets may be concurrent. Nil logs
	// the changes.
	TargetChanged func(*Target, Health)

	// Allow lists the clients that are served; empty means all. Deny lists clients
	// that are refused, also if Allow has them. Refused clients get 403.
	Allow, Deny []netip.Prefix

	// RateLimit bounds the requests of each client to this upstream, whatever
	// the Router's own RateLimit says. Nil means no bound.
	RateLimit *RateLimit

	// MaxRequestBody bounds the body of a request, in bytes; more is answered
	// with 413. Zero means no bound.
	MaxRequestBody int64

	// MaxInFlight bounds the requests in flight, and MaxTargetInFlight those at
	// each target. Zero means no bound.
	MaxInFlight, MaxTargetInFlight int

	// Queue lets requests above these limits wait. Zero refuses them with 503.
	Queue Queue

	// Retry says when a request that failed at one target goes to another.
	Retry Retry

	// Hedge is how long a GET or HEAD without a body waits for an answer before
	// it goes to another target too: the first answer counts, the other request
	// is given up. It is one of Retry's attempts, and of its budget. Zero means
	// never.
	Hedge time.Duration

	// DialTimeout bounds connecting to a target, TLS included.
	// Zero means 5 s, negative no bound.
	DialTimeout time.Duration

	// ResponseHeaderTimeout bounds, in each attempt, the wait for the
	// response's head after the request is sent. Zero means 60 s, negative no
	// bound.
	ResponseHeaderTimeout time.Duration

	// IdleTimeout ends a body or an upgraded connection on which no byte moves. One
	// that moves slowly goes on. A peer that stops within a write has up to twice
	// as long. Where the proxy does not see the client's connection, that is on
	// HTTP/2 and below an http.Server of your own, a client has to take each 32
	// KiB in that time. Zero means 5 minutes, negative no bound. Until the answer begins, the body
	// of an HTTP/1.x request must not rest for a minute, nor make the proxy wait
	// for more than ten seconds at less than 240 bytes a second: 408. The rate
	// is that of the last two minutes at most, so that a fast start does not
	// make up for it.
	IdleTimeout time.Duration

	// StreamGrace is how long a stream goes on after its route was removed or
	// swapped, or its target replaced, removed or no longer discovered. Streams
	// are upgraded connections, and responses of type text/event-stream and
	// unknown length. When it is over, an upgraded connection ends politely, a
	// WebSocket with 1001, and an event stream is cut off. Zero means immediately,
	// and 10 s for event streams. Negative means no limit. A route or target that
	// comes back meanwhile is a new one: the time goes on. Drain and the end of
	// the Server end streams as if there were no StreamGrace.
	StreamGrace time.Duration

	// StreamTimeout limits how long an upgraded connection lives; then it ends
	// politely. Zero and negative mean no limit.
	StreamTimeout time.Duration

	// ReadyTimeout limits how long Replace waits until new targets serve. Zero
	// means 30 s, negative leaves the limit to the context.
	ReadyTimeout time.Duration

	// DrainTimeout limits how long Replace then waits for requests in flight at
	// old targets. Zero and negative leave the limit to the context.
	DrainTimeout time.Duration

	compiled settings.Compiled[forward.Forwarder]
	log      atomic.Pointer[func() *slog.Logger] // of the first Router that routed it
}

// logger is where background work logs.
func (u *Upstream) logger() *slog.Logger {
	if log := u.log.Load(); log != nil {
		return (*log)()
	}
	return slog.Default()
}

// logTo makes u log where r does, unless it has been told before.
func (u *Upstream) logTo(r interface{ logger() *slog.Logger }) {
	if u.log.Load() == nil { // which allocates nothing: it may have a million routes
		logger := r.logger
		u.log.CompareAndSwap(nil, &logger)
	}
}

// A Source finds targets: it publishes the whole list whenever that may have
// changed, until ctx is done. When it returns before, or panics, it is started
// again after a moment, and what it published last stays, as it does when it
// publishes nothing: a source that is down must not stop a service. What goes
// wrong is logged. Targets that go end like those of Remove. Endpoints beyond
// 4,096 are left out.
type Source func(ctx context.Context, publish func([]Endpoint)) error

// An Endpoint is a target that was found.
type Endpoint struct {
	Target string // as in To
	Addr   string // host:port to connect to in place of the target's own; "" means that
	Weight int    // its share; 0 means none, unless all have 0
}

// DNS returns a Source of all the addresses that the target's name has. Each is
// a target of its own under the same name. The name is looked up every interval,
// at least every second apart. DNS panics on a bad target, as To does.
func DNS(target string, interval time.Duration) Source {
	u, err := parseTarget(target)
	if err != nil {
		panic(err.Error())
	}
	if u.Scheme == "unix" {
		panic(fmt.Sprintf("hostproxy: DNS: target %q has no name to look up: want host:port or a URL with a host", target))
	}
	return publicSource(discover.Hosts(net.DefaultResolver, u, interval))
}

// SRV returns a Source of the targets that the SRV records of
// _service._proto.name name, with their weights; those of a higher priority
// value are left out. scheme is that of the targets: http, https or h2c. They
// are looked up every interval, at least every second apart. SRV panics on
// another scheme.
func SRV(scheme, service, proto, name string, interval time.Duration) Source {
	if !slices.Contains([]string{"http", "https", "h2c"}, scheme) {
		panic(fmt.Sprintf("hostproxy: SRV: scheme %q: want http, https or h2c", scheme))
	}
	for _, label := range []string{service, proto, name} {
		if label == "" || strings.HasPrefix(label, "_") {
			panic(fmt.Sprintf("hostproxy: SRV: %q: write service, protocol and name without the underscore, as in \"http\", \"tcp\", \"example.com\"", label))
		}
	}
	return publicSource(discover.Services(net.DefaultResolver, scheme, service, proto, name, interval))
}

func publicSource(s discover.Source) Source {
	return func(ctx context.Context, publish func([]Endpoint)) error {
		return s(ctx, func(es []discover.Endpoint) {
			publish(each(es, func(e discover.Endpoint) Endpoint { return Endpoint(e) }))
		})
	}
}

func each[A, B any](as []A, f func(A) B) []B {
	bs := make([]B, len(as))
	for i, a := range as {
		bs[i] = f(a)
	}
	return bs
}

// source is Discover as the engine sees it, nil without one.
func (u *Upstream) source() discover.Source {
	if u.Discover == nil {
		return nil
	}
	return func(ctx context.Context, publish func([]discover.Endpoint)) error {
		return u.Discover(ctx, func(es []Endpoint) {
			publish(each(es, func(e Endpoint) discover.Endpoint { return discover.Endpoint(e) }))
		})
	}
}

// A Policy is how an Upstream chooses among its targets. It skips targets that
// are down, full or already tried. A target of twice the weight gets
// twice the requests, or with LessBusy and LeastInFlight twice as many at once.
type Policy uint8

// The policies.
const (
	LessBusy       Policy = iota // the less busy of two that are drawn at random
	RoundRobin                   // one after the other
	Random                       // one drawn at random
	LeastInFlight                // the least busy of all
	FirstAvailable               // the first in the order of Targets: the others are its spares
	ConsistentHash               // the same for the same HashBy, none with more than 1.25 times its share in flight
)

// A HashKey says what of a request ConsistentHash places it by: one of the
// fields, or the client's address. A request without the field or the cookie
// is placed by the client's address too.
type HashKey struct {
	Header string // the first field of that name
	Cookie string
	URI    bool // path and query
}

// A HealthCheck asks a target whether it serves: by connecting to it or, with a
// Path, by a GET, or by the gRPC health protocol. Checks begin with the first
// request and end with Server.Serve, Router.Close, the last route that leads to
// the Upstream, or Drain, which is the only one of them for an Upstream inside a
// handler of your own. Targets of a Replace are asked even without an Interval.
type HealthCheck struct {
	Path     string      // path and query; "" means to connect only
	Host     string      // Host header, with Path or GRPC; "" means the target's
	Header   http.Header // further headers, with Path or GRPC
	Statuses []int       // of a target that serves, with Path; nil means 200 to 399
	GRPC     bool        // grpc.health.v1 in place of Path; for https and h2c targets
	Service  string      // with GRPC; "" means the server as a whole

	Interval  time.Duration // time between checks, 10 % more or less; 0 means 10 s, negative disables checks at intervals
	Timeout   time.Duration // of one check; 0 means 5 s
	Rise      int           // successes in a row that bring a target back; 0 means 1
	Fall      int           // failures in a row that take it out; 0 means 3
	StartDown bool          // a target is down until Rise checks succeeded
}

// A Breaker watches the exchanges with each target. After too many failures it
// opens: the target is left alone. Then it is half-open: Trials exchanges try the
// target, and it closes when one succeeds, or opens again for twice as long. When
// they have no answer after For, others may try.
// Failures are connections refused or cut off, answers that are not HTTP or come
// too late, and those of Statuses. A client disconnect is not a failure.
type Breaker struct {
	Failures int           // consecutive failures that open it; 0 means 5; negative disables this criterion, Share must then be set
	Share    float64       // share of failures among the requests of Window that opens it, up to 1; 0 disables this criterion
	Window   time.Duration // time over which Share counts; 0 means 10 s
	Least    int           // requests within Window below which Share does not count; 0 means 20
	Statuses []int         // answers that are failures, such as 502
	Slow     time.Duration // slower responses are failures; 0 disables this
	For      time.Duration // how long it stays open at first; 0 means 10 s, 5 minutes is the most
	Trials   int           // trial exchanges at the same time; 0 means 1
}

// A Health is what is known of a target.
type Health struct {
	State  string    // "up", "down" by checks, "open" by Breaker, or "half-open"
	Reason string    // why, or "" when nothing has ever happened
	Since  time.Time // when the target came to State
}

// A Queue holds requests above MaxInFlight or MaxTargetInFlight, in the order of
// their arrival. Requests that find the queue full, or time out in it, get 503 and
// Retry-After. A request that failed at one target does not wait for another one
// that is full: the failure is the response.
type Queue struct {
	Max  int           // requests that may wait; 0 disables the queue
	Wait time.Duration // longest wait of a request; 0 means 10 s
}

// A Sticky is a cookie by which a client comes back to its target. Its value is
// a keyed hash, which does not reveal the target's address and cannot be forged.
type Sticky struct {
	Cookie string        // its name; "" means hostproxy
	Key    []byte        // at least 16 bytes, the same in all processes that serve the same clients; nil means a random one
	MaxAge time.Duration // 0 means until the client's session ends
}

// A Retry says when a request that failed at one target goes to another one:
// always if nothing of it was written, else only if its method is idempotent
// (GET, HEAD, OPTIONS, TRACE, PUT, DELETE) and what was read of its body, at
// most 32 KiB, is kept; and never once a byte of a response went to the client.
type Retry struct {
	Attempts int           // targets tried for one request; 0 means 3, 1 disables retries, at most 10
	Timeout  time.Duration // no further attempt starts after this time; 0 means 10 s, negative disables the limit
	Statuses []int         // response statuses, such as 503, to retry while another target is left
	Budget   float64       // limit of retries of requests already sent, as a share of the requests in flight, at least three; 0 means 0.2, negative disables the limit
}

func (r *Retry) config() forward.Retry {
	return forward.Retry{Attempts: cmp.Or(r.Attempts, 3), Timeout: timeout(r.Timeout, 10*time.Second), Statuses: r.Statuses,
		Budget: cmp.Or(r.Budget, 0.2)}
}

// A HeaderEdit is a fixed change to the fields of a message: Remove, then Set,
// then Add. What is removed or set goes in every spelling that CGI takes for the
// same, such as X_User for X-User, and from trailers too. Names that frame or
// route a message (Host, Content-Length, Transfer-Encoding, Connection and the
// like) are refused.
type HeaderEdit struct {
	Remove   []string
	Set, Add http.Header
}

func (e HeaderEdit) edit() forward.Edit {
	return forward.Edit{Remove: e.Remove, Set: e.Set, Add: e.Add}
}

// A Target is one address of an Upstream. Its methods may be called
// concurrently.
type Target struct {
	t *forward.Target
}

// String returns the target's address as it appears in records and errors.
func (t *Target) String() string { return t.t.Name }

// InFlight returns the number of exchanges the target is serving now.
func (t *Target) InFlight() int64 { return t.t.InFlight() }

// Health returns what is known of the target.
func (t *Target) Health() Health { return publicHealth(t.t.Health()) }

func publicHealth(s health.Status) Health { return Health{string(s.State), s.Reason, s.Since} }

// Streams returns how many of them are upgraded connections.
func (t *Target) Streams() int64 { return t.t.Streams() }

// To returns an Upstream of the given targets: host:port, http://…, https://…,
// h2c://… or unix:/path. It panics on a bad target; NewUpstream is its twin
// that returns an error.
func To(targets ...string) *Upstream {
	u, err := NewUpstream(targets...)
	if err != nil {
		panic(err.Error())
	}
	return u
}

// NewUpstream returns an Upstream of targets that come from outside. The
// error names every bad one and says what was wanted.
func NewUpstream(targets ...string) (*Upstream, error) {
	u := &Upstream{}
	var errs []error
	for _, s := range targets {
		t, err := parseTarget(s)
		errs = append(errs, err)
		u.Targets = append(u.Targets, t)
	}
	if len(targets) == 0 {
		errs = append(errs, errors.New("hostproxy: no targets: want at least one"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return u, nil
}

func parseTarget(s string) (*url.URL, error) {
	t, err := forward.ParseTarget(s)
	if err != nil {
		return nil, fmt.Errorf("hostproxy: %w", err)
	}
	return t, nil
}

// ServeHTTP forwards q. It sets no limits on who may call it: outside a
// Router, the peer's address is the client.
func (u *Upstream) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	x := forward.FromContext(q.Context())
	if x == nil {
		x = forward.Begin(q, nil)
		forward.CloseUnbounded(w, q)
	}
	u.serve(w, q, x)
}

func (u *Upstream) serve(w http.ResponseWriter, q *http.Request, x *forward.Exchange) {
	f, err := u.compile()
	if err != nil {
		x.Fail(&forward.Failure{Op: "pick", Side: forward.SideProxy, Err: err})
		forward.Refuse(http.StatusInternalServerError, "proxy_internal_error").ServeHTTP(forward.Watch(w, x), q)
		return
	}
	if b, ok := x.Owner.(*behind); ok {
		b.meet(u)
	}
	if x.Name == "" { // outside a Router, which has looked
		x.Name = f.Name()
		if refusal := x.Loops(q); refusal != nil {
			refusal.ServeHTTP(forward.Watch(w, x), q)
			return
		}
	}
	f.Serve(w, q, x)
}

func (u *Upstream) explain(e *status.Explanation, q *http.Request, x *forward.Exchange) {
	if u == nil {
		e.RefuseBy("Upstream", http.StatusInternalServerError, "%v", errNil)
		return
	}
	f, err := u.compiled.Peek(u, u.build)
	if err != nil {
		e.RefuseBy("Upstream", http.StatusInternalServerError, "%v", err)
		return
	}
	f.Explain(e, q, x)
}

// All returns the targets as they are now. It is empty for an Upstream that
// cannot be used.
func (u *Upstream) All() iter.Seq[*Target] {
	return func(yield func(*Target) bool) {
		f, err := u.compile()
		if err != nil {
			return
		}
		for _, t := range f.Targets() {
			if !yield(t.Face.(*Target)) {
				return
			}
		}
	}
}

// Replace makes ts the only targets. It waits until the new ones among them
// serve, which is when they answer the health check or, without one, take a
// connection. Then it sends new requests to ts alone, and waits until requests
// in flight at the old targets have finished. Upgraded connections there close
// politely; with a StreamGrace, upgraded connections and event streams go on for
// it, and Replace does not wait for them. Targets that stay are left as they are.
//
// Each wait ends early when ctx is done or its own timeout is over. An
// ErrNotReady means that nothing has changed; an ErrNotDrained means that ts
// are in use, and what was left at the old targets has been cut off, except
// streams that have a StreamGrace.
func (u *Upstream) Replace(ctx context.Context, ts ...string) error {
	return u.change(ts, func(f *forward.Forwarder, es []forward.Endpoint) error { return f.Replace(ctx, es) })
}

// The errors of Replace that say how far it came, and wrap the cause.
var (
	ErrNotReady   = forward.ErrNotReady
	ErrNotDrained = forward.ErrNotDrained
)

// Ready waits until u has targets and all of them serve: they answer the health
// check or, without one, take a connection, and none is down. It begins the
// health checks and the discovery, as the first request does. The error names
// each target that did not serve when ctx was done, with the reason.
func (u *Upstream) Ready(ctx context.Context) error {
	return u.with(func(f *forward.Forwarder) error { return f.Ready(ctx) })
}

// Add adds targets, and Remove takes targets out of use, immediately.
// Requests in flight at a removed target end normally; its upgraded connections
// close politely, immediately or after StreamGrace.
func (u *Upstream) Add(ts ...string) error {
	return u.change(ts, func(f *forward.Forwarder, es []forward.Endpoint) error { return f.Add(es) })
}

// Remove is Add's counterpart. The last target cannot be removed.
func (u *Upstream) Remove(ts ...string) error {
	return u.change(ts, func(f *forward.Forwarder, es []forward.Endpoint) error { return f.Remove(es) })
}

// change calls do with ts as endpoints.
func (u *Upstream) change(ts []string, do func(*forward.Forwarder, []forward.Endpoint) error) error {
	es, errs := make([]forward.Endpoint, len(ts)), make([]error, len(ts))
	for i, s := range ts {
		es[i].URL, errs[i] = parseTarget(s)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return u.with(func(f *forward.Forwarder) error { return do(f, es) })
}

// Canary sends a share of the clients, 0 to 1, to another upstream from now on;
// nil ends it. A client goes the same way each time, and while the share grows,
// those that went to the canary stay there. The guards, limits and holds of u
// apply first: Allow, Deny, RateLimit, MaxRequestBody, MaxInFlight, Pause,
// Maintain and Drain. The canary's own fields apply next, and alone in
// everything else; its own canary is not used.
func (u *Upstream) Canary(to *Upstream, share float64) error {
	if to == nil && share != 0 {
		return fmt.Errorf("hostproxy: Canary: share is %v without an upstream: want 0 to end it", share)
	}
	return u.beside(to, func(f, other *forward.Forwarder) error { return f.Divert(other, share) })
}

// Mirror sends copies of a share of the requests, 0 to 1, to another upstream
// from now on; nil ends it. Copies are sent after the client has its response, and
// responses to them are discarded. Bodies above 32 KiB and upgrades are not
// copied, nor is anything while 128 copies are in flight.
func (u *Upstream) Mirror(to *Upstream, share float64) error {
	if to == nil && share != 0 {
		return fmt.Errorf("hostproxy: Mirror: share is %v without an upstream: want 0 to end it", share)
	}
	return u.beside(to, func(f, other *forward.Forwarder) error { return f.Mirror(other, share) })
}

// beside calls do with what u and other, which may be nil, compile to.
func (u *Upstream) beside(other *Upstream, do func(f, other *forward.Forwarder) error) error {
	var o *forward.Forwarder
	if other != nil {
		var err error
		if o, err = other.compile(); err != nil {
			return fmt.Errorf("hostproxy: %w", err)
		}
		other.logTo(u)
	}
	return u.with(func(f *forward.Forwarder) error { return do(f, o) })
}

// Pause makes requests that have not reached a target wait, those in the Queue
// too, until Resume, or until d after this call. They fail with 503 then, and so
// does every further request until Resume: a Pause does not end by itself, and
// with d of 0 or less nothing waits. What is in
// flight goes on. They go to the targets that there are when they have waited.
// At most 4,096 requests wait; further ones fail with 503 immediately.
// A program restarts its only target without an error for anybody in this way.
func (u *Upstream) Pause(d time.Duration) error {
	return u.with(func(f *forward.Forwarder) error { f.Pause(d); return nil })
}

// Resume ends Pause and Maintain.
func (u *Upstream) Resume() error {
	return u.with(func(f *forward.Forwarder) error { f.Resume(); return nil })
}

// Maintain answers requests to come, and those that Pause made wait, with p,
// until Resume.
func (u *Upstream) Maintain(p Page) error {
	p.Status, p.ContentType = cmp.Or(p.Status, http.StatusServiceUnavailable), cmp.Or(p.ContentType, "text/plain; charset=utf-8")
	return u.with(func(f *forward.Forwarder) error { return f.Answer((*forward.Page)(&p)) })
}

// with calls do with what u compiles to.
func (u *Upstream) with(do func(*forward.Forwarder) error) error {
	f, err := u.compile()
	if err == nil {
		err = do(f)
	}
	if err != nil {
		return fmt.Errorf("hostproxy: %w", err)
	}
	return nil
}

// A Page is a response that the proxy makes itself.
type Page struct {
	Status      int    // 0 means 503
	ContentType string // "" means text/plain in UTF-8
	Body        []byte
	RetryAfter  time.Duration // 0 leaves the Retry-After header out
}

// Drain refuses new requests with 503, waits for those in flight, and closes
// upgraded connections politely. When ctx is done first, it cancels what is
// left; the error wraps ctx's and says how many requests and upgraded
// connections that were.
func (u *Upstream) Drain(ctx context.Context) error {
	return u.with(func(f *forward.Forwarder) error { return f.Drain(ctx) })
}

// compile returns what the fields compile to, and puts them in force. The error
// has no prefix yet.
func (u *Upstream) compile() (*forward.Forwarder, error) {
	if f := u.compiled.InUse(); f != nil {
		return f, nil
	}
	return u.compiled.Use(u, u.build)
}

func (u *Upstream) check() error {
	if u == nil {
		return errNil
	}
	return u.compiled.Check(u, u.build)
}

func (u *Upstream) late() []string { return u.compiled.Late(u) }

// closeIdle closes the kept connections to the targets, and ends the background
// work, if there has been any.
func (u *Upstream) closeIdle() {
	if f := u.compiled.InUse(); f != nil {
		f.CloseIdle()
	}
}

func (u *Upstream) build() (*forward.Forwarder, error) {
	var errs []error
	if n := len(u.Weights); n > 0 && n != len(u.Targets) {
		errs = append(errs, fmt.Errorf("field Weights has %d values for %d Targets: want one for each, in the same order", n, len(u.Targets)))
	} else if n > 0 && slices.Max(u.Weights) == 0 {
		errs = append(errs, errors.New("field Weights has no value above 0: no target would get requests"))
	}
	if u.Pick != nil && (u.Policy != LessBusy || u.Sticky != nil || u.Weights != nil) {
		errs = append(errs, errors.New("field Pick cannot be combined with Policy, Weights or Sticky: it chooses alone"))
	}
	if u.Dial != nil && u.Transport != nil {
		errs = append(errs, errors.New("field Dial cannot be combined with Transport, which connects by itself: set only one of them"))
	}
	if u.Health != nil && u.Health.StartDown && u.Health.Interval < 0 {
		errs = append(errs, errors.New("Health.StartDown requires checks: leave Health.Interval 0 or set it above 0"))
	}
	if b := u.Breaker; b != nil && b.Failures < 0 && b.Share == 0 {
		errs = append(errs, errors.New("Breaker.Failures is negative, which disables it: Share must then be above 0"))
	}
	errs = append(errs, u.inVain()...)
	rule, err := u.RateLimit.rule(u.logger)
	if err != nil {
		errs = append(errs, fmt.Errorf("RateLimit: %w", err))
	}
	policy, err := u.HSTS.value()
	errs = append(errs, err)
	c := u.config()
	c.Guard.Limit, c.HSTS = rule, policy
	f, err := forward.New(c)
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	return f, nil
}

// inVain returns an error for each setting that could have no effect.
func (u *Upstream) inVain() (errs []error) {
	h, b := cmp.Or(u.Health, new(HealthCheck)), cmp.Or(u.Breaker, new(Breaker))
	for _, c := range []struct {
		broken bool
		rule   string
	}{
		{u.Transport != nil && u.TLS != nil, "TLS cannot be combined with Transport, which connects by itself: set it there"},
		{u.Retry.Attempts == 1 && len(u.Retry.Statuses) > 0, "Retry.Statuses requires Retry.Attempts of at least 2"},
		{u.Queue.Wait > 0 && u.Queue.Max == 0, "Queue.Wait requires Queue.Max"},
		{h.Path == "" && len(h.Statuses) > 0, "Health.Statuses requires Health.Path: a check without it only connects"},
		{h.Path == "" && h.Host != "" && !h.GRPC, "Health.Host requires Health.Path or GRPC: a check without them only connects"},
		{b.Share == 0 && (b.Window != 0 || b.Least != 0), "Breaker.Window and Breaker.Least require Breaker.Share"},
	} {
		if c.broken {
			errs = append(errs, errors.New(c.rule))
		}
	}
	for _, p := range u.Upgrades {
		if p == "" || p != strings.ToLower(p) || strings.ContainsAny(p, " \t,;") {
			errs = append(errs, fmt.Errorf("field Upgrades has %q: write the protocol's name in lower case, such as websocket", p))
		}
	}
	return append(errs, settings.TooShort("Upstream.", u)...)
}

// health is what Health, Breaker and SlowStart say to the engine.
func (u *Upstream) health() (*health.Config, forward.Probe, []int) {
	c, p, failures := health.Config{SlowStart: u.SlowStart, Changed: u.changed}, forward.Probe{}, []int(nil)
	if k := u.Health; k != nil {
		p = forward.Probe{Path: k.Path, Host: k.Host, Header: k.Header, Statuses: k.Statuses, GRPC: k.GRPC, Service: k.Service}
		c.Check = health.Check{Interval: timeout(k.Interval, 10*time.Second), Timeout: k.Timeout, Rise: k.Rise, Fall: k.Fall,
			StartDown: k.StartDown}
	}
	if b := u.Breaker; b != nil {
		c.Breaker = health.Breaker{Failures: max(cmp.Or(b.Failures, 5), 0), Share: b.Share, Window: b.Window, Least: b.Least,
			Slow: b.Slow, For: b.For, Trials: b.Trials}
		failures = b.Statuses
	}
	c.Defaults()
	if c.Check.Interval <= 0 && u.Breaker == nil && u.SlowStart == 0 {
		return nil, p, nil
	}
	return &c, p, failures
}

// changed tells of a target's health.
func (u *Upstream) changed(t any, s health.Status) {
	if u.TargetChanged != nil {
		var err error
		defer func() {
			if err != nil {
				u.logger().Error("hook failed", "cause", err)
			}
		}()
		defer forward.Contain("TargetChanged", &err)
		u.TargetChanged(t.(*Target), publicHealth(s))
		return
	}
	level := slog.LevelWarn
	if s.State == health.Up {
		level = slog.LevelInfo
	}
	u.logger().Log(context.Background(), level, "target changed", "target", t.(*Target).String(), "state", string(s.State), "cause", s.Reason)
}

func (u *Upstream) config() forward.Config {
	c := forward.Config{
		Show:                  func(t *forward.Target) any { return &Target{t} },
		Policy:                balance.Policy(u.Policy),
		HashBy:                forward.HashKey(u.HashBy),
		Guard:                 forward.Guard{Allow: u.Allow, Deny: u.Deny, MaxBody: u.MaxRequestBody},
		MaxInFlight:           u.MaxInFlight,
		MaxTargetInFlight:     u.MaxTargetInFlight,
		MaxQueue:              u.Queue.Max,
		QueueWait:             u.Queue.Wait,
		Discover:              u.source(),
		NotFound:              func(err error) { u.logger().Warn("targets not found", "cause", err) },
		Retry:                 u.Retry.config(),
		Hedge:                 u.Hedge,
		Transport:             u.Transport,
		Dial:                  u.Dial,
		TLS:                   u.TLS,
		Rewrite:               u.Rewrite,
		ModifyResponse:        u.ModifyResponse,
		RequestHeader:         u.RequestHeader.edit(),
		ResponseHeader:        u.ResponseHeader.edit(),
		TargetHost:            u.TargetHost,
		Forwarded:             u.Forwarded,
		Upgrades:              u.Upgrades,
		ReadyTimeout:          timeout(u.ReadyTimeout, 30*time.Second),
		DrainTimeout:          max(u.DrainTimeout, 0),
		DialTimeout:           timeout(u.DialTimeout, 5*time.Second),
		ResponseHeaderTimeout: timeout(u.ResponseHeaderTimeout, time.Minute),
		IdleTimeout:           timeout(u.IdleTimeout, 5*time.Minute),
		StreamGrace:           u.StreamGrace,
		StreamTimeout:         max(u.StreamTimeout, 0),
	}
	c.Targets = each(u.Targets, func(t *url.URL) forward.Endpoint { return forward.Endpoint{URL: t} })
	for i := range min(len(u.Weights), len(u.Targets)) {
		c.Targets[i].Weight = u.Weights[i]
	}
	if u.Sticky != nil {
		c.Sticky = &forward.Sticky{Cookie: cmp.Or(u.Sticky.Cookie, "hostproxy"), Key: u.Sticky.Key, MaxAge: u.Sticky.MaxAge}
	}
	c.Health, c.Probe, c.Failures = u.health()
	c.FailClosed = u.FailClosed
	if u.Upgrades == nil {
		c.Upgrades = []string{"websocket"}
	}
	if u.Pick != nil {
		c.Pick = u.pick
	}
	if u.ErrorHandler != nil {
		c.ErrorHandler = func(w http.ResponseWriter, q *http.Request, f *forward.Failure) {
			u.ErrorHandler(w, q, publicError(f))
		}
	}
	return c
}

// pick shows the public form of the targets that are left to the user's Pick.
func (u *Upstream) pick(q *http.Request, left []*forward.Target) *forward.Target {
	t := u.Pick(q, each(left, func(t *forward.Target) *Target { return t.Face.(*Target) }))
	if t == nil {
		return nil
	}
	return t.t
}

// timeout resolves the house rule: zero is the default, negative is none.
func timeout(d, def time.Duration) time.Duration { return max(cmp.Or(d, def), 0) }
