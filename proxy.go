// Package hostproxy is an embeddable reverse proxy: a Router maps host names
// to handlers, usually Upstreams, and obtains the certificates for them.
//
//	var r hostproxy.Router
//	r.Handle("blog.example.com", hostproxy.To("localhost:4006"))
//	r.Handle("chat.example.com", hostproxy.To("localhost:3000"))
//	if err := hostproxy.ListenAndServe(context.Background(), &r); err != nil {
//		log.Fatal(err)
//	}
//
// There is a way down at every step: ListenAndServe; a Server with middleware
// around the Router; Router.Listen or Router.Wrap below a server of your own;
// Router.TLSConfig for a listener of your own; the Router alone, as a plain
// http.Handler.
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
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hostproxy/hostproxy/internal/certs"
	"github.com/hostproxy/hostproxy/internal/forward"
	"github.com/hostproxy/hostproxy/internal/header"
	"github.com/hostproxy/hostproxy/internal/hostname"
	"github.com/hostproxy/hostproxy/internal/limit"
	"github.com/hostproxy/hostproxy/internal/reach"
	"github.com/hostproxy/hostproxy/internal/routes"
	"github.com/hostproxy/hostproxy/internal/serve"
	"github.com/hostproxy/hostproxy/internal/settings"
	"github.com/hostproxy/hostproxy/internal/status"
	"github.com/hostproxy/hostproxy/internal/yield"
)

// ListenAndServe serves r over HTTPS on :443, and ACME challenges and
// redirects on :80, until ctx is done or the process receives SIGINT or
// SIGTERM. It then shuts down as [Server.Serve] does, and returns nil if every
// request could finish. A second signal ends the process immediately. A program
// that handles signals itself calls [Server.ListenAndServe] instead.
func ListenAndServe(ctx context.Context, r *Router) error {
	return untilSignal(ctx, (&Server{Router: r}).ListenAndServe)
}

// untilSignal calls serve with a context that SIGINT and SIGTERM end too.
func untilSignal(ctx context.Context, serve func(context.Context) error) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	defer context.AfterFunc(ctx, stop)() // the second signal has its usual effect
	return serve(ctx)
}

// A Server runs a Router. Only the Router field is required. Fields may be
// set until the first call of a method; a Server serves once.
type Server struct {
	Router *Router

	// Handler serves the requests of the HTTPS listener; nil means Router.
	// Set it to put middleware in front.
	Handler http.Handler

	// Addr is the HTTPS address, HTTPAddr the one for challenges and
	// redirects. "" means ":443" and ":80".
	Addr, HTTPAddr string

	// ReadHeaderTimeout bounds a request's head, from its first byte on.
	// Zero means 10 s, negative no bound.
	ReadHeaderTimeout time.Duration

	// IdleTimeout bounds the wait for the next request on a connection.
	// Zero means 2 minutes, negative no bound.
	IdleTimeout time.Duration

	// DrainTimeout limits the graceful shutdown; remaining connections, those
	// that a Passthrough carries included, are then closed. Zero means 30 s,
	// negative disables the limit.
	DrainTimeout time.Duration

	// HandshakeTimeout limits a TLS handshake, the wait for a certificate
	// included. The handshake that begins an on-demand order has at least 30 s
	// from its ClientHello. Zero means 10 s, negative disables the limit.
	HandshakeTimeout time.Duration

	// MaxHeaderBytes bounds the head of a request. Zero means 16 KiB, negative
	// is an error.
	MaxHeaderBytes int

	// MaxConns limits the open connections of each listener, those that a
	// Passthrough carries included; further connections are closed immediately.
	// Zero means no limit.
	MaxConns int

	// MaxHandshakes limits the TLS handshakes in flight; further ones wait. A
	// handshake counts from the end of its ClientHello, except while it waits
	// for a certificate. ACME challenges have places of their own. Zero means
	// 512, negative disables the limit.
	MaxHandshakes int
}

// ListenAndServe listens on Addr and HTTPAddr and calls Serve.
func (s *Server) ListenAndServe(ctx context.Context) error {
	https, err := listen(cmp.Or(s.Addr, ":443"))
	if err != nil {
		return err
	}
	plain, err := listen(cmp.Or(s.HTTPAddr, ":80"))
	if err != nil {
		https.Close()
		return err
	}
	return s.Serve(ctx, https, plain)
}

