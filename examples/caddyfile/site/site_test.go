package site_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/caddyfile/site"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestMain(m *testing.M) { proxytest.Main(m) }

func TestRedialWaitsForATargetThatStarts(t *testing.T) {
	addr, release := proxytest.Reserve(t)
	u := site.To(addr)
	u.Dial, u.DialTimeout = site.Redial{For: proxytest.Patience, Every: 5 * time.Millisecond}.Dial, proxytest.Patience
	var r hostproxy.Router
	r.Handle("*", u)
	t.Cleanup(func() { r.Close() })
	done := make(chan int, 1)
	go func() {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest("GET", "http://a.example/", nil))
		done <- w.Code
	}()
	release()
	ln, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })}
	go func() { _ = s.Serve(ln) }()
	t.Cleanup(func() { s.Close() })
	assert.Equal(t, http.StatusTeapot, <-done)
}

func TestRedialGivesUp(t *testing.T) {
	_, err := site.Redial{For: 20 * time.Millisecond, Every: 5 * time.Millisecond}.Dial(t.Context(), "tcp", proxytest.Refused(t))
	assert.ErrorContains(t, err, "refused")
}

func TestAskDistinguishesARefusalFromAFailure(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Query().Get("token") != "t" {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		w.WriteHeader(map[string]int{"good.example": 200, "bad.example": 404, "moved.example": 302}[q.URL.Query().Get("domain")])
	}))
	t.Cleanup(s.Close)
	ask := &site.Ask{URL: s.URL + "/check?token=t"}
	assert.NoError(t, ask.HostPolicy(t.Context(), "good.example"))
	assert.ErrorIs(t, ask.HostPolicy(t.Context(), "bad.example"), hostproxy.ErrHostNotAllowed)
	assert.ErrorIs(t, ask.HostPolicy(t.Context(), "moved.example"), hostproxy.ErrHostNotAllowed)
	for _, broken := range []string{s.URL, "http://" + proxytest.Refused(t)} {
		err := (&site.Ask{URL: broken}).HostPolicy(t.Context(), "good.example")
		assert.Error(t, err)
		assert.NotErrorIs(t, err, hostproxy.ErrHostNotAllowed)
	}
}

func TestLogFilesRoll(t *testing.T) {
	dir := t.TempDir()
	observe, err := site.Observe(&site.AccessLog{Patterns: []string{"a.example"}, Output: filepath.Join(dir, "logs", "access.log"), Roll: site.Roll{Size: 600, Keep: 2}})
	require.NoError(t, err)
	for range 20 {
		observe(&hostproxy.Exchange{Method: "GET", Pattern: "a.example", Path: "/" + strings.Repeat("x", 100)})
	}
	observe(&hostproxy.Exchange{Pattern: "b.example", Path: "/other"})
	files, err := filepath.Glob(filepath.Join(dir, "logs", "*"))
	require.NoError(t, err)
	assert.Len(t, files, 3, "the file and two older ones")
	for _, f := range files {
		text, err := os.ReadFile(f)
		require.NoError(t, err)
		assert.LessOrEqual(t, len(text), 600)
		assert.NotContains(t, string(text), "/other")
	}
	require.NoError(t, os.Rename(filepath.Join(dir, "logs", "access.log"), filepath.Join(dir, "moved")))
	observe(&hostproxy.Exchange{Pattern: "a.example", Path: "/after"})
	text, err := os.ReadFile(filepath.Join(dir, "logs", "access.log"))
	require.NoError(t, err)
	assert.Contains(t, string(text), "/after", "a file that was moved away is created again")
	_, err = site.Observe(&site.AccessLog{Output: filepath.Join(files[0], "below-a-file")})
	assert.ErrorContains(t, err, "log")
}

