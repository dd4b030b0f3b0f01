package hostproxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
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
	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/forward"
	"github.com/hostproxy/hostproxy/internal/handler"
	"github.com/hostproxy/hostproxy/internal/header"
	"github.com/hostproxy/hostproxy/internal/health"
	"github.com/hostproxy/hostproxy/internal/reach"
	"github.com/hostproxy/hostproxy/internal/settings"
	"github.com/hostproxy/hostproxy/internal/status"
)

// An Upstream is an [http.Handler] that forwards each request to one of its
// targets. Use it as a route of a [Router], or alone in any http.Server. Only
// Targets or Discover is required; [To] and [NewUpstream] set Targets.
//
// Fields may be set until first use: a request, a call of a method, or the
// first use of a Router that has a route to the Upstream. [Router.Check]
// reports a field that is changed later. Hooks may be called concurrently. If a
// hook panics, the request fails with 500 and the stack is in [Exchange.Err].
//
// Pick, Transport, Rewrite, ModifyResponse and ErrorHandler cost more CPU per
// request than other fields: they need the types of net/http.
//
// A target gets the client's request with these headers:
//
//   - Host as the client sent it, port included; see TargetHost
//   - X-Forwarded-For with the client's address, X-Forwarded-Proto with http or
//     https, X-Forwarded-Host with the client's Host, and X-Real-Ip; the
//     client's own copies, and other headers that begin with X-Forwarded-, are
//     removed
//   - Forwarded only if the field Forwarded is set; the client's own is removed
//   - Via, with the proxy added to the client's own
//   - all other headers as they came, except those for one connection only,
//     such as Connection and Proxy-Authorization; Client-Cert is one of the
//     others, unless Rewrite calls [SetClientCert]
//
// From a peer in [Router.TrustedProxies], X-Forwarded-For is continued, its
// X-Forwarded-Proto and X-Forwarded-Host are kept if they are valid, and so are
// other headers that begin with X-Forwarded-. X-Real-Ip is then the client
// behind the peer.
type Upstream struct {
	// -- Addresses: where requests go --
	//
	// Targets are the addresses of the service: http, https, h2c (HTTP/2
	// without TLS) or unix URLs. A path in the URL is put in front of the
	// request's path; see also AddPrefix.
	//
	// An https target gets HTTP/1.1, and HTTP/2 for gRPC. A target that refuses
	// HTTP/1.1 by ALPN gets only HTTP/2. Some targets that speak only HTTP/2
	// select no protocol when they are offered only http/1.1, and close the
	// connection. To detect them, the proxy opens a second connection that
	// offers h2 too, at most once in ten minutes. If the target selects h2 on
	// it, and has closed the connection that offered only http/1.1, it gets
	// only HTTP/2 from then on.
	Targets []*url.URL

	// Discover finds targets at run time, see [DNSSource] and [SRVSource].
	// Until it finds the first targets, the Upstream uses Targets. Discover
	// starts and ends when health checks do, see [HealthCheck]. Nil means that
	// only Targets are used.
	Discover Source

	// -- Choosing: which target gets a request --
	//
	// Policy is how a target is chosen. The zero value is LessBusy.
	Policy Policy

	// Weights are the targets' shares of the requests, in the order of Targets.
	// A target of weight 0 gets no requests. Nil means equal shares.
	Weights []int

	// HashBy is the part of a request by which ConsistentHash chooses. The zero
	// value means the client address.
	HashBy HashKey

	// Sticky sends a client to the target that served it first, by a cookie, as
	// long as that target is up. Nil disables it.
	Sticky *Sticky

	// Pick chooses the target of an attempt. It gets the targets that are up
	// and not tried yet, including those that have MaxTargetInFlight requests;
	// if none is up, see FailClosed. If Pick returns nil, the request fails
	// with 503. Pick cannot be combined with Policy, Weights or Sticky. Nil
	// leaves the choice to these fields.
	Pick func(*http.Request, []*Target) *Target

	// -- Connecting: how targets are reached --
	//
	// Transport replaces the built-in client, for tests or exotic protocols.
	// ResponseHeaderTimeout limits it. DialTimeout limits it only if the
	// Transport calls the hooks of net/http/httptrace. If the Transport does
	// not return when the context of the request is done, the proxy stops
	// waiting for it. If a response comes later, the proxy closes it. Nil means
	// the built-in client.
	Transport http.RoundTripper

	// Dial connects to targets: from another source address, over SSH, or over
	// a network of the program's own. network is "tcp" or "unix". addr is the
	// target's host:port, with the host name unresolved, or its socket path.
	//
	// Requests, health checks and mirrored copies use it, within DialTimeout.
	// It may be called concurrently. An error means that the target cannot be
	// reached. A connection carries only one request unless it is a
	// *net.TCPConn, *net.UnixConn or [UnbufferedConn]. Dial cannot be combined
	// with Transport. Nil means a net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	// ProxyProtocol is the version, 1 or 2, of the PROXY protocol with which
	// each connection to a target begins, before TLS. The header carries the
	// client address, as in [Exchange.Client], and the address that the client
	// connected to. If the client is behind a peer in [Router.TrustedProxies],
	// its port is 0. Health checks send LOCAL (version 2) or UNKNOWN (version
	// 1), and so do requests whose client has no address.
	//
	// A connection to a target is used again only for requests with the same
	// header, that is, for the same connection of the client. Up to 256 idle
	// connections are kept per target. ProxyProtocol cannot be combined with
	// Transport. Zero sends no header.
	ProxyProtocol int

	// TLS configures the connections to https targets. It cannot be combined
	// with Transport. The Upstream uses a copy: later changes in the tls.Config
	// have no effect, and are not reported. Nil verifies the target's
	// certificate against its host name and the system's root CAs.
	TLS *tls.Config

	// -- Rewriting: what changes on the way --
	//
	// StripPrefix is removed from the start of each request's path, and
	// AddPrefix is put in its place, behind the path of the target's URL. They
	// are written as the path of a pattern, such as /api, and match whole
	// segments: with StripPrefix /api, the paths /api and /api/users become /
	// and /users, and /apis does not match. "" changes nothing.
	//
	// A request whose path is not below StripPrefix gets 404. A [Router]
	// refuses a pattern if none of the paths it matches is below StripPrefix. A
	// request gets 400 if the target may read the changed path as a path
	// outside AddPrefix, for instance /api/%2e%2e/admin. It also gets 400 if
	// its path has an empty segment behind StripPrefix. OPTIONS * is forwarded
	// unchanged.
	//
	// The target gets StripPrefix as X-Forwarded-Prefix. If a peer in
	// [Router.TrustedProxies] has sent that header, StripPrefix is appended to
	// its value. The client's own header is removed.
	//
	// In responses, Location, Content-Location and the Path of cookies are
	// changed back, before ModifyResponse. Location and Content-Location may
	// also be URLs. A URL with the target's host becomes a path. In a URL with
	// the host that the client asked for, the path is changed and the host
	// stays. URLs with other hosts, relative references and paths outside
	// AddPrefix are not changed. Paths that begin with StripPrefix are not
	// changed either: a target that reads X-Forwarded-Prefix has added it.
	// Cookies whose name begins with __Host- keep their Path. Bodies and other
	// headers, such as Link and Refresh, are not changed.
	StripPrefix, AddPrefix string

	// Rewrite changes the outgoing request. Before the call, the proxy removes
	// hop-by-hop headers, and sets forwarding headers and Out.URL. It also
	// removes query parameters that cannot be parsed, so that the target gets
	// only what Rewrite sees.
	Rewrite func(*httputil.ProxyRequest)

	// ModifyResponse changes the response before it goes to the client. If it
	// returns an error, the client gets 502.
	ModifyResponse func(*http.Response) error

	// ErrorHandler answers the client if forwarding fails before the response
	// begins. err is an [*Error]. Nil answers with the status of the failure, a
	// Proxy-Status header (RFC 9209) and a one-line body. If ErrorHandler is
	// nil, a gRPC client gets 200 and a grpc-status in the header. If a gRPC
	// response has already begun, a grpc-status in its trailers ends it. gRPC
	// is recognized only over HTTP/2.
	ErrorHandler func(w http.ResponseWriter, q *http.Request, err error)

	// Pages are handlers that write the body of responses with these statuses,
	// 400 to 599, in place of the target's body. They also write the body of
	// the proxy's own responses, such as 502 for a target that cannot be
	// reached, unless ErrorHandler or the page of [Upstream.Maintain] writes
	// it. A response that is retried gets no page; only the response that the
	// client gets does.
	//
	// The status stays, whatever the handler passes to WriteHeader. Headers of
	// the target that describe the body are removed: Content-*, ETag,
	// Last-Modified, Accept-Ranges, Digest and Repr-Digest. Its other headers,
	// cookies included, stay unless the handler changes them. The rest of the
	// target's body is not read; its connection is closed if the body has not
	// arrived with the headers. The handler gets the client's request without
	// the body and without the headers Range and If-*. gRPC requests get no
	// pages. If the handler panics, the request fails with 500. Requests with a
	// body cost more CPU. Nil means no pages.
	Pages map[int]http.Handler

	// RequestHeader and ResponseHeader are fixed changes to headers.
	// RequestHeader is applied after Rewrite, and ResponseHeader after
	// ModifyResponse. ResponseHeader and HSTS apply to responses of targets
	// only, whatever their status, and to Pages in place of them. They do not
	// apply to the proxy's own responses, such as 401, 404, 429 and 502, to the
	// Page of [Upstream.Maintain], or to what ErrorHandler writes. For those
	// responses use [Router.ResponseHeader] and [Router.HSTS], which apply to
	// the responses of targets too. If RequestHeader changes Via, requests that
	// loop are not found.
	RequestHeader, ResponseHeader HeaderEdit

	// HSTS sets Strict-Transport-Security on responses over TLS. It replaces
	// the header that the target or ResponseHeader sets. Nil leaves the header
	// as it is. See ResponseHeader for the responses that do not get it.
	HSTS *HSTS

	// TargetHost sends the target's own host in the Host header. By default the
	// target gets the client's Host unchanged.
	TargetHost bool

	// Forwarded sends the Forwarded header (RFC 7239) in addition to the
	// X-Forwarded-* headers.
	Forwarded bool

	// Upgrades are the protocols that an Upgrade request may ask for, in lower
	// case. Nil means websocket; empty means none.
	Upgrades []string

	// -- Health: which targets are up --
	//
	// Health is the check that each target gets at intervals. Nil disables
	// health checks.
	Health *HealthCheck

	// Breaker stops requests to a target for a while after failures. Nil
	// disables it.
	Breaker *Breaker

	// SlowStart is how long a target that was down takes to reach its full
	// share of requests again. It requires Health or Breaker. Zero means
	// immediately.
	SlowStart time.Duration

	// FailClosed answers with 503 when no target is up. By default all targets
	// are then tried, so that a wrong health check does not stop the service.
	FailClosed bool

	// TargetChanged is called after each change of a target's health. Calls for
	// one target come in order; calls for several targets may be concurrent.
	// Nil logs the changes.
	TargetChanged func(*Target, Health)

	// -- Limits: which requests are refused, and which wait --
	//
	// Allow lists the clients that are served; empty means all. Deny lists
	// clients that are refused, even if they are in Allow. Refused clients get
	// 403.
	Allow, Deny []netip.Prefix

	// RateLimit limits the requests of each client, or of each [LimitKey], to
	// this upstream, in addition to [Router.RateLimit]. Nil means no limit.
	RateLimit *RateLimit

	// MaxRequestBody limits the body of a request, in bytes. A request with a
	// larger body gets 413. Zero means no limit.
	MaxRequestBody int64

	// BufferRequests is how many bytes of a request's body are read before a
	// target is chosen, for targets that serve one request at a time: a slow
	// upload then occupies no target. A body that fits gets a Content-Length,
	// and can be sent again by Retry. If a body is longer, the part beyond
	// BufferRequests is sent as it arrives. The limits of slow bodies apply,
	// see IdleTimeout. Requests that ask for 100 Continue get it from the
	// proxy.
	//
	// BufferResponses is how many bytes of a response's body are read ahead of
	// the client. Once the rest of the body fits into the buffer, even a slow
	// client no longer occupies the target: the request no longer counts in
	// MaxTargetInFlight.
	//
	// Neither field applies to gRPC and upgrades. BufferResponses does not
	// apply to event streams either. All buffers of an Upstream together use at
	// most 64 MiB, or the size of one buffer if that is larger. In addition,
	// each request and each response may use 32 KiB. A request that finds no
	// room is forwarded without further buffering. Requests with
	// BufferResponses, and requests with a body and BufferRequests, cost more
	// CPU. Zero means no buffer; the maximum is 1 GiB.
	BufferRequests, BufferResponses int64

	// MaxInFlight limits the requests in flight. MaxTargetInFlight limits the
	// requests in flight at each target. Zero means no limit.
	MaxInFlight, MaxTargetInFlight int

	// Queue lets requests above these two limits wait. The zero value refuses
	// these requests with 503.
	Queue Queue

	// Wake starts targets that sleep when a request arrives, and stops them
	// when they are idle. Nil means that the targets never sleep.
	Wake *Wake

	// -- Retries: when a request goes to a second target --
	//
	// Retry decides whether a request that failed at one target goes to
	// another.
	Retry Retry

	// Hedge sends a GET or HEAD without a body to a second target too if there
	// is no response after this time. The first response is used, and the other
	// request is canceled. The second request counts in Retry.Attempts and
	// Retry.Budget; with Hedge, Retry.Attempts cannot be 1. Zero disables it.
	Hedge time.Duration

	// -- Timeouts: how long each step may take --
	//
	// DialTimeout limits connecting to a target, including TLS. Zero means 5 s;
	// negative disables the limit.
	DialTimeout time.Duration

	// ResponseHeaderTimeout limits the wait for the head of the response, in
	// each attempt, once the request is sent. Zero means 60 s; negative
	// disables the limit.
	ResponseHeaderTimeout time.Duration

	// IdleTimeout aborts the transfer of a body, or closes an upgraded
	// connection, when no byte has moved for this time. Zero means 5 minutes;
	// negative disables the limit.
	//
	// A peer that stops reading is cut off after at most twice this time. In an
	// http.Server of your own, the proxy cannot see the client's connection.
	// There the client must read at least 32 KiB per IdleTimeout. So must a
	// target over HTTP/2, and a Transport, until the response begins.
	//
	// Until the response begins, two fixed limits also apply to a client that
	// sends a request body slowly, except for gRPC and WebSockets over HTTP/2.
	// The request fails with 408 if the client sends nothing for a minute. Once
	// the proxy has waited a total of 10 s for the body, the request also fails
	// if the client's average rate is below 240 B/s. The average covers the
	// last two minutes at most.
	IdleTimeout time.Duration

	// StreamGrace is how long an upgraded connection or an event stream (a
	// text/event-stream response without a Content-Length) goes on after its
	// route was removed or swapped, or its target was replaced, removed or no
	// longer discovered. Zero closes upgraded connections immediately, and cuts
	// off event streams after 10 s. Negative means no limit. StreamGrace does
	// not apply to other responses: those with a Content-Length finish, and
	// those without are cut off after 10 s.
	//
	// After StreamGrace an upgraded connection is closed (a WebSocket with
	// status 1001), and an event stream is cut off, even if the route or the
	// target has come back meanwhile. For [Upstream.Drain] and the shutdown of
	// the Server, StreamGrace counts as zero.
	StreamGrace time.Duration

	// StreamTimeout limits the life of an upgraded connection, which is then
	// closed (a WebSocket with status 1001). It does not limit event streams.
	// Zero and negative mean no limit.
	StreamTimeout time.Duration

	// ReadyTimeout limits how long [Upstream.Replace] waits until the new
	// targets serve. Zero means 30 s; negative leaves the limit to the context.
	ReadyTimeout time.Duration

	// DrainTimeout limits how long [Upstream.Replace] waits for requests in
	// flight at the old targets. Zero and negative leave the limit to the
	// context.
	DrainTimeout time.Duration

	compiled settings.Compiled[forward.Forwarder]
	router   atomic.Pointer[Router]   // the first with a route to it
	main     atomic.Pointer[Upstream] // the first that it was a canary or mirror of
}

