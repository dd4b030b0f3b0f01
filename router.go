package hostproxy

import (
	"cmp"
	"crypto/tls"
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

	"github.com/hostproxy/hostproxy/internal/certs"
	"github.com/hostproxy/hostproxy/internal/forward"
	"github.com/hostproxy/hostproxy/internal/guard"
	"github.com/hostproxy/hostproxy/internal/hostname"
	"github.com/hostproxy/hostproxy/internal/limit"
	"github.com/hostproxy/hostproxy/internal/reach"
	"github.com/hostproxy/hostproxy/internal/routes"
	"github.com/hostproxy/hostproxy/internal/serve"
	"github.com/hostproxy/hostproxy/internal/settings"
	"github.com/hostproxy/hostproxy/internal/status"
	"github.com/hostproxy/hostproxy/internal/yield"
)

// A Router maps host patterns to handlers, usually Upstreams. The zero value
// has no routes and is ready to use. Routes may change at any time, also
// while requests are served; fields only before first use: a request, or a call
// of Serve, Listen, Wrap or TLSConfig. One that is changed later is not in force,
// and an error of Set, Replace, Check and Serve until it is changed back.
//
// A pattern is a host (api.example.com), a wildcard for exactly one label
// (*.example.com), or * for any host; with a path (example.com/api/) it
// matches that prefix on segment borders. An exact host beats a wildcard, a
// wildcard beats *, and within a host the longer path prefix wins. The order
// of registration never matters. Hosts are compared in canonical form: lower
// case, no port, no trailing dot, IDNA in ASCII, IPv6 without brackets.
//
// A path prefix is compared with the path as the client wrote it, which is also
// what targets get. Targets differ in how they read a path, so a request is
// refused with 400 if, on a host with path prefixes, another route would get
// it once parameters of segments (";x") are dropped, escapes decoded, slashes
// merged, backslashes taken for slashes or dot segments resolved, in any
// combination. Not compared are upper and lower case (/Admin is not /admin),
// dots and spaces at the end of a segment, what follows "%00", and escapes of
// escapes (%2561): if a target treats these as the same path, protect the whole
// host and not only a prefix.
type Router struct {
	// NotFound serves hosts without a route; nil answers 404, or 421
	// Misdirected Request over TLS (RFC 9110, 15.5.20).
	NotFound http.Handler

	// TrustedProxies are the peers whose X-Forwarded-* fields count: for the
	// client's address, and for whether it came over TLS, which Redirect, HSTS
	// and Sticky go by. Nil trusts nobody: the peer's address is the client.
	TrustedProxies []netip.Prefix

	// RequestID gives each request an identifier. The zero value disables it.
	RequestID RequestIDHeader

	// RateLimit bounds the requests of each client. Nil means no bound.
	RateLimit *RateLimit

	// TLS says where certificates come from. The zero value uses ACME
	// (Let's Encrypt) for public names and LocalCA for internal ones.
	TLS TLS

	// Logger gets what operators need to know, of the upstreams of routes too.
	// Nil means slog.Default().
	Logger *slog.Logger

	// Observe is called once at the end of every exchange, aborted ones
	// included, on the exchange's goroutine. The Exchange is valid only
	// during the call; copy it to keep it. When nil, exchanges that fail by no
	// fault of the client's are logged as warnings.
	Observe func(*Exchange)

	certs certs.Keeper

	name     forward.Pseudonym
	failures atomic.Pointer[status.Failures] // kept once there is a StatusHandler

	compiled settings.Compiled[rules]
	refused  sync.Once                     // logs why there are no rules
	told     map[lateField]bool            // what the log has said; guarded by mu
	running  map[*Server]settings.Snapshot // guarded by mu

	uses  reach.Map[*Upstream]                // whose background work goes on
	mu    sync.Mutex                          // serialises writers
	table atomic.Pointer[routes.Table[route]] // read without mu

	passing atomic.Int64 // routes that are a Passthrough
	carries atomic.Bool  // a listener of ours has carried Passthrough connections
}

// rules are what the fields of a Router compile to.
type rules struct {
	limit     *limit.Rule // nil means no bound
	numbering forward.Numbering
}

func (r *Router) compile() (*rules, error) {
	l, err := r.RateLimit.rule(r.logger)
	if err != nil {
		err = fmt.Errorf("hostproxy: RateLimit: %w", err)
	}
	for i, p := range r.TrustedProxies {
		if !p.IsValid() {
			err = errors.Join(err, fmt.Errorf("hostproxy: TrustedProxies[%d] is not a prefix: want one such as 10.0.0.0/8, by netip.MustParsePrefix", i))
		}
	}
	n, err2 := r.RequestID.numbering()
	if err := errors.Join(err, err2); err != nil {
		return nil, err
	}
	return &rules{l, n}, nil
}

