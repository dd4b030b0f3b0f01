package migration_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// echo answers with the request that it received.
func echo(w http.ResponseWriter, q *http.Request) {
	w.Header()["Server"] = []string{"target"}
	if q.URL.Path == "/fails" {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	fmt.Fprintf(w, "%s %s %s", q.Host, q.RequestURI, q.Header.Get("X-Forwarded-For"))
}

// get sends a GET to r from the client 192.0.2.1.
func get(r http.Handler, url string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequest("GET", url, nil))
	return w
}

func upstream(t *testing.T, targets ...string) *hostproxy.Upstream {
	t.Helper()
	u := hostproxy.To(targets...)
	t.Cleanup(func() { assert.NoError(t, u.Drain(context.Background())) })
	return u
}

func TestHostsAndPathsMatchAsThePagesSay(t *testing.T) {
	var r hostproxy.Router
	for _, pattern := range []string{"*.example.com", "app.example.com", "app.example.com/api/", "app.example.com/health/"} {
		r.Handle(pattern, http.NotFoundHandler())
	}
	for _, tt := range []struct{ url, pattern string }{
		{"http://a.example.com/", "*.example.com"},
		{"http://a.b.example.com/", ""},
		{"http://example.com/", ""},
		{"http://app.example.com/api", "app.example.com/api/"},
		{"http://app.example.com/api/x", "app.example.com/api/"},
		{"http://app.example.com/apis", "app.example.com"},
		{"http://app.example.com/health/x", "app.example.com/health/"},
	} {
		_, pattern := r.Handler(httptest.NewRequest("GET", tt.url, nil))
		assert.Equal(t, tt.pattern, pattern, tt.url)
	}
}

func TestRequestsReachTheTargetAsThePagesSay(t *testing.T) {
	target := proxytest.NewServer(t, http.HandlerFunc(echo)).Addr()
	plain, named, stripped, moved := upstream(t, target), upstream(t, target), upstream(t, target), upstream(t, target)
	named.TargetHost = true
	stripped.StripPrefix = "/api"
	moved.StripPrefix, moved.AddPrefix = "/api", "/v2"
	for _, tt := range []struct {
		name string
		u    *hostproxy.Upstream
		path string
		want string
	}{
		{"the client's Host", plain, "/a//b%2Fc", "app.example.com:8080 /a//b%2Fc 192.0.2.1"},
		{"the target's Host", named, "/", target + " / 192.0.2.1"},
		{"a path with a slash", stripped, "/api/a%2Fb", "app.example.com:8080 /a%2Fb 192.0.2.1"},
		{"a path without a slash", stripped, "/api", "app.example.com:8080 / 192.0.2.1"},
		{"another prefix", moved, "/api/x", "app.example.com:8080 /v2/x 192.0.2.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q := httptest.NewRequest("GET", "http://app.example.com:8080"+tt.path, nil)
			// dropped: the client is not a trusted proxy
			q.Header.Set("X-Forwarded-For", "203.0.113.9")
			w := httptest.NewRecorder()
			tt.u.ServeHTTP(w, q)
			assert.Equal(t, tt.want, w.Body.String())
		})
	}
	assert.Equal(t, http.StatusBadRequest, get(stripped, "http://app.example.com/api/%2e%2e/admin").Code)
	assert.Equal(t, http.StatusNotFound, get(stripped, "http://app.example.com/apis").Code)
}

func TestHostsAndAliasesOfHeadersReachTheTargetAsThePagesSay(t *testing.T) {
	server := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		fmt.Fprintf(w, "%s %s %s", q.Host, q.Header["X_user"], q.Header["X_env"])
	}))
	named := upstream(t, server.Addr())
	named.Rewrite = func(p *httputil.ProxyRequest) { p.Out.Host = "app" }
	edited := upstream(t, server.Addr())
	edited.TargetHost, edited.RequestHeader.Set = true, http.Header{"X-Env": {"prod"}}
	q := httptest.NewRequest("GET", "http://app.example.com/", nil)
	q.Header["X_user"], q.Header["X_env"] = []string{"u"}, []string{"e"}
	for want, u := range map[string]*hostproxy.Upstream{"app [u] [e]": named, server.Addr() + " [u] []": edited} {
		w := httptest.NewRecorder()
		u.ServeHTTP(w, q)
		assert.Equal(t, want, w.Body.String())
	}
}

