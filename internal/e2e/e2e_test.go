// Package e2e_test tests a whole Router between real sockets: what a raw client
// sends, what a raw upstream receives and answers, and what the client gets.
// Each test runs over every lane that a request can take, with the same result:
// the lanes differ only in cost.
package e2e_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestMain(m *testing.M) {
	if what, ok := os.LookupEnv(heirEnv); ok {
		heir(what)
		return
	}
	_ = flag.Set("test.parallel", parallel) // -parallel overrides it
	_ = os.Setenv("GODEBUG", os.Getenv("GODEBUG")+godebug)
	proxytest.Main(m)
}

const (
	ok    = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	get   = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
	host  = "Host: a.test\r\n"
	token = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)

// A site is a Router that forwards a.test to a backend, reached over one lane.
type site struct {
	router   *hostproxy.Router
	upstream *hostproxy.Upstream
	backend  *proxytest.Backend
	lane     lane
	server   *proxytest.Running // nil on the foreign lane
	addr     string
	tls      *tls.Config // of clients; nil means plain

	listen func(net.Listener) net.Listener // wraps each listener; nil does not

	mu      sync.Mutex
	records []hostproxy.Exchange
	handled int // how many of them the handler lane of our front served
}

// A lane is a way from a client to the Router.
type lane struct {
	name    string
	secure  bool // over TLS
	handler bool // through the Server's handler lane
	foreign bool // through net/http's server
	hooked  bool // the upstream has a hook that gets an http.Response, and does not change it
}

// lanes are all lanes. Read-only.
var lanes = []lane{
	{name: "fast lane"},
	{name: "fast lane over TLS", secure: true},
	{name: "handler lane", handler: true},
	{name: "handler lane over TLS", handler: true, secure: true},
	{name: "behind a hook", hooked: true},
	{name: "foreign server", foreign: true},
}

// A setting changes a site before it starts.
type setting func(*site)

// overEachLane runs check on a new site for each lane, whose backend runs
// script. It checks for leaks once, after all lanes.
func overEachLane(t *testing.T, script func(*proxytest.BackendConn), check func(*testing.T, *site), settings ...setting) {
	t.Helper()
	proxytest.NoLeaks(t)
	for _, l := range lanes {
		t.Run(l.name, func(t *testing.T) {
			check(t, newSite(t, l, script, settings...))
		})
	}
}

// overLanesAtOnce is overEachLane with the lanes in parallel, for checks that
// mostly wait and share nothing.
func overLanesAtOnce(t *testing.T, script func(*proxytest.BackendConn), check func(*testing.T, *site), settings ...setting) {
	t.Helper()
	proxytest.NoLeaks(t)
	for _, l := range lanes {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			check(t, newSite(t, l, script, settings...))
		})
	}
}

// overOurLanes is overEachLane without the foreign server, for facts that a
// handler below net/http cannot see.
func overOurLanes(t *testing.T, script func(*proxytest.BackendConn), check func(*testing.T, *site), settings ...setting) {
	t.Helper()
	overEachLane(t, script, func(t *testing.T, s *site) {
		if !s.lane.foreign {
			check(t, s)
		}
	}, settings...)
}

func newSite(t *testing.T, l lane, script func(*proxytest.BackendConn), settings ...setting) *site {
	t.Helper()
	s := &site{router: new(hostproxy.Router), backend: proxytest.NewBackend(t, script), lane: l}
	s.upstream = hostproxy.To(s.backend.Addr())
	if l.hooked {
		s.upstream.ModifyResponse = func(*http.Response) error { return nil }
	}
	s.router.Observe = s.observe
	s.router.Logger = panicsFail(t)
	for _, set := range settings {
		set(s)
	}
	s.router.Handle("a.test", s.upstream)
	s.start(t)
	return s
}

// panicsFail returns a logger that fails the test, at its end, if a panic was
// logged: net/http hides panics from the client.
func panicsFail(t *testing.T) *slog.Logger {
	t.Helper()
	text := new(proxytest.Log)
	t.Cleanup(func() {
		if strings.Contains(text.String(), "panic") {
			t.Errorf("a panic was logged: %s", text)
		}
	})
	return slog.New(slog.NewTextHandler(text, nil))
}

// newStorage returns an empty storage. It exists until the end of the run,
// since a lock may be released after a server's end.
func newStorage(t testing.TB) certmagic.Storage {
	t.Helper()
	dir, err := os.MkdirTemp(os.Getenv("XDG_DATA_HOME"), "storage") // see proxytest.Main
	require.NoError(t, err)
	return &certmagic.FileStorage{Path: dir}
}