// rules returns what the fields compile to, and puts them in force.
func (r *Router) rules() (*rules, error) {
	if x := r.compiled.InUse(); x != nil {
		return x, nil
	}
	x, err := r.compiled.Use(r, r.compile)
	if err != nil {
		r.refused.Do(func() { r.logger().Error("no requests are served", "cause", err) })
	}
	return x, err
}

// A BasicAuth verifies HTTP Basic credentials (RFC 7617) before Next serves a
// request. Requests without the password of one of Users get 401. Like an
// Upstream, it is checked when it becomes a route. Passwords are readable on the
// way over plain HTTP: use it over TLS. A RateLimit of the Router limits guessing.
// Next gets the Authorization header too; to remove it, name it in Remove of the
// Upstream's RequestHeader.
type BasicAuth struct {
	Users map[string]string // bcrypt hashes of the passwords, by the user's name; required
	Realm string            // shown by the browser when it asks for the password; "" means "restricted"
	Field string            // request header that carries the user name to Next; a client's own copy is removed, also from trailers; "" means none
	Next  http.Handler      // required

	compiled settings.Compiled[guard.Basic]
}

func (b *BasicAuth) compile() (*guard.Basic, error) {
	errs := []error{checkNext("BasicAuth", b.Next)}
	if b.Field != "" {
		errs = append(errs, forward.CheckName("BasicAuth.Field", b.Field))
	}
	basic, err := guard.NewBasic(b.Users, cmp.Or(b.Realm, "restricted"))
	if err != nil {
		errs = append(errs, fmt.Errorf("BasicAuth: %w", err))
	}
	return basic, errors.Join(errs...)
}

func (b *BasicAuth) check() error {
	if b == nil {
		return errNil
	}
	return b.compiled.Check(b, b.compile)
}

func (b *BasicAuth) late() []string { return b.compiled.Late(b) }

// ServeHTTP serves q if it brings the password of a user.
func (b *BasicAuth) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	basic, err := b.compiled.Use(b, b.compile)
	if err != nil {
		unusable(w, q, err)
		return
	}
	user, ok, err := basic.User(q)
	switch {
	case err != nil:
		forward.Left(q, err)
	case !ok:
		w.Header().Set("WWW-Authenticate", basic.Challenge())
		forward.Refuse(http.StatusUnauthorized, "http_request_denied").ServeHTTP(w, q)
		return
	}
	if x := forward.FromContext(q.Context()); x != nil {
		x.User = forward.Bounded(user)
	}
	if b.Field != "" {
		q = forward.Withhold(q, b.Field)
		q.Header.Set(b.Field, user)
	}
	b.Next.ServeHTTP(w, q)
}

func (b *BasicAuth) explain(e *status.Explanation, q *http.Request, _ *forward.Exchange) {
	switch _, err := b.compiled.Peek(b, b.compile); {
	case err != nil:
		e.RefuseBy("BasicAuth", http.StatusInternalServerError, "%v", err)
	case !guard.Tries(q):
		e.RefuseBy("BasicAuth", http.StatusUnauthorized, "the request brings no password")
	default:
		e.Rule("BasicAuth", status.Unknown, "the request brings a password, which is not checked now")
	}
}

// A ForwardAuth asks an authentication server before Next serves a request. The
// question is a GET with the request's header and without its body; it has
// X-Forwarded-Method, X-Forwarded-Uri and the other forwarding headers. If a
// target of Auth answers with 2xx, Next serves the request. Any other response
// goes to the client, also one that Auth makes itself: 502 if there is no answer,
// the Page of Maintain, or what its ErrorHandler writes. Like an Upstream, it is
// checked when it becomes a route.
type ForwardAuth struct {
	Auth   *Upstream    // authentication server; required
	Path   string       // path and query to ask for, after the path of Auth's target; "" means /
	Fields []string     // headers copied from the answer to the request; a client's own copies are removed, also from trailers
	User   string       // the one of Fields that names the user, for Exchange.User; "" means none
	Next   http.Handler // required

	compiled settings.Compiled[forward.Question]
}

