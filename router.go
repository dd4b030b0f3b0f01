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
	"reflect"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hostproxy/hostproxy/internal/certs"
	"github.com/hostproxy/hostproxy/internal/forward"
	"github.com/hostproxy/hostproxy/internal/guard"
	"github.com/hostproxy/hostproxy/internal/header"
	"github.com/hostproxy/hostproxy/internal/hostname"
	"github.com/hostproxy/hostproxy/internal/limit"
	"github.com/hostproxy/hostproxy/internal/routes"
	"github.com/hostproxy/hostproxy/internal/serve"
	"github.com/hostproxy/hostproxy/internal/status"
)

// A Router maps host patterns to handlers, usually Upstreams. The zero value
// has no routes and is ready to use. Routes may change at any time, also
// while requests are served; fields only before first use.
//
// A pattern is a host (api.example.com), a wildcard for exactly one label
// (*.example.com), or * for any host; with a path (example.com/api/) it
// matches that prefix on segment borders. An exact host beats a wildcard, a
// wildcard beats *, and within a host the longer path prefix wins. The order
// of registration never matters. Hosts are compared in canonical form: lower
// case, no port, no trailing dot, IDNA in ASCII, IPv6 without brackets.
type Router struct {
	// NotFound serves hosts without a route; nil answers 404, or 421
	// Misdirected Request over TLS (RFC 9110, 15.5.20).
	NotFound http.Handler

	// TrustedProxies are the peers whose X-Forwarded-* and Forwarded fields
	// count. Nil trusts nobody: the peer's address is the client.
	TrustedProxies []netip.Prefix

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

	limitOnce sync.Once
	limit     *limit.Rule // nil means no bound
	limitErr  error

	mu    sync.Mutex                          // serialises writers
	uses  map[*Upstream]int                   // how many routes lead there; guarded by mu
	table atomic.Pointer[routes.Table[route]] // read without mu

	passing atomic.Int64 // routes that are a Passthrough
	carries atomic.Bool  // a listener of ours has carried Passthrough connections
}

// limits returns the rule of r.RateLimit, nil without one.
func (r *Router) limits() (*limit.Rule, error) {
	r.limitOnce.Do(func() {
		if r.limit, r.limitErr = r.RateLimit.rule(r.logger); r.limitErr != nil {
			r.limitErr = fmt.Errorf("hostproxy: RateLimit: %w", r.limitErr)
			r.logger().Error("no requests are served", "cause", r.limitErr)
		}
	})
	return r.limit, r.limitErr
}

// A BasicAuth serves those who know a password of Users by Next, and asks the
// others for one with 401 (RFC 7617). Like an Upstream, it is checked when it
// becomes a route. Over plain HTTP everybody on the way reads the passwords; a
// RateLimit of the Router bounds how often somebody may guess. Next gets the
// Authorization field too; Remove of an Upstream's RequestHeader takes it out.
type BasicAuth struct {
	Users map[string]string // bcrypt hashes of the passwords, by the user's name; required
	Realm string            // what the user is told to log in to; "" means "restricted"
	Field string            // request field that tells Next the user's name, and is never the client's; "" means none
	Next  http.Handler      // required

	once  sync.Once
	basic *guard.Basic
	err   error
}

func (b *BasicAuth) check() error {
	if b == nil {
		return errNil
	}
	b.once.Do(func() {
		errs := []error{checkNext("BasicAuth", b.Next)}
		if b.Field != "" {
			errs = append(errs, forward.CheckName("hostproxy: BasicAuth.Field", b.Field))
		}
		var err error
		if b.basic, err = guard.NewBasic(b.Users, cmp.Or(b.Realm, "restricted")); err != nil {
			errs = append(errs, fmt.Errorf("hostproxy: BasicAuth: %w", err))
		}
		b.err = errors.Join(errs...)
	})
	return b.err
}

