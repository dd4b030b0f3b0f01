package hostproxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/basicauth"
	"github.com/hostproxy/hostproxy/internal/certs"
	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/forward"
	"github.com/hostproxy/hostproxy/internal/handler"
	"github.com/hostproxy/hostproxy/internal/header"
	"github.com/hostproxy/hostproxy/internal/hostname"
	"github.com/hostproxy/hostproxy/internal/limit"
	"github.com/hostproxy/hostproxy/internal/reach"
	"github.com/hostproxy/hostproxy/internal/routes"
	"github.com/hostproxy/hostproxy/internal/serve"
	"github.com/hostproxy/hostproxy/internal/service"
	"github.com/hostproxy/hostproxy/internal/settings"
	"github.com/hostproxy/hostproxy/internal/status"
	"github.com/hostproxy/hostproxy/internal/yield"
)

// A Router maps host patterns to handlers, usually Upstreams. The zero value
// has no routes and is ready to use. Routes may change at any time, also while
// requests are served. Fields must be set before the first use: a request, or a
// call of [Server.Serve], [Router.Listen], [Router.Wrap] or [Router.TLSConfig].
// A later change has no effect; [Router.Set], [Router.Replace], [Router.Check]
// and [Server.Serve] return an error until the change is undone.
//
// A pattern is a host (api.example.com), a wildcard for exactly one label
// (*.example.com), or * for any host and for HTTP/1.0 requests without a host.
// A pattern with a path (example.com/api/) matches that path and all paths
// below it. An exact host beats a wildcard, and a wildcard beats *. Within a
// host, the longer path prefix wins. The order of registration does not matter.
// Hosts are compared in canonical form: lower case, no port, no trailing dot,
// IDNA in ASCII. IPv6 addresses have brackets, as in [::1].
//
// A path prefix is compared with the path as the client sent it. Targets get
// the same path, but may read it differently. Therefore a request to a host
// with path prefixes is refused with 400 if a different reading of its path
// belongs to another route. The readings are the results of these steps, in any
// combination:
//
//   - drop the parameters of segments (";x")
//   - decode escapes
//   - merge slashes
//   - treat backslashes as slashes
//   - resolve dot segments
//
// Other differences are not detected: upper and lower case (/Admin, /admin),
// dots and spaces at the end of a segment, text after "%00", and escapes of
// escapes (%2561). If a target treats such paths as equal, put access control
// such as [BasicAuth] on the whole host, not on a path prefix.
type Router struct {
	// NotFound serves requests that match no route. It writes the status too,
	// such as 404. Nil answers 404. If the request came over TLS and its host
	// has no route at all, nil answers 421 Misdirected Request (RFC 9110,
	// 15.5.20).
	NotFound http.Handler

	// TrustedProxies are the peers whose X-Forwarded-* headers are believed.
	// The headers give the client's address. They also say whether the client
	// used TLS, which matters to Redirect, HSTS and Sticky. Nil trusts no peer:
	// the client address is the remote address of the connection.
	TrustedProxies []netip.Prefix

	// RequestID gives each request an identifier. The zero value disables it.
	RequestID RequestIDHeader

	// ResponseHeader is a fixed change to the headers of all final responses
	// that leave through the Router. These are responses of targets, of
	// NotFound and of other handlers of your own, and of the proxy itself, such
	// as errors, [Redirect], the Page of [Upstream.Maintain], the redirects to
	// HTTPS on port 80, and refusals of invalid requests by a [Server]. It does
	// not apply to responses of middleware in [Server.Handler], to ACME
	// challenges, to connections that a handler hijacks, and to the 400 for
	// plain HTTP on a TLS port.
	//
	// Set replaces the header that a target, a handler or middleware in front
	// has set. On responses of targets, a header that the route's
	// [Upstream.ResponseHeader] names is changed by the route alone; the other
	// headers are still changed here. Interim responses (1xx) get no new
	// headers; those of targets lose the headers in Remove and Set. Trailers of
	// handlers stay as they are. If a change names Date or Alt-Svc, all
	// requests take the handler lane, which costs more CPU.
	ResponseHeader HeaderEdit

	// HSTS sets Strict-Transport-Security on the same responses, if they go
	// over TLS. It replaces the header that the target, a handler or
	// ResponseHeader sets. [Upstream.HSTS] and [Upstream.ResponseHeader] of a
	// route take precedence. Nil leaves the header as it is.
	HSTS *HSTS

	// RateLimit limits the requests of each client, or of each [LimitKey]. Nil
	// means no limit.
	RateLimit *RateLimit

	// TLS sets where certificates come from. The zero value uses ACME (Let's
	// Encrypt) for public names and a LocalCA for internal names.
	TLS TLS

	// Logger receives the log of the Router, and of the Upstreams of its
	// routes. Nil means slog.Default().
	Logger *slog.Logger

	// Begin is called once for each exchange that Observe is called for, on the
	// goroutine of the exchange. The call comes before the route is known and
	// before limits apply. For a request that cannot be read, Begin is called
	// after the refusal. Begin may set headers for the target and keep a value
	// for Observe; see [Beginning]. It must not block. If Begin panics, the
	// request fails with 500, or keeps its status if it was refused before the
	// call. The panic is logged, and is in [Exchange.Err]. Nil calls nothing.
	Begin func(*Beginning)

	// BeginAttempt is like Begin, but is called at the start of each attempt at
	// a target: the first one, each retry, and the second attempt of
	// [Upstream.Hedge]. The calls for one exchange come one after the other,
	// although hedged attempts run at the same time; calls for several
	// exchanges may be concurrent. BeginAttempt is not called for mirrored
	// copies, for the request of a [ForwardAuth], or for a request that is sent
	// again because a reused connection was closed. Nil calls nothing.
	BeginAttempt func(*Beginning)

	// Observe is called once at the end of each exchange, aborted ones
	// included. The call runs on the goroutine of the exchange. The Exchange is
	// valid only during the call: copy it to use it later. If Observe panics,
	// the response stays as it is, and the panic is logged. Nil logs failed
	// exchanges as warnings, except exchanges that failed on the client's side.
	Observe func(*Exchange)

	certs certs.Keeper

	name     exchange.Pseudonym
	failures atomic.Pointer[status.Failures] // kept once there is a StatusHandler

	compiled settings.Compiled[rules]
	refused  sync.Once           // logs why there are no rules
	told     map[lateField]bool  // late fields already logged; guarded by mu
	running  map[*Server]running // guarded by mu
	budgets  serve.Budgets       // budgets of running, for the status page
	turns    service.Turns       // turns of running, for HandOver

	uses  reach.Map[*Upstream]                // upstreams with background work
	mu    sync.Mutex                          // serialises writers
	table atomic.Pointer[routes.Table[route]] // read without mu

	passing atomic.Int64 // routes that are a Passthrough
	carries atomic.Bool  // a listener of ours has carried Passthrough connections
}

