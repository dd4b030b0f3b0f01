// Package hostproxy is an embeddable reverse proxy: a [Router] maps host names
// to handlers, usually an [Upstream], and obtains certificates for them.
//
//	var r hostproxy.Router
//	r.Handle("blog.example.com", hostproxy.To("localhost:4006"))
//	r.Handle("chat.example.com", hostproxy.To("localhost:3000"))
//	if err := hostproxy.ListenAndServe(context.Background(), &r); err != nil {
//		log.Fatal(err)
//	}
//
// Each of these ways to run a Router gives more control than the one before it,
// and does less for you:
//
//   - [ListenAndServe] does everything.
//   - [Server] has settings, such as addresses, timeouts and middleware;
//     [Server.Run] also handles signals and inherited sockets.
//   - [Router.Listen] and [Router.Wrap] return a listener for a server of your
//     own.
//   - [Router.TLSConfig] returns the settings for a TLS listener of your own.
//   - A Router is an [http.Handler] for any server.
//
// # Routing
//
// A pattern is a host, or a host and a path prefix; "*.example.com" is any name
// with one more label, and "*" any host. The most specific pattern wins: see
// [Router.Handle]. Routes may change while they serve: [Router.Set],
// [Router.Remove] and [Router.Replace]. A handler is an [Upstream], a
// [Redirect], a [Passthrough], or any [http.Handler]; [BasicAuth],
// [ForwardAuth] and [Guard] stand in front of one. [Router.Explain] says why a
// request gets the response that it gets, and [Router.Check] whether routes are
// valid.
//
// # Upstreams
//
// An [Upstream] forwards requests to its targets. Its fields set the choice of
// a target ([Policy], [Sticky], [HashKey]), retries ([Retry]) and hedging,
// health checks and breakers ([HealthCheck], [Breaker]), limits ([RateLimit],
// [Queue]), headers ([HeaderEdit]) and timeouts. Its methods deploy: Replace,
// Canary, Mirror, Pause, Resume, Maintain and Drain. Targets come from To, from
// a [Source] such as [DNSSource], or start on demand ([Wake]).
//
// # Certificates
//
// [TLS] has the settings. Names on the Internet get certificates by ACME,
// internal names such as app.localhost get them from a [LocalCA]. [HostTLS]
// overrides the settings for a host pattern, [CertFile] names files, and
// HostPolicy permits certificates on demand. [Router.Certificates] returns the
// state of each.
//
// # Serving
//
// A [Server] runs a Router on its listeners, over HTTP/1.1 and HTTP/2, and on
// those of a [Companion], such as one for HTTP/3. [Server.Reload] changes its
// limits, and [Server.HandOver] starts a new process that takes over its
// sockets; [Inherited] returns these. [Server.Run] does both by itself, on
// SIGHUP.
//
// # Observing
//
// Router.Observe is called with an [Exchange] at the end of each exchange;
// [AccessLog] logs it. An [Error] says which side has failed, and in which
// operation. Router.Begin is called before an exchange, for instance to set a
// traceparent. [StatusHandler] shows the routes, targets and certificates to
// people and programs.
//
// # Testing
//
// A Router is an http.Handler: test its routes with httptest, without a
// network. Example (Testing) shows this, a stub target, and TLS with a LocalCA.
//
// # How to
//
// The Examples of the package show how to:
//
//   - trust the local CA: Example (TrustLocalCA)
//   - serve static files for one host: Example (StaticFiles)
//   - set security headers: Example (SecurityHeaders)
//   - ask for a password: Example (BasicAuth)
//   - show error pages of your own: Example (ErrorPages)
//   - serve streams of language models, and long uploads: Example
//     (StreamsAndUploads)
//   - test a proxy: Example (Testing)
//   - test certificates on demand, offline: Example (OnDemand)
//
// These directories show the rest:
//
//   - examples/compress: compress responses
//   - examples/logfile: log to a file that is rotated
//   - examples/prometheus: have metrics in Prometheus
//   - examples/service: run under systemd
//   - examples/production: all of this in one program
//   - examples/reload: change routes without a restart
//   - examples/migration: come from nginx, Traefik, Caddy or
//     httputil.ReverseProxy
package hostproxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hostproxy/hostproxy/internal/certs"
	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/forward"
	"github.com/hostproxy/hostproxy/internal/hostname"
	"github.com/hostproxy/hostproxy/internal/reach"
	"github.com/hostproxy/hostproxy/internal/routes"
	"github.com/hostproxy/hostproxy/internal/serve"
	"github.com/hostproxy/hostproxy/internal/service"
	"github.com/hostproxy/hostproxy/internal/settings"
	"github.com/hostproxy/hostproxy/internal/status"
	"github.com/hostproxy/hostproxy/internal/yield"
)

// ListenAndServe serves r over HTTPS on :443. On :80 it answers ACME challenges
// and redirects to HTTPS. It shuts down when ctx is done, or when the process
// receives SIGINT or SIGTERM. It returns what [Server.Serve] returns. A second
// signal ends the process immediately. [Server.Run] does this with settings,
// and hands over to a new process on SIGHUP. A program that handles signals
// itself calls [Server.ListenAndServe] instead.
func ListenAndServe(ctx context.Context, r *Router) error {
	return untilSignal(ctx, (&Server{Router: r}).ListenAndServe)
}

// untilSignal calls serve with a context that SIGINT and SIGTERM cancel.
func untilSignal(ctx context.Context, serve func(context.Context) error) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	defer context.AfterFunc(ctx, stop)() // a second signal ends the process
	return serve(ctx)
}

