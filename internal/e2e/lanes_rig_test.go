package e2e_test

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A track is one proxy with its own backend. Other tracks get the same
// requests.
type track struct {
	name    string
	addr    string
	tls     *tls.Config // of clients; nil means plain
	mirror  *mirror
	router  *hostproxy.Router       // nil for httputil
	records chan hostproxy.Exchange // nil without records
	idle    *proxytest.Conn         // the client's kept connection, or nil
	running *proxytest.Running      // nil with a foreign server
	tally   *tally                  // nil means no counts
	two     *h2                     // the client's HTTP/2 connection, or nil
	latest  uint32                  // latest stream of two
}

// A mirror is a backend that keeps the requests it gets and sends a given
// answer.
type mirror struct {
	ln     net.Listener
	answer atomic.Pointer[answer]
	got    chan *proxytest.Request

	work sync.WaitGroup
	mu   sync.Mutex
	open map[net.Conn]struct{}
}

// An answer has the bytes that a mirror sends for a request.
type answer struct {
	raw   string
	close bool // the connection is closed after it
	// the request's body follows, as one chunk or with its length; raw is then
	// a head without framing
	echo bool
}

// newMirror starts a mirror, which ends with the test.
func newMirror(t testing.TB) *mirror {
	t.Helper()
	m := &mirror{ln: proxytest.Listen(t), got: make(chan *proxytest.Request, 1024), open: make(map[net.Conn]struct{})}
	m.work.Go(m.accept)
	t.Cleanup(m.close)
	return m
}

func (m *mirror) accept() {
	for {
		nc, err := m.ln.Accept()
		if err != nil {
			return
		}
		m.mu.Lock()
		m.open[nc] = struct{}{}
		m.mu.Unlock()
		m.work.Go(func() { m.serve(nc) })
	}
}

func (m *mirror) serve(nc net.Conn) {
	defer func() {
		nc.Close()
		m.mu.Lock()
		delete(m.open, nc)
		m.mu.Unlock()
	}()
	c := proxytest.NewConn(nc)
	for {
		// kept connections are used for a whole run
		_ = c.SetDeadline(time.Now().Add(4 * proxytest.Patience))
		q, err := c.ReadRequest()
		if q == nil || err != nil {
			return
		}
		m.got <- q
		a := m.answer.Load()
		if c.Send(a.to(q)) != nil || a.close {
			return
		}
	}
}

// to returns the bytes of the answer to q, without the body for HEAD.
func (a *answer) to(q *proxytest.Request) string {
	if !a.echo {
		if head, _, ok := strings.Cut(a.raw, "\r\n\r\n"); ok && q.Method == "HEAD" && !strings.HasPrefix(head, "HTTP/1.1 1") {
			return head + "\r\n\r\n"
		}
		return a.raw
	}
	body := string(q.Content)
	if len(q.TransferEncoding) > 0 {
		return a.raw + "Transfer-Encoding: chunked\r\n\r\n" + chunked(body, 10_000)
	}
	return a.raw + sized(body)
}

func (m *mirror) close() {
	m.ln.Close()
	m.mu.Lock()
	for nc := range m.open {
		nc.Close()
	}
	m.mu.Unlock()
	m.work.Wait()
}

// taken returns the requests since the last call. It has all answered requests,
// but one that the proxy gave up may be missing.
func (m *mirror) taken() (all []*proxytest.Request) {
	for {
		select {
		case q := <-m.got:
			all = append(all, q)
		default:
			return all
		}
	}
}

// A shape configures the proxies of a comparison. The zero shape is one route
// for any host.
type shape struct {
	name    string
	base    string // path of the target's URL
	trusted string // a prefix of trusted proxies
	change  func(*hostproxy.Upstream)
	secure  bool // clients use TLS
	own     bool // httputil has no such feature
	tune    func(*hostproxy.Server)
	limit   *hostproxy.RateLimit
	// adds the routes; nil means one route for any host to the upstream
	routes func(*hostproxy.Router, *hostproxy.Upstream)
	// counts the bytes that clients send and the server reads
	tally bool
}

func (s *shape) router(t testing.TB, k *track) *hostproxy.Router {
	t.Helper()
	u := hostproxy.To("http://" + k.mirror.ln.Addr().String() + s.base)
	if s.change != nil {
		s.change(u)
	}
	r := &hostproxy.Router{Logger: silent(), Observe: k.observe, RateLimit: s.limit}
	k.router = r
	if s.trusted != "" {
		r.TrustedProxies = []netip.Prefix{netip.MustParsePrefix(s.trusted)}
	}
	if s.routes == nil {
		r.Handle("*", u)
		return r
	}
	s.routes(r, u)
	return r
}