// rules are the compiled fields of a Router.
type rules struct {
	limit     *limit.Rule // nil means no limit
	numbering exchange.Numbering
	hooks     *exchange.Hooks // nil without any
	heads     *forward.Outers // nil edits nothing
	trusted   []netip.Prefix
	notFound  http.Handler
}

func (r *Router) compile() (*rules, error) {
	l, err := r.RateLimit.rule(r.logger)
	if err != nil {
		err = fmt.Errorf("hostproxy: RateLimit: %w", err)
	}
	for i, p := range r.TrustedProxies {
		if !p.IsValid() {
			err = errors.Join(err, fmt.Errorf("hostproxy: TrustedProxies[%d] is %q: want a prefix, such as netip.MustParsePrefix(\"10.0.0.0/8\")", i, p))
		}
	}
	if r.NotFound != nil {
		if fault := checkHandler("NotFound", r.NotFound); fault != nil {
			err = errors.Join(err, fmt.Errorf("hostproxy: %w", fault))
		}
	}
	n, err2 := r.RequestID.numbering()
	heads, err3 := r.heads()
	if err := errors.Join(err, err2, err3); err != nil {
		return nil, err
	}
	return &rules{l, n, r.hooks(n), heads, slices.Clone(r.TrustedProxies), r.NotFound}, nil
}

// rules returns the compiled fields. The first call puts them in force.
func (r *Router) rules() (*rules, error) {
	if x := r.compiled.InUse(); x != nil {
		return x, nil
	}
	x, err := r.compiled.Use(r, r.compile)
	if err != nil {
		r.refused.Do(func() { r.logger().Error("invalid fields of the Router, requests get 500", "cause", err) })
	}
	return x, err
}

// A BasicAuth verifies HTTP Basic credentials (RFC 7617) before Next serves a
// request. Requests without valid credentials get 401. Invalid fields, such as
// an empty hash, are an error when the route is added: [Router.Handle] panics,
// [Router.Set] returns it. Use TLS: plain HTTP exposes passwords. To slow down
// guessing, set [Router.RateLimit]. Next gets the Authorization header too; to
// hide it from targets, name it in [Upstream.RequestHeader].Remove.
type BasicAuth struct {
	// Users are bcrypt hashes of the passwords, by user name. "htpasswd -nB
	// NAME" prints a name and its hash. They begin with $2a$, $2b$ or $2y$.
	// Required.
	Users map[string]string
	// shown by the browser when it asks for a password; "" means "restricted"
	Realm string
	Next  http.Handler // serves requests with valid credentials; required

	// UserHeader is the request header that carries the user name to Next. A
	// client's own copy is removed, also from trailers. "" means none.
	UserHeader string

	compiled settings.Compiled[basicauth.Verifier]
}

func (b *BasicAuth) compile() (*basicauth.Verifier, error) {
	errs := []error{checkNext("BasicAuth", b.Next)}
	if b.UserHeader != "" {
		errs = append(errs, header.CheckName("BasicAuth.UserHeader", b.UserHeader))
	}
	basic, err := basicauth.New(b.Users, cmp.Or(b.Realm, "restricted"))
	if err != nil {
		errs = append(errs, fmt.Errorf("BasicAuth: %w", err))
	}
	basic.Next, basic.UserHeader = b.Next, b.UserHeader
	return basic, errors.Join(errs...)
}

func (b *BasicAuth) check() error {
	if b == nil {
		return errNil
	}
	return b.compiled.Check(b, b.compile)
}

// use puts the fields in use, if b is valid.
func (b *BasicAuth) use() error {
	if b == nil {
		return nil // check has reported that
	}
	return b.compiled.Apply(b, b.compile)
}

func (b *BasicAuth) late() []string { return b.compiled.Late(b) }

// ServeHTTP passes q to Next if it has valid credentials, and answers 401
// otherwise.
func (b *BasicAuth) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if b == nil {
		unusable(w, q, errNil)
		return
	}
	basic, err := b.compiled.Use(b, b.compile)
	if err != nil {
		unusable(w, q, err)
		return
	}
	user, ok, err := basic.User(q)
	switch {
	case err != nil:
		exchange.Left(w, q, err)
		return
	case !ok:
		w.Header().Set("WWW-Authenticate", basic.Challenge())
		exchange.Refuse(http.StatusUnauthorized, "http_request_denied").ServeHTTP(w, q)
		return
	}
	exchange.NoteUser(q.Context(), exchange.Bounded(user))
	if basic.UserHeader != "" {
		asked := q
		q = exchange.Withhold(q, basic.UserHeader)
		defer exchange.ReturnForm(asked, q)
		q.Header.Set(basic.UserHeader, user)
	}
	exchange.PassTo(basic.Next, w, q, exchange.PassCredentials)
}

