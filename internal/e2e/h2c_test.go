package e2e_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A proxy in front may forward gRPC, which requires HTTP/2, without TLS.
func TestH2CServesTheRoutesOfThePlainListener(t *testing.T) {
	proxytest.NoLeaks(t)
	backend := proxytest.NewH2CServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Trailer", "Grpc-Status")
		w.Header().Set("Content-Type", "application/grpc")
		body, _ := io.ReadAll(q.Body)
		_, _ = w.Write(body)
		w.Header().Set("Grpc-Status", "0")
	}))
	plain := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		_, _ = io.WriteString(w, q.Header.Get("X-Forwarded-Proto")+" "+q.Header.Get("Via"))
	}))
	var r hostproxy.Router
	r.Handle("a.test", hostproxy.To(plain.Addr()))
	r.Handle("a.test/grpc/", hostproxy.To("h2c://"+backend.Addr()))
	addr := proxytest.StartPlain(t, &hostproxy.Server{Router: &r, H2C: true}).Plain
	client := proxytest.HTTPClient(t, addr, nil, "h2c")

	res, err := client.Get("http://a.test/")
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	assert.Equal(t, "HTTP/2.0", res.Proto)
	assert.Regexp(t, "^http 2.0 hostproxy-", string(body))

	res, err = client.Post("http://a.test/grpc/x", "application/grpc", strings.NewReader("\x00\x00\x00\x00\x00"))
	require.NoError(t, err)
	defer res.Body.Close()
	body, err = io.ReadAll(res.Body)
	require.NoError(t, err)
	assert.Equal(t, "\x00\x00\x00\x00\x00", string(body))
	assert.Equal(t, "0", res.Trailer.Get("Grpc-Status"))

	old, err := http.Get("http://" + addr + "/")
	require.NoError(t, err)
	defer old.Body.Close()
	assert.Equal(t, "HTTP/1.1", old.Proto, "HTTP/1.1 is spoken as before")
}

// The plain listener for challenges and redirects never speaks H2C; Serve
// returns an error for it.
func TestTheListenerOfRedirectsSpeaksNoH2C(t *testing.T) {
	r := hostproxy.Router{Logger: silent()}
	r.Handle("a.test", hostproxy.To("127.0.0.1:1"))
	config, _ := proxytest.TLS(t, "a.test")
	r.TLS.Config = config
	s := &hostproxy.Server{Router: &r, H2C: true}
	assert.ErrorContains(t, s.Serve(t.Context(), proxytest.Listen(t), proxytest.Listen(t)), "set H2C to false")
	s.H2C = false
	c := proxytest.Dial(t, proxytest.Start(t, s).Plain)
	c.Send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	assert.True(t, strings.HasPrefix(c.Rest(), "HTTP/1.1 505 "))
}