func TestRedirectsAndFilesAreAsThePagesSay(t *testing.T) {
	for host, want := range map[string]string{"example.com": "https://example.com:8443/a?b=c", "example.com:443": "https://example.com/a?b=c"} {
		w := get(hostproxy.Redirect(host), "https://www.example.com:8443/a?b=c")
		assert.Equal(t, want, w.Header().Get("Location"))
	}
	files := http.FileServerFS(fstest.MapFS{"index.html": {Data: []byte("home")}, "list/a.txt": {}})
	assert.Equal(t, "./", get(files, "http://www.example.com/index.html").Header().Get("Location"))
	assert.Contains(t, get(files, "http://www.example.com/list/").Body.String(), "a.txt")
	w := httptest.NewRecorder()
	files.ServeHTTP(w, httptest.NewRequest("POST", "http://www.example.com/", nil))
	assert.Equal(t, "home", w.Body.String())
}

func TestResponsesAreChangedAsThePagesSay(t *testing.T) {
	app := upstream(t, proxytest.NewServer(t, http.HandlerFunc(echo)).Addr())
	app.ResponseHeader.Set = http.Header{"X-Frame-Options": {"DENY"}}
	app.Pages = map[int]http.Handler{503: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
		_, _ = io.WriteString(w, "back soon")
	})}
	w := get(app, "http://app.example.com/")
	assert.Equal(t, []string{"target"}, w.Header()["Server"])
	w = get(app, "http://app.example.com/fails")
	assert.Equal(t, http.StatusServiceUnavailable, w.Code)
	assert.Equal(t, "DENY", w.Header().Get("X-Frame-Options"))
	assert.Equal(t, "back soon", w.Body.String())
}

func TestRefusalsHaveTheStatusesThatThePagesName(t *testing.T) {
	target := proxytest.NewServer(t, http.HandlerFunc(echo)).Addr()
	limited, closed := upstream(t, target), upstream(t, proxytest.Refused(t))
	limited.RateLimit = &hostproxy.RateLimit{Rate: 0.01, Burst: 2}
	var r hostproxy.Router
	r.Handle("www.example.com", hostproxy.Redirect("example.com"))
	assert.Equal(t, http.StatusPermanentRedirect, get(&r, "https://www.example.com/a?b=c").Code)
	assert.Equal(t, http.StatusNotFound, get(&r, "http://unknown.example.com/").Code)
	assert.Equal(t, http.StatusMisdirectedRequest, get(&r, "https://unknown.example.com/").Code)
	for _, want := range []int{200, 200, 429} { // limit_req burst=1 nodelay is Burst: 2
		assert.Equal(t, want, get(limited, "http://app.example.com/").Code)
	}
	closed.ResponseHeader.Set = http.Header{"X-Frame-Options": {"DENY"}}
	w := get(closed, "http://app.example.com/")
	assert.Equal(t, http.StatusBadGateway, w.Code)
	assert.Empty(t, w.Header()["X-Frame-Options"], "ResponseHeader is for responses of the target")
	all := hostproxy.Router{ResponseHeader: hostproxy.HeaderEdit{Set: http.Header{"X-Frame-Options": {"DENY"}, "X-Other": {"1"}}}, HSTS: new(hostproxy.HSTS)}
	all.Handle("app.example.com", closed)
	w = get(&all, "https://app.example.com/")
	assert.Equal(t, http.StatusBadGateway, w.Code)
	assert.Equal(t, []string{"DENY", "1", "max-age=0"}, []string{w.Header().Get("X-Frame-Options"), w.Header().Get("X-Other"), w.Header().Get("Strict-Transport-Security")},
		"that of the Router is for all")

	began, end := make(chan struct{}), make(chan struct{})
	slow := upstream(t, proxytest.NewServer(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(began)
		<-end
	})).Addr())
	slow.MaxTargetInFlight = 1
	late := upstream(t, proxytest.NewServer(t, http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) { <-q.Context().Done() })).Addr())
	late.ResponseHeaderTimeout = time.Millisecond
	assert.Equal(t, http.StatusGatewayTimeout, get(late, "http://app.example.com/").Code)
	done := make(chan int, 1)
	go func() { done <- get(slow, "http://app.example.com/").Code }()
	<-began
	assert.Equal(t, http.StatusServiceUnavailable, get(slow, "http://app.example.com/").Code)
	close(end)
	require.Equal(t, http.StatusOK, <-done)
}