// A Server runs a [Router]. Only the Router field is required. Fields may be
// set until the first call of a method; [Server.Reload] changes some of them
// later. One call of [Server.Serve] may be in progress at a time.
type Server struct {
	Router *Router

	// Handler serves the requests instead of Router; set it to put middleware
	// in front of Router. ACME challenges and redirects to HTTPS do not pass
	// through it. A wrapper of the http.ResponseWriter needs a method Unwrap
	// for WebSockets and for responses that are flushed. Headers that
	// middleware sets in front are sent in addition to those of the target, so
	// a header may be sent twice; [Router.ResponseHeader] sets it once, and
	// keeps the fast lane. Over HTTP/1.x, a request's context ends about a
	// second after its client has disconnected. Nil means Router.
	Handler http.Handler

	// Addr is the address for HTTPS. HTTPAddr is the address for ACME
	// challenges and redirects. "" means ":443" and ":80". They are for
	// [Server.ListenAndServe]; in a call of [Server.Serve] they must be "".
	Addr, HTTPAddr string

	// Listeners are served beside the listeners of Addr and HTTPAddr, or beside
	// the arguments of [Server.Serve], which may then be nil.
	Listeners []Listener

	// Sockets are the sockets that the process has inherited; see [Inherited].
	// A listener that has an address takes the inherited socket with its name,
	// and opens the address only if there is none. The names are "https" for
	// Addr, "http" for HTTPAddr, and "listener0", "listener1" and so on for
	// Listeners, by their index. An inherited socket keeps its address and its
	// Mode: if the listener asks for others, this is logged as a warning. An
	// inherited socket that is left over is an error. Nil means none: all
	// addresses are opened; [Server.Run] calls Inherited then. A program with
	// several Servers uses [Sockets.Listen] instead.
	Sockets *Sockets

	// Companions are servers of your own that run beside the listeners, such as
	// one for HTTP/3. They serve the routes, through Handler if it is set.
	Companions []Companion

	// ReadHeaderTimeout limits how long a client takes to send the head of a
	// request, from its first byte. A shutdown leaves at most 3 s. Zero means
	// 10 s; negative disables the limit.
	ReadHeaderTimeout time.Duration

	// IdleTimeout limits the wait for the next request on a connection. Zero
	// means 2 minutes; negative disables the limit.
	IdleTimeout time.Duration

	// DrainTimeout limits the graceful shutdown. After DrainTimeout the
	// remaining connections are closed, also connections of a [Passthrough],
	// and [Server.Serve] returns an error. Zero means 30 s; negative disables
	// the limit.
	DrainTimeout time.Duration

	// HandOverTimeout limits how long these go on in this process after
	// [Server.HandOver]: WebSockets and other upgraded connections, event
	// streams, and connections of a [Passthrough]. Zero means
	// DrainTimeout; negative disables the limit.
	HandOverTimeout time.Duration

	// HandshakeTimeout limits a TLS handshake, including the wait for a
	// certificate. A handshake that starts an on-demand order has at least 30 s
	// from its ClientHello. During a shutdown, the client has at most 3 s for
	// each step. Zero means 10 s; negative disables the limit.
	HandshakeTimeout time.Duration

	// MaxHeaderBytes limits the head of a request. Zero means 16 KiB; negative
	// is an error.
	MaxHeaderBytes int

	// MaxConns limits the open connections of each listener. Connections of a
	// [Passthrough] count. Further connections are closed immediately. Zero
	// means no limit; negative is an error.
	MaxConns int

	// MaxConnsPerClient limits the open connections of each client (an IPv4
	// address or the /64 of an IPv6 address) on all listeners together.
	// Connections of a [Passthrough] count. Further connections are closed
	// immediately. It does not apply to peers without an address, as on a unix
	// socket, or to peers in [Router.TrustedProxies], each of which serves many
	// clients. Many users may share one address behind NAT. Zero means no
	// limit; negative is an error.
	MaxConnsPerClient int

	// MaxHandshakes limits the TLS handshakes in flight, on all listeners
	// together. Further handshakes wait. A handshake counts from the end of its
	// ClientHello, except while it waits for a certificate. Handshakes of ACME
	// challenges do not count. Zero means 512; negative disables the limit.
	MaxHandshakes int

	// ProxyProtocol reads the header of the PROXY protocol, version 1 or 2,
	// with which load balancers begin connections to pass on the address of the
	// client. It applies to all listeners, except those with a
	// [Listener.ProxyProtocol] of their own, and those with RoleInternal. Nil
	// reads none.
	ProxyProtocol *ProxyProtocol

	// H2C accepts HTTP/2 without TLS on the plain listener of [Server.Serve],
	// if that listener serves the routes. Clients must start with HTTP/2 at
	// once, without negotiation (prior knowledge; RFC 9113, 3.3). Proxies that
	// forward gRPC can do this. False refuses such clients with 505, which is a
	// response of HTTP/1.1. H2C is an error if https is not nil, since plain
	// then serves no routes. An upgrade from HTTP/1.1 to h2c is ignored: the
	// client is served over HTTP/1.1.
	H2C bool
}

// A Listener is where clients connect to a [Server]. Either Listener or Addr is
// required, and not both.
//
// A client of a unix socket has no address: [ClientAddr] returns the zero
// netip.Addr, and limits of each client do not apply. Its X-Forwarded-* headers
// count if 127.0.0.1 or ::1 is in [Router.TrustedProxies]; then the limits
// apply to the address that these headers give.
type Listener struct {
	// Listener is an open listener without TLS. Serve closes it at the end,
	// also after an error.
	Listener net.Listener

	// Addr is an address to listen on: host:port, :port for all addresses of
	// the machine, or unix:/path for a unix socket. Serve replaces a socket
	// that no process listens on any more. It is an error if a process listens
	// on the socket, or if the path is another kind of file. Serve removes the
	// socket at the end; after [Server.HandOver], the new process removes it.
	Addr string

	// Mode is the file mode of a unix socket in Addr. To connect, a process
	// needs write permission on the socket. Zero means 0600.
	Mode fs.FileMode

	// Role is what the listener serves. "" means RoleTLS.
	Role Role

	// Handler serves the requests of a RoleInternal, which requires it.
	Handler http.Handler

	// H2C accepts HTTP/2 without TLS on this listener; see [Server.H2C]. It
	// requires RolePlain.
	H2C bool

	// ProxyProtocol replaces [Server.ProxyProtocol] for this listener. Nil
	// means Server.ProxyProtocol; for a RoleInternal, nil means none.
	ProxyProtocol *ProxyProtocol
}

// A Role is what a [Listener] serves.
type Role string

// The roles of a Listener.
const (
	// RoleTLS serves the routes over TLS, like the argument https of
	// [Server.Serve].
	RoleTLS Role = "tls"

	// RolePlain serves the routes over HTTP, without redirects and ACME
	// challenges. Hosts with a [HostTLS.ClientAuth] are served too, without
	// client certificates.
	RolePlain Role = "plain"

	// RoleRedirects answers ACME challenges, and redirects to HTTPS. If the
	// Host of a request has a port, the redirect is to the port of the first
	// listener for TLS on TCP. It requires a listener for TLS in the same
	// Server.
	RoleRedirects Role = "redirects"

	// RoleInternal serves [Listener.Handler] for every host over HTTP, such as
	// a [StatusHandler] on a loopback address. The Router, its limits and its
	// Observe do not see these requests; the limits of the Server apply.
	RoleInternal Role = "internal"
)

// A Companion is a server of your own that runs beside the listeners of a
// [Server], such as one for HTTP/3. It may have further methods, which the
// Server calls in this order:
//
//   - Listen(*tls.Config) error: opens the companion's socket, before the
//     Server serves. The settings have the certificates of the Router's hosts,
//     and client authentication as in [HostTLS.ClientAuth]; the companion sets
//     NextProtos. An error ends the Server. Handshakes for the host of a
//     [Passthrough] fail.
//   - AltSvc() string: returns the value of Alt-Svc (RFC 7838), such as
//     h3=":443"; ma=86400. All responses over TLS have it, except those with
//     status 421 and those to which a handler has added an Alt-Svc. ""
//     announces nothing.
//   - Serve.
//   - Close() error: makes Serve return immediately. It is called after
//     [Server.DrainTimeout], and if the Server cannot start after Listen.
//
// It is an error if a method with one of these names has another signature, or
// if it has a pointer receiver and the Companion is not a pointer. It is also
// an error if AltSvc returns an invalid value.
//
// The companion sets TLS, RemoteAddr, Proto and ProtoMajor of each request,
// which the Router uses as for any request. The limits of connections, heads
// and handshakes are the companion's own. For a CONNECT that opens a WebSocket
// over HTTP/3 (RFC 9220), the companion sets Proto to "websocket", as quic-go
// does, or the header ":protocol". The bodies of the request and the response
// are then the two directions of the WebSocket.
type Companion interface {
	// Serve serves requests by h until ctx is done. Then it stops accepting
	// requests, lets those in flight finish, and returns nil. h is valid until
	// Serve returns.
	//
	// If Serve returns or panics before ctx is done, this is logged, clients
	// are told to forget the companion's Alt-Svc, and the listeners continue to
	// serve. The error is part of what [Server.Serve] returns. While the Server
	// shuts down, responses have no Alt-Svc. Only a companion's responses to
	// requests that arrived before the shutdown still have it.
	// [Server.HandOver] also ends ctx, but only after the companion of the new
	// process has opened its socket and serves.
	Serve(ctx context.Context, h http.Handler) error
}

