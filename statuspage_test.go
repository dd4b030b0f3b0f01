package hostproxy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// everybody is a list for a Guard's Allow that admits all addresses.
var everybody = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}

// askFrom makes the request that a server would make for a client at remote. It
// includes the password.
func askFrom(h http.Handler, remote, url string) *httptest.ResponseRecorder {
	q := httptest.NewRequest("GET", url, nil)
	q = q.WithContext(context.WithValue(q.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80}))
	q.RemoteAddr = remote
	q.SetBasicAuth("ann", "secret")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, q)
	return w
}

func TestTheStatusPageIsClosedToThePublicByDefault(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	require.NoError(t, err)
	auth := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	basic := func(h http.Handler) http.Handler {
		return &hostproxy.BasicAuth{Users: map[string]string{"ann": string(hash)}, Next: h}
	}
	guard := func(allow ...netip.Prefix) func(http.Handler) http.Handler {
		return func(h http.Handler) http.Handler { return &hostproxy.Guard{Allow: allow, Next: h} }
	}
	mux := func(h http.Handler) http.Handler { m := http.NewServeMux(); m.Handle("/", h); return m }
	bare := func(h http.Handler) http.Handler { return h }
	for name, tt := range map[string]struct {
		around func(http.Handler) http.Handler
		routed int // status in the route status.example.com, for a remote client
		other  int // status in the route *, for a remote client and another host name
		alone  int // status without a Router, for a remote client and a host name
	}{
		"nothing":                      {bare, 403, 403, 403},
		"a BasicAuth":                  {basic, 200, 200, 200},
		"a BasicAuth around a mux":     {func(h http.Handler) http.Handler { return basic(mux(h)) }, 200, 200, 200},
		"a Guard with Allow":           {guard(netip.MustParsePrefix("203.0.113.0/24")), 200, 403, 403},
		"a Guard for everybody":        {guard(everybody...), 200, 403, 403},
		"a Guard with an empty list":   {guard(), 403, 403, 403},
		"a Guard with Deny":            {func(h http.Handler) http.Handler { return &hostproxy.Guard{Deny: everybody[:1], Next: h} }, 403, 403, 403},
		"a Guard with the wrong Allow": {guard(netip.MustParsePrefix("10.0.0.0/8")), 403, 403, 403},
		"a ForwardAuth": {func(h http.Handler) http.Handler {
			return &hostproxy.ForwardAuth{Auth: hostproxy.To(auth.Addr()), Next: h}
		}, 200, 200, 200},
	} {
		t.Run(name, func(t *testing.T) {
			var r hostproxy.Router
			t.Cleanup(func() { _ = r.Replace(nil) })
			h := tt.around(hostproxy.StatusHandler(&r))
			r.Handle("status.example.com", h)
			r.Handle("*", h)
			const stranger = "203.0.113.7:5000"
			assert.Equal(t, tt.routed, askFrom(&r, stranger, "http://status.example.com/").Code)
			assert.Equal(t, tt.other, askFrom(&r, stranger, "http://evil.example.com/").Code)
			assert.Equal(t, tt.alone, askFrom(h, stranger, "http://evil.example.com/").Code)
			var outer hostproxy.Router // the outer Router's passes count in the inner one
			outer.Handle("status.example.com", tt.around(inner(&r)))
			assert.Equal(t, tt.routed, askFrom(&outer, stranger, "http://status.example.com/").Code, "a Router in a Router")
		})
	}
}

// inner returns a Router whose route for status.example.com is the bare status
// page of r.
func inner(r *hostproxy.Router) *hostproxy.Router {
	var in hostproxy.Router
	in.Handle("status.example.com", hostproxy.StatusHandler(r))
	return &in
}

func TestARefusedVisitorIsToldHowToOpenTheStatusPage(t *testing.T) {
	var r hostproxy.Router
	r.Handle("status.example.com", hostproxy.StatusHandler(&r))
	r.Handle("secret.example.com", http.NotFoundHandler())
	w := askFrom(&r, "203.0.113.7:5000", "http://status.example.com/")
	assert.Contains(t, w.Body.String(), "put a hostproxy.BasicAuth, a ForwardAuth, or a Guard with Allow")
	assert.NotContains(t, w.Body.String(), "secret")
	assert.Equal(t, 200, askFrom(hostproxy.StatusHandler(&r), "127.0.0.1:5000", "http://localhost:9000/").Code)
	assert.Equal(t, 403, askFrom(hostproxy.StatusHandler(&r), "127.0.0.1:5000", "http://rebound.example.com:9000/").Code)
}

// Without TrustedProxies, every client of a proxy on this machine seems to have
// a loopback address. So a list of loopback addresses must not open the page to
// remote clients.
func TestAGuardForThisMachineDoesNotOpenTheStatusPageToClientsOfAProxy(t *testing.T) {
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	for name, tt := range map[string]struct {
		allow, trusted []netip.Prefix
		forwardedFor   string
		routed, alone  int // status in a Router, and without one
	}{
		"no proxy":                             {allow: loopback, routed: 200, alone: 200},
		"a proxy that is not trusted":          {allow: loopback, forwardedFor: "203.0.113.7", routed: 403, alone: 403},
		"it says that its client is here":      {allow: loopback, forwardedFor: "127.0.0.1", routed: 403, alone: 403},
		"a list that has everybody":            {allow: everybody, forwardedFor: "203.0.113.7", routed: 200, alone: 200},
		"a trusted proxy, and a stranger":      {allow: loopback, trusted: loopback, forwardedFor: "203.0.113.7", routed: 403, alone: 403},
		"a trusted proxy, and a client here":   {allow: loopback, trusted: loopback, forwardedFor: "127.0.0.1", routed: 200, alone: 403},
		"a trusted proxy, and a listed client": {allow: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}, trusted: loopback, forwardedFor: "203.0.113.7", routed: 200, alone: 403},
	} {
		t.Run(name, func(t *testing.T) {
			r := hostproxy.Router{TrustedProxies: tt.trusted}
			h := &hostproxy.Guard{Allow: tt.allow, Next: hostproxy.StatusHandler(&r)}
			r.Handle("localhost", h)
			for _, in := range []struct {
				h    http.Handler
				want int
			}{{&r, tt.routed}, {h, tt.alone}} {
				q := httptest.NewRequest("GET", "http://localhost/", nil)
				q = q.WithContext(context.WithValue(q.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80}))
				q.RemoteAddr = "127.0.0.1:5000"
				if tt.forwardedFor != "" {
					q.Header.Set("X-Forwarded-For", tt.forwardedFor)
				}
				w := httptest.NewRecorder()
				in.h.ServeHTTP(w, q)
				assert.Equal(t, in.want, w.Code)
			}
		})
	}
}