func TestTextInBracesIsNotAPlaceholder(t *testing.T) {
	q := httptest.NewRequest("GET", "https://app.example.com:8443/a%20b/c.txt?x=1&y=2", nil)
	q.Header.Set("X-A", "1")
	for in, want := range map[string]string{
		`{"ok": true}`:     `{"ok": true}`,
		"{ host }":         "{ host }",
		"{unknown}":        "{unknown}",
		"{host}:{port}":    "app.example.com:8443",
		"{uri}":            "/a%20b/c.txt?x=1&y=2",
		"{path} {file}":    "/a b/c.txt c.txt",
		"{?query}":         "?x=1&y=2",
		"{query.y}":        "2",
		"{header.x-a}":     "1",
		"{labels.2}":       "app",
		"{labels.9}":       "",
		"{scheme}{{host}}": "https{app.example.com}",
	} {
		assert.Equal(t, want, site.Expand(in, q), in)
	}
	assert.True(t, site.Known("{http.request.uri.path}"))
	assert.False(t, site.Known("{err.message}"))
}

func TestFilesStayBelowTheirDirectory(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "www"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "secret"), []byte("secret"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "www", ".git"), []byte("secret"), 0o600))
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "www", "pipe"), 0o600))
	h := &site.Files{Root: filepath.Join(dir, "www"), Hide: []string{".git"}}
	for _, path := range []string{"/pipe", "/../secret", "/%2e%2e/secret", "/..%2fsecret", "/x/../../secret", "/.git", "/.GIT/", "//secret", "/a%00b", "/www"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "http://a.example"+path, nil))
		assert.GreaterOrEqual(t, w.Code, 400, path)
		assert.NotContains(t, w.Body.String(), "secret", path)
	}
}

func TestRedirectsToHTTPSKeepIPv6Addresses(t *testing.T) {
	for host, want := range map[string]string{"[::1]:8080": "https://[::1]:9443/x?y", "[::1]": "https://[::1]:9443/x?y", "a.example:80": "https://a.example:9443/x?y"} {
		q := httptest.NewRequest("GET", "http://a.example/x?y", nil)
		q.Host = host
		w := httptest.NewRecorder()
		(&site.ToHTTPS{Port: 9443}).ServeHTTP(w, q)
		assert.Equal(t, want, w.Header().Get("Location"))
	}
}

func TestDeferredHeadersReachStreamsThatFlush(t *testing.T) {
	h := &site.Header{Deferred: true, Edits: site.Edits{Set: http.Header{"X-Late": {"{method}"}}, Remove: []string{"x-inner-*"}},
		Next: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Inner-Thing", "1")
			w.Header().Set("X-Late", "early")
			assert.NoError(t, http.NewResponseController(w).Flush())
			_, _ = io.WriteString(w, "streamed")
		})}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "http://a.example/", nil))
	assert.True(t, w.Flushed)
	assert.Equal(t, "GET", w.Header().Get("X-Late"))
	assert.Empty(t, w.Header().Get("X-Inner-Thing"))
}

// matches reports whether a request, as sent on a connection, matches.
func matches(t *testing.T, m *site.Match, request string) bool {
	q, err := http.ReadRequest(bufio.NewReader(strings.NewReader(request)))
	require.NoError(t, err)
	w := httptest.NewRecorder()
	(&site.First{{Match: m, Next: &site.Respond{Status: http.StatusTeapot}}}).ServeHTTP(w, q)
	return w.Code == http.StatusTeapot
}

func TestEveryPathBeginsWithASlash(t *testing.T) {
	for _, target := range []string{"GET http://a.example", "GET http://a.example?x", "OPTIONS *", "GET /", "GET //x"} {
		request := target + " HTTP/1.1\r\nHost: a.example\r\n\r\n"
		assert.True(t, matches(t, &site.Match{Paths: []string{"/*"}}, request), target)
		assert.True(t, matches(t, &site.Match{PathRE: &site.RE{Expr: regexp.MustCompile("^/")}}, request), target)
	}
}

func TestADotAtTheEndMeansTheSameHost(t *testing.T) {
	for _, pattern := range []string{"admin.example", "*.example", "admin.example."} {
		for _, host := range []string{"admin.example", "admin.example.", "ADMIN.example.:80"} {
			assert.True(t, matches(t, &site.Match{Hosts: []string{pattern}}, "GET / HTTP/1.1\r\nHost: "+host+"\r\n\r\n"), "%s %s", pattern, host)
		}
	}
}
