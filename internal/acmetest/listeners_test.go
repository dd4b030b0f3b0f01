package acmetest_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"testing"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/acmetest"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// The CA may use any TLS listener, and any listener for redirects.
func TestEachListenerAnswersItsChallenges(t *testing.T) {
	for name, reach := range map[string]func(o *acmetest.Options, second, redirects int){
		"TLS-ALPN-01": func(o *acmetest.Options, second, _ int) { o.TLSPort, o.HTTPPort = second, -1 },
		"HTTP-01":     func(o *acmetest.Options, _, redirects int) { o.TLSPort, o.HTTPPort = -1, redirects },
	} {
		t.Run(name, func(t *testing.T) {
			lns := []net.Listener{proxytest.Listen(t), proxytest.Listen(t), proxytest.Listen(t)}
			port := func(i int) int { return lns[i].Addr().(*net.TCPAddr).Port }
			var o acmetest.Options
			reach(&o, port(1), port(2))
			r := &hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
			r.TLS.Storage = &certmagic.FileStorage{Path: t.TempDir()}
			r.TLS.Issuer = acmetest.New(t, o).Issuer()
			r.Handle("a.example.com", http.NotFoundHandler())
			s := &hostproxy.Server{Router: r, Listeners: []hostproxy.Listener{
				{Listener: lns[0]}, {Listener: lns[1]}, {Listener: lns[2], Role: hostproxy.RoleRedirects},
			}}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- s.Serve(ctx, nil, nil) }()
			proxytest.Eventually(t, "the certificate", func() bool {
				status, ok := r.Certificate("a.example.com")
				return ok && status.State == hostproxy.CertValid
			})
			cancel()
			require.NoError(t, <-done)
		})
	}
}