func (a *ForwardAuth) compile() (*forward.Question, error) {
	errs := []error{checkHandler("ForwardAuth.Auth", a.Auth), checkNext("ForwardAuth", a.Next)}
	question, err := forward.NewQuestion(cmp.Or(a.Path, "/"), a.Fields, a.User)
	if err != nil {
		errs = append(errs, fmt.Errorf("ForwardAuth: %w", err))
	}
	return question, errors.Join(errs...)
}

func (a *ForwardAuth) check() error {
	if a == nil {
		return errNil
	}
	return a.compiled.Check(a, a.compile)
}

func (a *ForwardAuth) late() []string { return a.compiled.Late(a) }

// ServeHTTP serves q if the other server lets it pass.
func (a *ForwardAuth) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	question, err := a.compiled.Use(a, a.compile)
	if err != nil {
		unusable(w, q, err)
		return
	}
	auth, err := a.Auth.compile()
	if err != nil {
		unusable(w, q, err)
		return
	}
	x := forward.FromContext(q.Context())
	if x == nil {
		x = forward.Begin(q, nil)
	}
	if q = question.Ask(auth, w, q, x); q != nil {
		a.Next.ServeHTTP(w, q)
	}
}

func (a *ForwardAuth) explain(e *status.Explanation, _ *http.Request, _ *forward.Exchange) {
	if _, err := a.compiled.Peek(a, a.compile); err != nil {
		e.RefuseBy("ForwardAuth", http.StatusInternalServerError, "%v", err)
		return
	}
	e.Rule("ForwardAuth", status.Unknown, "the server at %s decides, and is not asked now", cmp.Or(a.Path, "/"))
}

// checkNext checks the handler behind one of that type.
func checkNext(outer string, next http.Handler) error {
	if _, ok := next.(*Passthrough); ok {
		return fmt.Errorf("%s.Next is a Passthrough, which serves no requests: make it a route of its own", outer)
	}
	return checkHandler(outer+".Next", next)
}