// logger returns the logger of background work: that of the first Router with a
// route to u, or to what u is a canary or mirror of.
func (u *Upstream) logger() *slog.Logger {
	for range 100 { // two Upstreams may be the canary of each other
		if r := u.router.Load(); r != nil {
			return r.logger()
		}
		if u = u.main.Load(); u == nil {
			break
		}
	}
	return slog.Default()
}

// logTo sets the logger of background work to that of r, unless one is set.
func (u *Upstream) logTo(r *Router) {
	if u.router.CompareAndSwap(nil, r) {
		u.main.Store(nil)
	}
}

// logBy sets the logger of background work to that of main, unless one is set.
// It does not keep a main that is not needed: u may be the next main.
func (u *Upstream) logBy(main *Upstream) {
	if u.main.CompareAndSwap(nil, main) && u.router.Load() != nil {
		u.main.Store(nil)
	}
}

// A Source finds the targets of an [Upstream]; see [DNSSource] and [SRVSource].
// It calls publish with the complete list whenever the list may have changed,
// until ctx is done.
//
// If it returns early or panics, the error is logged and the Source is
// restarted after a pause. The last published targets stay in use meanwhile.
// They also stay in use if the Source publishes an empty list: a source that is
// down must not stop a service. Targets that are no longer in the list are
// removed, as by [Upstream.Remove]. Endpoints beyond 4,096 are ignored.
type Source func(ctx context.Context, publish func([]Endpoint)) error

