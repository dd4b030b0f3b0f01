package main

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestMain(m *testing.M) { proxytest.Main(m) }

// ask sends one request for app.localhost through a proxy with the given routes; it returns the answer and the log.
func ask(t *testing.T, inContainer bool, routes ...string) (status int, body, logged string) {
	t.Helper()
	lines := new(bytes.Buffer)
	r := hostproxy.Router{Observe: observe(slog.New(slog.NewTextHandler(lines, nil)), inContainer)}
	for _, s := range routes {
		require.NoError(t, add(&r, s))
	}
	server := proxytest.StartPlain(t, &hostproxy.Server{Router: &r})
	client := proxytest.HTTPClient(t, server.Plain, nil, "h1")
	p, err := client.Get("http://app.localhost/")
	require.NoError(t, err)
	text, err := io.ReadAll(p.Body)
	require.NoError(t, err)
	require.NoError(t, p.Body.Close())
	client.CloseIdleConnections()
	require.NoError(t, server.Stop()) // after which nobody writes to the log
	return p.StatusCode, string(text), lines.String()
}

func TestLocalhostInAContainerGivesA502AndAHint(t *testing.T) {
	target := proxytest.Refused(t)
	status, body, logged := ask(t, true, "app.localhost="+target)
	assert.Equal(t, http.StatusBadGateway, status)
	assert.NotContains(t, body, target, "a client learns nothing of the inside")
	assert.Contains(t, logged, "op=dial")
	assert.Contains(t, logged, "connection refused")
	assert.Contains(t, logged, "localhost is this container itself")
}

func TestOutsideAContainerThereIsNoHint(t *testing.T) {
	_, _, logged := ask(t, false, "app.localhost="+proxytest.Refused(t))
	assert.Contains(t, logged, "op=dial")
	assert.NotContains(t, logged, "localhost is this container itself")
}

func TestANameThatIsNotThereStopsNoOtherRoute(t *testing.T) {
	status, body, _ := ask(t, true, "gone.localhost=no-such-service.invalid:80", "app.localhost="+proxytest.NewServer(t, nil).Addr())
	assert.Equal(t, http.StatusOK, status)
	assert.Equal(t, "ok", body)
}

func TestBadFlagsAreSaid(t *testing.T) {
	var r hostproxy.Router
	assert.ErrorContains(t, add(&r, "app.localhost"), "it is empty")
	assert.ErrorContains(t, add(&r, "=localhost:1"), `pattern "": a pattern begins with a host`)
}

func TestLoopbackTargets(t *testing.T) {
	for target, want := range map[string]bool{
		"localhost:80": true, "127.0.0.2:80": true, "[::1]:80": true, "http://localhost:80": true, "h2c://127.0.0.1:1": true,
		"blog:8000": false, "172.17.0.1:4006": false, "unix:/run/x": false, "": false,
	} {
		assert.Equal(t, want, loopback(target), target)
	}
}
