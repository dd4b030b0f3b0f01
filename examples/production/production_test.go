package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// runEnv makes the test program the example, also after a hand-over.
const runEnv = "PRODUCTION_TEST_RUN"

func TestMain(m *testing.M) {
	if os.Getenv(runEnv) != "" {
		main()
		return
	}
	proxytest.Main(m)
}

// password is the hash of "secret".
const password = "$2a$04$IqF/.XT3p3mm9ybVkjOcju/gOTsydksxD8ZPs9CRn8x6UUSQNcTi."

// A proxy is a process of the example.
type proxy struct {
	dir                   string
	https, http, internal string
	stderr                *os.File // a pipe would end with the last process
	cmd                   *exec.Cmd
	roots                 *x509.CertPool
}

// start runs the example for example.localhost, with targets that say their
// path.
func start(t *testing.T) *proxy {
	t.Helper()
	target := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, strings.Repeat("target "+q.URL.Path+" ", 200))
	}))
	p := &proxy{dir: t.TempDir(), https: reserved(t), http: reserved(t), internal: reserved(t)}
	var err error
	p.stderr, err = os.Create(filepath.Join(p.dir, "stderr"))
	require.NoError(t, err)
	t.Cleanup(func() { p.stderr.Close() })
	require.NoError(t, os.WriteFile(filepath.Join(p.dir, "a.txt"), []byte("static"), 0o600))
	p.cmd = exec.Command(os.Args[0], "-domain", "example.localhost", "-app", target.Addr(), "-api", target.Addr(), "-admin", proxytest.Refused(t),
		"-static", p.dir, "-password", password, "-maintenance", filepath.Join(p.dir, "maintenance"), "-log", filepath.Join(p.dir, "access.log"),
		"-https", p.https, "-http", p.http, "-internal", p.internal)
	p.cmd.Env = append(os.Environ(), runEnv+"=1", "XDG_DATA_HOME="+p.dir)
	p.cmd.Stderr = p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, p.cmd.Start())
	t.Cleanup(func() { _ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) })
	proxytest.Eventually(t, "the first response", func() bool {
		p.roots = x509.NewCertPool()
		root, _ := os.ReadFile(filepath.Join(p.dir, "certmagic", "localca", "root.crt"))
		p.roots.AppendCertsFromPEM(root)
		r, err := p.client().Get("https://example.localhost/")
		if err == nil {
			r.Body.Close()
		}
		return err == nil
	})
	return p
}

// said returns what the processes have printed.
func (p *proxy) said() string {
	text, _ := os.ReadFile(p.stderr.Name())
	return string(text)
}

// reserved returns an address where nothing listens.
func reserved(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	return ln.Addr().String()
}

// client returns a client that finds all hosts at p.
func (p *proxy) client() *http.Client {
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		to := map[string]string{":443": p.https, "t:80": p.http, "9109": p.internal}[addr[len(addr)-4:]]
		return new(net.Dialer).DialContext(ctx, network, to)
	}
	return &http.Client{
		Transport:     &http.Transport{DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: p.roots}, DisableKeepAlives: true, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (p *proxy) get(t *testing.T, url string, fields ...string) (*http.Response, string) {
	t.Helper()
	q, err := http.NewRequest("GET", url, nil)
	require.NoError(t, err)
	for i := 0; i < len(fields); i += 2 {
		q.Header.Set(fields[i], fields[i+1])
	}
	r, err := p.client().Do(q)
	require.NoError(t, err)
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	return r, string(body)
}

func TestEachSiteDoesWhatItIsFor(t *testing.T) {
	p := start(t)
	for _, tt := range []struct {
		url, user string
		status    int
		text      string
	}{
		{"https://example.localhost/x", "", 200, "target /x"},
		{"http://example.localhost/x", "", 308, ""},
		{"https://www.example.localhost/x", "", 308, ""},
		{"https://api.example.localhost/y", "", 200, "target /y"},
		{"https://admin.example.localhost/", "", 401, ""},
		{"https://admin.example.localhost/", "Basic b3BzOnNlY3JldA==", 502, ""},
		{"https://static.example.localhost/a.txt", "", 200, "static"},
		{"http://localhost:9109/metrics", "", 200, "hostproxy_"},
		{"http://localhost:9109/status", "", 200, "example.localhost"},
	} {
		r, body := p.get(t, tt.url, "Authorization", tt.user)
		assert.Equal(t, tt.status, r.StatusCode, tt.url)
		assert.Contains(t, body, tt.text, tt.url)
		if !strings.Contains(tt.url, "9109") {
			assert.Equal(t, []string{"nosniff"}, r.Header["X-Content-Type-Options"], tt.url)
			assert.Equal(t, strings.HasPrefix(tt.url, "https:"), r.Header.Get("Strict-Transport-Security") != "", tt.url)
		}
	}
	r, _ := p.get(t, "https://example.localhost/", "Accept-Encoding", "gzip")
	assert.Equal(t, "gzip", r.Header.Get("Content-Encoding"))
	text, err := os.ReadFile(filepath.Join(p.dir, "access.log"))
	require.NoError(t, err)
	assert.Contains(t, string(text), `"host":"static.example.localhost"`)
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	assert.NoError(t, p.cmd.Wait(), "%s", p.said())
}

func TestMaintenanceBeginsAndEndsWithoutAFailedRequest(t *testing.T) {
	p := start(t)
	file := filepath.Join(p.dir, "maintenance")
	stop, failed, served := make(chan struct{}), atomic.Int64{}, atomic.Int64{}
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				r, err := p.client().Get("https://api.example.localhost/")
				if err != nil || r.StatusCode != 200 && r.StatusCode != 429 {
					failed.Add(1)
				}
				if err == nil {
					r.Body.Close()
				}
				served.Add(1)
			}
		})
	}
	require.NoError(t, os.WriteFile(file, []byte("Back soon"), 0o600))
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGHUP))
	status := func() int {
		r, _ := p.get(t, "https://example.localhost/")
		return r.StatusCode
	}
	proxytest.Eventually(t, "the page", func() bool { return status() == 503 })
	require.NoError(t, p.cmd.Wait(), "the old process ends: %s", p.said())
	close(stop)
	load.Wait()
	assert.Zero(t, failed.Load(), "of %d requests", served.Load())
	assert.Positive(t, served.Load())
	_, body := p.get(t, "https://example.localhost/")
	assert.Equal(t, "Back soon", body)
}