// start serves the router over the site's lane.
func (s *site) start(t *testing.T) {
	t.Helper()
	if s.lane.foreign {
		ln := s.wrapped(proxytest.Listen(t))
		s.addr = ln.Addr().String()
		hs := &http.Server{Handler: s.router, ReadHeaderTimeout: proxytest.Patience, ErrorLog: slog.NewLogLogger(s.router.Logger.Handler(), slog.LevelError)}
		go func() { _ = hs.Serve(ln) }()
		t.Cleanup(func() {
			hs.Close()
			for pattern := range s.router.All() { // its upstream's background work ends with it
				s.router.Remove(pattern)
			}
		})
		return
	}
	server := &hostproxy.Server{Router: s.router}
	if s.lane.handler {
		server.Handler = http.HandlerFunc(s.router.ServeHTTP)
	}
	if !s.lane.secure {
		s.server = proxytest.StartPlain(t, s.runner(server))
		s.addr = s.server.Plain
		return
	}
	config, roots := proxytest.TLS(t, "a.test", "b.test")
	s.router.TLS.Config = config
	s.router.TLS.Storage = newStorage(t)
	s.tls = &tls.Config{RootCAs: roots, ServerName: "a.test", NextProtos: []string{"http/1.1"}}
	s.server = proxytest.Start(t, s.runner(server))
	s.addr = s.server.HTTPS
}

func (s *site) wrapped(ln net.Listener) net.Listener {
	if s.listen == nil || ln == nil {
		return ln
	}
	return s.listen(ln)
}

// runner returns server with the site's wrapped listeners.
func (s *site) runner(server *hostproxy.Server) proxytest.Runner {
	return runner(func(ctx context.Context, https, plain net.Listener) error {
		return server.Serve(ctx, s.wrapped(https), s.wrapped(plain))
	})
}

// A runner is a proxytest.Runner.
type runner func(ctx context.Context, https, plain net.Listener) error

func (r runner) Serve(ctx context.Context, https, plain net.Listener) error {
	return r(ctx, https, plain)
}

// dialAfter opens a client connection whose first bytes are first.
func (s *site) dialAfter(t *testing.T, first string) *proxytest.Client {
	t.Helper()
	c := proxytest.Dial(t, s.addr)
	require.NoError(t, c.Conn.Send(first))
	if s.tls != nil {
		tc := tls.Client(c.Conn.Conn, s.tls)
		require.NoError(t, tc.Handshake())
		c.Conn = proxytest.NewConn(tc)
	}
	return c
}

// dial opens a client connection to the site.
func (s *site) dial(t *testing.T) *proxytest.Client {
	t.Helper()
	if s.tls != nil {
		return proxytest.DialTLS(t, s.addr, s.tls)
	}
	return proxytest.Dial(t, s.addr)
}

// observe keeps a copy of each record, which is valid only during the call.
func (s *site) observe(x *hostproxy.Exchange) {
	c := *x
	for _, text := range []*string{&c.Proto, &c.Scheme, &c.Method, &c.Host, &c.Path, &c.Query, &c.Pattern, &c.Target} {
		*text = strings.Clone(*text)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records = append(s.records, c)
	if inHandler() {
		s.handled++
	}
}

// inHandler reports whether the caller serves a request in the handler lane of
// our front. No client or target can tell the lanes apart.
func inHandler() bool {
	var pcs [64]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs[:])])
	for {
		frame, more := frames.Next()
		if strings.Contains(frame.Function, "internal/serve.(*adapter)") {
			return true
		}
		if !more {
			return false
		}
	}
}

// record waits for the n-th record, counted from 1, and returns it.
func (s *site) record(t *testing.T, n int) hostproxy.Exchange {
	t.Helper()
	proxytest.Eventually(t, "the record of the exchange", func() bool { return s.recorded() >= n })
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.records[n-1]
}

// recorded returns how many records there are.
func (s *site) recorded() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.records)
}

// lines splits a head into its lines, without the empty one at the end.
func lines(head []byte) []string {
	text, _, _ := strings.Cut(string(head), "\r\n\r\n")
	return strings.Split(text, "\r\n")
}

// field returns the values of a field in a raw head, in the order of its lines.
func field(head []byte, name string) []string {
	var values []string
	for _, line := range lines(head)[1:] {
		if n, v, ok := strings.Cut(line, ":"); ok && strings.EqualFold(n, name) {
			values = append(values, strings.TrimSpace(v))
		}
	}
	return values
}

// ip returns the local IP address of a connection.
func ip(c *proxytest.Client) string {
	h, _, _ := net.SplitHostPort(c.LocalAddr().String())
	return h
}

// clientTLS is the config of a client that trusts roots.
func clientTLS(roots *x509.CertPool) *tls.Config { return &tls.Config{RootCAs: roots} }