// ListenAndServe listens on Addr and HTTPAddr, and serves there as
// [Server.Serve] does. It uses inherited sockets if Sockets is set.
func (s *Server) ListenAndServe(ctx context.Context) error {
	return s.serve(ctx, serve.Entrances{
		{Name: "Server.Addr", Socket: "https", Addr: cmp.Or(s.Addr, ":443"), Role: serve.RoleTLS},
		{Name: "Server.HTTPAddr", Socket: "http", Addr: cmp.Or(s.HTTPAddr, ":80"), Role: serve.RoleRedirects},
	})
}

// Run is [Server.ListenAndServe] for a program that serves until it is stopped:
// it also handles signals and inherited sockets. If Sockets is nil, Run sets it
// to the result of [Inherited]; a program that calls Inherited itself must set
// Sockets.
//
//   - SIGHUP calls [Server.HandOver]: the program that is installed by then
//     takes over, with the same arguments, and reads its files anew. A failure
//     is logged to [Router.Logger], and s continues. Later signals have no
//     effect once the new process has taken over; one that came before that is
//     logged. A terminal that closes also sends SIGHUP: the new process goes on
//     without a terminal.
//   - SIGINT and SIGTERM shut down, as when ctx is done. A second one ends the
//     process immediately.
//
// It returns what [Server.Serve] returns, or an error of Inherited. One Server
// of a program may be in Run; a program with several calls ListenAndServe.
func (s *Server) Run(ctx context.Context) error {
	if err := s.Router.inherit(s); err != nil {
		return err
	}
	return untilSignal(ctx, func(ctx context.Context) error {
		defer service.OnHangup(func() error { return s.HandOver(ctx, nil) }, s.Router.logger)()
		return s.ListenAndServe(ctx)
	})
}

// Serve serves on open listeners, such as inherited sockets, and closes them at
// the end. Either listener may be nil; both may be nil if Listeners is set.
//
//   - https serves the routes over TLS. Serve does the TLS itself, so https
//     must be a listener without TLS.
//   - plain answers ACME challenges and redirects to HTTPS. If https is nil,
//     plain serves the routes over HTTP instead.
//
// When ctx is done, Serve shuts down: it stops accepting connections, lets
// requests in flight finish, and closes connections upgraded by an [Upstream]
// (WebSockets with status 1001). An Upstream's responses without a
// Content-Length, such as event streams, are cut off after 10 s. A connection
// that your own handler has hijacked is yours to close. Serve returns nil once
// no connection is left. After DrainTimeout it closes the remaining
// connections, and returns an error.
//
// Connections may be of any type. For TCP and unix sockets, Serve saves CPU by
// using the file descriptor; see [UnbufferedConn].
//
// Several Servers may run one Router. The Router's certificate renewals,
// background work and idle connections end when the last of these Servers ends.
func (s *Server) Serve(ctx context.Context, https, plain net.Listener) error {
	var doors serve.Entrances
	if https != nil {
		doors = append(doors, &serve.Entrance{Name: "https", Socket: "https", Listener: https, Role: serve.RoleTLS})
	}
	switch {
	case plain == nil:
	case https == nil:
		doors = append(doors, &serve.Entrance{Name: "plain", Socket: "http", Listener: plain, Role: serve.RolePlain, H2C: s.H2C})
	default:
		doors = append(doors, &serve.Entrance{Name: "plain", Socket: "http", Listener: plain, Role: serve.RoleRedirects})
	}
	return s.serve(ctx, doors)
}

// serve serves doors and Listeners.
func (s *Server) serve(ctx context.Context, doors serve.Entrances) error {
	budget := new(serve.Budget)
	began, ok := s.Router.started(s, budget)
	if !ok {
		doors.Close() // not Listeners, which the other call serves
		return errors.New("hostproxy: Serve is in progress: wait until it returns, or use another Server")
	}
	for i, l := range s.Listeners {
		doors = append(doors, &serve.Entrance{Name: fmt.Sprintf("Server.Listeners[%d]", i), Socket: fmt.Sprintf("listener%d", i), Listener: l.Listener, Addr: l.Addr,
			Mode: l.Mode, Role: cmp.Or(string(l.Role), serve.RoleTLS), Handler: l.Handler, H2C: l.H2C, Headers: l.ProxyProtocol.headers()})
	}
	share, companions, err := began.servers(doors, budget)
	if err != nil {
		doors.Close()
		s.Router.stopped(s, budget)
		return err
	}
	defer budget.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	context.AfterFunc(ctx, share.Deafen)
	handed, end := s.Router.turns.Begin(ctx, s, s.Router.logger(), socketsOf(doors))
	defer end()
	defer context.AfterFunc(handed, s.Router.passOn)()
	errs := make(chan error, len(doors)+len(companions))
	for _, c := range companions { // the end of one does not end the others
		go func() { errs <- c.Serve(ctx, handed) }()
	}
	left, deaf := atomic.Int64{}, s.Router.deaf(s)
	left.Store(int64(len(doors)))
	for _, d := range doors {
		d.Server.Handed = handed
		d.Server.Deaf = func() {
			if left.Add(-1) == 0 {
				close(deaf)
			}
		}
		go func() {
			err := d.Server.Serve(ctx, d.Listener)
			if handed.Err() == nil { // otherwise each ends with its last connection
				cancel() // a listener that fails ends the others
			}
			errs <- err
		}()
	}
	var all error
	for range cap(errs) {
		all = errors.Join(all, <-errs)
	}
	all = errors.Join(all, s.Router.release(share))
	if all != nil {
		all = fmt.Errorf("hostproxy: %w", all)
	}
	return errors.Join(all, s.Router.ended(s, budget))
}

