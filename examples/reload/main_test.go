package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestMain(m *testing.M) { proxytest.Main(m) }

// configured returns routes that were loaded from a file with the given text.
func configured(t *testing.T, text string, args ...any) *routes {
	t.Helper()
	r := &routes{file: filepath.Join(t.TempDir(), "routes.json"), upstreams: map[string]http.Handler{}}
	write(t, r, text, args...)
	require.NoError(t, r.load())
	return r
}

func write(t *testing.T, r *routes, text string, args ...any) {
	t.Helper()
	require.NoError(t, os.WriteFile(r.file, fmt.Appendf(nil, text, args...), 0o600))
}

func get(t *testing.T, client *http.Client, url string) string {
	t.Helper()
	p, err := client.Get(url)
	require.NoError(t, err)
	defer p.Body.Close()
	body, err := io.ReadAll(p.Body)
	require.NoError(t, err)
	return fmt.Sprintf("%d %s", p.StatusCode, body)
}

func named(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) })
}

func TestReloadSwapsRoutesUnderAnOpenResponse(t *testing.T) {
	release := make(chan struct{})
	slow := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		_, _ = io.WriteString(w, "begin ")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-release:
		case <-q.Context().Done():
		}
		_, _ = io.WriteString(w, "end")
	}))
	next := proxytest.NewServer(t, named("next"))
	r := configured(t, `{"app.localhost": [%q], "old.localhost": [%q]}`, slow.Addr(), next.Addr())
	server := proxytest.StartPlain(t, &hostproxy.Server{Router: &r.router})
	client := proxytest.HTTPClient(t, server.Plain, nil, "h1")

	open, err := client.Get("http://app.localhost/")
	require.NoError(t, err)
	defer open.Body.Close()

	write(t, r, `{"app.localhost": [%q], "new.localhost": [%q]}`, next.Addr(), next.Addr())
	require.NoError(t, r.load())
	assert.Equal(t, "200 next", get(t, client, "http://app.localhost/"))
	assert.Equal(t, "200 next", get(t, client, "http://new.localhost/"))
	assert.Contains(t, get(t, client, "http://old.localhost/"), "404 ")

	close(release)
	body, err := io.ReadAll(open.Body)
	require.NoError(t, err)
	assert.Equal(t, "begin end", string(body))
}

func TestABadFileChangesNothing(t *testing.T) {
	r := configured(t, `{"app.localhost": ["localhost:1"]}`)
	for text, want := range map[string]string{
		`{`:                           "unexpected end of JSON input",
		`{"app.localhost": ["nope"]}`: `target "nope": the port is missing`,
		`{"app.localhost": []}`:       "no targets",
		`{"a..b": ["localhost:1"]}`:   "a..b",
	} {
		write(t, r, "%s", text)
		assert.ErrorContains(t, r.load(), want)
		for pattern := range r.router.All() {
			assert.Equal(t, "app.localhost", pattern)
		}
	}
}

func TestARouteThatStaysKeepsItsUpstream(t *testing.T) {
	r := configured(t, `{"app.localhost": ["localhost:1", "localhost:2"]}`)
	var before http.Handler
	for _, before = range r.router.All() {
	}
	write(t, r, `{"app.localhost": ["localhost:1", "localhost:2"], "b.localhost": ["localhost:3"]}`)
	require.NoError(t, r.load())
	for pattern, h := range r.router.All() {
		if pattern == "app.localhost" {
			assert.Same(t, before, h)
		}
	}
}

func TestNewUsersOfARouteCountAtOnceAndCloseNoWebSocket(t *testing.T) {
	backend := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		if _, err := c.ReadRequest(); err == nil && c.Send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n") == nil {
			_, _ = io.Copy(c, c)
		}
	})
	const hash = "$2a$04$r.H.IwusjCYoQM/2jE2t1ex2PJE9s8XUMzwU8yUGnPrQeuF57GLjS"
	r := configured(t, `{"app.localhost": [%q]}`, backend.Addr())
	server := proxytest.StartPlain(t, &hostproxy.Server{Router: &r.router})
	upgrade := "GET / HTTP/1.1\r\nHost: app.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
	c := proxytest.Dial(t, server.Plain)
	c.Send(upgrade)
	c.Head()
	for _, user := range []string{"ann", "ben"} {
		write(t, r, `{"app.localhost": {"targets": [%q], "users": {%q: %q}}}`, backend.Addr(), user, hash)
		require.NoError(t, r.load())
		c.Send("hello")
		c.Expect("hello")
		assert.Equal(t, 401, proxytest.Dial(t, server.Plain).Do(upgrade).StatusCode)
	}
}

func TestASignalReloads(t *testing.T) {
	r := configured(t, `{"app.localhost": ["localhost:1"]}`)
	write(t, r, `{"app.localhost": ["localhost:1"], "b.localhost": ["localhost:2"]}`)
	hup, done := make(chan os.Signal, 2), make(chan struct{})
	go func() {
		defer close(done)
		r.reload(hup)
	}()
	hup <- syscall.SIGHUP
	close(hup)
	<-done
	n := 0
	for range r.router.All() {
		n++
	}
	assert.Equal(t, 2, n)
}
