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

// ask sends one request for app.localhost through a proxy with these routes. It
// returns the answer and the log.
func ask(t *testing.T, inContainer bool, routes ...string) (status int, body, logged string) {
	t.Helper()
	lines := new(bytes.Buffer)
	p := newProxy(slog.New(slog.NewTextHandler(lines, nil)), inContainer)
	for _, s := range routes {
		require.NoError(t, p.add(s))
	}
	require.NoError(t, p.apply(nil))
	server := proxytest.StartPlain(t, &hostproxy.Server{Router: &p.router})
	client := proxytest.HTTPClient(t, server.Plain, nil, "h1")
	a, err := client.Get("http://app.localhost/")
	require.NoError(t, err)
	text, err := io.ReadAll(a.Body)
	require.NoError(t, err)
	require.NoError(t, a.Body.Close())
	client.CloseIdleConnections()
	require.NoError(t, server.Stop()) // after this, the log is complete
	return a.StatusCode, string(text), lines.String()
}

func TestLocalhostInAContainerGivesA502AndAHint(t *testing.T) {
	target := proxytest.Refused(t)
	status, body, logged := ask(t, true, "app.localhost="+target)
	assert.Equal(t, http.StatusBadGateway, status)
	assert.NotContains(t, body, target, "the client does not see the target")
	assert.Contains(t, logged, "op=dial")
	assert.Contains(t, logged, "connection refused")
	assert.Contains(t, logged, "localhost is this container itself")
}

func TestOutsideAContainerThereIsNoHint(t *testing.T) {
	_, _, logged := ask(t, false, "app.localhost="+proxytest.Refused(t))
	assert.Contains(t, logged, "op=dial")
	assert.NotContains(t, logged, "localhost is this container itself")
}

func TestARouteWhoseNameDoesNotResolveStopsNoOtherRoute(t *testing.T) {
	status, body, _ := ask(t, true, "gone.localhost=no-such-service.invalid:80", "app.localhost="+proxytest.NewServer(t, nil).Addr())
	assert.Equal(t, http.StatusOK, status)
	assert.Equal(t, "ok", body)
}

func TestInvalidFlagsAreErrors(t *testing.T) {
	p := newProxy(slog.Default(), false)
	require.NoError(t, p.add("App.localhost=localhost:1"))
	for flag, want := range map[string]string{
		"app.localhost":               "want host=target",
		"app.localhost=":              "it is empty",
		"=localhost:1":                `pattern "": a pattern begins with a host`,
		"app.localhost.=localhost:2":  `"app.localhost" is given twice`,
		"b.localhost=localhost:70000": "65535",
	} {
		assert.ErrorContains(t, p.add(flag), want, flag)
	}
	for flag, want := range map[string]string{"": "a pattern begins with a host", "a..b": "a..b", "a.test/x": "want hosts only"} {
		assert.ErrorContains(t, p.allow(flag), want, flag)
	}
	for host, want := range map[string]string{
		"": "want unix:///", "/var/run/docker.sock": "want unix:///", "unix://var/run/docker.sock": "want unix:///",
		"ssh://host": "ssh are not supported", "tcp://host": "want unix:///", "tcp://user:secret@host:2375": "want unix:///", "unix:///run/docker.sock?x": "want unix:///", "https://host:2376": "TLS",
	} {
		_, err := newEngine(host)
		assert.ErrorContains(t, err, want, host)
	}
}

func TestOnlyTargetsOnThisMachineAreLoopback(t *testing.T) {
	for target, want := range map[string]bool{
		"localhost:80": true, "127.0.0.2:80": true, "[::1]:80": true, "http://localhost:80": true, "h2c://127.0.0.1:1": true,
		"blog:8000": false, "172.17.0.1:4006": false, "unix:/run/x": false, "": false,
	} {
		assert.Equal(t, want, loopback(target), target)
	}
}

func TestOnlyPrivateAddressesCountAsContainers(t *testing.T) {
	for target, want := range map[string]bool{
		"http://172.17.0.2:80": true, "http://[fd00::2]:80": true, "10.0.0.1:1": true,
		"http://127.0.0.1:80": false, "http://192.0.2.1:80": false, "http://blog:80": false, "unix:/run/x": false,
	} {
		assert.Equal(t, want, private(target), target)
	}
}
