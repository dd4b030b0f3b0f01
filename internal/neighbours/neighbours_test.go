// Package neighbours_test runs third-party handlers and middleware behind a
// Server: httputil.ReverseProxy, the handlers of net/http, chi, gzhttp,
// otelhttp, and the WebSocket libraries of gorilla and coder. Each test also
// runs behind net/http's own server, with the same assertions, so that a
// failure shows which of the two differs. deviations_test.go lists the
// differences that are allowed. It is a separate module, so that nothing else
// depends on these libraries.
package neighbours_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestMain(m *testing.M) { proxytest.Main(m) }

// The servers behind which each test runs. The first is the oracle.
const (
	netHTTP = "net/http" // an http.Server
	// a hostproxy.Server with middleware around its Router, or with a handler
	// instead of it
	inFront = "Server.Handler"
	// a hostproxy.Server whose Router has a route to the handler in its
	// middleware
	aRoute = "route"
)

// The protocols that clients use.
const (
	plain   = "plain"
	overTLS = "TLS"
	h2      = "h2"
)

// A place is a server and a protocol.
type place struct{ server, protocol string }

// everywhere runs a test at each place.
func everywhere(t *testing.T, test func(t *testing.T, p place)) {
	t.Helper()
	at(t, []string{plain, overTLS, h2}, test)
}

// overHTTP1 runs a test at each place that uses HTTP/1.1.
func overHTTP1(t *testing.T, test func(t *testing.T, p place)) {
	t.Helper()
	at(t, []string{plain, overTLS}, test)
}

func at(t *testing.T, protocols []string, test func(t *testing.T, p place)) {
	t.Helper()
	for _, server := range []string{netHTTP, inFront, aRoute} {
		for _, protocol := range protocols {
			t.Run(server+", "+protocol, func(t *testing.T) { test(t, place{server, protocol}) })
		}
	}
}

// A middleware is middleware in the form that all libraries share.
type middleware = func(http.Handler) http.Handler

// A site is a handler served at a place.
type site struct {
	place
	t      testing.TB
	addr   string
	roots  *x509.CertPool
	client *http.Client
	log    *proxytest.Log // log of the server
}

// serve starts the server of p with h behind its middleware. The first
// middleware is the outermost one.
func (p place) serve(t testing.TB, h http.Handler, around ...middleware) *site {
	t.Helper()
	s := &site{place: p, t: t, log: new(proxytest.Log)}
	config, roots := proxytest.TLS(t)
	s.roots = roots
	if p.server == netHTTP {
		s.addr = s.serveNetHTTP(wrapped(h, around), config)
	} else {
		s.addr = s.serveHostproxy(h, around, config)
	}
	protocol := "h1"
	if p.protocol == h2 {
		protocol = "h2"
	}
	s.client = proxytest.HTTPClient(t, s.addr, roots, protocol)
	return s
}

func wrapped(h http.Handler, around []middleware) http.Handler {
	for i := len(around) - 1; i >= 0; i-- {
		h = around[i](h)
	}
	return h
}

// serveNetHTTP starts an http.Server and returns its address.
func (s *site) serveNetHTTP(h http.Handler, config *tls.Config) string {
	ln := proxytest.Listen(s.t)
	srv := &http.Server{Handler: h, TLSConfig: config, ErrorLog: log.New(s.log, "", 0), ReadHeaderTimeout: proxytest.Patience}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if s.protocol == plain {
			_ = srv.Serve(ln)
		} else {
			_ = srv.ServeTLS(ln, "", "")
		}
	}()
	s.t.Cleanup(func() {
		srv.Close()
		<-done
	})
	return ln.Addr().String()
}