// checkHandler checks a handler that is used as name.
func checkHandler(name string, h http.Handler) error {
	if err := fault(h); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// fault returns what is wrong with a handler, or with one that it leads to.
func fault(h http.Handler) (err error) {
	if f, ok := h.(http.HandlerFunc); h == nil || ok && f == nil {
		return errNil
	}
	outer := h
	reach.Walk(h, func(h http.Handler) bool {
		if _, ok := h.(*Passthrough); ok && h != outer {
			err = fmt.Errorf("%T leads to a Passthrough, which serves no requests: make it a route of its own", outer)
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

var errNil = errors.New("nil handler")

// unusable answers a request to a handler that is no route and whose fields are
// wrong: a route is checked before.
func unusable(w http.ResponseWriter, q *http.Request, err error) {
	if x := forward.FromContext(q.Context()); x != nil {
		x.Fail(&forward.Failure{Op: "pick", Side: forward.SideProxy, Err: err})
	}
	forward.Refuse(http.StatusInternalServerError, "proxy_internal_error").ServeHTTP(w, q)
}

// Unwrap returns Next.
func (b *BasicAuth) Unwrap() http.Handler { return b.Next }

// Unwrap returns Next.
func (a *ForwardAuth) Unwrap() http.Handler { return a.Next }

// A route is what the table holds for a pattern.
type route struct {
	handler http.Handler
	behind  *behind     // nil if handler is an Upstream
	life    routes.Life // ends when the route leaves the table
}

// A behind is what a route's handler leads to, as far as its handlers say, and
// what requests have come to.
type behind struct {
	router *Router
	*reach.Route[*Upstream]
}

// meet notes that the route leads to u.
func (b *behind) meet(u *Upstream) {
	if b.Meet(u) {
		u.logTo(b.router)
	}
}

// upstreams returns the upstreams that the route is known to lead to.
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

// Handle adds a route. It panics if the pattern is invalid or taken, naming
// both places; Set is its twin that returns an error.
func (r *Router) Handle(pattern string, h http.Handler) {
	where := routes.Caller(1)
	p, err := parseRoute(pattern, h)
	if err != nil {
		panic(fmt.Sprintf("%v (registered at %s)", err, where))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, taken := r.table.Load().Get(p); taken {
		panic(fmt.Sprintf("hostproxy: pattern %q (registered at %s) is taken by %q (registered at %s)",
			pattern, where, old.Pattern, old.Where))
	}
	r.swap(nil, r.newRoute(p, h, where))
}

// Set adds a route, or swaps the handler of an existing one. Requests in
// flight end on the old handler; upgraded connections of a swapped route are
// closed politely, immediately or after [Upstream.StreamGrace], unless both
// handlers lead to the same one, as [Router.Replace] says.
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

// Remove removes a route and reports whether it was there. Requests in flight
// end normally; the route's upgraded connections are closed politely, immediately
// or after [Upstream.StreamGrace].
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

// swap puts a route in the place of another of the same pattern. Either may be
// nil. r.mu is held.
func (r *Router) swap(old, rt *routes.Route[route]) {
	from := r.table.Load()
	var to *routes.Table[route]
	var host string
	if rt != nil {
		to, host = from.With(rt), rt.Pattern.Host()
		r.use(rt)
	} else {
		to, _ = from.Without(old.Pattern)
		host = old.Pattern.Host()
	}
	r.table.Store(to)
	if old != nil {
		r.leave(old, rt)
	}
	r.tell(from, to, slices.Values([]string{host}), 1)
}

// Replace makes rs the only routes, all at once, or leaves everything as it
// was and returns all errors joined.
//
// A route keeps its upgraded connections if its pattern stays and its handler
// leads to the same one. A handler leads to the one that its method
// Unwrap() http.Handler returns, and so on: a new BasicAuth around an Upstream
// that stays counts for new requests, and closes nothing. Write that method for
// your own middleware. Handlers that cannot be compared are different; an
// http.HandlerFunc is the same if it is the same value, not a new closure. The
// upgraded connections of other routes are closed politely, immediately or after
// [Upstream.StreamGrace].
func (r *Router) Replace(rs map[string]http.Handler) error {
	return r.change(rs, func(c *routes.Change[route]) {
		for o, old := range c.Came() {
			if old != nil {
				succeed(o, old)
			}
			r.use(o)
		}
		r.table.Store(c.To)
		for o, next := range c.Left() {
			r.leave(o, next)
		}
		r.tell(c.From, c.To, c.Hosts(), len(c.Coming)+len(c.Leaving))
	})
}

// CheckReplace returns what [Router.Replace] would change if it were called with
// rs now, or the error that it would return. It changes nothing.
func (r *Router) CheckReplace(rs map[string]http.Handler) (s Changes, err error) {
	err = r.change(rs, func(c *routes.Change[route]) {
		s.Added, s.Removed, s.Rewrapped, s.Swapped = c.Patterns(alike)
		s.Certificates = r.orders(c)
	})
	return s, err
}

// change calls do with the change that makes rs the only routes, or returns all
// that is wrong with them. r.mu is held meanwhile.
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

// Changes are what a change of the routes does. Patterns are in canonical form,
// and sorted. Routes that stay as they are do not show.
type Changes struct {
	Added, Removed []string // patterns that come, and patterns that go

	// Swapped are patterns whose handlers lead to another one: their upgraded
	// connections end, as [Router.Replace] says. Those of Rewrapped stay: the
	// handler is another one, but leads to the same.
	Swapped, Rewrapped []string

	// Certificates are the hosts and wildcards that come to need a certificate,
	// as far as that is known: it is taken from Storage, or ordered. Those that
	// TLS.Lazy leaves to the first handshake do not show.
	Certificates []string
}

// String returns the changes as lines, "no changes" without any.
func (c Changes) String() string {
	lines := status.Titled("added", c.Added) + status.Titled("removed", c.Removed) + status.Titled("swapped", c.Swapped) +
		status.Titled("rewrapped", c.Rewrapped) + status.Titled("certificates", c.Certificates)
	return cmp.Or(strings.TrimSuffix(lines, "\n"), "no changes")
}

// parseRoutes returns new routes, or all that is wrong with them.
func (r *Router) parseRoutes(rs map[string]http.Handler, where routes.Place) ([]routes.Given[route], error) {
	list := make([]routes.Given[route], 0, len(rs))
	var errs []error
	var turn yield.Turn
	good := make(map[*Upstream]bool) // which may have many patterns
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
		}
		list = append(list, routes.Given[route]{Route: r.newRoute(p, h, where), Spelling: pattern})
	}
	return list, errors.Join(errs...)
}

// use notes that rt is about to be in the table. r.mu is held.
func (r *Router) use(rt *routes.Route[route]) {
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
			rt.Value.behind.meet(h)
		case *ForwardAuth:
			rt.Value.behind.meet(h.Auth)
		}
		return true
	})
}

// leave ends rt, which is in the table no more, and the background work of
// upstreams that no route leads to any longer. next is the route that has taken
// its pattern, nil without one. r.mu is held.
func (r *Router) leave(rt, next *routes.Route[route]) {
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
		go r.rest(u) // a hook of its own may be who removes it
	}
}