// ServeHTTP serves q if it brings the password of a user.
func (b *BasicAuth) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if err := b.check(); err != nil {
		unusable(w, q, err)
		return
	}
	user, ok, err := b.basic.User(q)
	switch {
	case err != nil:
		forward.Left(q, err)
	case !ok:
		w.Header().Set("WWW-Authenticate", b.basic.Challenge())
		forward.Refuse(http.StatusUnauthorized, "http_request_denied").ServeHTTP(w, q)
		return
	}
	if b.Field != "" {
		q = q.Clone(q.Context())
		header.Denominate(q.Header)
		header.Drop(q.Header, b.Field)
		q.Header.Set(b.Field, user)
	}
	b.Next.ServeHTTP(w, q)
}

// A ForwardAuth asks another server about each request, by a GET with the
// request's fields, without its body, and with X-Forwarded-Method, -Uri and the
// other forwarding fields. An answer of 2xx lets Next serve the request; any
// other one goes to the client, as does 502 when there is none. Like an
// Upstream, it is checked when it becomes a route.
type ForwardAuth struct {
	Auth   *Upstream    // is asked; required
	Path   string       // path and query of the question, behind the path of Auth's target; "" means /
	Fields []string     // fields of the answer that are put into the request, and never are the client's
	Next   http.Handler // required

	once     sync.Once
	question *forward.Question
	err      error
}

func (a *ForwardAuth) check() error {
	if a == nil {
		return errNil
	}
	a.once.Do(func() {
		errs := []error{checkHandler("ForwardAuth.Auth", a.Auth), checkNext("ForwardAuth", a.Next)}
		var err error
		if a.question, err = forward.NewQuestion(cmp.Or(a.Path, "/"), a.Fields); err != nil {
			errs = append(errs, fmt.Errorf("hostproxy: ForwardAuth: %w", err))
		}
		a.err = errors.Join(errs...)
	})
	return a.err
}

// ServeHTTP serves q if the other server lets it pass.
func (a *ForwardAuth) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if err := a.check(); err != nil {
		unusable(w, q, err)
		return
	}
	x := forward.FromContext(q.Context())
	if x == nil {
		x = forward.Begin(q, nil)
	}
	if q = a.question.Ask(a.Auth.compiled, w, q, x); q != nil {
		a.Next.ServeHTTP(w, q)
	}
}

// checkNext checks the handler behind one of that type.
func checkNext(outer string, next http.Handler) error {
	if _, ok := next.(*Passthrough); ok {
		return fmt.Errorf("hostproxy: %s.Next is a Passthrough, which serves no requests", outer)
	}
	return checkHandler(outer+".Next", next)
}

// checkHandler checks a handler that is used as name.
func checkHandler(name string, h http.Handler) error {
	switch err := fault(h); {
	case err == errNil:
		return fmt.Errorf("hostproxy: %s: %w", name, err)
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// fault returns what is wrong with a handler.
func fault(h http.Handler) error {
	if h == nil {
		return errNil
	}
	if c, ok := h.(interface{ check() error }); ok {
		return c.check()
	}
	return nil
}

var errNil = errors.New("nil handler")

func (u *Upstream) check() error {
	if u == nil {
		return errNil
	}
	_, err := u.compile()
	return err
}

// unusable answers a request to a handler that is no route and whose fields are
// wrong: a route is checked before.
func unusable(w http.ResponseWriter, q *http.Request, err error) {
	if x := forward.FromContext(q.Context()); x != nil {
		x.Fail(&forward.Failure{Op: "pick", Side: forward.SideProxy, Err: err})
	}
	forward.Refuse(http.StatusInternalServerError, "proxy_internal_error").ServeHTTP(w, q)
}

// upstreams calls f with each upstream that h leads to.
func upstreams(h http.Handler, f func(*Upstream)) {
	switch h := h.(type) {
	case *Upstream:
		f(h)
	case *BasicAuth:
		upstreams(h.Next, f)
	case *ForwardAuth:
		f(h.Auth)
		upstreams(h.Next, f)
	}
}

// A route is what the table holds for a pattern.
type route struct {
	handler  http.Handler
	upstream *Upstream   // handler, if it is one
	life     routes.Life // ends when the route leaves the table
}

func newRoute(p routes.Pattern, h http.Handler, where routes.Place) *routes.Route[route] {
	u, _ := h.(*Upstream)
	return &routes.Route[route]{Pattern: p, Value: route{handler: h, upstream: u}, Where: where}
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
	r.swap(nil, newRoute(p, h, where))
}

// Set adds a route, or swaps the handler of an existing one. Requests in
// flight end on the old handler; upgraded connections of a swapped route are
// closed politely.
func (r *Router) Set(pattern string, h http.Handler) error {
	p, err := parseRoute(pattern, h)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	old, taken := r.table.Load().Get(p)
	if taken && sameHandler(old.Value.handler, h) {
		return nil
	}
	r.swap(old, newRoute(p, h, routes.Caller(1)))
	return nil
}

// Remove removes a route and reports whether it was there. Requests in flight
// end normally; the route's upgraded connections are closed politely.
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
		r.leave(old)
	}
	r.tell(from, to, slices.Values([]string{host}))
}