func (b *BasicAuth) explain(e *status.Explanation, q *http.Request, _ *exchange.Exchange) {
	switch _, err := b.compiled.Peek(b, b.compile); {
	case err != nil:
		e.RefuseBy("BasicAuth", http.StatusInternalServerError, "%v", err)
	case !basicauth.Tries(q):
		e.RefuseBy("BasicAuth", http.StatusUnauthorized, "the request needs exactly one Authorization header, with Basic credentials")
	default:
		e.Rule("BasicAuth", status.Unknown, "the request has Basic credentials, which an explanation does not verify")
	}
}

// A ForwardAuth asks an authentication server before Next serves a request. It
// sends a GET without a body. The GET has the headers of the request, and also
// X-Forwarded-Method, X-Forwarded-Uri and the other forwarding headers. If a
// target of Auth answers with 2xx, Next serves the request. Every other
// response goes to the client. That includes responses which no target sent:
// 502 if no target answers, the Page of [Upstream.Maintain], and what Auth's
// ErrorHandler writes. Invalid fields are an error when the route is added.
type ForwardAuth struct {
	Auth *Upstream // authentication server; required
	// path and query of the request to Auth, appended to the path of Auth's
	// target; "" means /
	Path string
	// header in Fields that carries the user name, for Exchange.User; "" means
	// none
	User string
	Next http.Handler // serves requests that Auth allows; required

	// Fields names the headers to copy from Auth's response into the request
	// that Next serves. A client's own copies are removed, also from trailers.
	// Nil copies none.
	Fields []string

	compiled settings.Compiled[handler.Question]
}

func (a *ForwardAuth) compile() (*handler.Question, error) {
	errs := []error{checkHandler("ForwardAuth.Auth", a.Auth), checkNext("ForwardAuth", a.Next)}
	question, err := handler.NewQuestion(cmp.Or(a.Path, "/"), a.Fields, a.User)
	question.Next, question.Auth = a.Next, a.Auth.compile
	return question, errors.Join(append(errs, err)...)
}

func (a *ForwardAuth) check() error {
	if a == nil {
		return errNil
	}
	return a.compiled.Check(a, a.compile)
}

// use puts the fields in use, if a is valid.
func (a *ForwardAuth) use() error {
	if a == nil {
		return nil // check has reported that
	}
	return a.compiled.Apply(a, a.compile)
}

func (a *ForwardAuth) late() []string { return a.compiled.Late(a) }

// ServeHTTP passes q to Next if Auth allows it, and otherwise answers with
// Auth's response.
func (a *ForwardAuth) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if a == nil {
		unusable(w, q, errNil)
		return
	}
	question, err := a.compiled.Use(a, a.compile)
	if err != nil {
		unusable(w, q, err)
		return
	}
	auth, err := question.Auth()
	if err != nil {
		unusable(w, q, err)
		return
	}
	if passed := ask(question, auth, w, q); passed != nil {
		defer exchange.ReturnForm(q, passed)
		exchange.PassTo(question.Next, w, passed, exchange.PassCredentials)
	}
}

// ask returns q as it should pass, or nil after another response.
func ask(question *handler.Question, auth *forward.Forwarder, w http.ResponseWriter, q *http.Request) *http.Request {
	x := exchange.Borrow(q.Context())
	if x == nil {
		return question.Ask(auth, w, q, exchange.Begin(q, nil))
	}
	defer x.Return()
	x.Shared = true // the question has it
	return question.Ask(auth, w, q, x)
}

func (a *ForwardAuth) explain(e *status.Explanation, _ *http.Request, _ *exchange.Exchange) {
	if _, err := a.compiled.Peek(a, a.compile); err != nil {
		e.RefuseBy("ForwardAuth", http.StatusInternalServerError, "%v", err)
		return
	}
	e.Rule("ForwardAuth", status.Unknown, "the authentication server decides (GET %s); an explanation does not ask it", cmp.Or(a.Path, "/"))
}

// A Guard decides by the client address and by a rate limit whether Next serves
// a request. It is for handlers other than an [Upstream], which has the same
// fields itself and needs less CPU for them. Invalid fields are an error when
// the route is added.
type Guard struct {
	// Allow lists the clients that are served; empty means all. Deny lists
	// clients that are refused, even if they are in Allow. Refused clients get
	// 403. The client address is that of [ClientAddr].
	Allow, Deny []netip.Prefix

	// RateLimit limits the requests that Allow and Deny let pass. Nil means no
	// limit.
	RateLimit *RateLimit

	Next http.Handler // serves the requests that pass; required

	compiled settings.Compiled[forward.Guard]
	router   atomic.Pointer[Router] // the first with a route to it
}

func (g *Guard) logger() *slog.Logger {
	if r := g.router.Load(); r != nil {
		return r.logger()
	}
	return slog.Default()
}

func (g *Guard) compile() (*forward.Guard, error) {
	rule, err := g.RateLimit.rule(g.logger)
	if err != nil {
		err = fmt.Errorf("Guard.RateLimit: %w", err)
	}
	guard, err2 := forward.NewGuard("Guard", slices.Clone(g.Allow), slices.Clone(g.Deny), rule)
	guard.Next = g.Next
	return guard, errors.Join(checkNext("Guard", g.Next), err, err2)
}

func (g *Guard) check() error {
	if g == nil {
		return errNil
	}
	return g.compiled.Check(g, g.compile)
}

// use puts the fields in use, if g is valid.
func (g *Guard) use() error {
	if g == nil {
		return nil // check has reported that
	}
	return g.compiled.Apply(g, g.compile)
}

func (g *Guard) late() []string { return g.compiled.Late(g) }