// An Endpoint is a target that a [Source] found.
type Endpoint struct {
	Target string // in the form that To accepts
	Addr   string // host:port to connect to; "" means the host:port of Target
	Weight int    // share of the requests; 0 means none; if all are 0, the shares are equal
}

// DNSSource returns a [Source] of all IP addresses of the target's host name.
// Each address becomes a target. TLS still uses the host name. The name is
// looked up every interval, but at most once a second. DNSSource panics on an
// invalid target, as [To] does.
func DNSSource(target string, interval time.Duration) Source {
	u, err := parseTarget(target)
	if err != nil {
		panic(err.Error())
	}
	if u.Scheme == "unix" {
		panic(fmt.Sprintf("hostproxy: DNSSource: target %q has no name to look up: want host:port or a URL with a host", target))
	}
	return publicSource(discover.Hosts(net.DefaultResolver, u, interval))
}

// SRVSource returns a [Source] of the targets in the SRV records of
// _service._proto.name, with their weights. It uses only the records with the
// lowest priority value. scheme is the scheme of the targets: http, https or
// h2c. The records are looked up every interval, but at most once a second.
// SRVSource panics if scheme is none of these, or if service, proto or name is
// empty or begins with an underscore.
func SRVSource(scheme, service, proto, name string, interval time.Duration) Source {
	if !slices.Contains([]string{"http", "https", "h2c"}, scheme) {
		panic(fmt.Sprintf("hostproxy: SRVSource: scheme %q: want http, https or h2c", scheme))
	}
	for _, label := range []string{service, proto, name} {
		if label == "" || strings.HasPrefix(label, "_") {
			panic(fmt.Sprintf("hostproxy: SRVSource: %q is empty or begins with an underscore: write service, proto and name as in \"http\", \"tcp\", \"example.com\"", label))
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

// source returns Discover for the engine, or nil without one.
func (u *Upstream) source() discover.Source {
	find := u.Discover
	if find == nil {
		return nil
	}
	return func(ctx context.Context, publish func([]discover.Endpoint)) error {
		return find(ctx, func(es []Endpoint) {
			publish(each(es, func(e Endpoint) discover.Endpoint { return discover.Endpoint(e) }))
		})
	}
}

// A Policy is how an [Upstream] chooses a target. It skips targets that are
// down, full or already tried; if none is up, see [Upstream.FailClosed]. With
// LessBusy and LeastInFlight, [Upstream.Weights] are shares of the requests in
// flight. With RoundRobin, Random and ConsistentHash, Weights are shares of all
// requests over time. FirstAvailable ignores Weights, but skips targets with
// weight 0. ConsistentHash also skips a target that has more than 1.25 times
// its share of the requests in flight.
type Policy uint8

// The policies.
const (
	LessBusy       Policy = iota // the less busy of two targets drawn at random
	RoundRobin                   // one target after the other
	Random                       // a target drawn at random
	LeastInFlight                // the target with the fewest requests in flight
	FirstAvailable               // the first in the order of Targets; the other targets are spares
	ConsistentHash               // the same target for the same HashBy value
)

// A HashKey is the part of a request by which [ConsistentHash] chooses a
// target. Set at most one field. The zero value means the client address, which
// is also used for requests without that header or cookie.
type HashKey struct {
	Header string // name of a header; its first value counts
	Cookie string // name of a cookie
	URI    bool   // path and query
}

// A HealthCheck checks whether a target serves. It connects to the target. If
// Path is set, it also sends a GET. If GRPC is set, it uses the gRPC health
// protocol.
//
// Checks start with the first request, or with [Upstream.Ready]. They end when
// the last Server of the Router ends, when [Router.Close] or [Upstream.Drain]
// is called, or when the last route to the Upstream is removed. If the Upstream
// is behind a handler of your own, the Router can end its checks only if that
// handler has an Unwrap method, or the Upstream has served a request.
// [Upstream.Replace] checks new targets even if Interval is negative.
type HealthCheck struct {
	Path   string      // path and query of the GET; "" sends none
	Host   string      // Host header, if Path or GRPC is set; "" means the target's host
	Header http.Header // further headers, if Path or GRPC is set
	// response statuses that count as success, if Path is set; nil means 200 to
	// 399
	Statuses []int
	GRPC     bool   // uses grpc.health.v1 in place of Path; for https and h2c targets
	Service  string // gRPC service to check, if GRPC is set; "" means the server as a whole

	// time between checks, ±10 %; 0 means 10 s; negative disables periodic
	// checks
	Interval  time.Duration
	Timeout   time.Duration // limit of one check; 0 means 5 s
	Rise      int           // consecutive successes that bring a target back; 0 means 1
	Fall      int           // consecutive failures that take a target out; 0 means 3
	StartDown bool          // new targets are down until Rise checks in a row have succeeded
}

// A Breaker is a circuit breaker: it stops requests to a target that fails too
// often. Each target is watched separately.
//
//   - Too many failures open the breaker: the target gets no requests for
//     OpenFor. (If no target is up, [Upstream.FailClosed] says what happens.)
//   - Then the breaker is half-open: up to Trials requests test the target. If
//     these have no response after another OpenFor, further requests may test
//     the target.
//   - A success closes the breaker. A failure opens it again, for twice as
//     long, up to 5 minutes.
//
// These count as failures: a connection that is refused or cut off, a response
// that is not HTTP or comes too late, and a response with one of Statuses. A
// client disconnect does not count.
type Breaker struct {
	// Failures opens the breaker after this many consecutive failures. Zero
	// means 5. Negative disables this criterion; FailureRatio must then be set.
	Failures int

	// FailureRatio opens the breaker when this share of the requests in Window
	// has failed. It is at most 1. Zero disables this criterion.
	FailureRatio float64
	Window       time.Duration // period over which FailureRatio is measured; 0 means 10 s
	// FailureRatio applies once there are this many requests in Window; 0 means
	// 20
	MinRequests int

	Statuses []int         // response statuses that are failures, such as 502
	Slow     time.Duration // responses slower than this are failures; 0 disables this criterion
	OpenFor  time.Duration // how long it stays open the first time; at most 5 minutes; 0 means 10 s
	Trials   int           // limit of test requests in flight while it is half-open; 0 means 1
}

// A Health is the state of a target.
type Health struct {
	State  string    // "up", "down" (health checks), "open" or "half-open" (Breaker)
	Reason string    // cause of State; "" if State has never changed
	Since  time.Time // start of State
}

// A Queue lets requests above MaxInFlight or MaxTargetInFlight wait, in order
// of arrival. It also limits the requests that wait for [Wake]. If the queue is
// full, or after Wait, a request gets 503 and Retry-After. Retries do not wait:
// if a request failed at one target and the other targets are full, the client
// gets the failure.
type Queue struct {
	// limit of waiting requests; 0 disables the queue; for requests that wait
	// for Wake, 0 means 4,096
	Max int
	// limit of a request's wait; 0 means 10 s; for requests that wait for Wake,
	// 0 means no limit
	Wait time.Duration
}

// A Wake starts the targets of an [Upstream] on demand. The targets count as
// asleep at first and after IdleAfter. The first request that needs them calls
// Start; all requests wait until Start has returned nil and one target serves:
// it answers the health check or, without one, takes a connection. Health
// checks pause while the targets are asleep. Start resets the results of health
// checks and of the [Breaker]. If a request arrives while Stop runs, it waits
// until Stop has returned, and then for a new call of Start.
//
// At most Queue.Max requests wait, or 4,096 if it is zero; further requests get
// 503. A request waits at most Queue.Wait if that is set. If a client
// disconnects, its request no longer waits, but Start goes on. If targets stop
// by themselves while they are awake, call [Upstream.Asleep]. During
// [Upstream.Pause], requests wait for [Upstream.Resume], and only then call
// Start. During [Upstream.Maintain], requests get its page, and do not call
// Start. [Upstream.Ready] calls Start too. [Upstream.Replace] does not: new
// targets must serve by themselves.
//
// A request gets 503 with Retry-After if Start fails or panics, and 504 if
// Start or Stop exceeds Timeout. After a failure Start is not called again for
// a second. Calls of Start and Stop do not overlap: if one of them runs on
// after Timeout, requests get 504 until it returns. Failures are logged.
type Wake struct {
	// Start starts the targets. One call serves all waiting requests. It is
	// called also if the targets run already. It may call [Upstream.Replace],
	// for instance if an address is known only then. ctx is done after Timeout;
	// Start must then return. Required.
	Start func(ctx context.Context) error

	// Stop stops the targets. It is called once after IdleAfter, and never
	// while a request is in flight. Whatever it returns, the targets count as
	// asleep. ctx is done after Timeout. Stop is called even if the Upstream
	// has no route any more, but not at the end of a [Server]. Nil is for
	// targets that stop by themselves: after IdleAfter they count as asleep,
	// and nothing is called.
	Stop func(ctx context.Context) error

	// Timeout limits a call of Start, including the time until a target serves,
	// and a call of Stop. Zero means 30 s; negative is an error.
	Timeout time.Duration

	// When no request has been in flight for IdleAfter, Stop is called and the
	// targets count as asleep. WebSockets, streams and uploads count as
	// requests until their end; health checks do not count. Zero means that the
	// targets stay awake, and requires that Stop is nil. Negative is an error.
	IdleAfter time.Duration
}

// A Sticky is a cookie that brings a client back to its target. Its value is a
// keyed hash: it does not reveal the target's address and cannot be forged.
type Sticky struct {
	Cookie string        // name of the cookie; "" means hostproxy
	MaxAge time.Duration // lifetime of the cookie; 0 means the client's session

	// Key is the key of the hash, at least 16 bytes. Processes that serve the
	// same clients need the same key. Nil means a random key.
	Key []byte
}

// A Retry decides whether a request that failed at one target goes to another.
//
//   - If no part of the request was written to the target, the request is
//     retried.
//   - If a part was written, the request is retried only if its method is
//     idempotent (GET, HEAD, OPTIONS, PUT, DELETE) and the proxy still has the
//     part of the body that it read (at most 32 KiB, or
//     [Upstream.BufferRequests]).
//   - Once a byte of a response went to the client, the request is never
//     retried.
//
// An idle connection may close just when a request is sent on it. If such a
// reused HTTP/1.1 connection ends without a byte of a response, an idempotent
// request is sent again to the same target on another connection (RFC 9112,
// 9.3.1). This belongs to the attempt: Attempts and Budget do not limit it, and
// it is not in Exchange.Retried.
type Retry struct {
	Attempts int // targets tried for one request, up to 10; 0 means 3; 1 disables retries
	// no further attempt starts this long after the first one; 0 means 10 s;
	// negative disables the limit
	Timeout  time.Duration
	Statuses []int // response statuses to retry, such as 503, while another target is left

	// Budget limits the retries of requests that possibly reached a target. At
	// most this share of all requests in flight may be such retries, but 3 are
	// always allowed. Zero means 0.2; negative disables the limit.
	Budget float64
}

func (r *Retry) config() forward.Retry {
	return forward.Retry{Attempts: cmp.Or(r.Attempts, 3), Timeout: timeout(r.Timeout, 10*time.Second), Statuses: slices.Clone(r.Statuses),
		Budget: cmp.Or(r.Budget, 0.2)}
}

// A HeaderEdit is a fixed change to the header of a message: Remove, then Set,
// then Add. Remove deletes a header and every other spelling that CGI reads as
// the same name, such as X_User for X-User, from headers and trailers. Set does
// the same before it sets the header. Headers that delimit or route a message
// are an error: Host, Content-Length, Transfer-Encoding, Connection and the
// like.
type HeaderEdit struct {
	Remove   []string
	Set, Add http.Header
}

// edit returns a copy of e, since a later change has no effect.
func (e HeaderEdit) edit() forward.Edit {
	return forward.Edit{Remove: slices.Clone(e.Remove), Set: e.Set.Clone(), Add: e.Add.Clone()}
}

// A Target is one address of an Upstream. Its methods may be called
// concurrently.
type Target struct {
	t *forward.Target
}

// String returns the target as it appears in records and errors: host:port for
// plain HTTP without a path, else the URL.
func (t *Target) String() string { return t.t.Name }

// InFlight returns the number of requests in flight at the target.
func (t *Target) InFlight() int64 { return t.t.InFlight() }

// Health returns the state of the target.
func (t *Target) Health() Health { return publicHealth(t.t.Health()) }

func publicHealth(s health.Status) Health { return Health{string(s.State), s.Reason, s.Since} }

// Streams returns how many of the requests in flight are upgraded connections.
// Event streams are not among them.
func (t *Target) Streams() int64 { return t.t.Streams() }

// To returns an [Upstream] of the given targets: host:port, http://…,
// https://…, h2c://… or unix:/path. It panics on an invalid target;
// [NewUpstream] returns an error instead.
func To(targets ...string) *Upstream {
	u, err := NewUpstream(targets...)
	if err != nil {
		panic(err.Error())
	}
	return u
}

// NewUpstream is like [To], but returns an error in place of a panic. Use it
// for targets from a configuration. The error names each invalid target and the
// rule that it breaks.
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

// ServeHTTP forwards q to a target. Any handler may call it. Outside a
// [Router], the client address is the remote address of the connection.
//
// If the client leaves, or the response must be cut off, ServeHTTP panics with
// [http.ErrAbortHandler], as net/http requires. A handler that calls it on a
// goroutine of its own recovers from that panic. If a handler cancels the
// context of q while the client stays, the response is 503; after a deadline it
// is 504. Interim responses (1xx) need a w that can be flushed.
func (u *Upstream) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	x := exchange.Borrow(q.Context())
	if x == nil {
		exchange.CloseUnbounded(w, q)
		u.serve(w, q, exchange.Begin(q, nil))
		return
	}
	defer x.Return() // also when the response is cut off
	u.serve(w, q, x)
	x.Returned = true
}

func (u *Upstream) serve(w http.ResponseWriter, q *http.Request, x *exchange.Exchange) {
	f, err := u.compile()
	if err != nil {
		x.Fail(&exchange.Failure{Op: "pick", Side: exchange.SideProxy, Err: err})
		exchange.Refuse(http.StatusInternalServerError, "proxy_internal_error").ServeHTTP(exchange.Watch(w, x), q)
		return
	}
	if b, ok := x.Owner.(*behind); ok {
		b.add(u)
	}
	if x.Name == "" { // outside a Router, which would have checked for a loop
		x.Name = f.Name()
		if refusal := x.Loops(q); refusal != nil {
			refusal.ServeHTTP(exchange.Watch(w, x), q)
			return
		}
	}
	handler.Serve(f, w, q, x)
}

func (u *Upstream) explain(e *status.Explanation, q *http.Request, x *exchange.Exchange) {
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

// All returns the current targets. It is empty if a field of u is invalid.
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

// Replace swaps the targets for ts in three steps. Targets that are also in ts
// keep their connections. ([Router.Replace] swaps routes.)
//
//  1. It waits until each new target answers the health check or, without a
//     health check, accepts a connection.
//  2. It sends new requests only to ts, and closes upgraded connections to the
//     old targets (WebSockets with status 1001).
//  3. It waits until requests in flight at the old targets have finished.
//     Responses without a Content-Length, such as event streams, are cut off
//     after 10 s.
//
// If StreamGrace is not zero, upgraded connections and event streams go on for
// that time instead, and Replace does not wait for them.
//
// ReadyTimeout limits the first wait. DrainTimeout limits the last wait. ctx
// limits both. [ErrNotReady] means that nothing has changed. [ErrNotDrained]
// means that ts are in use, and that Replace cut off the requests that it still
// waited for.
func (u *Upstream) Replace(ctx context.Context, ts ...string) error {
	return u.change(ts, func(f *forward.Forwarder, es []forward.Endpoint) error { return f.Replace(ctx, es) })
}

// If [Upstream.Replace] fails while it waits, its error wraps the cause and one
// of these errors. After any other error the old targets stay in use.
var (
	ErrNotReady = forward.ErrNotReady // a new target is not ready; the old targets stay in use
	// the new targets are in use; requests at old targets were cut off
	ErrNotDrained = forward.ErrNotDrained
)

// Ready waits until u has targets and all of them are ready. A target is ready
// if it is not down and answers the health check or, without a health check,
// accepts a connection. Ready starts health checks and discovery, as the first
// request does. When ctx is done, the error names each target that is not
// ready, with the reason.
func (u *Upstream) Ready(ctx context.Context) error {
	return u.with(func(f *forward.Forwarder) error { return f.Ready(ctx) })
}

// Asleep tells u that its targets have stopped by themselves, for instance
// because a process has crashed: the next request calls Wake.Start. Requests in
// flight go on. Asleep does nothing while the targets are asleep or while
// Wake.Start or Wake.Stop runs. It returns an error if Wake is nil.
func (u *Upstream) Asleep() error {
	return u.with(func(f *forward.Forwarder) error { return f.Asleep() })
}

// Add adds targets, which get requests immediately, unless
// [HealthCheck].StartDown is set. Add does not wait until they are ready;
// [Upstream.Replace] does.
func (u *Upstream) Add(ts ...string) error {
	return u.change(ts, func(f *forward.Forwarder, es []forward.Endpoint) error { return f.Add(es) })
}

// Remove takes targets out of use immediately. Requests in flight at these
// targets finish, with the same exceptions as in [Router.Remove]. Remove
// returns an error for an address that is not a target. It also returns an
// error for the last target, unless Discover is set.
func (u *Upstream) Remove(ts ...string) error {
	return u.change(ts, func(f *forward.Forwarder, es []forward.Endpoint) error { return f.Remove(es) })
}

// change calls do with ts parsed as endpoints.
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

// Canary sends a share of the clients, 0 to 1, to another upstream from now on.
// Canary(nil, 0) ends it. Each client stays at its upstream while the share
// does not change. When the share grows, no client leaves the canary.
//
// A client is an address, resolved through [Router.TrustedProxies]. Behind a
// load balancer that is not in TrustedProxies, all clients are one, and go
// either to u or to the canary.
//
// Allow, Deny, RateLimit, MaxRequestBody, BufferRequests, MaxInFlight, Pause,
// Maintain and Drain of u apply first, then those of the canary. Apart from
// these, only the canary's settings apply to its requests. A canary of the
// canary is not used.
func (u *Upstream) Canary(to *Upstream, share float64) error {
	if to == nil && share != 0 {
		return fmt.Errorf("hostproxy: Canary: share is %v without an upstream: pass an upstream, or 0 to end the canary", share)
	}
	return u.beside(to, func(f, other *forward.Forwarder) error { return f.Divert(other, share) })
}

// Mirror sends copies of a share of the requests, 0 to 1, to another upstream
// from now on. Mirror(nil, 0) ends it. A copy is sent after the client has its
// response; the response to the copy is discarded. Upgrades and requests with a
// body above 32 KiB are not copied. While 128 copies are in flight, no further
// copies are sent.
func (u *Upstream) Mirror(to *Upstream, share float64) error {
	if to == nil && share != 0 {
		return fmt.Errorf("hostproxy: Mirror: share is %v without an upstream: pass an upstream, or 0 to end the mirror", share)
	}
	return u.beside(to, func(f, other *forward.Forwarder) error { return f.Mirror(other, share, handler.Serve) })
}

// beside calls do with the compiled forms of u and other; other may be nil.
func (u *Upstream) beside(other *Upstream, do func(f, other *forward.Forwarder) error) error {
	return u.with(func(f *forward.Forwarder) error {
		if other == nil {
			return do(f, nil)
		}
		o, err := other.compile()
		if err != nil {
			return err
		}
		other.logBy(u)
		return do(f, o)
	})
}

// Pause makes requests wait until [Upstream.Resume], for at most d after this
// call. A program can then restart its only target without failed requests.
// Pause applies to new requests and to requests in Queue. Requests in flight at
// a target go on.
//
// After d, waiting requests and new requests fail with 503 until Resume: Pause
// does not end by itself. With d of 0 or less, requests fail immediately. At
// most 4,096 requests wait; further requests fail with 503 immediately. A
// request whose client disconnects no longer waits. In an [http.Server] of your
// own, or on systems other than Linux, a disconnect is detected only if the
// request has no body. After Resume, waiting requests go to the current targets
// of u.
func (u *Upstream) Pause(d time.Duration) error {
	return u.with(func(f *forward.Forwarder) error { f.Pause(d); return nil })
}

// Resume ends [Upstream.Pause] and [Upstream.Maintain].
func (u *Upstream) Resume() error {
	return u.with(func(f *forward.Forwarder) error { f.Resume(); return nil })
}

// Maintain answers all requests with p until [Upstream.Resume] is called: new
// requests, and requests that wait in Queue or because of [Upstream.Pause].
// Requests in flight at a target go on.
func (u *Upstream) Maintain(p Page) error {
	p.Status, p.ContentType = cmp.Or(p.Status, http.StatusServiceUnavailable), cmp.Or(p.ContentType, "text/plain; charset=utf-8")
	return u.with(func(f *forward.Forwarder) error { return f.Answer((*exchange.Page)(&p)) })
}

// with calls do with the compiled form of u.
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

// A Page is a response that the proxy makes itself; see [Upstream.Maintain].
type Page struct {
	Status      int           // 200 to 599, except 204 and 304; 0 means 503
	ContentType string        // "" means text/plain in UTF-8
	Body        []byte        // nil means an empty body
	RetryAfter  time.Duration // Retry-After header; 0 omits it
}

// Drain shuts u down: it refuses new requests with 503, waits for requests in
// flight, closes upgraded connections (WebSockets with status 1001), and cuts
// off responses without a Content-Length, such as event streams, after 10 s. If
// ctx is done first, Drain cancels the remaining requests. The error then wraps
// the error of ctx, and gives the number of requests and upgraded connections.
func (u *Upstream) Drain(ctx context.Context) error {
	return u.with(func(f *forward.Forwarder) error { return f.Drain(ctx) })
}

// A Side is the party that made an exchange fail.
type Side string

// The sides of an exchange.
const (
	// the client disconnected, or sent something that cannot be forwarded
	SideClient Side = "client"
	// the target was unreachable, disconnected, timed out or sent an invalid
	// response
	SideUpstream Side = "upstream"
	SideProxy    Side = "proxy" // a limit, a hook or a setting of this program
	SideDrain    Side = "drain" // the server, the route or the upstream is shutting down
)

// An Error says at which step forwarding failed, and why.
type Error struct {
	Op     string // the step: "pick", "dial", "handshake", "write", "read", "copy" or "upgrade"
	Target string // "" if none was chosen
	Side   Side   // the party that made the exchange fail
	Err    error  // the cause
}

// Error describes the failure in one line.
func (e *Error) Error() string {
	if e.Target == "" {
		return fmt.Sprintf("hostproxy: %s: %v", e.Op, e.Err)
	}
	return fmt.Sprintf("hostproxy: %s %s: %v", e.Op, e.Target, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// publicError converts the engine's failure to an *Error.
func publicError(f *exchange.Failure) *Error {
	return &Error{Op: f.Op, Target: f.Target, Side: Side(f.Side), Err: f.Err}
}

// An Exchange is the record of one request and its response. [Router.Observe]
// gets it. UserAgent, Referer, User and ServerName are cut off after 1 KiB.
// Strings from the client may hold any byte: escape them in logs, as the
// handlers of log/slog do. If a handler calls several Upstreams at the same
// time, Timeline, Retried, Attempts and Queue are of all of them, and Target,
// Dial and FirstByte of the one that it called last.
type Exchange struct {
	Start time.Time // when the head of the request was complete

	Client netip.Addr // client address, resolved through TrustedProxies; invalid if unknown
	Peer   netip.Addr // remote address of the connection

	Proto   string // "HTTP/1.0", "HTTP/1.1", "HTTP/2.0" or "HTTP/3.0"
	Scheme  string // "http" or "https"
	Method  string
	Host    string // as the client wrote it
	Path    string // as the client wrote it, escaped
	Query   string // as the client wrote it, without the question mark; may hold secrets
	Pattern string // pattern of the route; "" if no route matched

	UserAgent  string // "" if the client sent none
	Referer    string // "" if the client sent none
	User       string // user name, from BasicAuth or ForwardAuth.User; "" if none
	RequestID  string // identifier, see Router.RequestID; "" if disabled
	TLSVersion uint16 // such as tls.VersionTLS13; 0 without TLS
	ServerName string // server name in the TLS handshake; "" if none

	// Status is the response status sent to the client; 499 if the client
	// disconnected before the end of the response, and 101 if a handler of your
	// own hijacked the connection before a response. If the proxy answered with
	// a grpc-status, Status is the HTTP status of the same meaning.
	Status        int
	RequestBytes  int64 // size of the request body, as forwarded
	ResponseBytes int64 // size of the response body, as forwarded

	Target   string // target of the last attempt; "" if none was chosen
	Attempts int    // number of targets tried
	// time spent waiting: in Upstream.Queue, for Upstream.Resume, for
	// Upstream.Wake, or for the first targets of Upstream.Discover
	Queue     time.Duration
	Dial      time.Duration // time spent connecting; 0 on a reused connection
	FirstByte time.Duration // time from the start of the last attempt to the head of the response
	Duration  time.Duration // time from Start to the end of the response

	Err     error   // an *Error if forwarding failed, else nil
	Retried []error // an *Error for each attempt that was retried, or canceled by Hedge

	// Timeline has an element for each attempt, in the order in which they
	// began. If an attempt is made again over HTTP/2 because the target refuses
	// HTTP/1.1, Timeline has two elements for it.
	Timeline []Attempt

	Value any // for the hooks of the Router: set by Router.Begin, read by Router.Observe
}

// An Attempt is one try to get a response from a target.
type Attempt = struct {
	Target string // as in Exchange
	Retry  bool   // begun after another attempt at this Upstream had failed
	Hedge  bool   // begun beside another attempt; see Upstream.Hedge

	// Whole reports that the request had no body, or that its body had been
	// read to its end, when the attempt began. If not, FirstByte may include
	// time that the client took to send the body.
	Whole bool

	Start     time.Time     // when its target was chosen
	Dial      time.Duration // time spent connecting; 0 on a reused connection
	FirstByte time.Duration // time from Start to the head of the response; 0 if there is none
	Duration  time.Duration // time from Start to the end of the response, or to the failure

	Status int   // status of the target's response; 0 if there is none
	Err    error // an *Error if the attempt failed, was retried or was canceled by Hedge, else nil
	Value  any   // for the hooks of the Router: set by Router.BeginAttempt, read by Router.Observe
}

// publicExchange converts r to an Exchange, in place.
func publicExchange(r *exchange.Record) *Exchange {
	if f, ok := r.Err.(*exchange.Failure); ok {
		r.Err = publicError(f)
	}
	for i, err := range r.Retried {
		if f, ok := err.(*exchange.Failure); ok {
			r.Retried[i] = publicError(f)
		}
	}
	for i := range r.Timeline {
		if f, ok := r.Timeline[i].Err.(*exchange.Failure); ok {
			r.Timeline[i].Err = publicError(f)
		}
	}
	return (*Exchange)(r)
}

// A Beginning is the start of an exchange, for [Router.Begin], or of an
// attempt, for [Router.BeginAttempt]. It is valid only during the call.
type Beginning struct {
	// Exchange has the fields that are known so far: those from Start to Query,
	// and those from UserAgent to ServerName, except User. In BeginAttempt it
	// also has Pattern, Target, Attempts and Queue. A hook may set
	// Exchange.Value, and must not change other fields.
	Exchange *Exchange

	// Attempt is the attempt that begins; nil in Begin. Its fields up to Start
	// are known. A hook may set Attempt.Value, and must not change other
	// fields.
	Attempt *Attempt

	b *exchange.Beginning
}

// Header returns the value of a request header, "" if there is none. Several
// values are joined by ", ". It returns what the target will get, as far as
// that is known: the value that a hook has set, or the identifier of
// [Router.RequestID], or else what the client has sent, which may be forged.
func (b *Beginning) Header(name string) string { return b.b.Header(name) }

// SetHeader sets a request header for the target. It replaces the client's own
// copies, also in trailers, and in spellings that CGI reads as the same name,
// such as X_User for X-User. In Begin it applies to all attempts; handlers and
// middleware of the route see it too, and mirrored copies and the request of a
// [ForwardAuth] carry it. In BeginAttempt it applies to this attempt only, and
// takes precedence over what Begin has set. A mirrored copy carries the headers
// of the last attempt. [Upstream.RequestHeader] edits the header like any other
// header.
//
// The name must be a token (RFC 9110). It must not be Host, Expect, Via, the
// name of RequestID, or a framing, hop-by-hop or forwarding header such as
// Content-Length, Connection or X-Forwarded-For. The value must not have
// control characters. Otherwise the request fails with 500, as if the hook had
// panicked.
func (b *Beginning) SetHeader(name, value string) {
	b.b.Replace(header.Replacement{Name: name, Value: value})
}

// RemoveHeader removes the client's copies of a request header, as
// [Beginning.SetHeader] does, and sets no new value. The rules for names are
// the same.
func (b *Beginning) RemoveHeader(name string) {
	b.b.Replace(header.Replacement{Name: name, Gone: true})
}

// hooks returns the hooks of r for the engine, or nil if r has no hooks.
func (r *Router) hooks(n exchange.Numbering) *exchange.Hooks {
	if r.Begin == nil && r.BeginAttempt == nil && r.Observe == nil {
		return nil
	}
	return &exchange.Hooks{Begin: shown(r.Begin), Attempt: shown(r.BeginAttempt), Number: n.Name,
		Times:  r.Observe != nil || r.BeginAttempt != nil,
		Failed: func(err error) { r.logger().Error("hook failed, the request gets 500", "cause", err) }}
}

// shown returns hook for the engine, or nil without one.
func shown(hook func(*Beginning)) func(*exchange.Beginning) {
	if hook == nil {
		return nil
	}
	return func(b *exchange.Beginning) {
		p, ok := b.Face.(*Beginning)
		if !ok {
			p = &Beginning{b: b}
			b.Face = p
		}
		p.Exchange, p.Attempt = publicExchange(b.Record), b.Attempt
		hook(p)
		p.Exchange, p.Attempt = nil, nil
	}
}

// A RequestIDHeader is a request header that identifies the request in the logs
// of all services. Handlers and targets get the header.
//
// If a request comes from a peer in [Router.TrustedProxies] and has exactly one
// such header, whose value is a token (RFC 9110) of up to 128 bytes, that value
// is the identifier. Otherwise the identifier is new: 128 random bits in
// hexadecimal. Retries, mirrored copies and the request of a [ForwardAuth] have
// the same identifier.
//
// A client's own header is removed, also from trailers and in every spelling
// that CGI reads as the same name. [Upstream.RequestHeader] and
// [Upstream.ResponseHeader] edit the header like any other header.
type RequestIDHeader struct {
	// Name is the name of the header, such as "X-Request-Id". "" disables
	// identifiers.
	Name string

	// Respond sends the header to clients too, in place of the target's header.
	// Interim responses (1xx) and responses to an invalid request do not have
	// it.
	Respond bool
}

func (h RequestIDHeader) numbering() (exchange.Numbering, error) {
	switch {
	case h.Name != "":
		if err := exchange.CheckIDName("RequestID.Name", h.Name); err != nil {
			return exchange.Numbering{}, fmt.Errorf("hostproxy: %w", err)
		}
	case h.Respond:
		return exchange.Numbering{}, errors.New("hostproxy: RequestID.Respond requires RequestID.Name: set it to the name of the header, such as X-Request-Id")
	}
	return exchange.Numbering{Name: http.CanonicalHeaderKey(h.Name), Shown: h.Respond}, nil
}

// ClientAddr returns the client address of q, resolved through
// [Router.TrustedProxies], as in [Exchange.Client]. It works in:
//
//   - handlers and middleware of routes
//   - middleware in [Server.Handler]
//   - hooks of an [Upstream]: Pick, Transport, ErrorHandler, Rewrite (In and
//     Out) and ModifyResponse (Request of the response)
//   - [Upstream.Pages]
//   - [LimitKey].Func
//
// Elsewhere it returns the address in q.RemoteAddr, or the zero netip.Addr if
// there is none.
func ClientAddr(q *http.Request) netip.Addr {
	if x := exchange.FromContext(q.Context()); x != nil {
		return x.Client
	}
	if a := exchange.ArrivalFrom(q.Context()); a != nil {
		return a.Client
	}
	return header.ParsePeer(q.RemoteAddr).Addr
}

// RequestID returns the identifier of q; see [RequestIDHeader]. It works in the
// same places as [ClientAddr]. Elsewhere, or if [Router.RequestID] is disabled,
// it returns "".
func RequestID(q *http.Request) string {
	if x := exchange.FromContext(q.Context()); x != nil {
		return x.RequestID
	}
	if a := exchange.ArrivalFrom(q.Context()); a != nil {
		return a.RequestID
	}
	return ""
}

// compile returns the compiled form of the fields, which are in use from then
// on. The error has no prefix yet.
func (u *Upstream) compile() (*forward.Forwarder, error) {
	if u == nil {
		return nil, errNil
	}
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

// strips returns the StripPrefix that is in use, or will be.
func (u *Upstream) strips() string {
	if f := u.compiled.InUse(); f != nil {
		return f.Prefix.Strip
	}
	return u.StripPrefix
}

func (u *Upstream) late() []string { return u.compiled.Late(u) }

// lateBeside calls report for each field of u's canary and mirror that was
// changed after first use. prefix is what comes before their name.
func (u *Upstream) lateBeside(prefix string, report func(owner any, prefix, field string)) {
	f := u.compiled.InUse()
	if f == nil {
		return
	}
	canary, mirror := f.Beside()
	for name, other := range map[string]*forward.Forwarder{"Canary": canary, "Mirror": mirror} {
		if other == nil {
			continue
		}
		for _, field := range other.Late() {
			report(other, prefix+name+".", field)
		}
	}
}

// closeIdle closes idle connections to the targets and ends background work.
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
		errs = append(errs, errors.New("field Weights has no value above 0: want one at least"))
	}
	if u.Pick != nil && (u.Policy != LessBusy || u.Sticky != nil || u.Weights != nil) {
		errs = append(errs, errors.New("field Pick cannot be combined with Policy, Weights or Sticky: set either Pick or those"))
	}
	if u.Dial != nil && u.Transport != nil {
		errs = append(errs, errors.New("field Dial cannot be combined with Transport, which connects by itself: set only one of them"))
	}
	if u.Health != nil && u.Health.StartDown && u.Health.Interval < 0 {
		errs = append(errs, errors.New("Health.StartDown requires checks, which a negative Health.Interval disables: want 0 (10 s) or more"))
	}
	if b := u.Breaker; b != nil && b.Failures < 0 && b.FailureRatio == 0 {
		errs = append(errs, errors.New("Breaker.Failures is negative, which disables it: set Breaker.FailureRatio above 0"))
	}
	errs = append(append(errs, u.inVain()...), u.checkPages()...)
	rule, err := u.RateLimit.rule(u.logger)
	if err != nil {
		errs = append(errs, fmt.Errorf("RateLimit: %w", err))
	}
	policy, err := u.HSTS.value()
	errs = append(errs, err)
	c := u.config()
	c.Guard.Limit, c.HSTS, c.Unflushed, c.Late = rule, policy, u.unflushed, u.late
	f, err := forward.New(c)
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	return f, nil
}

// unflushed logs that streams for the route with that pattern are delayed.
func (u *Upstream) unflushed(pattern string) {
	u.logger().Warn("streams are delayed: a handler in front passes on a ResponseWriter without Flush", "pattern", pattern,
		"remedy", "give the ResponseWriter a method Unwrap() http.ResponseWriter")
}

// checkPages returns an error for each of Pages that cannot write a page.
func (u *Upstream) checkPages() (errs []error) {
	for _, s := range slices.Sorted(maps.Keys(u.Pages)) {
		h := u.Pages[s]
		err := fault(h)
		reach.Walk(h, func(h http.Handler) bool {
			if _, ok := h.(*Upstream); ok {
				err = errors.New("want a handler that writes the page, not one that leads to an Upstream")
			}
			return err == nil
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("field Pages[%d]: %w", s, err))
		}
	}
	return errs
}

// inVain returns an error for each setting that would have no effect.
func (u *Upstream) inVain() (errs []error) {
	h, b := cmp.Or(u.Health, new(HealthCheck)), cmp.Or(u.Breaker, new(Breaker))
	for _, c := range []struct {
		broken bool
		rule   string
	}{
		{u.Transport != nil && u.ProxyProtocol != 0, "ProxyProtocol cannot be combined with Transport, which connects by itself: send the header there"},
		{u.Transport != nil && u.TLS != nil, "TLS cannot be combined with Transport, which connects by itself: configure TLS there"},
		{u.Retry.Attempts == 1 && len(u.Retry.Statuses) > 0, "Retry.Statuses requires Retry.Attempts of at least 2, or 0 for the default: it is 1"},
		{u.Queue.Wait > 0 && u.Queue.Max == 0 && u.Wake == nil, "Queue.Wait requires Queue.Max or Wake: set Queue.Max above 0"},
		{h.Path == "" && len(h.Statuses) > 0, "Health.Statuses requires Health.Path: without it a check only connects"},
		{h.Path == "" && h.Host != "" && !h.GRPC, "Health.Host requires Health.Path or Health.GRPC: without them a check only connects"},
		{h.Path == "" && len(h.Header) > 0 && !h.GRPC, "Health.Header requires Health.Path or Health.GRPC: without them a check only connects"},
		{b.FailureRatio == 0 && (b.Window != 0 || b.MinRequests != 0), "Breaker.Window and Breaker.MinRequests require Breaker.FailureRatio: set it above 0"},
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
	return append(errs, settings.TooShort("", u)...)
}

// health returns Health, Breaker and SlowStart for the engine: a Config, which
// is nil without them, a Probe, and the statuses that are failures.
func (u *Upstream) health() (*health.Config, forward.Probe, []int) {
	c, p, failures := health.Config{SlowStart: u.SlowStart, Changed: u.changed(u.TargetChanged)}, forward.Probe{}, []int(nil)
	if k := u.Health; k != nil {
		p = forward.Probe{Path: k.Path, Host: k.Host, Header: k.Header.Clone(), Statuses: slices.Clone(k.Statuses), GRPC: k.GRPC, Service: k.Service}
		c.Check = health.Check{Interval: timeout(k.Interval, 10*time.Second), Timeout: k.Timeout, Rise: k.Rise, Fall: k.Fall,
			StartDown: k.StartDown}
	}
	if b := u.Breaker; b != nil {
		c.Breaker = health.Breaker{Failures: max(cmp.Or(b.Failures, 5), 0), FailureRatio: b.FailureRatio, Window: b.Window, MinRequests: b.MinRequests,
			Slow: b.Slow, OpenFor: b.OpenFor, Trials: b.Trials}
		failures = slices.Clone(b.Statuses)
	}
	c.Defaults()
	if c.Check.Interval <= 0 && u.Breaker == nil && u.SlowStart == 0 {
		return nil, p, nil
	}
	return &c, p, failures
}

// changed returns a func that reports a target's new health to hook, which is
// TargetChanged, or to the log.
func (u *Upstream) changed(hook func(*Target, Health)) func(t any, s health.Status) {
	if hook == nil {
		return u.logHealth
	}
	return func(t any, s health.Status) {
		var err error
		defer func() {
			if err != nil {
				u.logger().Error("hook failed", "cause", err)
			}
		}()
		defer exchange.Contain("TargetChanged", &err)
		hook(t.(*Target), publicHealth(s))
	}
}

func (u *Upstream) logHealth(t any, s health.Status) {
	level := slog.LevelWarn
	if s.State == health.Up {
		level = slog.LevelInfo
	}
	u.logger().Log(context.Background(), level, "target health changed", "target", t.(*Target).String(), "state", string(s.State), "cause", s.Reason)
}

func (u *Upstream) config() forward.Config {
	c := forward.Config{
		Show:                  func(t *forward.Target) any { return &Target{t} },
		Policy:                balance.Policy(u.Policy),
		HashBy:                forward.HashKey(u.HashBy),
		Guard:                 forward.Guard{Allow: slices.Clone(u.Allow), Deny: slices.Clone(u.Deny), MaxBody: u.MaxRequestBody},
		MaxInFlight:           u.MaxInFlight,
		MaxTargetInFlight:     u.MaxTargetInFlight,
		MaxQueue:              u.Queue.Max,
		QueueWait:             u.Queue.Wait,
		Wake:                  u.wake(),
		Discover:              u.source(),
		NotFound:              func(err error) { u.logger().Warn("target discovery failed", "cause", err) },
		Retry:                 u.Retry.config(),
		Hedge:                 u.Hedge,
		Transport:             u.Transport,
		Dial:                  u.Dial,
		TLS:                   u.TLS.Clone(),
		ProxyProtocol:         u.ProxyProtocol,
		Rewrite:               u.Rewrite,
		ModifyResponse:        u.ModifyResponse,
		BufferRequests:        u.BufferRequests,
		BufferResponses:       u.BufferResponses,
		Pages:                 maps.Clone(u.Pages),
		RequestHeader:         u.RequestHeader.edit(),
		ResponseHeader:        u.ResponseHeader.edit(),
		Prefix:                forward.Prefix{Strip: u.StripPrefix, Add: u.AddPrefix},
		TargetHost:            u.TargetHost,
		Forwarded:             u.Forwarded,
		Upgrades:              slices.Clone(u.Upgrades),
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
		c.Sticky = &forward.Sticky{Cookie: cmp.Or(u.Sticky.Cookie, "hostproxy"), Key: slices.Clone(u.Sticky.Key), MaxAge: u.Sticky.MaxAge}
	}
	c.Health, c.Probe, c.Failures = u.health()
	c.FailClosed = u.FailClosed
	if u.Upgrades == nil {
		c.Upgrades = []string{"websocket"}
	}
	c.Pick = picker(u.Pick)
	if answer := u.ErrorHandler; answer != nil {
		c.ErrorHandler = func(w http.ResponseWriter, q *http.Request, f *exchange.Failure) {
			answer(w, q, publicError(f))
		}
	}
	return c
}

// wake returns Wake for the engine, or nil without it.
func (u *Upstream) wake() *forward.Wake {
	w := u.Wake
	if w == nil {
		return nil
	}
	return &forward.Wake{Start: w.Start, Stop: w.Stop, Timeout: cmp.Or(w.Timeout, 30*time.Second), IdleAfter: w.IdleAfter,
		Failed: func(what string, err error) {
			u.logger().Error("waking or stopping targets failed", "hook", what, "cause", err)
		}}
}

// picker returns pick for the engine, or nil without one. It calls pick with
// the public form of the targets that are left.
func picker(pick func(*http.Request, []*Target) *Target) func(*http.Request, []*forward.Target) *forward.Target {
	if pick == nil {
		return nil
	}
	return func(q *http.Request, left []*forward.Target) *forward.Target {
		if t := pick(q, each(left, func(t *forward.Target) *Target { return t.Face.(*Target) })); t != nil {
			return t.t
		}
		return nil
	}
}

// timeout returns def if d is zero, and 0 for no limit if d is negative.
func timeout(d, def time.Duration) time.Duration { return max(cmp.Or(d, def), 0) }