func newTrack(t testing.TB, name string) *track {
	t.Helper()
	k := &track{name: name, mirror: newMirror(t), records: make(chan hostproxy.Exchange, 1024)}
	t.Cleanup(k.rest)
	return k
}

// rest closes the client's kept connection.
func (k *track) rest() {
	if k.idle != nil {
		k.idle.Close()
		k.idle = nil
	}
}

func (k *track) observe(x *hostproxy.Exchange) {
	if k.records == nil {
		return
	}
	c := *x
	for _, text := range []*string{&c.Proto, &c.Scheme, &c.Method, &c.Host, &c.Path, &c.Query, &c.Pattern, &c.Target} {
		*text = strings.Clone(*text) // the fast lane's strings are invalid after the call
	}
	k.records <- c
}

// newFast starts a Server that uses the fast lane where it can.
func newFast(t testing.TB, s shape) *track {
	t.Helper()
	k := newTrack(t, "fast")
	k.start(t, s, &hostproxy.Server{Router: s.router(t, k)})
	return k
}

// newAdapter starts a Server with middleware, so that its requests go to an
// http.Handler.
func newAdapter(t testing.TB, s shape) *track {
	t.Helper()
	k := newTrack(t, "adapter")
	r := s.router(t, k)
	k.start(t, s, &hostproxy.Server{Router: r, Handler: http.HandlerFunc(r.ServeHTTP)})
	return k
}

// overFronts runs check in parallel over the tracks with a Server of ours.
func overFronts(t *testing.T, s shape, check func(*testing.T, *track)) {
	t.Helper()
	t.Parallel() // most of the time is spent waiting
	secure := s
	secure.secure = true
	for name, start := range map[string]func(*testing.T) *track{
		"fast lane":          func(t *testing.T) *track { return newFast(t, s) },
		"fast lane over TLS": func(t *testing.T) *track { return newFast(t, secure) },
		"behind middleware":  func(t *testing.T) *track { return newAdapter(t, s) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			check(t, start(t))
		})
	}
}

// start runs server as the track's proxy.
func (k *track) start(t testing.TB, s shape, server *hostproxy.Server) {
	t.Helper()
	r := server.Router
	if s.tune != nil {
		s.tune(server)
	}
	var runs proxytest.Runner = server
	if s.tally {
		k.tally = new(tally)
		runs = k.tally.runner(server)
	}
	if !s.secure {
		k.running = proxytest.StartPlain(t, runs)
		k.addr = k.running.Plain
		return
	}
	config, roots := proxytest.TLS(t, "a.test")
	r.TLS.Config = config
	r.TLS.Storage = newStorage(t)
	k.tls = &tls.Config{RootCAs: roots, ServerName: "a.test", NextProtos: []string{"http/1.1"}}
	k.running = proxytest.Start(t, runs)
	k.addr = k.running.HTTPS
}

// newForeign starts net/http's own server with the Router as its handler.
func newForeign(t testing.TB, s shape) *track {
	t.Helper()
	k := newTrack(t, "foreign")
	k.serve(t, s.router(t, k), s.secure)
	return k
}

// newHooked starts a Server with a hook that gets an http.Response and does not
// change it.
func newHooked(t testing.TB, s shape) *track {
	t.Helper()
	k := newTrack(t, "hooked")
	change := s.change
	s.change = func(u *hostproxy.Upstream) {
		u.ModifyResponse = func(*http.Response) error { return nil }
		if change != nil {
			change(u)
		}
	}
	k.start(t, s, &hostproxy.Server{Router: s.router(t, k)})
	return k
}

// newReference starts an httputil.ReverseProxy that is configured to do the
// same as hostproxy.
func newReference(t testing.TB, s shape) *track {
	t.Helper()
	k := newTrack(t, "httputil")
	k.records = nil
	target, err := url.Parse("http://" + k.mirror.ln.Addr().String() + s.base)
	require.NoError(t, err)
	transport := &http.Transport{DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	proxy := &httputil.ReverseProxy{
		Transport: transport,
		ErrorLog:  slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(target)
			p.Out.URL.RawQuery = p.In.URL.RawQuery // unchanged
			p.Out.Host = p.In.Host
			p.SetXForwarded()
			client, _, _ := net.SplitHostPort(p.In.RemoteAddr)
			p.Out.Header.Set("X-Real-Ip", client)
			p.Out.Header.Add("Via", strings.TrimPrefix(p.In.Proto, "HTTP/")+" hostproxy")
		},
	}
	k.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		// otherwise net/http takes the rest of a body from the transport
		_ = http.NewResponseController(w).EnableFullDuplex()
		proxy.ServeHTTP(w, q)
	}), s.secure)
	return k
}

