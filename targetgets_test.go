package hostproxy_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// The documentation of Upstream lists what a target receives.
func TestATargetGetsWhatTheDocumentationSays(t *testing.T) {
	var got *http.Request
	target := proxytest.NewServer(t, http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) { got = q }))
	ask := func(r *hostproxy.Router, u *hostproxy.Upstream) http.Header {
		r.Handle("a.test", u)
		q := httptest.NewRequest("GET", "http://a.test:8443/", nil) // the client is 192.0.2.1
		for name, value := range map[string]string{
			"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "b.test", "X-Forwarded-Port": "1", "X-Real-Ip": "203.0.113.9",
			"Forwarded": "for=203.0.113.9", "Via": "1.1 cdn", "Client-Cert": ":YQ==:", "X-Tenant": "t", "Cookie": "a=b", "Authorization": "Basic eA==",
			"Te": "gzip", "Connection": "X-Hop", "X-Hop": "1", "Proxy-Authorization": "Basic eA==", "User-Agent": "ua", "Accept-Encoding": "br",
		} {
			q.Header.Set(name, value)
		}
		r.ServeHTTP(httptest.NewRecorder(), q)
		assert.Equal(t, "a.test:8443", got.Host)
		via := strings.Join(got.Header["Via"], ", ")
		assert.Regexp(t, `^1\.1 cdn, 1\.1 \S+$`, via)
		got.Header.Del("Via")
		return got.Header
	}
	passedOn := http.Header{"Client-Cert": {":YQ==:"}, "X-Tenant": {"t"}, "Cookie": {"a=b"}, "Authorization": {"Basic eA=="}, "User-Agent": {"ua"}, "Accept-Encoding": {"br"}}
	with := func(more http.Header) http.Header {
		h := passedOn.Clone()
		for name, values := range more {
			h[name] = values
		}
		return h
	}
	var r hostproxy.Router
	assert.Equal(t, with(http.Header{"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Proto": {"http"}, "X-Forwarded-Host": {"a.test:8443"}, "X-Real-Ip": {"192.0.2.1"}}),
		ask(&r, hostproxy.To(target.Addr())))

	r = hostproxy.Router{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}
	u := hostproxy.To(target.Addr())
	u.Forwarded = true
	assert.Equal(t, with(http.Header{"X-Forwarded-For": {"203.0.113.9, 192.0.2.1"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"b.test"},
		"X-Forwarded-Port": {"1"}, "X-Real-Ip": {"203.0.113.9"}, "Forwarded": {`for=203.0.113.9;host=b.test;proto=https, for=192.0.2.1`}}), ask(&r, u))
}