// Unwrap returns Next.
func (g *Guard) Unwrap() http.Handler { return g.Next }

// ServeHTTP passes q to Next, or refuses it with 403 or 429.
func (g *Guard) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if g == nil {
		unusable(w, q, errNil)
		return
	}
	guard, err := g.compiled.Use(g, g.compile)
	if err != nil {
		unusable(w, q, err)
		return
	}
	client := ClientAddr(q)
	slots, refusal := guard.Admit(q, client)
	defer slots.Free() // also when Next panics
	if refusal != nil {
		refusal.ServeHTTP(w, q)
		return
	}
	exchange.PassTo(guard.Next, w, q, guard.Pass(client))
}

func (g *Guard) explain(e *status.Explanation, q *http.Request, x *exchange.Exchange) {
	guard, err := g.compiled.Peek(g, g.compile)
	if err != nil {
		e.RefuseBy("Guard", http.StatusInternalServerError, "%v", err)
		return
	}
	guard.Explain(e, "Guard", q, x)
}

// A RateLimit limits the requests of each client by a token bucket, the number
// of its requests in flight, or both. A client is an IPv4 address or the /64 of
// an IPv6 address, resolved through [Router.TrustedProxies]. To count by
// something other than the client, set By.
//
// Requests above the limit get 429 with Retry-After. If Rate is exceeded, the
// response has RateLimit and RateLimit-Policy too. Memory is bounded regardless
// of the number of clients and keys.
//
// Each Upstream, Guard and Router that has a RateLimit counts for itself, even
// if they share the pointer. For one limit over several routes, use
// [Router.RateLimit] or a common Limiter.
type RateLimit struct {
	// requests per second, above 0 and at most 1,000,000; may be a fraction;
	// required without MaxInFlight
	Rate  float64
	Burst int // requests that a client may make at once after a pause; 0 means Rate, rounded up

	// MaxInFlight limits the requests of each client that are in flight at the
	// same time. WebSockets and other streams count until they end. A
	// connection that a handler of your own hijacks counts until the handler
	// returns. Retries and hedged requests do not count in addition. A mirrored
	// copy counts only at the upstream that gets it.
	//
	// A request still counts for a moment after its client has the response.
	// Therefore a new request above the limit waits a few milliseconds before
	// it is refused. Zero means no limit.
	MaxInFlight int

	// By is what requests are counted by. The zero value means the client
	// address.
	By LimitKey

	// Limiter replaces the built-in buckets. Rate and Burst are then only
	// announced, in RateLimit-Policy. MaxInFlight is still counted in this
	// process. With By, Limiter must be a [KeyLimiter]. Nil uses the buckets.
	Limiter Limiter
}

// A LimitKey is the part of a request by which a [RateLimit] counts. Requests
// with the same value share one limit. Set at most one field. The zero value
// means the client address, which is also used for requests where the value is
// missing or empty. If [Router.Begin] sets or removes a header, the limit uses
// the result, not what the client sent.
//
// Clients choose the values of headers and cookies. A client that invents a new
// value for each request is not limited by it. A flood of invented values can
// also use up the buckets: requests with other new values then get 429. Count
// by a value that a proxy or middleware in front of the Router has verified. Or
// limit by client address too: set [Router.RateLimit] with an empty By, and set
// By in [Upstream.RateLimit] or [Guard] only.
type LimitKey struct {
	// Header is the name of a header, whose first value counts. Host and
	// forwarding headers such as X-Forwarded-For are not allowed. The header of
	// [Router.RequestID] counts as missing, because its values are all
	// different.
	Header string

	Cookie string // name of a cookie
	Host   bool   // host of the request, in canonical form

	// Func returns the value. It must not change the request or read its body.
	// It may be called concurrently. The request waits for it, without a time
	// limit. If Func panics, the request fails with 500. Func costs more CPU
	// than the other fields; in [Router.RateLimit] it does so for the requests
	// of all routes.
	Func func(*http.Request) string
}

// A Limiter decides whether a client may make one more request, for instance by
// buckets that several machines share. Allow gets an IPv4 address, or the first
// address of the /64 of an IPv6 client. It may be called concurrently. If it
// returns an error or panics, the request is allowed, and a warning is logged
// at most once a second. ctx is done after a second; Allow must then return,
// because the request waits for it.
type Limiter interface {
	Allow(ctx context.Context, client netip.Addr) (Quota, error)
}

// A KeyLimiter is a [Limiter] that can count by another key than the client. A
// [RateLimit] with Limiter and By requires one. For AllowKey the same rules
// apply as for Allow. key is the SHA-256, in hexadecimal, of the value that
// RateLimit.By selects, because that value may be long or secret. For a request
// without such a value, Allow is called instead.
type KeyLimiter interface {
	Limiter
	AllowKey(ctx context.Context, key string) (Quota, error)
}

// A Quota is a Limiter's answer to one request.
type Quota struct {
	OK        bool          // the request is allowed
	Remaining int           // further requests that are allowed immediately
	Retry     time.Duration // time until one more request is allowed
	Reset     time.Duration // time until a full burst is allowed
}