// Serve serves on listeners that are open already (inherited sockets fit) and
// closes them. It does the TLS on https itself, so https is a raw listener.
// plain answers ACME challenges and redirects; with https nil it serves the
// routes in plain HTTP instead; either may be nil, not both. When ctx is done,
// Serve stops accepting, lets requests end, closes upgraded connections
// politely, cuts what is left at DrainTimeout, and returns nil if nothing had
// to be cut.
//
// Connections of a type of your own, such as those of a listener for PROXY
// protocol, are used by their methods. Those of TCP and unix sockets are also used
// by their descriptors, which costs less; see [UnbufferedConn].
//
// Several Servers may run one Router, whose certificates, background work and
// kept connections end with the last of them.
func (s *Server) Serve(ctx context.Context, https, plain net.Listener) error {
	servers, share, err := s.servers(https, plain)
	if err != nil {
		for _, ln := range []net.Listener{https, plain} {
			if ln != nil {
				ln.Close()
			}
		}
		return err
	}
	s.Router.run(s)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	context.AfterFunc(ctx, share.Deafen)
	errs := make(chan error, len(servers))
	for ln, srv := range servers {
		go func() {
			defer cancel() // one listener that breaks ends the other
			errs <- srv.Serve(ctx, ln)
		}()
	}
	var all error
	for range servers {
		all = errors.Join(all, <-errs)
	}
	all = errors.Join(all, s.Router.release(share))
	if all != nil {
		all = fmt.Errorf("hostproxy: %w", all)
	}
	return errors.Join(all, s.Router.ran(s))
}

// An UnbufferedConn is a connection of a listener's own type, or of
// [Upstream.Dial], that may be no more than a socket. Without this method all
// bytes go through its Read and Write.
type UnbufferedConn interface {
	net.Conn

	// Unbuffered returns the connection below, for instance the *net.TCPConn, when
	// nothing that was read from it waits to be returned by Read. From then on
	// the proxy may read and write that one without the methods of this type,
	// which is what splice and waiting without a buffer need. It returns nil if
	// they must be called: because something is buffered, and then it is asked
	// again before the next request; or always, because they count bytes. It must
	// not wait.
	Unbuffered() net.Conn
}

// servers pairs each listener with what serves it. The share of s in the
// Router's certificates is to be released when all of them have ended.
func (s *Server) servers(https, plain net.Listener) (map[net.Listener]*serve.Server, *certs.Share, error) {
	switch {
	case s.Router == nil:
		return nil, nil, errors.New("hostproxy: Server.Router is nil: set it")
	case https == nil && plain == nil:
		return nil, nil, errors.New("hostproxy: Serve needs a listener: https, plain or both")
	case https != nil && doesTLS(https):
		return nil, nil, errors.New("hostproxy: Serve does the TLS itself, and so does a listener by Router.Listen, Router.Wrap or tls.Listen: " +
			"want one of net.Listen for https")
	}
	if err := s.check(); err != nil {
		return nil, nil, err
	}
	main := s.server(s.Router)
	if s.Handler == nil {
		main.Lane.Route = s.Router.hit
	} else { // middleware needs http.Request: the full lane
		main.Handler = s.Router.around(s.Handler)
	}
	share := s.Router.certs.Share()
	if https == nil {
		return map[net.Listener]*serve.Server{plain: main}, share, nil
	}
	var plainAddr net.Addr
	if plain != nil {
		plainAddr = plain.Addr()
	}
	conf, err := share.Listen(https.Addr(), plainAddr, s.Router.certOptions)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("hostproxy: TLS: %w", err), s.Router.release(share))
	}
	main.TLS = conf
	s.Router.carries.Store(true)
	servers := map[net.Listener]*serve.Server{share.Pass(https, s.Router.passer): main}
	if plain != nil {
		servers[plain] = s.server(s.Router.challenges(s.Router.redirects(share.Authority)))
	}
	return servers, share, nil
}

// check returns all that is wrong with the bounds of s and its Router.
func (s *Server) check() error {
	errs := []error{s.Router.inForce()}
	if s.Handler != nil && fault(s.Handler) == errNil {
		errs = append(errs, fmt.Errorf("hostproxy: Server.Handler: %w", errNil))
	}
	for _, err := range settings.TooShort("Server.", s) {
		errs = append(errs, fmt.Errorf("hostproxy: %w", err))
	}
	if s.MaxHeaderBytes < 0 {
		errs = append(errs, fmt.Errorf("hostproxy: Server.MaxHeaderBytes is %d: want 0 or more", s.MaxHeaderBytes))
	}
	if s.MaxConns < 0 {
		errs = append(errs, fmt.Errorf("hostproxy: Server.MaxConns is %d: want 0 or more", s.MaxConns))
	}
	return errors.Join(errs...)
}