// succeed lets rt go on with the life of old, of the same pattern, if both lead
// to the same handler.
func succeed(rt, old *routes.Route[route]) {
	if alike(old, rt) {
		rt.Value.life.Continue(&old.Value.life)
	}
}

// alike reports whether two routes lead to the same handler.
func alike(old, rt *routes.Route[route]) bool {
	return reach.Alike(old.Value.handler, rt.Value.handler)
}

// rest ends what goes on in the background for u, unless it has a route again.
func (r *Router) rest(u *Upstream) {
	if !r.uses.Has(u) {
		u.closeIdle()
	}
}

// All returns the routes as they are now, sorted by pattern. Changes during
// the iteration do not show.
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

// closeIdle closes the kept connections to the targets of all routes, and ends
// the background work for them.
func (r *Router) closeIdle() {
	for _, u := range r.uses.All() {
		u.closeIdle()
	}
}

// Handler returns who would serve q and the pattern that chose it, without
// serving. For a host without a route it returns the handler that refuses
// and the pattern "".
func (r *Router) Handler(q *http.Request) (http.Handler, string) {
	rt, refusal := r.route(q)
	if rt == nil {
		return refusal, ""
	}
	return rt.Value.handler, rt.Pattern.String()
}

// ServeHTTP serves q by the route of its host and path. It sets q.Pattern, so
// that middleware around the Router sees it. CONNECT is refused. A request that
// has come to the Router more than three times before, by what Via says, is in a
// loop: 508.
func (r *Router) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	x := forward.Begin(q, r.TrustedProxies)
	x.Name = r.name.Text()
	defer r.end(x) // also when a handler panics
	r.identify(w, q, x)
	forward.CloseUnbounded(w, q)
	r.serve(w, q, x)
	x.Returned = true
}

func (r *Router) serve(w http.ResponseWriter, q *http.Request, x *forward.Exchange) {
	if refusal := r.admit(x); refusal != nil {
		refusal.ServeHTTP(forward.Watch(w, x), q)
		return
	}
	rt, refusal := r.route(q)
	if rt == nil {
		if r.NotFound != nil { // it may be
			q = x.Numbered(q)
			q = q.WithContext(forward.NewContext(q.Context(), x))
		}
		refusal.ServeHTTP(forward.Watch(w, x), q)
		return
	}
	q.Pattern = rt.Pattern.String()
	x.Pattern = q.Pattern
	q = x.Numbered(q) // after Pattern, which middleware around the Router sees
	x.Lives[1] = &rt.Value.life
	if refusal := x.Loops(q); refusal != nil {
		refusal.ServeHTTP(forward.Watch(w, x), q)
		return
	}
	if u, ok := rt.Value.handler.(*Upstream); ok {
		u.serve(w, q, x)
		return
	}
	x.Owner = rt.Value.behind
	rt.Value.handler.ServeHTTP(forward.Watch(w, x), q.WithContext(forward.NewContext(q.Context(), x)))
}

// identify gives the exchange its identifier, and tells the client.
func (r *Router) identify(w http.ResponseWriter, q *http.Request, x *forward.Exchange) {
	if rules, err := r.rules(); err == nil {
		x.Identify(q, r, rules.numbering)
		rules.numbering.Show(w.Header(), x.RequestID)
	}
}

// admit returns the handler that refuses a client who has asked enough, or nil.
func (r *Router) admit(x *forward.Exchange) http.Handler {
	rules, err := r.rules()
	switch {
	case err != nil:
		return forward.Refuse(http.StatusInternalServerError, "proxy_internal_error")
	case rules.limit == nil:
		return nil
	}
	return x.Limited(rules.limit)
}

// end closes the record and shows it.
func (r *Router) end(x *forward.Exchange) {
	x.Finish()
	r.observe(&x.Record)
}

// observe shows the record of an exchange of either lane.
func (r *Router) observe(x *forward.Record) {
	if kept := r.failures.Load(); kept != nil && x.Err != nil {
		kept.Add(x.Failed())
	}
	if r.Observe != nil {
		r.Observe(publicExchange(x))
		return
	}
	if f, ok := x.Err.(*forward.Failure); ok && f.Side != forward.SideClient {
		r.logger().Warn("exchange failed", "host", x.Host, "path", x.Path, "status", x.Status, "op", f.Op,
			"target", f.Target, "side", string(f.Side), "cause", f.Err)
	}
}