// HandOver starts a new process that takes over the listeners of s. It returns
// nil when the new process serves them and s accepts no more connections.
// [Server.Serve] then returns nil when its connections have ended:
//
//   - Connections that wait to be accepted are accepted by the new process.
//   - Requests in flight finish. An HTTP/1.1 connection that waits for a
//     request serves one more; it is closed if none comes in 5 s. HTTP/2
//     connections get GOAWAY.
//   - WebSockets and other upgraded connections, event streams and connections
//     of a [Passthrough] go on until they end, or until HandOverTimeout has
//     passed. WebSockets are then closed with status 1001, and what is left is
//     closed 6 s later. A negative HandOverTimeout disables the limit.
//   - When the ctx of Serve is done, s shuts down as described there.
//
// cmd is the new process. It must not be started yet, and its ExtraFiles must
// be empty. Nil runs the program again, with the same arguments, environment
// and standard streams. After a nil error, the caller may call cmd.Wait.
//
// The new process must call [Inherited] and serve all sockets: call
// [Server.Run], set [Server.Sockets], or use [Sockets.Listen]. Without these it
// fails, because the old process still has the addresses open. A listener from
// [Sockets] has the same name in the new process. The listeners https and plain
// of Serve are called "https" and "http" if they are not from Sockets. Those of
// Listeners are called "listener0", "listener1" and so on. The new process
// accepts no connection until all sockets are served.
//
// HandOver returns an error if the new process exits, or is not ready when ctx
// is done, or after a minute if ctx has no deadline. The new process is then
// killed, and s continues to serve. It also returns an error if s is not
// serving, is shutting down, or has handed over already, if another HandOver is
// in progress, or if a listener has no method SyscallConn. On Windows it always
// returns an error.
//
// Both processes use [TLS.Storage] at the same time, and answer each other's
// ACME challenges. State in memory starts anew in the new process: what
// [Upstream.Maintain], [Upstream.Pause], [Upstream.Canary] and
// [Upstream.Mirror] have set, the health of targets, the counters of a
// [RateLimit], a random [Sticky].Key. Set what shall stay from your own
// configuration, when the new process starts. The targets of a [Wake]
// count as asleep there, and s no longer calls Wake.Stop. The service manager
// learns that the new process is the main process.
func (s *Server) HandOver(ctx context.Context, cmd *exec.Cmd) error {
	if s.Router == nil {
		return errors.New("hostproxy: Server.Router is nil: set it")
	}
	deaf := s.Router.deaf(s)
	if err := s.Router.turns.HandOver(ctx, s, cmd); err != nil {
		return fmt.Errorf("hostproxy: HandOver: %w", err)
	}
	if deaf != nil {
		<-deaf
	}
	return nil
}

// socketsOf returns the listeners under the names that they have for HandOver.
func socketsOf(doors serve.Entrances) (all []service.Socket) {
	for _, d := range doors {
		all = append(all, service.SocketOf(d.Opened, d.Socket))
	}
	return all
}

// Sockets are the sockets that a process has inherited, from the service
// manager (socket activation) or from [Server.HandOver]. The zero value has
// none. Its methods may be called concurrently.
type Sockets struct{ inherited *service.Sockets }

// Inherited returns the sockets that the process has inherited. It reads the
// variables LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES, see sd_listen_fds(3),
// and removes them from the environment: call it once, at start. If they are
// not set, or if LISTEN_PID is another process, it returns empty Sockets. It
// returns an error if a variable is invalid, or if an inherited file descriptor
// is not a socket. On Windows it returns an error if the variables are set.
func Inherited() (*Sockets, error) {
	all, err := service.Inherit()
	if err != nil {
		return nil, fmt.Errorf("hostproxy: Inherited: %w", err)
	}
	return &Sockets{all}, nil
}

// Listener returns the inherited socket with the given name, which is
// FileDescriptorName in a systemd socket unit. If several sockets have the
// name, each call returns the next one. It returns an error if none is left, or
// if the socket is not a listening stream socket.
//
// In a process started by [Server.HandOver], Accept waits until all sockets are
// served. Accept returns an error if the old process continues to serve
// instead.
func (s *Sockets) Listener(name string) (net.Listener, error) {
	return socket(s.all().Listener(name))
}

// Listen is like Listener. If no socket with the name is left, it opens one, as
// [net.Listen] does; network is tcp, tcp4, tcp6 or unix. Closing the listener
// removes the file of a unix socket that Listen has opened; after
// [Server.HandOver], the new process does this.
func (s *Sockets) Listen(name, network, address string) (net.Listener, error) {
	return socket(s.all().Listen(name, func() (net.Listener, error) { return open(network, address) }))
}

// Close closes the inherited sockets that Listener and Listen have not
// returned. If there are any, it returns an error with their names. Call it
// before [Server.Serve]: clients of a socket that is not served wait forever.
func (s *Sockets) Close() error {
	if err := s.all().Close(); err != nil {
		return fmt.Errorf("hostproxy: %w", err)
	}
	return nil
}

// all returns the sockets of s, which may be nil.
func (s *Sockets) all() *service.Sockets {
	if s == nil || s.inherited == nil {
		return new(service.Sockets)
	}
	return s.inherited
}

// socket returns what a method of Sockets returns.
func socket(l *service.Listener, err error) (net.Listener, error) {
	if err != nil {
		return nil, fmt.Errorf("hostproxy: %w", err)
	}
	return l, nil
}

// Notify sends state to the service manager, such as "STATUS=loading routes";
// see sd_notify(3). Several lines are separated by newlines. RELOADING=1 is
// sent with MONOTONIC_USEC, as systemd requires. Notify does nothing if
// NOTIFY_SOCKET is not set. It returns an error if state or NOTIFY_SOCKET is
// invalid, or if sending fails.
//
// These states are sent automatically:
//
//   - READY=1 when [Server.Serve] begins, and STOPPING=1 when its ctx is done.
//     If several Servers run one Router, READY=1 is sent by the first and
//     STOPPING=1 by the last.
//   - WATCHDOG=1 at intervals of half of WATCHDOG_USEC while Serve is in
//     progress, if WATCHDOG_PID is this process or not set.
//   - RELOADING=1 when [Server.HandOver] begins, and MAINPID and READY=1 when
//     it has succeeded; the old process then sends nothing more. If HandOver
//     fails, READY=1 and a STATUS are sent.
//
// If sending one of these states fails, the error is logged.
func Notify(state string) error {
	if err := service.Notify(state); err != nil {
		return fmt.Errorf("hostproxy: Notify: %w", err)
	}
	return nil
}

// Reload changes timeouts and limits while [Server.Serve] is in progress.
// change gets a copy of s and sets its fields. It may change the fields whose
// names end in Timeout or begin with Max. To change another field, start a new
// Server.
//
// All changes take effect, or none: if Reload returns an error, nothing has
// changed. The new values are validated as in Serve. No open connection is
// closed.
//
//   - MaxConns and MaxConnsPerClient apply to new connections. Connections
//     opened while MaxConnsPerClient was zero do not count for it.
//   - MaxHandshakes applies immediately, HandshakeTimeout to handshakes that
//     begin.
//   - ReadHeaderTimeout and MaxHeaderBytes apply to the next request of a
//     connection. An HTTP/2 connection keeps its MaxHeaderBytes, because the
//     client was told the value.
//   - IdleTimeout applies to the next wait for a request, and over HTTP/2
//     immediately.
//   - DrainTimeout applies to a shutdown that begins later, HandOverTimeout to
//     a HandOver that begins later.
//
// Reload also sets the fields of s, so do not read them during the call. Reload
// may be called concurrently: a field that one call does not change keeps the
// value that another call has set.
func (s *Server) Reload(change func(*Server)) error {
	if s.Router == nil || change == nil {
		return errors.New("hostproxy: Reload: Server.Router and the argument are required: set them")
	}
	base, err := s.Router.inUse(s)
	if err != nil {
		return err
	}
	next := base.clone()
	change(&next)
	var errs []error
	for _, field := range settings.Take(&base).Changed(&next) {
		if !reloads(field) {
			errs = append(errs, fmt.Errorf("hostproxy: Reload: Server.%s cannot change while Serve is in progress: leave it, or start a new Server", field))
		}
	}
	if err := errors.Join(append(errs, next.checkLimits())...); err != nil {
		return err
	}
	return s.Router.reload(s, &base, &next)
}

// reloads reports whether Reload may change a field of that name.
func reloads(field string) bool {
	return strings.HasSuffix(field, "Timeout") || strings.HasPrefix(field, "Max")
}