// serve runs h under a plain http.Server.
func (k *track) serve(t testing.TB, h http.Handler, secure bool) {
	t.Helper()
	ln := proxytest.Listen(t)
	k.addr = ln.Addr().String()
	server := &http.Server{Handler: h, ReadHeaderTimeout: proxytest.Patience, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	if secure {
		config, roots := proxytest.TLS(t, "a.test")
		k.tls = &tls.Config{RootCAs: roots, ServerName: "a.test", NextProtos: []string{"http/1.1"}}
		config.NextProtos = []string{"h2", "http/1.1"}
		server.Protocols.SetHTTP2(true)
		ln = tls.NewListener(ln, config)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), proxytest.Patience)
		defer cancel()
		_ = server.Shutdown(ctx)
		server.Close()
		<-done
	})
}

// dial opens a client connection with a deadline for a whole run.
func (k *track) dial() (*proxytest.Conn, error) {
	nc, err := net.DialTimeout("tcp", k.addr, proxytest.Patience)
	if err != nil {
		return nil, err
	}
	if k.tally != nil {
		nc = &dialed{nc.(*net.TCPConn), k.tally}
	}
	if k.tls != nil {
		nc = tls.Client(nc, k.tls)
	}
	return proxytest.NewConn(nc), nil
}

// An exchange has one client's request and the backend's answer.
type exchange struct {
	name    string
	raw     string // one request
	answer  answer
	foreign bool // not compared with httputil, which is known to differ or to be wrong
}

// ask performs one exchange and returns what both ends saw. If the connection
// is kept, a second exchange on it shows that both ends agree on the end of the
// first one. The connection is then kept for the next exchange, so that traces
// of one exchange would show in another.
func (k *track) ask(t testing.TB, x *exchange) view {
	t.Helper()
	c := k.idle
	if k.idle = nil; c == nil {
		var err error
		c, err = k.dial()
		require.NoError(t, err, k.name)
	}
	_ = c.SetDeadline(time.Now().Add(proxytest.Patience))
	v := k.askOn(t, c, x)
	if v["down kept"] == "yes" {
		k.idle = c
	} else {
		c.Close()
	}
	return v
}

func (k *track) askOn(t testing.TB, c *proxytest.Conn, x *exchange) view {
	t.Helper()
	k.mirror.answer.Store(&x.answer)
	sent := make(chan struct{})
	go func() { defer close(sent); _ = c.Send(x.raw) }() // fails if a refusal comes first
	method, _, _ := strings.Cut(x.raw, " ")
	v := view{}
	last := v.readResponses(c, method)
	require.NotContains(t, v, "down hangs", "%s: %s: no answer comes\nrequest %s\nanswer  %s", k.name, x.name, short(x.raw), short(x.answer.raw))
	if last != nil && !last.Close {
		v["down kept"] = "yes"
		<-sent
		k.mirror.answer.Store(&answer{raw: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nprobe"})
		v.addUp(k)
		v.probe(c)
		require.Len(t, k.mirror.taken(), 1, "%s: %s: the probe", k.name, x.name)
		v.addRecord(k, 2)
		return v
	}
	rest, err := c.ReadAll()
	require.NoError(t, err, "%s: %s: the connection stays open\nrequest %s\nanswer  %s", k.name, x.name, short(x.raw), short(x.answer.raw))
	if rest != "" {
		v["down rest"] = rest
	}
	c.Close()
	<-sent
	v.addUp(k)
	v.addRecord(k, 1)
	return v
}

func silent() *slog.Logger { return slog.New(slog.DiscardHandler) }

// sized returns Content-Length, the end of a head, and the body.
func sized(body string) string {
	return "Content-Length: " + itoa(len(body)) + "\r\n\r\n" + body
}

// chunked returns a body in chunks of up to n bytes, with trailers.
func chunked(body string, n int, trailers ...string) string {
	var b strings.Builder
	for len(body) > 0 {
		part := body[:min(n, len(body))]
		body = body[len(part):]
		b.WriteString(hex(len(part)) + "\r\n" + part + "\r\n")
	}
	b.WriteString("0\r\n")
	for _, line := range trailers {
		b.WriteString(line + "\r\n")
	}
	b.WriteString("\r\n")
	return b.String()
}
