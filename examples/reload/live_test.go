package reload_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/reload"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestSIGHUPReadsTheFileAgain(t *testing.T) {
	a := named(t, "a")
	r := start(t, &reload.Proxy{}, plain+"routes: {app.localhost: %s}", a)
	self, err := os.FindProcess(os.Getpid())
	require.NoError(t, err)
	require.NoError(t, self.Signal(syscall.SIGHUP))
	require.NoError(t, r.next(), "the unchanged file is read too")
	require.NoError(t, os.WriteFile(r.File, []byte("routes: {"), 0o600))
	require.NoError(t, self.Signal(syscall.SIGHUP))
	require.Error(t, r.next())
	assert.Equal(t, "200 a", r.get("app.localhost"))
}

// The Upstream of an unchanged route stays the same, so its connections, health
// and counters stay too.
func TestAnUpstreamThatStaysIsKeptWhenTargetsCanariesAndPagesChange(t *testing.T) {
	a, b := named(t, "a"), named(t, "b")
	var router *hostproxy.Router
	r := start(t, &reload.Proxy{Prepare: func(r *hostproxy.Router, _ *hostproxy.Server) { router = r }},
		plain+"upstreams: {blog: {targets: %s, rate_limit: {rate: 100}}, next: {targets: %s}}\nroutes: {app.localhost: {upstream: blog}, next.localhost: {upstream: next}}", a, b)
	upstream := func() *hostproxy.Upstream {
		for pattern, h := range router.All() {
			if pattern == "app.localhost" {
				return h.(*hostproxy.Upstream)
			}
		}
		return nil
	}
	first := upstream()
	for _, x := range []struct{ blog, want string }{
		{"targets: %[2]s", "200 b"},
		{"targets: %[1]s", "200 a"},
		{"targets: %[1]s, maintenance: {body: soon}", "503 soon"},
		{"targets: %[1]s, maintenance: {status: 500, body: later}", "500 later"},
		{"targets: %[1]s, canary: {upstream: next, share: 1}", "200 b"},
		{"targets: %[1]s, canary: {upstream: next, share: 0.5}", ""},
		{"targets: %[1]s, mirror: {upstream: next, share: 1}", "200 a"},
		{"targets: [%[1]s]", "200 a"},
		{"targets: \"http://%[1]s\"", "200 a"},
		{"targets: [\"http://%[1]s/path\", \"unix:/no/socket\"]", ""},
		{"targets: [%[1]s, %[2]s]", ""},
		{"targets: [%[2]s, %[1]s]", ""},
	} {
		write(t, r.File, "%s", plain+fmt.Sprintf("upstreams: {blog: {"+x.blog+", rate_limit: {rate: 100}}, next: {targets: %[2]s}}\nroutes: {app.localhost: {upstream: blog}, next.localhost: {upstream: next}}", a, b))
		require.NoError(t, r.next(), x.blog)
		if got := r.get("app.localhost"); x.want != "" {
			assert.Equal(t, x.want, got, x.blog)
		}
		assert.Same(t, first, upstream(), x.blog)
		assert.NotContains(t, r.log.String(), "keeps an old setting")
	}
	write(t, r.File, plain+"upstreams: {blog: {targets: %s, rate_limit: {rate: 200}}, next: {targets: %s}}\nroutes: {app.localhost: {upstream: blog}, next.localhost: {upstream: next}}", a, b)
	require.NoError(t, r.next())
	assert.NotSame(t, first, upstream(), "another limit")
}

func TestTheConfigInForceCanBeReadAndComparedWith(t *testing.T) {
	a := named(t, "a")
	r := start(t, &reload.Proxy{Handlers: map[string]http.Handler{"own": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "own") })}},
		"listeners: [{addr: \"127.0.0.1:0\", role: plain}, {addr: \"127.0.0.1:0\", role: internal, handler: config}, {addr: \"127.0.0.1:0\", role: internal, handler: status}]\n"+
			"routes: {app.localhost: %s, own.localhost: {handler: own}, page.localhost: {page: {status: 200, body: hi}}, www.localhost: {redirect: app.localhost}, status.localhost: {handler: status}}", a)
	assert.Equal(t, "200 own", r.get("own.localhost"))
	assert.Equal(t, "200 hi", r.get("page.localhost"))
	assert.Contains(t, r.get("status.localhost"), "app.localhost")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	config := func() string {
		return get(t, client, "http://"+r.Addrs()[1].String())
	}
	assert.Contains(t, get(t, client, "http://"+r.Addrs()[2].String()), "app.localhost")
	c, err := reload.LoadText(r.File, []byte(strings.TrimPrefix(config(), "200 ")), "own")
	require.NoError(t, err)
	assert.Len(t, c.Config().Routes, 5)
	require.NoError(t, os.WriteFile(r.File, []byte("routes: {\n a: \x1b[31m"), 0o600))
	require.Error(t, r.next())
	assert.Contains(t, config(), "# a later file was refused: ")
	assert.NotContains(t, config(), "\x1b")
	_, err = reload.LoadText(r.File, []byte(strings.TrimPrefix(config(), "200 ")), "own")
	require.NoError(t, err)
}

