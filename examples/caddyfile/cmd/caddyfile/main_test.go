package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestMain(m *testing.M) { proxytest.Main(m) }

// write writes a Caddyfile and returns its name.
func write(t *testing.T, file, text string) string {
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

func TestTheProgramServesReloadsAndStops(t *testing.T) {
	plain, secure := proxytest.Free(t), proxytest.Free(t)
	_, httpPort, _ := net.SplitHostPort(plain)
	_, httpsPort, _ := net.SplitHostPort(secure)
	global := "{\n\thttp_port " + httpPort + "\n\thttps_port " + httpsPort + "\n\tgrace_period 2s\n}\n"
	file := write(t, filepath.Join(t.TempDir(), "Caddyfile"), global+"localhost {\n\tbind 127.0.0.1\n\trespond \"one {scheme}\"\n}\n")
	hangups := make(chan os.Signal, 1) // a signal after the end of run must not end the tests
	signal.Notify(hangups, syscall.SIGHUP)
	t.Cleanup(func() { signal.Stop(hangups) })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx, []string{"-config", file}, io.Discard) }()

	redirects := proxytest.HTTPClient(t, plain, nil, "h1")
	proxytest.Eventually(t, "the program redirects", func() bool {
		res, err := redirects.Get("http://localhost/x?y")
		if err != nil {
			return false
		}
		res.Body.Close()
		return res.StatusCode == 308 && res.Header.Get("Location") == "https://localhost/x?y"
	})
	root, err := new(hostproxy.LocalCA).RootPEM(t.Context())
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(root))
	client := proxytest.HTTPClient(t, secure, roots, "h2")
	assert.Equal(t, "one https", get(t, client, "https://localhost/"))

	write(t, file, global+"localhost {\n\tbind 127.0.0.1\n\trespond two\n}\n")
	require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGHUP))
	proxytest.Eventually(t, "the new file is served", func() bool { return get(t, client, "https://localhost/") == "two" })
	write(t, file, global+"localhost {\n\trespont three\n}\n")
	require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGHUP))
	assert.Equal(t, "two", get(t, client, "https://localhost/"))
	write(t, file, global+"localhost {\n\tbind 127.0.0.1\n\trespond three\n}\n")
	require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGHUP))
	proxytest.Eventually(t, "a file after one with an error is served", func() bool { return get(t, client, "https://localhost/") == "three" })
	cancel()
	require.NoError(t, <-done)
}

func get(t *testing.T, c *http.Client, url string) string {
	res, err := c.Get(url)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return string(body)
}

func TestTheFlagsCheckAndGoServeNothing(t *testing.T) {
	dir := t.TempDir()
	good := write(t, filepath.Join(dir, "good"), "example.com {\n\treverse_proxy localhost:9000\n}\n")
	bad := write(t, filepath.Join(dir, "bad"), "example.com {\n\tnonsense\n\tphp_fastcgi x\n}\n")
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), []string{"-config", good, "-check"}, &out))
	assert.Equal(t, good+" is valid\n", out.String())
	out.Reset()
	require.NoError(t, run(t.Context(), []string{"-config", good, "-go"}, &out))
	assert.Contains(t, out.String(), `r.Handle("example.com", site.To("localhost:9000"))`)
	err := run(t.Context(), []string{"-config", bad, "-check"}, &out)
	assert.ErrorContains(t, err, bad+":2:2: nonsense: ")
	assert.ErrorContains(t, err, bad+":3:2: php_fastcgi: not supported")
	assert.ErrorContains(t, run(t.Context(), []string{"-config", good, "-check", "-go"}, &out), "not both")
	assert.ErrorContains(t, run(t.Context(), []string{"serve"}, &out), `"serve" is not expected`)
	assert.ErrorContains(t, run(t.Context(), []string{"-config", filepath.Join(dir, "none")}, &out), "no such file")
}
