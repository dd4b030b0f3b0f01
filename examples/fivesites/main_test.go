package main

import (
	"bufio"
	"context"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestMain(m *testing.M) { proxytest.Main(m) }

// started is what a running example has printed.
type started struct {
	urls  []string
	roots *x509.CertPool
	addr  string // address for HTTPS
	plain string // the first site's URL for redirects
	stop  func() error
}

// start runs the example on free ports and reads what it prints. Its files are
// in a directory of the test.
func start(t *testing.T, upstreams ...pair) *started {
	t.Helper()
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	out, in := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := run(ctx, in, "127.0.0.1:0", "127.0.0.1:0", upstreams)
		in.Close()
		done <- err
	}()
	s := &started{stop: func() error { cancel(); return <-done }}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		words := strings.Fields(lines.Text())
		switch {
		case len(words) == 3 && words[1] == "->":
			s.urls = append(s.urls, words[0])
		case len(words) > 0 && strings.HasPrefix(words[0], "http://"):
			s.plain = words[0]
		case len(words) == 4 && words[0] == "curl":
			text, err := os.ReadFile(words[2])
			require.NoError(t, err)
			s.roots = x509.NewCertPool()
			require.True(t, s.roots.AppendCertsFromPEM(text))
			_, port, err := net.SplitHostPort(strings.TrimSuffix(strings.TrimPrefix(words[3], "https://"), "/"))
			require.NoError(t, err)
			s.addr = "127.0.0.1:" + port
			go io.Copy(io.Discard, out)
			return s
		}
	}
	t.Fatalf("the example ended immediately: %v", <-done)
	return nil
}

func ask(t *testing.T, client *http.Client, url string) (int, string) {
	t.Helper()
	p, err := client.Get(url)
	require.NoError(t, err)
	defer p.Body.Close()
	body, err := io.ReadAll(p.Body)
	require.NoError(t, err)
	return p.StatusCode, string(body)
}

func TestFiveSitesAnswerOverHTTPSAndTheProgramEndsCleanly(t *testing.T) {
	s := start(t)
	require.Len(t, s.urls, 5)
	for _, protocol := range []string{"h1", "h2"} {
		client := proxytest.HTTPClient(t, s.addr, s.roots, protocol)
		for _, site := range s.urls {
			status, body := ask(t, client, site+"a?b=c")
			host, _, _ := strings.Cut(strings.TrimPrefix(site, "https://"), ":")
			assert.Equal(t, 200, status)
			assert.Contains(t, body, "the service behind "+host+"!")
			assert.Contains(t, body, "GET "+site+"a?b=c for 127.0.0.1")
		}
		client.CloseIdleConnections()
	}

	u, err := url.Parse(s.plain)
	require.NoError(t, err)
	p, err := proxytest.HTTPClient(t, "127.0.0.1:"+u.Port(), nil, "h1").Get(s.plain + "a?b=c")
	require.NoError(t, err)
	require.NoError(t, p.Body.Close())
	assert.Equal(t, 308, p.StatusCode)
	assert.Equal(t, s.urls[0]+"a?b=c", p.Header.Get("Location"))
	assert.NoError(t, s.stop())
}

func TestUpstreamFlagsReplaceTheBuiltInServices(t *testing.T) {
	backend := proxytest.NewServer(t, nil)
	s := start(t, pair{"mine.localhost", backend.Addr()}, pair{"gone.localhost", proxytest.Refused(t)})
	client := proxytest.HTTPClient(t, s.addr, s.roots, "h1")
	status, body := ask(t, client, s.urls[0])
	assert.Equal(t, 200, status)
	assert.Equal(t, "ok", body)
	status, body = ask(t, client, s.urls[1])
	assert.Equal(t, 502, status)
	assert.Contains(t, body, "502")
	client.CloseIdleConnections()
	assert.NoError(t, s.stop())
}

func TestEachInvalidFlagIsAnError(t *testing.T) {
	var p pairs
	require.NoError(t, p.Set("a.localhost=localhost:1"))
	require.NoError(t, p.Set("b.localhost=http://localhost:2"))
	assert.Equal(t, pairs{{"a.localhost", "localhost:1"}, {"b.localhost", "http://localhost:2"}}, p)
	assert.ErrorContains(t, p.Set("nonsense"), "want host=target")
	assert.ErrorContains(t, run(context.Background(), io.Discard, "127.0.0.1:0", "127.0.0.1:0", pairs{{"a..b", "localhost:1"}}), "a..b")
	assert.ErrorContains(t, run(context.Background(), io.Discard, "127.0.0.1:0", "127.0.0.1:0", pairs{{"a.localhost", "nope"}}), "the port is missing")
}
