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

// start runs the example in front of a backend that answers "ok". It returns a
// client, the log, and a function that stops the example.
func start(t *testing.T) (*http.Client, *bytes.Buffer, func() error) {
	t.Helper()
	lines := new(bytes.Buffer)
	r, err := router(slog.New(slog.NewTextHandler(lines, nil)), proxytest.NewServer(t, nil).Addr(), "pw")
	require.NoError(t, err)
	server := proxytest.StartPlain(t, &hostproxy.Server{Router: r})
	return proxytest.HTTPClient(t, server.Plain, nil, "h1"), lines, server.Stop
}

func status(t *testing.T, client *http.Client, url, password string) int {
	t.Helper()
	q, err := http.NewRequest("GET", url, nil)
	require.NoError(t, err)
	if password != "" {
		q.SetBasicAuth("admin", password)
	}
	p, err := client.Do(q)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, p.Body)
	require.NoError(t, err)
	require.NoError(t, p.Body.Close())
	return p.StatusCode
}

func TestOnlyOneRouteRequiresThePassword(t *testing.T) {
	client, _, _ := start(t)
	assert.Equal(t, 401, status(t, client, "http://admin.localhost/", ""))
	assert.Equal(t, 401, status(t, client, "http://admin.localhost/", "wrong"))
	assert.Equal(t, 200, status(t, client, "http://admin.localhost/", "pw"))
	assert.Equal(t, 200, status(t, client, "http://www.localhost/", ""))
}

func TestOnlyOneRouteIsLimited(t *testing.T) {
	client, _, _ := start(t)
	for range 20 {
		require.Equal(t, 200, status(t, client, "http://admin.localhost/", "pw"))
	}
	assert.Equal(t, 429, status(t, client, "http://admin.localhost/", "pw"))
	assert.Equal(t, 200, status(t, client, "http://www.localhost/", ""))
}

func TestEveryExchangeIsLogged(t *testing.T) {
	client, lines, stop := start(t)
	status(t, client, "http://admin.localhost/a?b=c", "")
	status(t, client, "http://www.localhost/", "")
	client.CloseIdleConnections()
	require.NoError(t, stop()) // after this, the log is complete
	text := lines.String()
	assert.Contains(t, text, "host=admin.localhost path=/a")
	assert.Contains(t, text, "status=401")
	assert.Contains(t, text, "host=www.localhost path=/ ")
	assert.Contains(t, text, "status=200")
}