func (s *Server) server(h http.Handler) *serve.Server {
	return &serve.Server{
		Handler:           h,
		Log:               s.Router.logger(),
		ReadHeaderTimeout: timeout(s.ReadHeaderTimeout, 10*time.Second),
		IdleTimeout:       timeout(s.IdleTimeout, 2*time.Minute),
		HandshakeTimeout:  timeout(s.HandshakeTimeout, 10*time.Second),
		DrainTimeout:      timeout(s.DrainTimeout, 30*time.Second),
		MaxHeaderBytes:    cmp.Or(s.MaxHeaderBytes, 16<<10),
		MaxConns:          s.MaxConns,
		MaxHandshakes:     max(cmp.Or(s.MaxHandshakes, 512), 0),
		Lane:              s.Router.lane(),
	}
}

// A lateField is a field that was changed when it was in force.
type lateField struct {
	owner any
	field string
}

// late returns an error that names each field of r, of a Server that runs it, or
// of a handler in handlers that was changed when it was in force already. Each is
// logged once. r.mu is held.
func (r *Router) late(handlers iter.Seq2[string, http.Handler]) error {
	var errs []error
	report := func(owner any, prefix, field string) {
		remedy := "change it back, and set it before the first use"
		if h, ok := owner.(http.Handler); ok && h != http.Handler(r) {
			remedy += ", or give Set a new handler that has it"
		}
		errs = append(errs, fmt.Errorf("hostproxy: %s%s was changed after first use, and is not in force: %s", prefix, field, remedy))
		if of := (lateField{owner, field}); !r.told[of] {
			if r.told == nil {
				r.told = make(map[lateField]bool)
			}
			r.told[of] = true
			r.logger().Error("a field was changed after first use, and is not in force", "field", prefix+field, "remedy", remedy)
		}
	}
	for _, field := range r.compiled.Late(r) {
		report(r, "Router.", field)
	}
	for s, from := range r.running {
		for _, field := range from.Changed(s) {
			report(s, "Server.", field)
		}
	}
	seen := make(map[http.Handler]bool) // routes share handlers
	see := func(pattern string, h http.Handler) bool {
		c, ok := h.(interface{ late() []string })
		if !ok || seen[h] {
			return !ok
		}
		seen[h] = true
		for _, field := range c.late() {
			report(h, fmt.Sprintf("pattern %q: %s.", pattern, strings.TrimPrefix(fmt.Sprintf("%T", h), "*hostproxy.")), field)
		}
		return true
	}
	var turn yield.Turn
	for pattern, h := range handlers {
		turn.Step()
		reach.Walk(h, func(h http.Handler) bool { return see(pattern, h) })
		for _, u := range r.met(pattern, h) {
			see(pattern, u)
		}
	}
	return errors.Join(errs...)
}

// met returns the upstreams to which requests have come through h, if that is the
// handler of a route of that pattern now: those behind middleware that does not
// say so are known by nothing else.
func (r *Router) met(pattern string, h http.Handler) []*Upstream {
	if _, ok := h.(*Upstream); ok {
		return nil
	}
	p, err := routes.ParsePattern(pattern)
	if err != nil {
		return nil
	}
	if rt, ok := r.table.Load().Get(p); ok && reach.Same(rt.Value.handler, h) {
		return rt.Value.behind.All()
	}
	return nil
}

// usable puts the handlers of all routes in force, and returns what is wrong
// with them or was changed too late.
func (r *Router) usable() error {
	var errs []error
	for _, u := range r.uses.All() {
		if _, err := u.compile(); err != nil {
			errs = append(errs, fmt.Errorf("hostproxy: %w", err))
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(append(errs, r.late(r.All()))...)
}

// inForce puts the fields of r and of its handlers in force.
func (r *Router) inForce() error {
	_, err := r.rules()
	return errors.Join(err, r.usable())
}

// run notes that s serves r from now on.
func (r *Router) run(s *Server) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running == nil {
		r.running = make(map[*Server]settings.Snapshot)
	}
	r.running[s] = settings.Take(s)
}

// ran is run's counterpart. It returns an error for fields of s that were
// changed in between.
func (r *Router) ran(s *Server) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.late(maps.All(map[string]http.Handler(nil)))
	delete(r.running, s)
	return err
}