// lane is a fast lane that serves no route: it refuses what is forbidden and
// leaves the rest to net/http.
func (r *Router) lane() *serve.Lane {
	lane := &serve.Lane{Route: noRoute, Name: r.name.Text(), Trusted: r.TrustedProxies, End: r.observe, Always: r.Observe != nil}
	if rules, err := r.rules(); err == nil {
		lane.Limit, lane.Numbering = rules.limit, rules.numbering
	}
	return lane
}

func noRoute(string, string, *tls.ConnectionState) (serve.Hit, bool) { return serve.Hit{}, false }

// hit is route for the fast lane: only upstreams, no refusals.
//
// Hot path: no allocation, no locks but that of TLS.Host.
func (r *Router) hit(host, path string, state *tls.ConnectionState) (serve.Hit, bool) {
	if state != nil && !r.certs.Belongs(state, host) {
		return serve.Hit{}, false
	}
	rt, err := r.table.Load().Lookup(host, path)
	if err != nil || rt == nil {
		return serve.Hit{}, false
	}
	u, ok := rt.Value.handler.(*Upstream)
	if !ok {
		return serve.Hit{}, false
	}
	f, err := u.compile()
	if err != nil {
		return serve.Hit{}, false // which the full lane answers
	}
	return serve.Hit{Upstream: f, Pattern: rt.Pattern.String(), Life: &rt.Value.life}, true
}

// route finds the route of q, or the handler that serves it without one.
func (r *Router) route(q *http.Request) (*routes.Route[route], http.Handler) {
	rt, no := r.find(q)
	switch {
	case rt != nil:
		return rt, nil
	case no.status == 0:
		return nil, r.NotFound
	}
	return nil, forward.Refuse(no.status, no.class)
}

// A refusal is why a request has no route.
type refusal struct {
	status int    // of the answer; 0 leaves it to NotFound
	class  string // what the client is told
	why    error
}

// Why requests have no route.
var (
	errConnect     = errors.New("CONNECT is not forwarded")
	errMisdirected = errors.New("the connection is not for this host: its client authentication (TLS.Host) differs, has changed, or is not known yet")
	errNoRoute     = errors.New("no route serves the host and path")
)

// find finds the route of q, or why there is none.
func (r *Router) find(q *http.Request) (*routes.Route[route], refusal) {
	if q.Method == http.MethodConnect && q.Header.Get(":protocol") == "" {
		return nil, refusal{http.StatusNotImplemented, "http_request_denied", errConnect}
	}
	host, _, err := hostname.Split(q.Host)
	if err != nil {
		return nil, refusal{http.StatusBadRequest, "http_request_error", err}
	}
	if q.TLS != nil && !r.certs.Belongs(q.TLS, host) {
		return nil, refusal{http.StatusMisdirectedRequest, "http_request_denied", errMisdirected}
	}
	rt, err := r.table.Load().Lookup(host, forward.WirePath(q))
	switch {
	case err != nil:
		return nil, refusal{http.StatusBadRequest, "http_request_error", err}
	case rt != nil:
		return rt, refusal{}
	case r.NotFound != nil:
		return nil, refusal{why: errNoRoute}
	case q.TLS != nil && !r.knows(host):
		return nil, refusal{http.StatusMisdirectedRequest, "destination_not_found", errNoRoute}
	}
	return nil, refusal{http.StatusNotFound, "destination_not_found", errNoRoute}
}

// knows reports whether any route serves the canonical host.
func (r *Router) knows(host string) bool { return r.table.Load().Knows(host) }

func (r *Router) logger() *slog.Logger {
	if r.Logger != nil {
		return r.Logger
	}
	return slog.Default()
}

// Redirect returns a handler that redirects every request to host with 308
// Permanent Redirect, keeping scheme, port, path and query: www to apex, or an
// old name to a new one. A port in host (example.com:8443) takes the place of
// the request's; 443 also makes the scheme https, and 80 http. Scheme and port
// are those that the client used: one of TrustedProxies is believed on them. It
// panics if host is more or less than a host with an optional port.
func Redirect(host string) http.Handler {
	r, err := forward.NewRedirect(host)
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

// checkRoute reports why h cannot be the handler of p, which was spelled so.
func checkRoute(spelling string, p routes.Pattern, h http.Handler) error {
	if fault(h) != nil { // the text is made only then: there may be a million routes
		return fmt.Errorf("hostproxy: %w", checkHandler(fmt.Sprintf("pattern %q", spelling), h))
	}
	if pass, ok := h.(*Passthrough); ok {
		return pass.checkPattern(p)
	}
	return nil
}
