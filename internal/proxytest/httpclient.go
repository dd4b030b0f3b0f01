package proxytest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"testing"
)

// HTTPClient returns a client that connects to addr regardless of the URL's
// host, trusts roots, and follows no redirects. The protocol is "h1", "h2"
// (over TLS) or "h2c" (prior knowledge). Its connections are closed at the end
// of the test, even busy ones, since a draining server waits for them.
func HTTPClient(t testing.TB, addr string, roots *x509.CertPool, protocol string) *http.Client {
	t.Helper()
	speaks := new(http.Protocols)
	switch protocol {
	case "h1":
		speaks.SetHTTP1(true)
	case "h2":
		speaks.SetHTTP2(true)
	case "h2c":
		speaks.SetUnencryptedHTTP2(true)
	default:
		t.Fatalf("proxytest: protocol %q, want h1, h2 or h2c", protocol)
	}
	over, end := context.WithCancel(context.Background())
	tr := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			nc, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
			if err == nil {
				context.AfterFunc(over, func() { nc.Close() })
			}
			return nc, err
		},
		TLSClientConfig:       &tls.Config{RootCAs: roots},
		TLSHandshakeTimeout:   Patience,
		ResponseHeaderTimeout: Patience,
		DisableCompression:    true,
		Protocols:             speaks,
	}
	t.Cleanup(func() { tr.CloseIdleConnections(); end() })
	return &http.Client{
		Transport:     tr,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