// rule compiles l. It returns nil if l is nil. logger is called only to log.
func (l *RateLimit) rule(logger func() *slog.Logger) (*limit.Rule, error) {
	if l == nil {
		return nil, nil
	}
	by, fault := forward.NewBy(limit.By(l.By))
	s := limit.Spec{Config: limit.Config{Rate: l.Rate, Burst: l.Burst}, By: by, MaxInFlight: l.MaxInFlight}
	limiter := l.Limiter // what l is changed to later has no effect
	if limiter == nil {
		r, err := limit.NewRule(s)
		return r, errors.Join(fault, err)
	}
	keys, ok := limiter.(KeyLimiter)
	if !ok && by.Set() {
		fault = errors.Join(fault, fmt.Errorf("the Limiter %T counts by client only: with By it needs a method AllowKey (see KeyLimiter)", limiter))
	}
	ask := func(ctx context.Context, client netip.Addr, key string) (q limit.Decision, err error) {
		var quota Quota
		if key != "" {
			quota, err = keys.AllowKey(ctx, key)
		} else {
			quota, err = limiter.Allow(ctx, client)
		}
		return limit.Decision(quota), err
	}
	r, err := limit.NewForeignRule(s, ask, func(err error) { logger().Warn("rate limiter failed, requests are allowed", "cause", err) })
	return r, errors.Join(fault, err)
}

// checkNext checks the Next of a handler of the type outer.
func checkNext(outer string, next http.Handler) error {
	if _, ok := next.(*Passthrough); ok {
		return fmt.Errorf("%s.Next is a Passthrough, which serves no requests: make it a route of its own", outer)
	}
	return checkHandler(outer+".Next", next)
}

