package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
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
		// a number that a service manager knows, and a test does not
		if os.Getenv("LISTEN_PID") == "mine" {
			os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
		}
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

// target says the path and the user's password, which it must not get. /ws
// echoes, and /events is a stream that waits for the end of the request.
func target(w http.ResponseWriter, q *http.Request) {
	switch q.URL.Path {
	case "/ws":
		c, b, err := http.NewResponseController(w).Hijack()
		if err == nil {
			defer c.Close()
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "+
				proxytest.Accept(q.Header)+"\r\n\r\n")
			_, _ = io.Copy(c, b)
		}
	case "/events":
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: first\n\n")
		_ = http.NewResponseController(w).Flush()
		<-q.Context().Done()
	default:
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, strings.Repeat("target "+q.URL.Path+" "+q.Header.Get("Authorization"), 200))
	}
}

// start runs the example for example.localhost. Its sockets for HTTPS and HTTP
// are those of a service manager if activated is set.
func start(t *testing.T, activated bool) *proxy {
	t.Helper()
	to := proxytest.NewServer(t, http.HandlerFunc(target)).Addr()
	p := &proxy{dir: t.TempDir(), https: reserved(t), http: reserved(t), internal: reserved(t)}
	var err error
	p.stderr, err = os.Create(filepath.Join(p.dir, "stderr"))
	require.NoError(t, err)
	t.Cleanup(func() { p.stderr.Close() })
	require.NoError(t, os.WriteFile(filepath.Join(p.dir, "a.txt"), []byte("static"), 0o600))
	p.cmd = exec.Command(os.Args[0], "-domain", "example.localhost", "-app", to, "-api", to, "-admin", to,
		"-static", p.dir, "-password", password, "-maintenance", filepath.Join(p.dir, "maintenance"), "-log", filepath.Join(p.dir, "access.log"),
		"-https", p.https, "-http", p.http, "-internal", p.internal)
	p.cmd.Env = append(os.Environ(), runEnv+"=1", "XDG_DATA_HOME="+p.dir)
	if activated {
		p.cmd.Env = append(p.cmd.Env, "LISTEN_PID=mine", "LISTEN_FDS=2", "LISTEN_FDNAMES=https:http")
		p.cmd.ExtraFiles = []*os.File{socket(t, p.https), socket(t, p.http)}
	}
	p.cmd.Stderr = p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, p.cmd.Start())
	t.Cleanup(func() { _ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) })
	for _, f := range p.cmd.ExtraFiles {
		f.Close() // from then on, the sockets are the program's alone
	}
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

// socket returns an open socket that listens on addr.
func socket(t *testing.T, addr string) *os.File {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	defer ln.Close()
	f, err := ln.(*net.TCPListener).File()
	require.NoError(t, err)
	return f
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

// logs waits until the access log contains the text.
func (p *proxy) logs(t *testing.T, text string) {
	t.Helper()
	proxytest.Eventually(t, text+" in the access log", func() bool {
		log, err := os.ReadFile(filepath.Join(p.dir, "access.log"))
		return err == nil && strings.Contains(string(log), text)
	})
}

func checkSites(t *testing.T, p *proxy) {
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
		{"https://admin.example.localhost/", "Basic b3BzOndyb25n", 401, ""},
		{"https://admin.example.localhost/z", "Basic b3BzOnNlY3JldA==", 200, "target /z target"},
		{"https://static.example.localhost/a.txt", "", 200, "static"},
		{"http://localhost:9109/metrics", "", 200, "hostproxy_requests_total{"},
		{"http://localhost:9109/status", "", 200, "example.localhost"},
	} {
		r, body := p.get(t, tt.url, "Authorization", tt.user)
		assert.Equal(t, tt.status, r.StatusCode, tt.url)
		assert.Contains(t, body, tt.text, tt.url)
		if tt.status == 308 {
			assert.Equal(t, "https://example.localhost/x", r.Header.Get("Location"), tt.url)
		}
		if !strings.Contains(tt.url, "9109") {
			assert.Equal(t, []string{"nosniff"}, r.Header["X-Content-Type-Options"], tt.url)
			assert.Equal(t, []string{"DENY"}, r.Header["X-Frame-Options"], tt.url)
			assert.Equal(t, strings.HasPrefix(tt.url, "https:"), r.Header.Get("Strict-Transport-Security") != "", tt.url)
		}
	}
}

func checkCompression(t *testing.T, p *proxy) {
	r, _ := p.get(t, "https://example.localhost/", "Accept-Encoding", "gzip")
	assert.Equal(t, "gzip", r.Header.Get("Content-Encoding"))
}

func checkAccessLog(t *testing.T, p *proxy) {
	p.logs(t, `"host":"static.example.localhost"`)
	p.logs(t, `"user":"ops"`)
}

func checkStream(t *testing.T, p *proxy) {
	r, err := p.client().Get("https://api.example.localhost/events")
	require.NoError(t, err)
	defer r.Body.Close()
	first, err := bufio.NewReader(r.Body).ReadString('\n')
	require.NoError(t, err, "the first event comes before the end")
	assert.Equal(t, "data: first\n", first)
}

