//go:build !race && !portable

package serve_test

import (
	"context"
	"crypto/tls"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// An announced companion serves nothing.
type announced struct{}

func (announced) AltSvc() string { return `h3=":443"; ma=86400` }

func (announced) Serve(ctx context.Context, _ http.Handler) error {
	<-ctx.Done()
	return nil
}

func TestAltSvcAllocatesNothing(t *testing.T) {
	proxytest.NoLeaks(t)
	var r hostproxy.Router
	r.Handle("a.test", hostproxy.To(backend(t, "HTTP/1.1 200 OK\r\nX-Debug: 1\r\nContent-Length: 2\r\n\r\nok")))
	conf, roots := proxytest.TLS(t, "a.test")
	r.TLS.Config = conf
	run := proxytest.Start(t, &hostproxy.Server{Router: &r, Companions: []hostproxy.Companion{announced{}}})
	c, err := tls.Dial("tcp", run.HTTPS, &tls.Config{RootCAs: roots, ServerName: "a.test"})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	assert.Less(t, (&link{c, t}).perRequest("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"), 2.05, "crypto/tls allocates two")
}
