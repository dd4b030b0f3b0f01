package e2e_test

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// Faults of clients require no action by the operator: a browser that rejects
// the certificate, a reset, a broken frame.
func TestConnectionFaultsOfClientsAreNotLoggedAsWarnings(t *testing.T) {
	t.Parallel()
	for about, bytes := range map[string]string{
		"a reset before the preface":     "",
		"a reset in the preface":         http2.ClientPreface[:10],
		"something else than a preface":  "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"a frame that is none":           http2.ClientPreface + "\xff\xff\xff\x04\x00\x00\x00\x00\x00",
		"a frame before the settings":    http2.ClientPreface + "\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x01",
		"a reset behind the settings":    http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00",
		"a GOAWAY behind the settings":   http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01",
		"a window of a stream that is 0": http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00",
	} {
		t.Run(about, func(t *testing.T) {
			t.Parallel()
			warnings := new(proxytest.Log)
			config, roots := proxytest.TLS(t, "a.test")
			r := &hostproxy.Router{Logger: slog.New(slog.NewTextHandler(warnings, &slog.HandlerOptions{Level: slog.LevelWarn}))}
			r.TLS.Config = config
			r.Handle("a.test", http.NotFoundHandler())
			run := proxytest.Start(t, &hostproxy.Server{Router: r})
			raw, err := net.Dial("tcp", run.HTTPS)
			require.NoError(t, err)
			c := tls.Client(raw, &tls.Config{RootCAs: roots, ServerName: "a.test", NextProtos: []string{"h2"}})
			require.NoError(t, c.Handshake())
			_, err = c.Write([]byte(bytes))
			require.NoError(t, err)
			_, _ = c.Read(make([]byte, 1)) // the server's settings
			_ = raw.(*net.TCPConn).SetLinger(0)
			raw.Close()
			require.NoError(t, run.Stop())
			assert.Empty(t, warnings.String())
		})
	}
}
