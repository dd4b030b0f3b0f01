package hostproxy_test

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestALocalCAForCustomersDomainsIsAnErrorInTheLogAndInExplain(t *testing.T) {
	const why = "is a public name: the local CA signs internal names only"
	var log proxytest.Log
	r := hostproxy.Router{Logger: slog.New(slog.NewJSONHandler(&log, nil))}
	r.TLS.Storage = files(t)
	r.TLS.Issuer = &hostproxy.LocalCA{Storage: r.TLS.Storage}
	r.TLS.HostPolicy = func(context.Context, string) error { return nil }
	r.Handle("*", named("any"))
	server := proxytest.Start(t, &hostproxy.Server{Router: &r})
	for _, name := range []string{"bob.net", "bob.net", "eve.net"} {
		_, err := tls.Dial("tcp", server.HTTPS, &tls.Config{ServerName: name})
		assert.ErrorContains(t, err, "unrecognized name")
	}
	assert.Equal(t, 1, strings.Count(log.String(), why), log.String())
	assert.Contains(t, log.String(), `"level":"ERROR"`)
	e := r.Explain(httptest.NewRequest("GET", "https://bob.net/", nil))
	assert.Contains(t, e.TLS, `no certificate: "bob.net" `+why)
	assert.Contains(t, e.String(), "certificate: "+e.TLS)
}