// clone returns a copy of s that shares no memory with it that a change of a
// field might write to.
func (s *Server) clone() Server {
	c := *s
	c.ProxyProtocol = s.ProxyProtocol.clone()
	c.Listeners, c.Companions = slices.Clone(s.Listeners), slices.Clone(s.Companions)
	for i := range c.Listeners {
		c.Listeners[i].ProxyProtocol = c.Listeners[i].ProxyProtocol.clone()
	}
	return c
}

// reloadable returns the fields that Reload may change.
func (s *Server) reloadable() ([]*time.Duration, []*int) {
	return []*time.Duration{&s.ReadHeaderTimeout, &s.IdleTimeout, &s.DrainTimeout, &s.HandOverTimeout, &s.HandshakeTimeout},
		[]*int{&s.MaxHeaderBytes, &s.MaxConns, &s.MaxConnsPerClient, &s.MaxHandshakes}
}

// adopt sets the fields of s that Reload has changed from base to next.
func (s *Server) adopt(base, next *Server) {
	times, counts := s.reloadable()
	times0, counts0 := base.reloadable()
	times1, counts1 := next.reloadable()
	for i := range times {
		if *times0[i] != *times1[i] {
			*times[i] = *times1[i]
		}
	}
	for i := range counts {
		if *counts0[i] != *counts1[i] {
			*counts[i] = *counts1[i]
		}
	}
}

// A running is a Server that serves a Router.
type running struct {
	fields settings.Snapshot // in force
	now    Server            // the fields that Reload may change
	budget *serve.Budget
	deaf   chan struct{} // closed when all its listeners are closed
}

// inUse returns a copy of s with the fields that are in force.
func (r *Router) inUse(s *Server) (Server, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	run, ok := r.running[s]
	if !ok {
		return Server{}, errNotServing
	}
	return run.now, nil
}

// reload puts the changes from base to next in force. It keeps changes that
// another Reload has made meanwhile.
func (r *Router) reload(s, base, next *Server) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	run, ok := r.running[s]
	if !ok {
		return errNotServing
	}
	run.now.adopt(base, next)
	s.adopt(base, next)
	run.fields = settings.Take(&run.now)
	r.running[s] = run
	run.budget.Change(run.now.limits())
	return nil
}

var errNotServing = errors.New("hostproxy: Reload: Serve is not in progress: set the fields before it")

// An UnbufferedConn is a connection that lets the proxy use the underlying
// connection, to save CPU. It may come from a listener of your own or from
// [Upstream.Dial]. The proxy uses a *net.TCPConn or *net.UnixConn directly. A
// connection that is not a *net.TCPConn, *net.UnixConn or UnbufferedConn is
// used only through its methods.
type UnbufferedConn interface {
	net.Conn

	// Unbuffered returns the underlying connection, for instance the
	// *net.TCPConn. The proxy may then read and write that connection directly:
	// it can use splice(2), and needs no buffer while it waits. Unbuffered must
	// not block.
	//
	// It returns nil in two cases:
	//
	//   - There are buffered bytes that Read is yet to return. The proxy calls
	//     Unbuffered again before the next request.
	//   - The proxy must not bypass Read and Write, for instance because they
	//     count bytes.
	Unbuffered() net.Conn
}

// servers sets the server of each of doors, and opens those with an address,
// and the companions. The caller releases the share in the Router's
// certificates when all of them have ended. They share the budget b.
func (s *Server) servers(doors serve.Entrances, b *serve.Budget) (*certs.Share, []*serve.Companion, error) {
	besides := each(s.Companions, func(c Companion) serve.Beside { return c })
	if err := s.checkEntrances(doors, besides); err != nil {
		return nil, nil, err
	}
	if err := errors.Join(doors.Open(s.open), s.Sockets.all().Close()); err != nil {
		return nil, nil, prefixed(err)
	}
	share := s.Router.certs.Share()
	var conf *tls.Config
	if doors.Has(serve.RoleTLS) || slices.ContainsFunc(besides, serve.Listens) {
		var err error
		if conf, err = share.Listen(doors.Addr(serve.RoleTLS), doors.Addr(serve.RoleRedirects), s.Router.certOptions); err != nil {
			return nil, nil, errors.Join(fmt.Errorf("hostproxy: TLS: %w", err), s.Router.release(share))
		}
	}
	beside := serve.Companions{Handler: s.routes(), Log: b.Log, Budget: b, Bounds: s.limits(),
		TLS: func() *tls.Config { return s.Router.refusePassed(conf.Clone()) }, Secure: doors.Has(serve.RoleTLS)}
	companions, alt, err := beside.Open(besides)
	if err != nil {
		return nil, nil, errors.Join(prefixed(err), s.Router.release(share))
	}
	for _, d := range doors {
		s.equip(d, b, share, conf)
		d.Server.AltSvc = alt
	}
	return share, companions, nil
}

// equip sets the server of d. conf is for listeners that do TLS.
func (s *Server) equip(d *serve.Entrance, b *serve.Budget, share *certs.Share, conf *tls.Config) {
	d.Server = s.server(s.routes(), b)
	d.Server.Role, d.Server.H2C = d.Role, d.H2C
	if d.Headers == nil && d.Role != serve.RoleInternal {
		d.Headers = s.ProxyProtocol.headers()
	}
	d.Listener = d.Headers.Listener(d.Listener)
	switch d.Role {
	case serve.RoleRedirects:
		d.Server.Handler = s.Router.challenges(s.Router.redirects(share.Authority))
		return
	case serve.RoleInternal:
		d.Server.Handler = d.Handler
		d.Server.Lane.Limit, d.Server.Lane.Numbering, d.Server.Lane.Hooks, d.Server.Lane.Always = nil, exchange.Numbering{}, nil, false
		d.Server.Lane.Heads = nil
		return
	case serve.RoleTLS:
		d.Server.TLS = conf
		d.Listener = share.Pass(d.Listener, s.Router.passer)
		s.Router.carries.Store(true)
	}
	// middleware needs an http.Request: the handler lane
	if s.Handler == nil && !d.Server.Lane.Limit.NeedsRequest() {
		if d.Server.Lane.Heads.Fast() {
			d.Server.Lane.Route = s.Router.hit
		}
	}
}

// routes returns the handler of the routes.
func (s *Server) routes() http.Handler {
	if s.Handler == nil {
		return s.Router
	}
	return s.Router.around(s.Handler)
}

// checkEntrances returns the errors in the listeners and the companions of a
// call of Serve, and in the fields of s, joined.
func (s *Server) checkEntrances(doors serve.Entrances, besides []serve.Beside) error {
	switch {
	case s.Router == nil:
		return errors.New("hostproxy: Server.Router is nil: set it")
	case len(doors) == 0:
		return errors.New("hostproxy: Serve has no listener: pass https, plain or both, or set Server.Listeners")
	}
	var errs []error
	for _, err := range append(doors.Faults(), serve.FaultsOf(besides)...) {
		errs = append(errs, prefixed(err))
	}
	for _, d := range doors {
		if d.Handler != nil {
			if err := checkHandler(d.Name+".Handler", d.Handler); err != nil {
				errs = append(errs, prefixed(err))
			}
		}
	}
	if first := doors[0]; s.H2C && (first.Name != "plain" || first.Role != serve.RolePlain) {
		errs = append(errs, errors.New("hostproxy: Server.H2C is set, but plain serves no routes: pass plain without https, or set H2C to false; a RolePlain of Server.Listeners has its own H2C"))
	}
	if (s.Addr != "" || s.HTTPAddr != "") && doors[0].Name != "Server.Addr" {
		errs = append(errs, fmt.Errorf("hostproxy: Server.Addr is %q and Server.HTTPAddr is %q, and Serve listens on neither: "+
			"call ListenAndServe, or use Server.Listeners", s.Addr, s.HTTPAddr))
	}
	return errors.Join(append(errs, s.check())...)
}