// A Guard outside a Router marks a copy of the request as passed. Files of a
// form that was parsed from that copy must be removed all the same.
func TestAGuardOutsideARouterLeavesNoFormBehind(t *testing.T) {
	var parsed *multipart.Form
	g := &hostproxy.Guard{Allow: everybody, Next: http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		if assert.NoError(t, q.ParseMultipartForm(1)) {
			parsed = q.MultipartForm
		}
	})}
	q := httptest.NewRequest("POST", "http://x/", strings.NewReader("--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nx\r\n--b--\r\n"))
	q.Header.Set("Content-Type", "multipart/form-data; boundary=b")
	g.ServeHTTP(httptest.NewRecorder(), q)
	require.NotNil(t, parsed)
	assert.Same(t, parsed, q.MultipartForm)
}

func TestTheStatusShowsRatesErrorsAndSharing(t *testing.T) {
	bad := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/bad" {
			w.WriteHeader(http.StatusBadGateway)
		}
		_, _ = io.WriteString(w, "x")
	}))
	var r hostproxy.Router
	t.Cleanup(func() { _ = r.Replace(nil) })
	u := hostproxy.To(bad.Addr())
	r.Handle("a.test", u)
	r.Handle("b.test", u)
	r.Handle("gone.test", hostproxy.To("127.0.0.1:1"))
	for _, path := range []string{"/", "/", "/bad"} {
		ask(&r, "GET", "http://a.test"+path)
	}
	ask(&r, "GET", "http://gone.test/")
	var page struct {
		Routes []struct {
			Pattern string
			Sharing int
			Targets []struct {
				Recent struct {
					Seconds          float64
					Attempts, Errors uint64
					Spread           []uint64
				}
			}
		}
	}
	require.NoError(t, json.Unmarshal(ask(hostproxy.StatusHandler(&r), "GET", "http://x/?format=json").Body.Bytes(), &page))
	require.Len(t, page.Routes, 3)
	for i, want := range []struct {
		sharing          int
		attempts, errors uint64
		spread           int
	}{{1, 3, 1, 31}, {1, 3, 1, 31}, {0, 1, 1, 0}} {
		route := page.Routes[i]
		require.Len(t, route.Targets, 1)
		recent := route.Targets[0].Recent
		assert.Equal(t, want.sharing, route.Sharing, route.Pattern)
		assert.Equal(t, want.attempts, recent.Attempts, route.Pattern)
		assert.Equal(t, want.errors, recent.Errors, route.Pattern)
		assert.Len(t, recent.Spread, want.spread, route.Pattern)
		assert.Equal(t, 1.0, recent.Seconds, "%s: the target is younger than a window", route.Pattern)
	}
}

func TestTheSummaryOfTheStatusCountsASharedUpstreamOnce(t *testing.T) {
	auth := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	app := proxytest.NewServer(t, nil)
	var r hostproxy.Router
	t.Cleanup(func() { _ = r.Replace(nil) })
	verifier := hostproxy.To(auth.Addr())
	for i := range 3 {
		host := fmt.Sprintf("%d.test", i)
		r.Handle(host, &hostproxy.ForwardAuth{Auth: verifier, Next: hostproxy.To(app.Addr())})
		assert.Equal(t, 200, ask(&r, "GET", "http://"+host+"/").Code)
	}
	page := ask(hostproxy.StatusHandler(&r), "GET", "http://x/").Body.String()
	assert.Contains(t, page, "<b>6.0</b> requests/s")
	assert.Contains(t, page, "<b>4 of 4</b> targets up")
}

func ExampleStatusHandler() {
	var r hostproxy.Router
	r.Handle("blog.example.com", hostproxy.To("localhost:4000"))
	page := hostproxy.StatusHandler(&r)

	// For this machine alone: http://localhost:9000
	server := &hostproxy.Server{Router: &r, Listeners: []hostproxy.Listener{
		{Addr: "localhost:9000", Role: hostproxy.RoleInternal, Handler: page},
	}}
	_ = server // server.ListenAndServe(ctx)

	// For others, with a password. Without it the route answers 403.
	r.Handle("bare.example.com", page)
	r.Handle("status.example.com", &hostproxy.BasicAuth{
		Users: map[string]string{"ali": "$2a$04$r.H.IwusjCYoQM/2jE2t1ex2PJE9s8XUMzwU8yUGnPrQeuF57GLjS"},
		Next:  page,
	})
	for _, url := range []string{"https://bare.example.com/", "https://status.example.com/"} {
		fmt.Println(askFrom(&r, "203.0.113.7:5000", url).Code)
	}
	// Output:
	// 403
	// 401
}
