package hostproxy_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
)

// says returns a handler that answers with a fixed text.
func says(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) })
}

// ask serves one request without a network.
func ask(h http.Handler, method, url string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, url, nil))
	return w
}

func TestRouterChoosesByHostThenPath(t *testing.T) {
	var r hostproxy.Router
	for _, pattern := range []string{
		"example.com", "api.example.com", "*.example.com", "*", "example.com/api/", "example.com/api/v2/", "[::1]", "bücher.example",
	} {
		r.Handle(pattern, says(pattern))
	}
	for _, tt := range []struct{ name, url, want string }{
		{"an exact host", "http://api.example.com/", "api.example.com"},
		{"upper case, a trailing dot and a port", "http://API.Example.COM.:8080/", "api.example.com"},
		{"one label under a wildcard", "http://www.example.com/", "*.example.com"},
		{"two labels under a wildcard go to the star", "http://a.b.example.com/", "*"},
		{"any other host", "http://other.test/", "*"},
		{"a path prefix", "http://example.com/api/x", "example.com/api/"},
		{"the longer path prefix", "http://example.com/api/v2/x", "example.com/api/v2/"},
		{"a prefix ends at a segment", "http://example.com/apiary", "example.com"},
		{"an IPv6 literal", "http://[0:0::1]:80/", "[::1]"},
		{"IDNA in ASCII", "http://xn--bcher-kva.example/", "bücher.example"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, ask(&r, "GET", tt.url).Body.String())
		})
	}
}

func TestRouterRefusesUnknownHostsAndAmbiguousRequests(t *testing.T) {
	var r hostproxy.Router
	r.Handle("example.com", says("site"))
	r.Handle("example.com/admin/", says("admin"))
	for _, tt := range []struct {
		name, method, host, target string
		want                       int
	}{
		{"a host without a route", "GET", "other.test", "/", 404},
		{"an invalid host", "GET", "a:1:2", "/", 400},
		{"an empty host", "GET", "", "/", 400},
		{"a zone id as host (CVE-2025-22870)", "GET", "[::1%25.example.com]:80", "/", 400},
		{"a punycode alias of an ASCII host (CVE-2026-39821)", "GET", "xn--example-.com", "/", 400},
		{"CONNECT (CVE-2026-71324)", "CONNECT", "example.com", "/", 501},
		{"a path that decodes into another route", "GET", "example.com", "/%61dmin/x", 400},
		{"a path that resolves into another route", "GET", "example.com", "/x/../admin/", 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q := httptest.NewRequest("GET", tt.target, nil)
			q.Method, q.Host = tt.method, tt.host
			w := httptest.NewRecorder()
			r.ServeHTTP(w, q)
			assert.Equal(t, tt.want, w.Code)
			assert.Contains(t, w.Header().Get("Proxy-Status"), "hostproxy; error=")
		})
	}
}

func TestRouterTellsOuterMiddlewareThePattern(t *testing.T) {
	var r hostproxy.Router
	r.Handle("*.example.com", says("x"))
	q := httptest.NewRequest("GET", "http://www.example.com/", nil)
	r.ServeHTTP(httptest.NewRecorder(), q)
	assert.Equal(t, "*.example.com", q.Pattern)
}

func TestHandlePanicsNamingBothPlaces(t *testing.T) {
	var r hostproxy.Router
	r.Handle("Example.com", says("a"))
	defer func() {
		msg := fmt.Sprint(recover())
		assert.Equal(t, 2, strings.Count(msg, "router_test.go:"), msg)
		assert.Contains(t, msg, `"example.com/"`)
	}()
	r.Handle("example.com/", says("b"))
}