// webSocket opens a WebSocket to the API, and returns a func that checks that
// it echoes.
func (p *proxy) webSocket(t *testing.T) (echoes func()) {
	t.Helper()
	c, err := tls.Dial("tcp", p.https, &tls.Config{RootCAs: p.roots, ServerName: "api.example.localhost"})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	_, err = io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: api.example.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	require.NoError(t, err)
	b := bufio.NewReader(c)
	r, err := http.ReadResponse(b, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, r.StatusCode)
	return func() {
		t.Helper()
		_, err := io.WriteString(c, "\x81\x00")
		require.NoError(t, err)
		echo := make([]byte, 2)
		_, err = io.ReadFull(b, echo)
		require.NoError(t, err)
		assert.Equal(t, "\x81\x00", string(echo))
	}
}

func checkRateLimit(t *testing.T, p *proxy) {
	statuses := make(map[int]int)
	c := p.client()
	c.Transport.(*http.Transport).DisableKeepAlives = false
	defer c.CloseIdleConnections()
	for range 200 { // faster than ten a second, or the test fails as it should
		r, err := c.Get("https://api.example.localhost/")
		require.NoError(t, err)
		_, _ = io.Copy(io.Discard, r.Body)
		r.Body.Close()
		statuses[r.StatusCode]++
	}
	assert.GreaterOrEqual(t, statuses[200], 40)
	assert.Positive(t, statuses[429])
	assert.Equal(t, 200, statuses[200]+statuses[429])
}

// checkReload rotates the log as logrotate does, and turns maintenance on: the
// next process has the new file and the page, and a WebSocket goes on.
func checkReload(t *testing.T, p *proxy) {
	echoes := p.webSocket(t)
	file, old := filepath.Join(p.dir, "access.log"), filepath.Join(p.dir, "access.log.1")
	require.NoError(t, os.Rename(file, old))
	require.NoError(t, os.WriteFile(filepath.Join(p.dir, "maintenance"), []byte("Back soon"), 0o600))
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGHUP))
	proxytest.Eventually(t, "the page", func() bool {
		r, body := p.get(t, "https://example.localhost/during")
		return r.StatusCode == 503 && body == "Back soon"
	})
	echoes()
	r, _ := p.get(t, "https://static.example.localhost/a.txt")
	assert.Equal(t, 200, r.StatusCode, "the other sites go on")
	p.logs(t, `"path":"/during"`)
	text, err := os.ReadFile(old)
	require.NoError(t, err)
	assert.Contains(t, string(text), `"path":"/x"`)
}

func TestTheProgramHasEachFeatureThatItIsFor(t *testing.T) {
	p := start(t, true)
	for _, f := range []struct {
		name  string
		check func(*testing.T, *proxy)
	}{
		{"sites, redirects, passwords, static files, security headers, metrics, status", checkSites},
		{"compression", checkCompression},
		{"access log", checkAccessLog},
		{"streams", checkStream},
		{"WebSockets", func(t *testing.T, p *proxy) { p.webSocket(t)() }},
		{"reload, maintenance, rotated log", checkReload},
		{"rate limit", checkRateLimit},
	} {
		t.Run(f.name, func(t *testing.T) { f.check(t, p) })
	}
	assert.NotContains(t, p.said(), "inherited", "the sockets were those of the service manager, without a warning")
}

func TestTheProgramEndsCleanlyAtSIGTERM(t *testing.T) {
	p := start(t, false)
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	assert.NoError(t, p.cmd.Wait(), "%s", p.said())
}

func TestAMaintenanceFileThatCannotBeReadChangesNothing(t *testing.T) {
	p := start(t, false)
	require.NoError(t, os.Mkdir(filepath.Join(p.dir, "maintenance"), 0o700))
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGHUP))
	proxytest.Eventually(t, "the error", func() bool { return strings.Contains(p.said(), "hand-over failed; this process continues") })
	r, _ := p.get(t, "https://example.localhost/")
	assert.Equal(t, 200, r.StatusCode)
	assert.Contains(t, p.said(), "maintenance: is a directory")
}

func TestArgumentsAreRefused(t *testing.T) {
	ctx, stop := context.WithTimeout(t.Context(), proxytest.Patience) // or it would serve
	defer stop()
	cmd := exec.CommandContext(ctx, os.Args[0], "-https", "127.0.0.1:0", "extra")
	cmd.Env = append(os.Environ(), runEnv+"=1")
	said, err := cmd.CombinedOutput()
	require.Error(t, err)
	assert.Contains(t, string(said), `["extra"]: want flags only`)
}

// mostLines is how long the program may be, without comments and blank lines.
const mostLines = 90

func TestTheProgramStaysShort(t *testing.T) {
	n := 0
	for _, name := range []string{"main.go", "site.go"} {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		for line := range strings.Lines(string(text)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "//") {
				n++
				assert.True(t, strings.HasPrefix(line, "if ") || !strings.Contains(line, "; "), "one statement on a line: %s", line)
			}
		}
	}
	assert.LessOrEqual(t, n, mostLines)
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	assert.Contains(t, string(readme), fmt.Sprintf("a whole program to start from, in %d lines", n))
	assert.Contains(t, string(readme), fmt.Sprintf("a company's sites in %d lines", n))
}

func TestMaintenanceBeginsAndEndsWithoutAFailedRequest(t *testing.T) {
	p := start(t, false)
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
