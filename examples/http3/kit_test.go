package http3_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"testing"

	"github.com/quic-go/quic-go"
	h3 "github.com/quic-go/quic-go/http3"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/http3"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestMain(m *testing.M) {
	if addr := os.Getenv(addrEnv); addr != "" {
		if err := takeOver(addr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	proxytest.Main(m)
}

// A site is a proxy that serves all protocols.
type site struct {
	router *hostproxy.Router
	server *hostproxy.Server
	own    *http3.Server
	roots  *x509.CertPool
	run    *proxytest.Running
}

// newSite returns a site with certificates for hosts. Call start to run it.
func newSite(t testing.TB, hosts ...string) *site {
	t.Helper()
	s := &site{router: &hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}, own: &http3.Server{Addr: "127.0.0.1:0"}}
	s.router.TLS.Config, s.roots = proxytest.TLS(t, hosts...)
	s.server = &hostproxy.Server{Router: s.router, Companions: []hostproxy.Companion{s.own}}
	return s
}

func (s *site) start(t testing.TB) *site {
	t.Helper()
	s.run = proxytest.Start(t, s.server)
	proxytest.Eventually(t, "the socket is open", func() bool { return s.own.LocalAddr() != nil })
	return s
}

// client returns a client that reaches s by the protocol h1, h2 or h3. It has
// the client certificates certs.
func (s *site) client(t testing.TB, protocol string, certs ...tls.Certificate) *http.Client {
	t.Helper()
	if protocol == "h3" {
		return h3Client(t, &tls.Config{RootCAs: s.roots, Certificates: certs}, s.own.LocalAddr().String)
	}
	tr := &http.Transport{
		TLSClientConfig:       &tls.Config{RootCAs: s.roots, Certificates: certs},
		Protocols:             new(http.Protocols),
		ExpectContinueTimeout: proxytest.Patience,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", s.run.HTTPS)
		},
	}
	tr.Protocols.SetHTTP1(protocol == "h1")
	tr.Protocols.SetHTTP2(protocol == "h2")
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: noRedirects}
}

func noRedirects(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// h3Client returns a client that dials the address that to returns.
func h3Client(t testing.TB, conf *tls.Config, to func() string) *http.Client {
	t.Helper()
	tr := &h3.Transport{TLSClientConfig: conf, Dial: func(ctx context.Context, _ string, conf *tls.Config, q *quic.Config) (*quic.Conn, error) {
		return quic.DialAddr(ctx, to(), conf, q)
	}}
	t.Cleanup(func() { tr.Close() })
	return &http.Client{Transport: tr, CheckRedirect: noRedirects}
}

// get returns the status, the body and the header of a response.
func get(t testing.TB, c *http.Client, url string) (int, string, http.Header) {
	t.Helper()
	res, err := c.Get(url)
	require.NoError(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(b), res.Header
}

func hello(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { fmt.Fprintf(w, "%s %d", name, q.ProtoMajor) })
}