func TestSetReplaceAndRemoveChangeTheRoutes(t *testing.T) {
	var r hostproxy.Router
	require.NoError(t, r.Set("a.test", says("1")))
	require.NoError(t, r.Set("a.test", says("2")))
	assert.Equal(t, "2", ask(&r, "GET", "http://a.test/").Body.String())

	err := r.Replace(map[string]http.Handler{"b.test": says("3"), "b..test": says("4"), "c.test": nil})
	require.Error(t, err)
	assert.Contains(t, err.Error(), `"b..test"`)
	assert.Contains(t, err.Error(), `"c.test"`)
	assert.Equal(t, "2", ask(&r, "GET", "http://a.test/").Body.String(), "a failed Replace changes nothing")

	require.NoError(t, r.Replace(map[string]http.Handler{"b.test": says("3"), "*.test": says("4")}))
	var all []string
	for pattern := range r.All() {
		all = append(all, pattern)
	}
	assert.ElementsMatch(t, []string{"b.test", "*.test"}, all)
	assert.True(t, r.Remove("B.test"))
	assert.False(t, r.Remove("b.test"))
	assert.Equal(t, "4", ask(&r, "GET", "http://b.test/").Body.String())
}

func TestReplaceNamesConflicts(t *testing.T) {
	var r hostproxy.Router
	err := r.Replace(map[string]http.Handler{"a.test": says("1"), "A.test.": says("2")})
	require.Error(t, err)
	assert.Contains(t, err.Error(), "a.test")
	assert.Contains(t, err.Error(), "A.test.")
}

func TestRoutesChangeUnderLoad(t *testing.T) {
	var r hostproxy.Router
	r.Handle("stays.test", says("stays"))
	var wg sync.WaitGroup
	for n := range 4 {
		wg.Go(func() {
			for i := range 200 {
				pattern := fmt.Sprintf("h%d-%d.test", n, i%10)
				assert.NoError(t, r.Set(pattern, says("x")))
				assert.Equal(t, "stays", ask(&r, "GET", "http://stays.test/").Body.String())
				r.Remove(pattern)
			}
		})
	}
	wg.Wait()
	var n int
	for range r.All() {
		n++
	}
	assert.Equal(t, 1, n)
}

func TestRedirectKeepsPathQueryAndPort(t *testing.T) {
	var r hostproxy.Router
	r.Handle("www.example.com", hostproxy.Redirect("example.com"))
	w := ask(&r, "POST", "http://www.example.com:8080/a%2Fb?q=1&q=%20")
	assert.Equal(t, http.StatusPermanentRedirect, w.Code)
	assert.Equal(t, "http://example.com:8080/a%2Fb?q=1&q=%20", w.Header().Get("Location"))
}

func TestObserveSeesEveryExchange(t *testing.T) {
	var seen []hostproxy.Exchange
	r := hostproxy.Router{
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
		Observe:        func(x *hostproxy.Exchange) { seen = append(seen, *x) },
	}
	r.Handle("a.test", says("hello"))
	r.Handle("panics.test", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("x") }))

	q := httptest.NewRequest("GET", "http://a.test/p?q", nil)
	q.Header.Set("X-Forwarded-For", "198.51.100.7")
	r.ServeHTTP(httptest.NewRecorder(), q)
	ask(&r, "GET", "http://none.test/")
	assert.Panics(t, func() { ask(&r, "GET", "http://panics.test/") })

	require.Len(t, seen, 3)
	x := seen[0]
	assert.Equal(t, "198.51.100.7", x.Client.String())
	assert.Equal(t, "192.0.2.1", x.Peer.String())
	assert.Equal(t, []any{"GET", "a.test", "/p", "q", "a.test", 200, int64(5)},
		[]any{x.Method, x.Host, x.Path, x.Query, x.Pattern, x.Status, x.ResponseBytes})
	assert.Equal(t, 404, seen[1].Status)
	assert.Equal(t, 500, seen[2].Status)
}