// An Exchange is one request and its response, as Observe sees it at the end.
// UserAgent, Referer, User and ServerName are cut off after 1 KiB. Texts that a
// client chose may hold any byte: escape them in logs, as the handlers of slog do.
type Exchange struct {
	Start time.Time // when the head of the request had been read

	Client netip.Addr // client address, resolved through TrustedProxies; invalid if unknown
	Peer   netip.Addr // remote address of the connection

	Proto   string // "HTTP/1.1"
	Scheme  string // "http" or "https"
	Method  string
	Host    string // as the client wrote it
	Path    string // as the client wrote it, escaped
	Query   string // as the client wrote it, without the question mark; may hold secrets
	Pattern string // of the route; "" if none

	UserAgent  string // "" if the client sent none
	Referer    string // "" if the client sent none
	User       string // who logged in, by BasicAuth or ForwardAuth.User; "" if nobody
	RequestID  string // by Router.RequestID; "" without
	TLSVersion uint16 // tls.VersionTLS13; 0 on a plain connection
	ServerName string // asked for in the TLS handshake; "" if none

	Status        int   // sent to the client; behind a grpc-status of the proxy's own, its HTTP equivalent; 499 if the client left before
	RequestBytes  int64 // of the bodies, as forwarded
	ResponseBytes int64

	Target    string        // of the last attempt; "" if none was picked
	Attempts  int           // targets that were sent the request
	Queue     time.Duration // spent waiting for a target to be free
	Dial      time.Duration // spent connecting; 0 on a kept connection
	FirstByte time.Duration // from the attempt's start to the response's head
	Duration  time.Duration // from Start to the end

	Err     error   // an *Error when forwarding failed, else nil
	Retried []error // an *Error for each attempt before the last one
}

// A Side is who made an exchange fail.
type Side string

// The sides of an exchange.
const (
	SideClient   Side = "client"   // left, or sent what cannot be forwarded
	SideUpstream Side = "upstream" // refused, died, timed out or sent garbage
	SideProxy    Side = "proxy"    // a limit, a hook or a setting of this program
	SideDrain    Side = "drain"    // the server, the route or the upstream is going away
)