// prefixed returns err as an error of this package.
func prefixed(err error) error { return fmt.Errorf("hostproxy: %w", err) }

// check returns the errors in the fields of s, its Router and its handlers,
// joined.
func (s *Server) check() error {
	errs := []error{s.Router.inForce(), s.ProxyProtocol.check("Server.ProxyProtocol")}
	for i, l := range s.Listeners {
		errs = append(errs, l.ProxyProtocol.check(fmt.Sprintf("Server.Listeners[%d].ProxyProtocol", i)))
	}
	if s.Handler != nil && fault(s.Handler) == errNil {
		errs = append(errs, fmt.Errorf("hostproxy: Server.Handler: %w", errNil))
	}
	return errors.Join(append(errs, s.checkLimits())...)
}

// checkLimits returns the errors in the limits of s, joined.
func (s *Server) checkLimits() error {
	var errs []error
	for _, err := range settings.TooShort("Server.", s) {
		errs = append(errs, fmt.Errorf("hostproxy: %w", err))
	}
	for _, f := range []struct {
		name  string
		value int
	}{{"MaxHeaderBytes", s.MaxHeaderBytes}, {"MaxConns", s.MaxConns}, {"MaxConnsPerClient", s.MaxConnsPerClient}} {
		if f.value < 0 {
			errs = append(errs, fmt.Errorf("hostproxy: Server.%s is %d: want 0 or more", f.name, f.value))
		}
	}
	return errors.Join(errs...)
}

func (s *Server) server(h http.Handler, b *serve.Budget) *serve.Server {
	n := s.limits()
	return &serve.Server{
		Handler:           h,
		Log:               s.Router.logger(),
		ReadHeaderTimeout: n.ReadHeaderTimeout,
		IdleTimeout:       n.IdleTimeout,
		HandshakeTimeout:  n.HandshakeTimeout,
		DrainTimeout:      n.DrainTimeout,
		HandOverTimeout:   n.HandOverTimeout,
		MaxHeaderBytes:    n.MaxHeaderBytes,
		MaxConns:          n.MaxConns,
		MaxHandshakes:     n.MaxHandshakes,
		Lane:              s.Router.lane(),
		Budget:            b,
	}
}

// limits returns the limits of s with their defaults.
func (s *Server) limits() serve.Bounds {
	return serve.Bounds{
		ReadHeaderTimeout: timeout(s.ReadHeaderTimeout, 10*time.Second),
		IdleTimeout:       timeout(s.IdleTimeout, 2*time.Minute),
		HandshakeTimeout:  timeout(s.HandshakeTimeout, 10*time.Second),
		DrainTimeout:      timeout(s.DrainTimeout, 30*time.Second),
		HandOverTimeout:   timeout(cmp.Or(s.HandOverTimeout, s.DrainTimeout), 30*time.Second),
		MaxHeaderBytes:    cmp.Or(s.MaxHeaderBytes, 16<<10),
		MaxConns:          s.MaxConns,
		MaxHandshakes:     max(cmp.Or(s.MaxHandshakes, 512), 0),
		MaxPerClient:      s.MaxConnsPerClient,
	}
}

// around returns h, which is middleware around r, so that ClientAddr and
// RequestID work in it.
func (r *Router) around(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		var n exchange.Numbering
		if rules, err := r.rules(); err == nil {
			n = rules.numbering
		}
		q = exchange.Arrive(q, r, r.trusted(), n)
		n.Tell(w, exchange.ArrivalFrom(q.Context()).RequestID)
		h.ServeHTTP(w, q)
	})
}

// lane returns a fast lane without routes: it refuses forbidden requests and
// leaves all others to its Server's Handler.
func (r *Router) lane() *serve.Lane {
	lane := &serve.Lane{Route: noRoute, Name: r.name.Text(), Trusted: r.trusted(), End: r.observe, Always: r.Observe != nil}
	lane.Retired = func(rt any) { r.closeRetired(rt.(*routes.Route[route])) }
	if rules, err := r.rules(); err == nil {
		lane.Limit, lane.Numbering, lane.Hooks, lane.Heads = rules.limit, rules.numbering, rules.hooks, rules.heads
	}
	return lane
}

func noRoute(string, string, *tls.ConnectionState) (serve.Hit, bool) { return serve.Hit{}, false }

// hit is route for the fast lane. It finds upstreams only, and refuses nothing.
//
// Hot path: no allocation, and no lock except that of TLS.Host.
func (r *Router) hit(host, path string, state *tls.ConnectionState) (serve.Hit, bool) {
	t := r.table.Load() // once: no request is admitted by some routes and served by others
	if state != nil && !r.belongs(t, state, host) {
		return serve.Hit{}, false
	}
	rt, err := t.Lookup(host, path)
	if err != nil || rt == nil {
		return serve.Hit{}, false
	}
	u, ok := rt.Value.handler.(*Upstream)
	if !ok {
		return serve.Hit{}, false
	}
	f, err := u.compile()
	if err != nil {
		return serve.Hit{}, false // the handler lane answers
	}
	return serve.Hit{Upstream: f, Pattern: rt.Pattern.String(), Life: &rt.Value.life, Route: rt}, true
}

// belongs reports whether a connection may carry requests for a canonical host,
// by the routes of t.
func (r *Router) belongs(t *routes.Table[route], state *tls.ConnectionState, host string) bool {
	return r.certs.Belongs(func(pattern string) bool { return endOf(t, pattern) == here }, state, host)
}

// observe reports the record of an exchange, of either lane.
func (r *Router) observe(x *exchange.Record) {
	if kept := r.failures.Load(); kept != nil && x.Err != nil {
		kept.Add(x.Failed())
	}
	if r.Observe != nil {
		r.show(publicExchange(x))
		return
	}
	if f, ok := x.Err.(*exchange.Failure); ok && f.Side != exchange.SideClient {
		r.logger().Warn("exchange failed", "host", x.Host, "path", x.Path, "status", x.Status, "op", f.Op,
			"target", f.Target, "side", string(f.Side), "cause", f.Err)
	}
}

// show calls Observe, and logs a panic in it: the response has been made, and
// stays as it is.
func (r *Router) show(x *Exchange) {
	var err error
	defer func() {
		if err != nil {
			r.logger().Error("hook failed", "cause", err)
		}
	}()
	defer exchange.Contain("Observe", &err)
	r.Observe(x)
}

// A lateField is a field that was changed after first use.
type lateField struct {
	owner any
	field string
}