func TestHostileNamesAreQuotedInOneLine(t *testing.T) {
	a := named(t, "a")
	r := start(t, &reload.Proxy{}, plain+"routes: {app.localhost: %s}", a)
	before := strings.Count(r.log.String(), "\n")
	write(t, r.File, plain+"routes: {app.localhost: %s, \"x\\e[31m\\nlevel=INFO msg=fine\": \"\\e[31m\\n\", \"%s\": localhost:1, \"a]\\\"b\": {upstream: \"../../\\u202e\"}}", a, strings.Repeat("x", 5000))
	require.Error(t, r.next())
	log := r.log.String()
	assert.Equal(t, before+1, strings.Count(log, "\n"))
	assert.NotContains(t, log, "\x1b")
	assert.NotContains(t, log, "\u202e")
	assert.Less(t, len(log), 4000)
}

// The TLS of hosts changes at once: own certificates, client certificates, and
// none.
func TestTLSOfHostsChangesAtOnce(t *testing.T) {
	a := named(t, "a")
	dir := t.TempDir()
	file := filepath.Join(dir, "proxy.yaml")
	text := "listeners: [{addr: \"127.0.0.1:0\"}]\ntls: {storage: certs, hosts: {%s}}\nroutes: {app.localhost: %s, b.localhost: %[2]s}"
	r := start(t, &reload.Proxy{File: file}, text, "", a)
	roots := rootsOf(t, filepath.Join(dir, "certs"))
	ask := func() string {
		p, err := proxytest.HTTPClient(t, r.addr, roots, "h1").Get("https://app.localhost/")
		if err != nil {
			return err.Error()
		}
		defer p.Body.Close()
		return p.Status
	}
	assert.Equal(t, "200 OK", ask())
	write(t, file, text, "app.localhost: {no_certificate: true}", a)
	require.NoError(t, r.next())
	proxytest.Eventually(t, "no certificate", func() bool { return strings.Contains(ask(), "unrecognized name") })
	write(t, file, text, "App.localhost: {client_auth: {mode: require_any}}", a)
	require.NoError(t, r.next())
	proxytest.Eventually(t, "client certificates", func() bool { return strings.Contains(ask(), "certificate required") })
	write(t, file, text, "", a)
	require.NoError(t, r.next())
	proxytest.Eventually(t, "the defaults", func() bool { return ask() == "200 OK" })
}

func TestAUnixSocketIsServed(t *testing.T) {
	a := named(t, "a")
	path := filepath.Join(t.TempDir(), "s")
	start(t, &reload.Proxy{}, "listeners: [{addr: \"127.0.0.1:0\", role: plain}, {addr: \"unix:%s\", role: plain, mode: 0660}]\nroutes: {app.localhost: %s}", path, a)
	proxytest.Eventually(t, "the socket with its mode", func() bool {
		info, err := os.Stat(path)
		return err == nil && info.Mode().Perm() == 0o660
	})
}

// The handlers are funcs, which cannot be compared.
func TestARouteToANamedHandlerStaysInAReload(t *testing.T) {
	own := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "own") })
	text := plain + "routes: {own.localhost: {handler: own}, config.localhost: {handler: config}, status.localhost: {handler: status, guard: {allow: 127.0.0.1}}}\n"
	r := start(t, &reload.Proxy{Handlers: map[string]http.Handler{"own": own}}, "%s", text)
	write(t, r.File, "%s", text+"log: {level: debug}\n")
	require.NoError(t, r.next())
	assert.Equal(t, "200 own", r.get("own.localhost"))
	assert.Contains(t, r.get("config.localhost"), "level: debug")
	assert.Contains(t, r.get("status.localhost"), "own.localhost")
}