func BenchmarkRouter(b *testing.B) {
	for _, n := range []int{1, 1000, 1_000_000} {
		rs := make(map[string]http.Handler, n)
		h := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
		for i := range n {
			rs[fmt.Sprintf("h%d.example.com", i)] = h
		}
		var r hostproxy.Router
		require.NoError(b, r.Replace(rs))
		q := httptest.NewRequest("GET", fmt.Sprintf("http://h%d.example.com/", n/2), nil)
		b.Run(fmt.Sprintf("hosts=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r.Handler(q)
			}
		})
	}
}

func ExampleRouter() {
	var r hostproxy.Router
	r.Handle("api.example.com", hostproxy.To("localhost:8300"))
	r.Handle("*.example.com", hostproxy.To("localhost:4000"))
	r.Handle("www.example.com", hostproxy.Redirect("example.com"))

	q := httptest.NewRequest("GET", "https://api.example.com/v1/users", nil)
	_, pattern := r.Handler(q)
	fmt.Println(pattern)
	// Output: api.example.com
}

func TestOnlyHostsWhoseTLSTerminationMovesAreReported(t *testing.T) {
	elsewhere := &hostproxy.Passthrough{Addr: "127.0.0.1:1"}
	var r hostproxy.Router
	for _, c := range []struct {
		what   string
		change func()
		want   []string
	}{
		{"a new host", func() { r.Handle("a.test/x", says("x")) }, []string{"a.test"}},
		{"another path of it", func() { r.Handle("a.test/y", says("y")) }, nil},
		{"another handler", func() { _ = r.Set("a.test/y", says("z")) }, nil},
		{"a Passthrough of a host with paths", func() { _ = r.Set("a.test", elsewhere) }, []string{"a.test"}},
		{"another Passthrough", func() { _ = r.Set("a.test", &hostproxy.Passthrough{Addr: "127.0.0.1:2"}) }, nil},
		{"a Passthrough of a new host", func() { _ = r.Set("b.test", elsewhere) }, []string{"b.test"}},
		{"no Passthrough any more", func() { r.Remove("a.test") }, []string{"a.test"}},
		{"a path less", func() { r.Remove("a.test/x") }, nil},
		{"the last path less", func() { r.Remove("a.test/y") }, []string{"a.test"}},
		{"all at once", func() {
			_ = r.Replace(map[string]http.Handler{"b.test": says("b"), "c.test/1": says("1"), "c.test/2": says("2"), "d.test": elsewhere, "*.e.test": says("e"), "*": says("*")})
		}, []string{"*", "*.e.test", "b.test", "c.test", "d.test"}},
		{"all at once, the same hosts", func() {
			_ = r.Replace(map[string]http.Handler{"b.test/p": says("b"), "c.test": says("c"), "d.test/p": says("d"), "d.test": elsewhere, "*.e.test": says("e"), "*": says("*")})
		}, nil},
		{"all gone", func() { _ = r.Replace(nil) }, []string{"*", "*.e.test", "b.test", "c.test", "d.test"}},
	} {
		assert.Equal(t, c.want, hostproxy.Moved(&r, c.change), c.what)
	}
}

func TestRedirectRefusesInvalidHosts(t *testing.T) {
	for host, why := range map[string]string{
		"https://example.com": "keeps the scheme of the request", "example.com/new": "keeps the path and query of the request", "example.com?a": "keeps the path and query of the request",
		"*.example.com": "one host", "*": "one host", "example.com:": "a port is a number", "::": "", "example.com:https": "a port is a number",
		"example.com:70000": "a port is a number", "example.com:0": "a port is a number", "": "empty", "me@example.com": "character '@'",
		"[fe80::1%25eth0]": "without a zone", "fe80::1%eth0": "", "a:1:2": "an IPv6 address needs brackets", "a b": "character",
	} {
		t.Run(host, func(t *testing.T) {
			defer func() {
				text, _ := recover().(string)
				require.NotEmpty(t, text, "no panic")
				assert.Contains(t, text, fmt.Sprintf("hostproxy: redirect: host %q: ", host))
				assert.Contains(t, text, why)
			}()
			hostproxy.Redirect(host)
		})
	}
}