// late returns an error for each field of r, of a Server that runs it, or of a
// handler in handlers that was changed after first use. Each is logged once.
// r.mu is held.
func (r *Router) late(handlers iter.Seq2[string, http.Handler]) error {
	var errs []error
	report := func(owner any, prefix, field string) {
		remedy := "change it back, and set it before the first use"
		if _, ok := owner.(*Server); ok && reloads(field) {
			remedy += ", or by Server.Reload"
		}
		if h, ok := owner.(http.Handler); ok && h != http.Handler(r) {
			remedy += ", or give Set a new handler that has it"
		}
		errs = append(errs, fmt.Errorf("hostproxy: %s%s was changed after first use and has no effect: %s", prefix, field, remedy))
		if of := (lateField{owner, field}); !r.told[of] {
			if r.told == nil {
				r.told = make(map[lateField]bool)
			}
			r.told[of] = true
			r.logger().Error("a field was changed after first use and has no effect", "field", prefix+field, "remedy", remedy)
		}
	}
	for _, field := range r.compiled.Late(r) {
		report(r, "Router.", field)
	}
	for s, run := range r.running {
		for _, field := range run.fields.Changed(s) {
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
		if u, ok := h.(*Upstream); ok {
			u.lateBeside(fmt.Sprintf("pattern %q: ", pattern), report)
		}
		return true
	}
	var turn yield.Turn
	for pattern, h := range handlers {
		turn.Step()
		reach.Walk(h, func(h http.Handler) bool { return see(pattern, h) })
		for _, u := range r.upstreamsReached(pattern, h) {
			see(pattern, u)
		}
	}
	return errors.Join(errs...)
}

// upstreamsReached returns the upstreams that requests have reached through h,
// if h is the handler of the current route of that pattern. Upstreams behind
// middleware without an Unwrap method are known only in this way.
func (r *Router) upstreamsReached(pattern string, h http.Handler) []*Upstream {
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

// usable puts the fields of all routes' handlers in use. It returns an error
// for each that is invalid or was changed after first use.
func (r *Router) usable() error {
	var errs []error
	for _, u := range r.uses.All() {
		if _, err := u.compile(); err != nil {
			errs = append(errs, fmt.Errorf("hostproxy: %w", err))
		}
	}
	var turn yield.Turn
	for _, h := range r.All() {
		turn.Step()
		reach.Walk(h, func(h http.Handler) bool {
			if g, ok := h.(interface{ use() error }); ok {
				errs = append(errs, g.use())
			}
			return true
		})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(append(errs, r.late(r.All()))...)
}

// inForce puts the fields of r and of its handlers in use.
func (r *Router) inForce() error {
	_, err := r.rules()
	return errors.Join(err, r.usable())
}

// started records that s serves r, with the budget b. It returns a copy of s,
// which Reload does not change, and false if s serves r already. r may be nil.
func (r *Router) started(s *Server, b *serve.Budget) (*Server, bool) {
	if r == nil {
		return s, true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, runs := r.running[s]; runs {
		return nil, false
	}
	if r.running == nil {
		r.running = make(map[*Server]running)
	}
	began := s.clone()
	r.running[s] = running{settings.Take(s), began, b, make(chan struct{})}
	b.Trusted, b.Log, b.MaxPerClient = r.trusted(), r.logger(), s.MaxConnsPerClient
	r.budgets.Add(b)
	return &began, true
}

// stopped undoes started. r may be nil.
func (r *Router) stopped(s *Server, b *serve.Budget) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.running, s)
	r.budgets.Remove(b)
}

// ended is stopped. It returns an error for each field of s or r that was
// changed meanwhile.
func (r *Router) ended(s *Server, b *serve.Budget) error {
	defer r.stopped(s, b)
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.late(maps.All(map[string]http.Handler(nil)))
}

// AccessLog returns a function for [Router.Observe] that writes one line per
// exchange to l. The level is Warn if the exchange failed and Error.Side is not
// SideClient, and otherwise Info. The function may be called concurrently. The
// attributes are fields of the [Exchange]:
//
//	attribute       field                   omitted
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
//	duration        Duration, as a slog.Duration
//	pattern         Pattern
//	target          Target
//	attempts        Attempts
//	request_id      RequestID               if ""
//	user            User                    if ""
//	user_agent      UserAgent               if ""
//	referer         Referer                 if ""
//	tls             TLSVersion, as text     if 0
//	server_name     ServerName              if ""
//	op              Error.Op                if Err is nil
//	side            Error.Side              if Err is nil
//	cause           Error.Err               if Err is nil
//
// For a file that logrotate renames, open it with O_APPEND, and let logrotate
// send SIGHUP to a program in [Server.Run].
//
// The duration is a number of nanoseconds in JSON, and such as 1.5ms in text.
// Method, host, path and query are cut off after 4 KiB. The query and the
// referer may hold secrets. To omit them, call the function with a copy of the
// Exchange that has "" in Query and Referer. AccessLog panics if l is nil.
func AccessLog(l *slog.Logger) func(*Exchange) {
	if l == nil || l.Handler() == nil {
		panic("hostproxy: AccessLog: nil Logger: want one, such as slog.Default()")
	}
	write := exchange.LogTo(l.Handler())
	return func(x *Exchange) { write((*exchange.Record)(x), failureOf(x.Err)) }
}

// failureOf returns err, the error of an exchange, in the form of the engine,
// or nil if err is nil.
func failureOf(err error) *exchange.Failure {
	if err == nil {
		return nil
	}
	var e *Error
	if !errors.As(err, &e) {
		return &exchange.Failure{Side: exchange.SideProxy, Err: err}
	}
	return &exchange.Failure{Op: e.Op, Target: e.Target, Side: exchange.Side(e.Side), Err: e.Err}
}

// Check validates the fields of r and of its handlers, and returns all errors,
// joined. It does not validate [Router.TLS]; that happens in [Server.Serve],
// [Router.Listen], [Router.Wrap] and [Router.TLSConfig]. Check also reports
// each field that was changed after first use, in r, in its handlers and in the
// Servers that run r. After a nil error, every field that Check covers is in
// effect, or will be at first use. Check does not count as first use: fields
// may still be set.
func (r *Router) Check() error {
	var errs []error
	if err := r.compiled.Check(r, r.compile); err != nil {
		errs = append(errs, err)
	}
	for _, u := range r.uses.All() { // also those behind middleware
		if err := u.check(); err != nil {
			errs = append(errs, fmt.Errorf("hostproxy: %w", err))
		}
	}
	for rt := range r.table.Load().All() {
		pattern, h := rt.Pattern.String(), rt.Value.handler
		if err := checkPlace(pattern, rt.Pattern, h); err != nil {
			errs = append(errs, err)
		}
		if _, ok := h.(*Upstream); ok {
			continue // checked above
		}
		if err := checkHandler(fmt.Sprintf("pattern %q", pattern), h); err != nil {
			errs = append(errs, fmt.Errorf("hostproxy: %w", err))
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(append(errs, r.late(r.All()))...)
}

// Explain returns what r would do with q now, and why. It has no side effects:
// it counts nothing, takes no token of a [RateLimit], calls no hook, and starts
// no certificate order and no background work. It does not count as first use
// of a field. It does not know what handlers of your own, in front of an
// [Upstream], would do with q. It explains the Upstream only if these handlers
// lead to it by methods Unwrap() http.Handler.
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
	Host   string     // in canonical form; as the client wrote it if it is invalid
	Path   string     // the path that patterns are matched against, escaped
	Client netip.Addr // client address, resolved through TrustedProxies; invalid if unknown

	// Candidates are the routes whose host matches, in the order in which they
	// are considered. Pattern names the route that would serve the request; ""
	// if none.
	Candidates []Choice
	Pattern    string

	// Handlers are the types of the route's handler and of the handlers that it
	// wraps, outermost first.
	Handlers []string

	// Rules are the settings that may refuse the request or make it wait, in
	// the order in which they apply.
	Rules []Rule

	// Targets are the targets of the Upstream. Target is the target that would
	// be chosen; "" if there is none, or if the choice is random or made by
	// Pick. Selection describes the choice in words.
	Targets   []Choice
	Target    string
	Selection string

	Wait string // why the request would wait; "" if it would not
	// response status if the Router or one of its handlers refuses the request,
	// else 0
	Status int
	Reason string // why the request is refused

	TLS         string     // result of a TLS handshake for Host, in words
	Certificate CertStatus // status of the certificate in that handshake; zero if none

	text string
}

// String returns the explanation as lines of text.
func (e Explanation) String() string { return e.text }

// A Choice is a route or a target that was considered.
type Choice struct {
	Name string // pattern of the route, or name of the target as in Exchange
	// why it was ruled out; "" if the route serves the request, or the target
	// may be chosen
	Why string
}

func publicChoice(c status.Choice) Choice { return Choice(c) }

// A Rule is a setting that may refuse a request, such as Upstream.Deny, or make
// it wait, such as Upstream.Pause.
type Rule struct {
	Name    string // field or method, such as "Upstream.Deny", or "Canary.Deny" for a canary
	Outcome string // RulePasses, RuleWaits, RuleRefuses or RuleUnknown
	Detail  string // the reason, in words
}

// The outcomes of a Rule.
const (
	RulePasses  = "passes"
	RuleWaits   = "waits"
	RuleRefuses = "refuses"
	RuleUnknown = "unknown" // Explain does not evaluate it
)

// explain returns what Explain does, in the form of the status page.
func (r *Router) explain(q *http.Request) (*status.Explanation, netip.Addr, CertStatus) {
	// a lane may have left state in it that only one exchange may take
	q = q.WithContext(context.Background())
	x := exchange.Begin(q, r.trusted())
	e := &status.Explanation{Method: q.Method, Host: q.Host, Path: q.URL.EscapedPath()}
	if x.Client.IsValid() {
		e.Client = x.Client.String()
	}
	if rules, err := r.compiled.Peek(r, r.compile); err != nil {
		e.Refuse(http.StatusInternalServerError, err.Error())
	} else {
		forward.ExplainLimit(e, "Router.RateLimit", rules.limit, q, x.Client, x.Start)
	}
	host, _, err := hostname.Split(q.Host)
	if err == nil {
		e.Host = host
		for _, c := range r.table.Load().Candidates(host, e.Path) {
			e.Candidates = append(e.Candidates, status.Choice{Name: c.Pattern.String(), Why: c.Why})
		}
	}
	switch rt, no := r.find(q, x.Path); {
	case rt != nil:
		e.Pattern = rt.Pattern.String()
		forward.ExplainLoop(e, q, r.name.Text())
		rt.Value.explain(e, q, x)
	case no.status == 0:
		e.Handlers = append(e.Handlers, fmt.Sprintf("%T", r.notFound()))
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
func (rt *route) explain(e *status.Explanation, q *http.Request, x *exchange.Exchange) {
	found := false
	auths := make(map[*Upstream]bool)
	reach.Walk(rt.handler, func(h http.Handler) bool {
		e.Handlers = append(e.Handlers, fmt.Sprintf("%T", h))
		if a, ok := h.(*ForwardAuth); ok {
			auths[a.Auth] = true
		}
		_, found = h.(*Upstream)
		if h, ok := h.(interface {
			explain(*status.Explanation, *http.Request, *exchange.Exchange)
		}); ok {
			h.explain(e, q, x)
		}
		return true
	})
	if found {
		return
	}
	met := slices.DeleteFunc(slices.Clone(rt.upstreams()), func(u *Upstream) bool { return auths[u] })
	if n := len(e.Handlers); n > 0 && len(met) > 0 { // known only from requests
		e.Rule(e.Handlers[n-1], status.Unknown, "it decides what to do with each request; earlier ones reached an Upstream through it: "+
			"if all do, give it a method Unwrap() http.Handler")
	}
}

// StatusHandler returns a handler that shows the state of r as a page, or as
// JSON with the query format=json. It shows:
//
//   - routes, and targets with their health, its latest changes, and the rate
//     of requests, share of errors and latency of the last one to two minutes;
//     whether the targets are asleep
//   - certificates with the days that are left, and why hosts have none (yet)
//   - for each [Server] that runs r: its listeners with their roles and the
//     number of open connections, its companions, and what it refused
//     (connections, handshakes, request heads), by reason
//   - the latest 100 failures since StatusHandler was called
//
// A form on the page, or the query parameters url, method and client, show the
// result of [Router.Explain]. The query parameter q shows only hosts, patterns
// and targets that contain it. The page shows up to 200 routes, those in
// trouble first; JSON shows all. The page refreshes itself.
//
// The state contains host names and addresses. The handler therefore serves
// clients on this machine only, at a loopback address or a unix socket, and
// answers 403 to all others, also in a route. The request must not come through
// another proxy, according to its headers. Its Host must not be a public name:
// otherwise any web page could read the state through a browser on this machine
// (DNS rebinding). An IP address, a name without a dot and names such as
// a.localhost or a.internal are allowed.
//
// To serve other clients, put one of these in front of the handler:
//
//   - a [BasicAuth] or a [ForwardAuth], for any Host
//   - client certificates ([HostTLS.ClientAuth]), for any Host
//   - a [Guard] with Allow; a Host that is a public name then requires a route
//     whose pattern names it. If Allow lists a loopback address as such, a
//     proxy at it must be in [Router.TrustedProxies]. To rely on authentication
//     of your own, let Allow contain every address, and put your middleware in
//     front of the Guard.
//
// A request that the program makes itself, without a server, is served; that
// includes requests of [net/http/httptest.NewRequest]. StatusHandler panics if
// r is nil.
func StatusHandler(r *Router) http.Handler {
	if r == nil {
		panic("hostproxy: StatusHandler: nil Router: want the one that is to be shown")
	}
	r.failures.CompareAndSwap(nil, new(status.Failures))
	page := status.Handler(r.status, func(q *http.Request) *status.Explanation { e, _, _ := r.explain(q); return e })
	return status.Restrict(page, exchange.WayOf)
}

// status returns the contents of the page.
func (r *Router) status() status.Page {
	p := status.Page{Time: time.Now(), Servers: r.budgets.Describe(), Failures: r.failures.Load().Latest()}
	table, shared := r.table.Load(), make(map[*Upstream]int)
	for o := range table.All() {
		for _, u := range o.Value.upstreams() {
			shared[u]++
		}
	}
	for o := range table.All() {
		p.Routes = append(p.Routes, describe(o, shared))
	}
	r.describeCertificates(&p, table)
	return p
}

// describe returns what the status page shows of a route. shared counts the
// routes of each Upstream.
func describe(o *routes.Route[route], shared map[*Upstream]int) status.Route {
	s := status.Route{Pattern: o.Pattern.String(), Handler: fmt.Sprintf("%T", o.Value.handler)}
	for _, u := range o.Value.upstreams() {
		s.Sharing = max(s.Sharing, shared[u]-1)
		if f, err := u.compile(); err == nil {
			f.Describe(&s)
		}
	}
	return s
}