// An Error says where forwarding failed.
type Error struct {
	Op     string // "pick", "dial", "handshake", "write", "read", "copy" or "upgrade"
	Target string // "" if none was picked
	Side   Side
	Err    error
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

// publicError turns the engine's failure into an *Error.
func publicError(f *forward.Failure) *Error {
	return &Error{Op: f.Op, Target: f.Target, Side: Side(f.Side), Err: f.Err}
}

// publicExchange shows a record as an Exchange.
func publicExchange(r *forward.Record) *Exchange {
	if f, ok := r.Err.(*forward.Failure); ok {
		r.Err = publicError(f)
	}
	for i, err := range r.Retried {
		if f, ok := err.(*forward.Failure); ok {
			r.Retried[i] = publicError(f)
		}
	}
	return (*Exchange)(r)
}

// A RequestIDHeader is the request header by which a request is recognized in the
// logs of all that serve it. Targets and handlers get it with the identifier: the
// one that a TrustedProxies peer sent, if that is one token of up to 128 bytes, or
// else a new one of 128 random bits in hexadecimal. Retries and mirrored copies keep
// it, and so does the question of a ForwardAuth. A client's own copy is removed, in
// every spelling that a CGI-like target reads as the same, and in trailers too. A
// route's RequestHeader and ResponseHeader edit the header like any other.
type RequestIDHeader struct {
	// Name is that of the header, such as "X-Request-Id". "" disables identifiers.
	Name string

	// Respond sends the header to clients too, with every answer, in place of the
	// target's own.
	Respond bool
}

func (h RequestIDHeader) numbering() (forward.Numbering, error) {
	switch {
	case h.Name != "":
		if err := forward.CheckIDName("RequestID.Name", h.Name); err != nil {
			return forward.Numbering{}, fmt.Errorf("hostproxy: %w", err)
		}
	case h.Respond:
		return forward.Numbering{}, errors.New("hostproxy: RequestID.Respond without RequestID.Name: want the name of the header, such as X-Request-Id")
	}
	return forward.Numbering{Name: http.CanonicalHeaderKey(h.Name), Shown: h.Respond}, nil
}

// ClientAddr returns the client address of q, resolved through TrustedProxies, as
// Exchange.Client has it. It works in handlers and middleware of routes; in
// middleware of Server.Handler; and in the hooks of an Upstream: for In and Out of
// Rewrite, for the Request of ModifyResponse, in Pick, Transport and ErrorHandler. Elsewhere it is
// the address of q.RemoteAddr, invalid if that is none.
func ClientAddr(q *http.Request) netip.Addr {
	if x := forward.FromContext(q.Context()); x != nil {
		return x.Client
	}
	if a := forward.ArrivalFrom(q.Context()); a != nil {
		return a.Client
	}
	return header.ParsePeer(q.RemoteAddr).Addr
}

// RequestID returns the identifier of q, where ClientAddr works. It is "" elsewhere,
// and if Router.RequestID is not set.
func RequestID(q *http.Request) string {
	if x := forward.FromContext(q.Context()); x != nil {
		return x.RequestID
	}
	if a := forward.ArrivalFrom(q.Context()); a != nil {
		return a.RequestID
	}
	return ""
}

// AccessLog returns an Observe function that writes one line per exchange to
// l: at level Info, and at Warn when the upstream or the proxy failed. It may
// be called concurrently. The attributes are fields of the Exchange:
//
//	attribute       field                   left out
//	client          Client
//	method          Method
//	scheme          Scheme
//	host            Host
//	path            Path
//	query           Query                   if ""
//	proto           Proto
//	status          Status
//	request_bytes   RequestBytes
//	response_bytes  ResponseBytes
//	duration        Duration
//	pattern         Pattern
//	target          Target
//	attempts        Attempts
//	request_id      RequestID               if ""
//	user            User                    if ""
//	user_agent      UserAgent               if ""
//	referer         Referer                 if ""
//	tls             TLSVersion, "TLS 1.3"   if 0
//	server_name     ServerName              if ""
//	op              Op of Err               if Err is nil
//	side            Side of Err             if Err is nil
//	cause           Err of Err              if Err is nil
//
// Host, path and query are cut off after 4 KiB. A query may hold secrets, and so may
// a referer: to leave them out, have Observe call the function with a copy of the
// Exchange without them. It panics if l is nil.
func AccessLog(l *slog.Logger) func(*Exchange) {
	if l == nil || l.Handler() == nil {
		panic("hostproxy: AccessLog: nil Logger: want one, such as slog.Default()")
	}
	lines := sync.Pool{New: func() any { return new(logLine) }}
	h := l.Handler()
	writesAtOnce := false // other handlers may keep what they are given
	switch h.(type) {
	case *slog.JSONHandler, *slog.TextHandler:
		writesAtOnce = true
	}
	return func(x *Exchange) {
		ctx := context.Background()
		line := lines.Get().(*logLine)
		// The handler is called by itself: a Logger looks up its caller each
		// time, which here is always this function.
		if level := line.fill(x); h.Enabled(ctx, level) {
			r := slog.NewRecord(x.Start.Add(x.Duration), level, "exchange", 0)
			// A group without a name is written as if it were its members, and
			// costs no allocation.
			r.AddAttrs(slog.Attr{Value: slog.GroupValue(line.attrs...)})
			_ = h.Handle(ctx, r)
		}
		if writesAtOnce {
			lines.Put(line)
		}
	}
}

// A logLine is the memory of a line in the access log.
type logLine struct {
	attrs  []slog.Attr
	client netip.Addr // as text in name: the next line is often the same client's
	name   string
}

func (l *logLine) fill(x *Exchange) slog.Level {
	if l.client != x.Client || l.name == "" {
		l.client, l.name = x.Client, x.Client.String()
	}
	l.attrs = append(l.attrs[:0],
		slog.String("client", l.name),
		slog.String("method", logged(x.Method)),
		slog.String("scheme", x.Scheme),
		slog.String("host", logged(x.Host)),
		slog.String("path", logged(x.Path)))
	l.add("query", logged(x.Query))
	l.attrs = append(l.attrs,
		slog.String("proto", x.Proto),
		slog.Int("status", x.Status),
		slog.Int64("request_bytes", x.RequestBytes),
		slog.Int64("response_bytes", x.ResponseBytes),
		slog.Duration("duration", x.Duration),
		slog.String("pattern", x.Pattern),
		slog.String("target", x.Target),
		slog.Int("attempts", x.Attempts))
	l.add("request_id", x.RequestID)
	l.add("user", x.User)
	l.add("user_agent", x.UserAgent)
	l.add("referer", x.Referer)
	if x.TLSVersion != 0 {
		l.add("tls", tls.VersionName(x.TLSVersion))
	}
	l.add("server_name", x.ServerName)
	return l.fail(x)
}

// add adds an attribute that is not empty.
func (l *logLine) add(key, value string) {
	if value != "" {
		l.attrs = append(l.attrs, slog.String(key, value))
	}
}

// logged is as much as a line has room for.
func logged(s string) string { return s[:min(len(s), 4<<10)] }

// fail adds why the exchange failed, if it did, and returns the line's level.
func (l *logLine) fail(x *Exchange) slog.Level {
	if x.Err == nil {
		return slog.LevelInfo
	}
	var e *Error
	if !errors.As(x.Err, &e) {
		e = &Error{Side: SideProxy, Err: x.Err}
	}
	l.attrs = append(l.attrs, slog.String("op", e.Op), slog.String("side", string(e.Side)), slog.Any("cause", e.Err))
	if e.Side == SideClient {
		return slog.LevelInfo
	}
	return slog.LevelWarn
}

// A RateLimit is a token bucket for each client: an IPv4 address, or the /64 of
// an IPv6 address, behind TrustedProxies. A request without a token is answered
// with 429, Retry-After, RateLimit and RateLimit-Policy. Memory is bounded
// regardless of the number of clients.
type RateLimit struct {
	Rate  float64 // requests per second; required, may be a fraction
	Burst int     // requests that a quiet client may make at once; 0 means a second's worth

	// Limiter decides in place of the buckets; nil leaves it to them.
	Limiter Limiter
}

// A Limiter decides whether a client may make one more request, for instance by
// buckets that several machines share. Allow is called concurrently, with an
// IPv4 address or the first address of an IPv6 client's /64. A client for whom
// it returns an error or panics is let through, and a warning is logged. Allow
// must return when ctx is done, which is after a second: the request waits for
// it.
type Limiter interface {
	Allow(ctx context.Context, client netip.Addr) (Quota, error)
}

// A Quota is what a client may still ask.
type Quota struct {
	OK        bool          // this request may be served
	Remaining int           // requests that would be served at once after it
	Retry     time.Duration // until there is one more
	Reset     time.Duration // until there are all
}

// rule returns the rule of l, nil without one. logger is asked when it is needed.
func (l *RateLimit) rule(logger func() *slog.Logger) (*limit.Rule, error) {
	if l == nil {
		return nil, nil
	}
	c := limit.Config{Rate: l.Rate, Burst: l.Burst}
	if l.Limiter == nil {
		return limit.NewRule(c)
	}
	ask := func(ctx context.Context, client netip.Addr) (limit.Decision, error) {
		q, err := l.Limiter.Allow(ctx, client)
		return limit.Decision(q), err
	}
	return limit.NewForeignRule(c, ask, func(err error) { logger().Warn("rate limiter failed, clients are let through", "cause", err) })
}

// Check returns what is wrong with the fields of r and of its handlers, and an
// error for each that was changed after first use, those of Servers that run r
// included: nil means that all that is configured is in force, or will be at
// first use. It puts nothing in force. What is wrong with TLS before r listens,
// Serve, Listen and TLSConfig say.
func (r *Router) Check() error {
	var errs []error
	if err := r.compiled.Check(r, r.compile); err != nil {
		errs = append(errs, err)
	}
	for _, u := range r.uses.All() { // those behind any middleware too
		if err := u.check(); err != nil {
			errs = append(errs, fmt.Errorf("hostproxy: %w", err))
		}
	}
	for pattern, h := range r.All() {
		if _, ok := h.(*Upstream); ok {
			continue // which r.uses has
		}
		if err := checkHandler(fmt.Sprintf("pattern %q", pattern), h); err != nil {
			errs = append(errs, fmt.Errorf("hostproxy: %w", err))
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(append(errs, r.late(r.All()))...)
}

// Explain says what r would do with q now, and why. It counts nothing, takes no
// token, puts no field in force, begins no order and no background work, and
// calls no hook of the program. What a handler of the program in front of an
// Upstream would do with q, it does not know.
func (r *Router) Explain(q *http.Request) Explanation {
	e, client, cert := r.explain(q)
	return Explanation{
		Method: e.Method, Host: e.Host, Path: e.Path, Client: client,
		Candidates: each(e.Candidates, publicChoice),
		Pattern:    e.Pattern, Handlers: e.Handlers,
		Rules:   each(e.Rules, func(l status.Rule) Rule { return Rule(l) }),
		Targets: each(e.Targets, publicChoice),
		Target:  e.Target, Selection: e.Selection, Wait: e.Wait, Status: e.Status, Reason: e.Reason,
		TLS: e.TLS, Certificate: cert, text: e.Text(),
	}
}

// An Explanation is what a Router would do with a request, and why.
type Explanation struct {
	Method string     // as the client wrote it
	Host   string     // in canonical form; as the client wrote it if it has none
	Path   string     // as it is compared with patterns, escaped
	Client netip.Addr // address of the client, resolved through TrustedProxies; invalid if unknown

	// Candidates are the routes whose host matches, in the order in which they
	// are considered. Pattern is that of the route that serves, "" if none does.
	Candidates []Choice
	Pattern    string

	// Handlers are the types of the route's handler, of the handler behind it as
	// its method Unwrap says, and so on.
	Handlers []string

	// Rules are the settings that may refuse the request or make it wait, in the
	// order in which they count.
	Rules []Rule

	// Targets are those of the Upstream. Target is the one that would be chosen,
	// "" if chance or Pick chooses among the eligible ones, or if there is none.
	// Selection says how they are chosen.
	Targets   []Choice
	Target    string
	Selection string

	Wait   string // why the request would wait before it is answered; "" if it would not
	Status int    // of the answer by which the Router or one of its handlers refuses the request; 0 if none does
	Reason string // of Status

	TLS         string     // what a TLS handshake for Host would get, in words
	Certificate CertStatus // of the certificate that it would get; zero if none

	text string
}

// String returns the explanation as lines.
func (e Explanation) String() string { return e.text }

// A Choice is the pattern of a route that was considered, or a target, and why
// it is not chosen.
type Choice struct {
	Name string // of the target as in records, or the pattern
	Why  string // "" if the route serves the request, or the target is eligible
}

func publicChoice(c status.Choice) Choice { return Choice(c) }

// A Rule is a setting that may refuse a request, such as Upstream.Deny, or make
// it wait, such as Upstream.Pause.
type Rule struct {
	Name    string // of the field or method that sets it; Canary in place of Upstream for that of Upstream.Canary
	Outcome string // RulePasses, RuleWaits, RuleRefuses, or RuleUnknown: it is not looked at now
	Detail  string
}

// The outcomes of a Rule.
const (
	RulePasses  = "passes"
	RuleWaits   = "waits"
	RuleRefuses = "refuses"
	RuleUnknown = "unknown"
)

// explain is Explain as the status page shows it.
func (r *Router) explain(q *http.Request) (*status.Explanation, netip.Addr, CertStatus) {
	q = q.WithContext(context.Background()) // in which a lane may have left what only one may take
	x := forward.Begin(q, r.TrustedProxies)
	e := &status.Explanation{Method: q.Method, Host: q.Host, Path: q.URL.EscapedPath()}
	if x.Client.IsValid() {
		e.Client = x.Client.String()
	}
	if rules, err := r.compiled.Peek(r, r.compile); err != nil {
		e.Refuse(http.StatusInternalServerError, err.Error())
	} else {
		forward.ExplainLimit(e, "Router.RateLimit", rules.limit, x.Client, x.Start)
	}
	host, _, err := hostname.Split(q.Host)
	if err == nil {
		e.Host = host
		for _, c := range r.table.Load().Candidates(host, e.Path) {
			e.Candidates = append(e.Candidates, status.Choice{Name: c.Pattern.String(), Why: c.Why})
		}
	}
	switch rt, no := r.find(q); {
	case rt != nil:
		e.Pattern = rt.Pattern.String()
		forward.ExplainLoop(e, q, r.name.Text())
		rt.Value.explain(e, q, x)
	case no.status == 0:
		e.Handlers = append(e.Handlers, fmt.Sprintf("%T", r.NotFound))
	default:
		e.Refuse(no.status, no.why.Error())
	}
	if err != nil {
		e.TLS = "none: the host is not valid"
		return e, x.Client, CertStatus{}
	}
	return e, x.Client, r.explainTLS(e, host)
}

// explain adds what the route's handlers would do with q.
func (rt *route) explain(e *status.Explanation, q *http.Request, x *forward.Exchange) {
	found := false
	auths := make(map[*Upstream]bool)
	reach.Walk(rt.handler, func(h http.Handler) bool {
		e.Handlers = append(e.Handlers, fmt.Sprintf("%T", h))
		if a, ok := h.(*ForwardAuth); ok {
			auths[a.Auth] = true
		}
		_, found = h.(*Upstream)
		if h, ok := h.(interface {
			explain(*status.Explanation, *http.Request, *forward.Exchange)
		}); ok {
			h.explain(e, q, x)
		}
		return true
	})
	if found {
		return
	}
	met := slices.DeleteFunc(slices.Clone(rt.upstreams()), func(u *Upstream) bool { return auths[u] })
	if len(met) == 1 { // known from requests alone
		e.Handlers = append(e.Handlers, fmt.Sprintf("%T", met[0]))
		met[0].explain(e, q, x)
	}
}

// StatusHandler returns a handler that shows what r is doing, as a page or, with
// the query format=json, as JSON: routes, targets with their health and
// latency, certificates, and the failures since StatusHandler was called, of
// which it keeps the latest hundred. A form, or the parameters url, method and
// client, show what [Router.Explain] says of such a request. Restrict access: it
// exposes host names and addresses. It panics if r is nil.
func StatusHandler(r *Router) http.Handler {
	if r == nil {
		panic("hostproxy: StatusHandler: nil Router: want the one that is to be shown")
	}
	r.failures.CompareAndSwap(nil, new(status.Failures))
	return status.Handler(r.status, func(q *http.Request) *status.Explanation { e, _, _ := r.explain(q); return e })
}

// status is what the page shows.
func (r *Router) status() status.Page {
	p := status.Page{Time: time.Now(), Failures: r.failures.Load().Latest()}
	for o := range r.table.Load().All() {
		p.Routes = append(p.Routes, describe(o))
	}
	for c := range r.Certificates() {
		p.Certificates = append(p.Certificates, r.certificate(c))
	}
	return p
}

func (r *Router) certificate(c CertStatus) status.Certificate {
	s := status.Certificate{Host: c.Host, State: c.State, Issuer: c.Issuer, NotAfter: c.NotAfter, Renewal: c.RenewAt,
		Attempts: c.Attempts, NextTry: c.NextTry, Waiting: c.Waiting, Refused: c.Refused}
	if c.Err != nil {
		s.Error = status.Sentence(c.Err.Error())
	}
	zone, wild := strings.CutPrefix(c.Host, "*.")
	switch {
	case c.State != CertFailed || c.NextTry.IsZero() || hostname.IsInternal(zone): // nothing that a CA would look at
	case wild || r.TLS.DNS != nil:
		s.Check = status.RecordsCommand(c.Host)
	default:
		s.Check = status.ReachCommand(c.Host)
	}
	return s
}

func describe(o *routes.Route[route]) status.Route {
	s := status.Route{Pattern: o.Pattern.String(), Handler: fmt.Sprintf("%T", o.Value.handler)}
	for _, u := range o.Value.upstreams() {
		if f, err := u.compile(); err == nil {
			f.Describe(&s)
		}
	}
	return s
}

// An HSTS is a Strict-Transport-Security policy (RFC 6797). Clients keep to it
// for MaxAge, also when a certificate is not valid any more: begin with a short
// one.
type HSTS struct {
	MaxAge            time.Duration // 0 makes clients forget the policy
	IncludeSubDomains bool
	Preload           bool // wants a MaxAge of a year or more and IncludeSubDomains
}

// value returns the field's value, or an error that names what is wrong.
func (p *HSTS) value() (string, error) {
	switch {
	case p == nil:
		return "", nil
	case p.MaxAge > 0 && p.MaxAge < time.Second:
		return "", fmt.Errorf("HSTS.MaxAge is %v: want whole seconds, such as 300*time.Second", p.MaxAge)
	case p.MaxAge < 0:
		return "", errors.New("HSTS.MaxAge is negative: want 0 or more")
	case p.Preload && (p.MaxAge < 365*24*time.Hour || !p.IncludeSubDomains):
		return "", errors.New("HSTS.Preload wants a MaxAge of at least a year, and IncludeSubDomains")
	}
	v := fmt.Sprintf("max-age=%d", int64(p.MaxAge/time.Second))
	if p.IncludeSubDomains {
		v += "; includeSubDomains"
	}
	if p.Preload {
		v += "; preload"
	}
	return v, nil
}