// Replace makes rs the only routes, all at once, or leaves everything as it
// was and says all that is wrong. A route whose pattern and handler stay the
// same keeps its upgraded connections.
func (r *Router) Replace(rs map[string]http.Handler) error {
	list, err := parseRoutes(rs, routes.Caller(1))
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	from := r.table.Load()
	var coming, leaving []*routes.Route[route]
	for i, n := range list {
		if o, ok := from.Get(n.Pattern); ok && sameHandler(o.Value.handler, n.Value.handler) {
			list[i].Route = o
		} else {
			coming = append(coming, n.Route)
		}
	}
	to, err := routes.New(list)
	if err != nil {
		return fmt.Errorf("hostproxy: %w", err)
	}
	if from.Len() > len(list)-len(coming) { // more than those that stay
		leaving = slices.Collect(routes.Only(from, to))
	}
	for _, o := range coming {
		r.use(o)
	}
	r.table.Store(to)
	for _, o := range leaving {
		r.leave(o)
	}
	r.tell(from, to, routes.Differ(from, to, coming, leaving))
	return nil
}

// parseRoutes returns new routes, or all that is wrong with them.
func parseRoutes(rs map[string]http.Handler, where routes.Place) ([]routes.Given[route], error) {
	list := make([]routes.Given[route], 0, len(rs))
	var errs []error
	for pattern, h := range rs {
		p, err := parseRoute(pattern, h)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		list = append(list, routes.Given[route]{Route: newRoute(p, h, where), Spelling: pattern})
	}
	return list, errors.Join(errs...)
}

// use notes that rt is about to be in the table. r.mu is held.
func (r *Router) use(rt *routes.Route[route]) {
	if isPassthrough(rt.Value.handler) {
		r.passing.Add(1)
	}
	upstreams(rt.Value.handler, func(u *Upstream) {
		if r.uses == nil {
			r.uses = make(map[*Upstream]int)
		}
		r.uses[u]++
		u.logTo(r.logger)
	})
}

// leave ends rt, which is in the table no more, and the background work of
// upstreams that no route leads to any longer. r.mu is held.
func (r *Router) leave(rt *routes.Route[route]) {
	if isPassthrough(rt.Value.handler) {
		r.passing.Add(-1)
	}
	rt.Value.life.End()
	upstreams(rt.Value.handler, func(u *Upstream) {
		if r.uses[u]--; r.uses[u] == 0 {
			delete(r.uses, u)
			go r.rest(u) // a hook of its own may be who removes it
		}
	})
}