// serveHostproxy starts a hostproxy.Server and returns its address.
func (s *site) serveHostproxy(h http.Handler, around []middleware, config *tls.Config) string {
	var r hostproxy.Router
	r.TLS.Config = config
	r.Logger = slog.New(slog.NewTextHandler(s.log, nil))
	srv := &hostproxy.Server{Router: &r, DrainTimeout: proxytest.Patience}
	switch {
	case s.server == aRoute:
		r.Handle("*", wrapped(h, around))
	case len(around) > 0:
		r.Handle("*", h)
		srv.Handler = wrapped(&r, around)
	default:
		r.Handle("*", http.NotFoundHandler())
		srv.Handler = h
	}
	if s.protocol == plain {
		return proxytest.StartPlain(s.t, srv).Plain
	}
	return proxytest.Start(s.t, srv).HTTPS
}

// url returns the URL of a path, of scheme http or https.
func (s *site) url(path string) string {
	if s.protocol == plain {
		return "http://localhost" + path
	}
	return "https://localhost" + path
}

// dial opens a raw connection that speaks HTTP/1.1.
func (s *site) dial() *proxytest.Client {
	s.t.Helper()
	if s.protocol == plain {
		return proxytest.Dial(s.t, s.addr)
	}
	return proxytest.DialTLS(s.t, s.addr, &tls.Config{RootCAs: s.roots, ServerName: "localhost"})
}

// dialContext is for the dialers of libraries. It connects to the site
// regardless of the address.
func (s *site) dialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", s.addr)
}

// An answer is a response with its body.
type answer struct {
	*http.Response
	body string
}

// begin sends a request and returns when the head of the response arrives.
// fields are names and values in turn.
func (s *site) begin(method, path string, body io.Reader, fields ...string) *http.Response {
	s.t.Helper()
	p, err := s.client.Do(s.request(method, path, body, fields...))
	require.NoError(s.t, err)
	s.t.Cleanup(func() { p.Body.Close() })
	return p
}

// request returns a request that ends with the test.
func (s *site) request(method, path string, body io.Reader, fields ...string) *http.Request {
	s.t.Helper()
	q, err := http.NewRequestWithContext(s.t.Context(), method, s.url(path), body)
	require.NoError(s.t, err)
	for i := 0; i < len(fields); i += 2 {
		q.Header.Add(fields[i], fields[i+1])
	}
	return q
}

// do sends a request and reads the whole response.
func (s *site) do(method, path string, body io.Reader, fields ...string) answer {
	s.t.Helper()
	p := s.begin(method, path, body, fields...)
	text, err := io.ReadAll(p.Body)
	require.NoError(s.t, err)
	return answer{p, string(text)}
}

// get is do for a GET.
func (s *site) get(path string, fields ...string) answer {
	s.t.Helper()
	return s.do(http.MethodGet, path, nil, fields...)
}

// fails sends a GET whose response must arrive incomplete. It returns the part
// of the body that arrives.
func (s *site) fails(path string) string {
	s.t.Helper()
	p, err := s.client.Do(s.request(http.MethodGet, path, nil))
	if err != nil {
		return ""
	}
	defer p.Body.Close()
	text, err := io.ReadAll(p.Body)
	assert.Error(s.t, err, "the response looks complete: %s %q", p.Status, text)
	return string(text)
}

// await returns the next value of ch.
func await[T any](t testing.TB, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(proxytest.Patience):
		t.Fatalf("still waiting for %s after %v", what, proxytest.Patience)
		panic("unreachable")
	}
}

// hold makes a handler wait until the test lets it continue, or the request
// ends.
func hold(q *http.Request, next <-chan struct{}) {
	select {
	case <-next:
	case <-q.Context().Done():
	}
}

// readString reads n bytes.
func readString(t testing.TB, r io.Reader, n int) string {
	t.Helper()
	p := make([]byte, n)
	_, err := io.ReadFull(r, p)
	require.NoError(t, err)
	return string(p)
}

// pattern returns n bytes. Any two ranges of a few KiB differ.
func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i) ^ byte(i>>8)*3 ^ byte(i>>16)*7
	}
	return p
}