// checkHandler checks a handler. Its error begins with name.
func checkHandler(name string, h http.Handler) error {
	if err := fault(h); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// fault returns the error of a handler, or of a handler that it wraps.
func fault(h http.Handler) (err error) {
	if h == nil {
		return errNil
	}
	outer := h
	reach.Walk(h, func(h http.Handler) bool {
		if reach.IsNil(h) {
			err = errNil
			return false
		}
		if _, ok := h.(*Passthrough); ok && h != outer {
			err = fmt.Errorf("%T wraps a Passthrough, which serves no requests: make it a route of its own", outer)
			return false
		}
		c, ok := h.(interface{ check() error })
		if ok {
			err = c.check()
		}
		return !ok
	})
	return err
}

var errNil = errors.New(`nil handler: a handler is required, such as hostproxy.To("localhost:4006")`)

// unusable answers requests to a handler with invalid fields, used without a
// route. The fields of a route's handler are checked when the route is added.
func unusable(w http.ResponseWriter, q *http.Request, err error) {
	exchange.NoteFailure(q.Context(), &exchange.Failure{Op: "pick", Side: exchange.SideProxy, Err: err})
	exchange.Refuse(http.StatusInternalServerError, "proxy_internal_error").ServeHTTP(w, q)
}

// Unwrap returns Next.
func (b *BasicAuth) Unwrap() http.Handler { return b.Next }

// Unwrap returns Next.
func (a *ForwardAuth) Unwrap() http.Handler { return a.Next }

// A route is the value of a pattern in the table.
type route struct {
	handler http.Handler
	behind  *behind     // nil if handler is an Upstream
	life    routes.Life // ends when the route leaves the table
}

// A behind collects the upstreams behind a route's handler: those found by
// unwrapping it, and those that its requests have reached.
type behind struct {
	router *Router
	*reach.Route[*Upstream]
}

// add notes that u is behind the route.
func (b *behind) add(u *Upstream) {
	if b.Meet(u) {
		u.logTo(b.router)
	}
}

// upstreams returns the known upstreams of the route.
func (rt *route) upstreams() []*Upstream {
	if u, ok := rt.handler.(*Upstream); ok {
		return []*Upstream{u}
	}
	return rt.behind.All()
}

func (r *Router) newRoute(p routes.Pattern, h http.Handler, where routes.Place) *routes.Route[route] {
	rt := &routes.Route[route]{Pattern: p, Value: route{handler: h}, Where: where}
	if _, ok := h.(*Upstream); !ok {
		rt.Value.behind = &behind{r, r.uses.NewRoute()}
	}
	return rt
}

// Handle adds a route. It panics if the pattern or h is invalid, or if the
// pattern already has a route. In that case the message names the source lines
// of both calls. [Router.Set] returns an error instead, and replaces an
// existing route.
func (r *Router) Handle(pattern string, h http.Handler) {
	where := routes.Caller(1)
	p, err := parseRoute(pattern, h)
	if err != nil {
		panic(fmt.Sprintf("%v (registered at %s)", err, where))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, taken := r.table.Load().Get(p); taken {
		panic(fmt.Sprintf("hostproxy: pattern %q (registered at %s) already has a route, %q (registered at %s): use Set to replace it",
			pattern, where, old.Pattern, old.Where))
	}
	r.swap(nil, r.newRoute(p, h, where))
}

// Set adds a route, or swaps the handler of an existing route. Requests in
// flight finish on the old handler, with the same exceptions as in
// [Router.Remove]. These exceptions do not apply if both handlers have the same
// innermost handler, which [Router.Replace] explains.
func (r *Router) Set(pattern string, h http.Handler) error {
	p, err := parseRoute(pattern, h)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.late(maps.All(map[string]http.Handler{pattern: h})); err != nil {
		return err
	}
	old, taken := r.table.Load().Get(p)
	if taken && reach.Same(old.Value.handler, h) {
		return nil
	}
	rt := r.newRoute(p, h, routes.Caller(1))
	if taken {
		succeed(rt, old)
	}
	r.swap(old, rt)
	return nil
}

// Remove removes a route and reports whether it existed. Requests in flight
// finish, with two exceptions: an [Upstream] closes upgraded connections
// immediately, and cuts off responses without a Content-Length after 10 s.
// [Upstream.StreamGrace] changes these times for upgraded connections and event
// streams.
func (r *Router) Remove(pattern string) bool {
	p, err := routes.ParsePattern(pattern)
	if err != nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	old, ok := r.table.Load().Get(p)
	if ok {
		r.swap(old, nil)
	}
	return ok
}

// swap replaces the route old by rt, which has the same pattern. Either may be
// nil. r.mu is held.
func (r *Router) swap(old, rt *routes.Route[route]) {
	from := r.table.Load()
	var to *routes.Table[route]
	var host string
	if rt != nil {
		to, host = from.With(rt), rt.Pattern.Host()
		r.retain(rt)
	} else {
		to, _ = from.Without(old.Pattern)
		host = old.Pattern.Host()
	}
	r.table.Store(to)
	if old != nil {
		r.retire(old, rt)
	}
	r.reportMoved(from, to, slices.Values([]string{host}), 1)
}

// Replace swaps all routes at once for the routes in rs. If there are errors,
// it changes nothing and returns all errors joined. It does not wait.
// ([Upstream.Replace] swaps the targets of one Upstream, and waits.)
//
// Requests in flight finish on the old handlers, with the same exceptions as in
// [Router.Remove]. These exceptions do not apply to a route that keeps its
// pattern and its innermost handler (see below): its upgraded connections stay
// open.
//
// A handler with a method Unwrap() http.Handler wraps the handler that the
// method returns. The innermost handler is the one that wraps no other.
// BasicAuth, ForwardAuth and Guard have this method; add it to your own
// middleware. For example, a new BasicAuth around the same Upstream applies to
// new requests, and closes no connection. Handlers are compared with ==.
// Handlers of a type that is not comparable count as different.
// http.HandlerFunc is an exception: two of them are the same if they hold the
// same func value. A new closure of the same code is a different value.
func (r *Router) Replace(rs map[string]http.Handler) error {
	return r.change(rs, func(c *routes.Change[route]) {
		for o, old := range c.Came() {
			if old != nil {
				succeed(o, old)
			}
			r.retain(o)
		}
		r.table.Store(c.To)
		for o, next := range c.Left() {
			r.retire(o, next)
		}
		r.reportMoved(c.From, c.To, c.Hosts(), len(c.Coming)+len(c.Leaving))
	})
}

// CheckReplace returns what [Router.Replace] would change now, or the error
// that it would return. It changes nothing.
func (r *Router) CheckReplace(rs map[string]http.Handler) (s Changes, err error) {
	err = r.change(rs, func(c *routes.Change[route]) {
		s.Added, s.Removed, s.Rewrapped, s.Swapped = c.Patterns(alike)
		s.Certificates = r.orders(c)
	})
	return s, err
}

// change calls do with the change that makes rs the only routes, or returns all
// errors joined. r.mu is held during the call.
func (r *Router) change(rs map[string]http.Handler, do func(*routes.Change[route])) error {
	list, err := r.parseRoutes(rs, routes.Caller(2))
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.late(maps.All(rs)); err != nil {
		return err
	}
	c, err := routes.NewChange(r.table.Load(), list, func(old, given *routes.Route[route]) bool {
		return reach.Same(old.Value.handler, given.Value.handler)
	})
	if err != nil {
		return fmt.Errorf("hostproxy: %w", err)
	}
	do(c)
	return nil
}

// Changes lists the effects of [Router.Replace]. Patterns are in canonical
// form, and sorted. Unchanged routes are not listed.
type Changes struct {
	Added, Removed []string // new patterns, and removed patterns

	// Swapped patterns get a different innermost handler: their upgraded
	// connections are closed after [Upstream.StreamGrace], by default
	// immediately. Rewrapped patterns keep the innermost handler, but the
	// handlers around it change: their upgraded connections stay open. See
	// [Router.Replace].
	Swapped, Rewrapped []string

	// Certificates are the hosts and wildcards whose certificates will be
	// loaded from Storage or ordered, as far as known. Hosts that [TLS.Lazy]
	// leaves to the first handshake are not listed.
	Certificates []string
}

// String returns one line for each kind of change, or "no changes".
func (c Changes) String() string {
	lines := status.Titled("added", c.Added) + status.Titled("removed", c.Removed) + status.Titled("swapped", c.Swapped) +
		status.Titled("rewrapped", c.Rewrapped) + status.Titled("certificates", c.Certificates)
	return cmp.Or(strings.TrimSuffix(lines, "\n"), "no changes")
}

// parseRoutes returns new routes, or all errors joined.
func (r *Router) parseRoutes(rs map[string]http.Handler, where routes.Place) ([]routes.Given[route], error) {
	list := make([]routes.Given[route], 0, len(rs))
	var errs []error
	var turn yield.Turn
	good := make(map[*Upstream]bool) // checked already: an upstream may have many patterns
	for pattern, h := range rs {
		turn.Step()
		p, err := routes.ParsePattern(pattern)
		if err != nil {
			errs = append(errs, fmt.Errorf("hostproxy: %w", err))
			continue
		}
		if u, ok := h.(*Upstream); !ok || !good[u] {
			if err := checkRoute(pattern, p, h); err != nil {
				errs = append(errs, err)
				continue
			}
			if ok {
				good[u] = true
			}
		} else if err := checkStrip(pattern, p, h); err != nil {
			errs = append(errs, err)
			continue
		}
		list = append(list, routes.Given[route]{Route: r.newRoute(p, h, where), Spelling: pattern})
	}
	return list, errors.Join(errs...)
}

// retain prepares rt for being in the table. r.mu is held.
func (r *Router) retain(rt *routes.Route[route]) {
	if isPassthrough(rt.Value.handler) {
		r.passing.Add(1)
	}
	if u, ok := rt.Value.handler.(*Upstream); ok {
		r.uses.Add(u)
		u.logTo(r)
		return
	}
	reach.Walk(rt.Value.handler, func(h http.Handler) bool {
		switch h := h.(type) {
		case *Upstream:
			rt.Value.behind.add(h)
		case *ForwardAuth:
			rt.Value.behind.add(h.Auth)
		case *Guard:
			h.router.CompareAndSwap(nil, r)
		}
		return true
	})
}

// retire ends rt, which has left the table, and the background work of
// upstreams that no route uses any more. next is the route that has its pattern
// now, or nil. r.mu is held.
func (r *Router) retire(rt, next *routes.Route[route]) {
	if isPassthrough(rt.Value.handler) {
		r.passing.Add(-1)
	}
	if next == nil || !next.Value.life.Continues(&rt.Value.life) {
		rt.Value.life.End()
	}
	var idle []*Upstream
	if u, ok := rt.Value.handler.(*Upstream); !ok {
		idle = rt.Value.behind.Leave()
	} else if r.uses.Remove(u) {
		idle = []*Upstream{u}
	}
	for _, u := range idle {
		go r.closeUnused(u) // not here: a hook of u may have removed the route
	}
}

// succeed continues the life of old in rt, which has the same pattern, if both
// have the same innermost handler.
func succeed(rt, old *routes.Route[route]) {
	if alike(old, rt) {
		rt.Value.life.Continue(&old.Value.life)
	}
}

// alike reports whether two routes have the same innermost handler.
func alike(old, rt *routes.Route[route]) bool {
	return reach.Alike(old.Value.handler, rt.Value.handler)
}

// closeUnused ends the background work of u, unless it has a route again.
func (r *Router) closeUnused(u *Upstream) {
	if !r.uses.Has(u) {
		u.closeIdle()
	}
}

// All returns the current routes, sorted by pattern. Later changes do not
// affect the iteration.
func (r *Router) All() iter.Seq2[string, http.Handler] {
	t := r.table.Load()
	return func(yield func(string, http.Handler) bool) {
		for o := range t.All() {
			if !yield(o.Pattern.String(), o.Value.handler) {
				return
			}
		}
	}
}

// Handler returns the handler that would serve q and the pattern of its route,
// without serving q. If no route matches, the handler is NotFound or refuses
// the request, and the pattern is "".
func (r *Router) Handler(q *http.Request) (http.Handler, string) {
	rt, refusal := r.route(q, exchange.WirePath(q))
	if rt == nil {
		return refusal, ""
	}
	return rt.Value.handler, rt.Pattern.String()
}

// check returns an error if r is nil.
func (r *Router) check() error {
	if r == nil {
		return errNil
	}
	return nil
}

// ServeHTTP serves q by the route for its host and path. It sets q.Pattern,
// also for middleware around the Router. CONNECT gets 501, except for a
// WebSocket over HTTP/2 (RFC 8441) or HTTP/3 (RFC 9220). A request that has
// passed the Router more than three times before, according to its Via header,
// is in a loop and gets 508.
func (r *Router) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if r == nil {
		unusable(w, q, errNil)
		return
	}
	x := exchange.Begin(q, r.trusted())
	x.Name = r.name.Text()
	defer r.end(x) // also when a handler panics
	r.identify(w, q, x)
	exchange.CloseUnbounded(w, q)
	if fail := r.announce(q, x); fail != nil {
		fail.Handler().ServeHTTP(exchange.Watch(w, x), q)
	} else {
		r.serve(w, q, x)
	}
	x.Returned = true
}

func (r *Router) serve(w http.ResponseWriter, q *http.Request, x *exchange.Exchange) {
	if x.Answer != nil { // the response of a target that the fast lane has asked
		q.Pattern = x.Pattern
		x.Answer.Serve(w, x.Numbered(q), x)
		return
	}
	slots, refusal := r.admit(x, q)
	defer slots.Free() // also when a handler panics
	if refusal != nil {
		refusal.ServeHTTP(exchange.Watch(w, x), q)
		return
	}
	rt, refusal := r.route(q, x.Path)
	if rt == nil {
		if r.notFound() != nil { // refusal may be NotFound
			l := exchange.Lend(q.Context(), x)
			defer l.End()
			q = x.Numbered(q).WithContext(l)
		}
		exchange.ServeWatched(refusal, w, q, x)
		return
	}
	q.Pattern = rt.Pattern.String()
	x.Pattern = q.Pattern
	asked := q
	q = x.Numbered(q) // after Pattern is set, so that middleware around the Router sees that
	defer x.Live(q.Context(), &rt.Value.life)()
	defer r.closeRetired(rt)
	if refusal := x.Loops(q); refusal != nil {
		refusal.ServeHTTP(exchange.Watch(w, x), q)
		return
	}
	if u, ok := rt.Value.handler.(*Upstream); ok {
		u.serve(w, q, x)
		return
	}
	x.Owner = rt.Value.behind
	l := exchange.Lend(q.Context(), x)
	q = q.WithContext(l)
	defer exchange.ReturnForm(asked, q)
	exchange.ServeOwn(rt.Value.handler, w, q, l)
}

// closeRetired is closeUnused for the upstreams of a route that was removed
// while it served a request: the request may have restarted their background
// work.
func (r *Router) closeRetired(rt *routes.Route[route]) {
	if rt.Value.life.Err() == nil {
		return
	}
	for _, u := range rt.Value.upstreams() {
		go r.closeUnused(u)
	}
}

// identify gives the exchange its identifier, and sets the response header. It
// notes how the head of the response is edited.
func (r *Router) identify(w http.ResponseWriter, q *http.Request, x *exchange.Exchange) {
	if rules, err := r.rules(); err == nil {
		x.Identify(q, r, rules.numbering)
		rules.numbering.Tell(w, x.RequestID)
		rules.heads.Edit(x)
	}
}

// announce calls Begin for x, the exchange of q. It returns the failure of the
// exchange, or nil.
func (r *Router) announce(q *http.Request, x *exchange.Exchange) *exchange.Failure {
	rules, err := r.rules()
	if err != nil {
		return x.Announce(r.hooks(exchange.Numbering{}), q)
	}
	return x.Announce(rules.hooks, q)
}

// admit counts q in by the rate limit, until the slots are freed, or returns
// the handler that refuses it.
func (r *Router) admit(x *exchange.Exchange, q *http.Request) (limit.Slots, http.Handler) {
	rules, err := r.rules()
	switch {
	case err != nil:
		return nil, exchange.Refuse(http.StatusInternalServerError, "proxy_internal_error")
	case rules.limit == nil:
		return nil, nil
	}
	return forward.Limited(x, q, rules.limit)
}

// end completes the record and reports it.
func (r *Router) end(x *exchange.Exchange) {
	x.Finish()
	r.observe(&x.Record)
	x.Release()
}

// route returns the route of q, which has that path, or the handler that
// answers if there is none.
func (r *Router) route(q *http.Request, path string) (*routes.Route[route], http.Handler) {
	rt, no := r.find(q, path)
	switch {
	case rt != nil:
		return rt, nil
	case no.status == 0:
		return nil, r.notFound()
	case no.status == http.StatusBadRequest, no.why == exchange.ErrConnect, no.why == exchange.ErrTrace:
		// the record must have the fault
		fail := exchange.Failure{Op: "read", Side: exchange.SideClient, Status: no.status, Reason: no.class, Err: no.why}
		return nil, fail.Handler()
	}
	return nil, exchange.Refuse(no.status, no.class)
}

// A refusal is why a request has no route.
type refusal struct {
	status int    // of the response; 0 means that NotFound answers
	class  string // error class in the response
	why    error
}

// Why requests have no route.
var (
	errMisdirected = errors.New("the host requires a new connection: its client authentication (TLS.Host) is not that of the connection, has changed, or is not known yet")
	errNoRoute     = errors.New("no route matches the host and path")
)

// find returns the route of q, which has that path, or why there is none.
func (r *Router) find(q *http.Request, path string) (*routes.Route[route], refusal) {
	if fail := exchange.CheckMethod(q); fail != nil {
		return nil, refusal{fail.Status, fail.Reason, fail.Err}
	}
	host, _, err := hostname.Split(q.Host)
	nameless := q.Host == "" && exchange.IsHTTP10(q) // only routes for any host serve it
	if err != nil && !nameless {
		return nil, refusal{http.StatusBadRequest, "http_request_error", err}
	}
	t := r.table.Load() // once, as in hit
	if q.TLS != nil && !r.belongs(t, q.TLS, host) {
		return nil, refusal{http.StatusMisdirectedRequest, "http_request_denied", errMisdirected}
	}
	rt, fault := t.Lookup(host, path)
	switch {
	case fault != nil:
		return nil, refusal{http.StatusBadRequest, "http_request_error", fault}
	case rt != nil:
		return rt, refusal{}
	case nameless:
		return nil, refusal{http.StatusBadRequest, "http_request_error", err}
	case r.notFound() != nil:
		return nil, refusal{why: errNoRoute}
	case q.TLS != nil && !t.Knows(host):
		return nil, refusal{http.StatusMisdirectedRequest, "destination_not_found", errNoRoute}
	}
	return nil, refusal{http.StatusNotFound, "destination_not_found", errNoRoute}
}

// trusted returns the TrustedProxies in force.
func (r *Router) trusted() []netip.Prefix {
	if x := r.compiled.InUse(); x != nil {
		return x.trusted
	}
	return r.TrustedProxies
}

// notFound returns the NotFound in force.
func (r *Router) notFound() http.Handler {
	if x := r.compiled.InUse(); x != nil {
		return x.notFound
	}
	return r.NotFound
}

func (r *Router) logger() *slog.Logger {
	if r != nil && r.Logger != nil {
		return r.Logger
	}
	return slog.Default()
}

// Redirect returns a handler that redirects every request to host with 308
// Permanent Redirect, for instance from www to the apex. Scheme, port, path and
// query stay the same. A port in host (example.com:8443) replaces the port of
// the request. Port 443 also sets the scheme to https, and port 80 sets it to
// http. If the peer is in [Router.TrustedProxies], its X-Forwarded-* headers
// give scheme and port of the request. Redirect panics if host is not a host
// with an optional port.
func Redirect(host string) http.Handler {
	r, err := handler.NewRedirect(host)
	if err != nil {
		panic(fmt.Sprintf("hostproxy: %v", err))
	}
	return r
}

func parseRoute(pattern string, h http.Handler) (routes.Pattern, error) {
	p, err := routes.ParsePattern(pattern)
	if err != nil {
		return p, fmt.Errorf("hostproxy: %w", err)
	}
	return p, checkRoute(pattern, p, h)
}

// checkRoute returns why h cannot be the handler of p. spelling is the pattern
// as the program wrote it.
func checkRoute(spelling string, p routes.Pattern, h http.Handler) error {
	if fault(h) != nil { // builds the text only then: there may be a million routes
		return fmt.Errorf("hostproxy: %w", checkHandler(fmt.Sprintf("pattern %q", spelling), h))
	}
	return checkPlace(spelling, p, h)
}

// checkStrip returns an error if no path of p has the prefix that the Upstream
// behind h strips. Handlers of your own may change the path before.
func checkStrip(spelling string, p routes.Pattern, h http.Handler) error {
	prefix := ""
	reach.Walk(h, func(h http.Handler) bool {
		u, last := h.(*Upstream)
		if last && u != nil {
			prefix = u.strips()
		}
		_, basic := h.(*BasicAuth)
		_, forwards := h.(*ForwardAuth)
		_, guard := h.(*Guard)
		return basic || forwards || guard
	})
	if prefix == "" || p.MeetsPrefix(prefix) {
		return nil
	}
	return fmt.Errorf("hostproxy: pattern %q: its paths do not begin with the Upstream's StripPrefix, %q: every request would get 404", spelling, prefix)
}