// rest ends what goes on in the background for u, unless it has a route again.
func (r *Router) rest(u *Upstream) {
	r.mu.Lock()
	_, used := r.uses[u]
	r.mu.Unlock()
	if !used {
		u.compiled.CloseIdle() // registration compiled it
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
	r.mu.Lock()
	all := slices.Collect(maps.Keys(r.uses))
	r.mu.Unlock()
	for _, u := range all {
		u.compiled.CloseIdle() // registration compiled it
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
		refusal.ServeHTTP(forward.Watch(w, x), q)
		return
	}
	q.Pattern = rt.Pattern.String()
	x.Pattern = q.Pattern
	x.Lives[1] = &rt.Value.life
	if refusal := x.Loops(q); refusal != nil {
		refusal.ServeHTTP(forward.Watch(w, x), q)
		return
	}
	if rt.Value.upstream != nil {
		rt.Value.upstream.serve(w, q, x)
		return
	}
	rt.Value.handler.ServeHTTP(forward.Watch(w, x), q.WithContext(forward.NewContext(q.Context(), x)))
}

// admit returns the handler that refuses a client who has asked enough, or nil.
func (r *Router) admit(x *forward.Exchange) http.Handler {
	rule, err := r.limits()
	switch {
	case err != nil:
		return forward.Refuse(http.StatusInternalServerError, "proxy_internal_error")
	case rule == nil:
		return nil
	}
	return x.Limited(rule)
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
	if r.RateLimit != nil {
		lane.Limit, _ = r.limits()
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
	if err != nil || rt == nil || rt.Value.upstream == nil {
		return serve.Hit{}, false
	}
	return serve.Hit{Upstream: rt.Value.upstream.compiled, Pattern: rt.Pattern.String(), Life: &rt.Value.life}, true
}

// route finds the route of q, or the handler that refuses it.
func (r *Router) route(q *http.Request) (*routes.Route[route], http.Handler) {
	if q.Method == http.MethodConnect && q.Header.Get(":protocol") == "" {
		return nil, forward.Refuse(http.StatusNotImplemented, "http_request_denied")
	}
	host, _, err := hostname.Split(q.Host)
	if err != nil {
		return nil, forward.Refuse(http.StatusBadRequest, "http_request_error")
	}
	if q.TLS != nil && !r.certs.Belongs(q.TLS, host) {
		return nil, forward.Refuse(http.StatusMisdirectedRequest, "http_request_denied")
	}
	rt, err := r.table.Load().Lookup(host, q.URL.EscapedPath())
	switch {
	case err != nil:
		return nil, forward.Refuse(http.StatusBadRequest, "http_request_error")
	case rt != nil:
		return rt, nil
	case r.NotFound != nil:
		return nil, r.NotFound
	case q.TLS != nil && !r.knows(host):
		return nil, forward.Refuse(http.StatusMisdirectedRequest, "destination_not_found")
	}
	return nil, forward.Refuse(http.StatusNotFound, "destination_not_found")
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
// old name to a new one. It panics if host is no host name.
func Redirect(host string) http.Handler {
	canonical, err := hostname.Canonical(host)
	if err != nil {
		panic(fmt.Sprintf("hostproxy: redirect: %v", err))
	}
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Location", forward.Location(q, canonical))
		w.WriteHeader(http.StatusPermanentRedirect)
	})
}

func parseRoute(pattern string, h http.Handler) (routes.Pattern, error) {
	p, err := routes.ParsePattern(pattern)
	if err != nil {
		return p, fmt.Errorf("hostproxy: %w", err)
	}
	if fault(h) != nil {
		return p, checkHandler(fmt.Sprintf("pattern %q", pattern), h)
	}
	if pass, ok := h.(*Passthrough); ok {
		if pass == nil {
			return p, fmt.Errorf("hostproxy: pattern %q: %w", pattern, errNil)
		}
		return p, pass.checkPattern(p)
	}
	return p, nil
}

// sameHandler compares handlers; those that cannot be compared are different.
func sameHandler(a, b http.Handler) bool {
	return reflect.TypeOf(a) == reflect.TypeOf(b) && reflect.TypeOf(a).Comparable() && a == b
}
