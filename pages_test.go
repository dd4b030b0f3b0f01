package hostproxy_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
)

func TestBadPagesAreRefused(t *testing.T) {
	good := http.NotFoundHandler()
	for _, tt := range []struct {
		want  string
		pages map[int]http.Handler
	}{
		{"field Pages has status 200: want 400 to 599", map[int]http.Handler{200: good}},
		{"field Pages has status 600: want 400 to 599", map[int]http.Handler{600: good}},
		{"Pages[404]: nil handler", map[int]http.Handler{404: nil}},
		{"Pages[404]: nil handler", map[int]http.Handler{404: http.HandlerFunc(nil)}},
		{"Pages[404]: want a handler that writes the page, not one that leads to an Upstream", map[int]http.Handler{404: hostproxy.To("a:1")}},
		{"Pages[404]: want a handler that writes the page, not one that leads to an Upstream", map[int]http.Handler{404: &hostproxy.ForwardAuth{Auth: hostproxy.To("a:1"), Path: "/", Next: hostproxy.To("a:1")}}},
		{"", map[int]http.Handler{}},
		{"", map[int]http.Handler{400: good, 599: good}},
	} {
		var r hostproxy.Router
		u := hostproxy.To("a:1")
		u.Pages = tt.pages
		if err := r.Set("a.test", u); tt.want == "" {
			assert.NoError(t, err)
			assert.NoError(t, r.Check())
		} else {
			assert.ErrorContains(t, err, tt.want)
		}
	}
}

func TestPagesThatAreSetLateAreReported(t *testing.T) {
	var r hostproxy.Router
	u := hostproxy.To("a:1")
	u.Pages = map[int]http.Handler{404: http.NotFoundHandler()}
	r.Handle("a.test", u)
	ask(&r, "GET", "http://a.test/")
	u.Pages[502] = http.NotFoundHandler()
	assert.ErrorContains(t, r.Check(), "Upstream.Pages was changed after first use")
}

func TestAnUpstreamWithoutARouterHasPagesToo(t *testing.T) {
	u := hostproxy.To("127.0.0.1:1")
	u.Pages = map[int]http.Handler{502: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("sorry")) })}
	w := httptest.NewRecorder()
	u.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	assert.Equal(t, 502, w.Code)
	assert.Equal(t, "sorry", w.Body.String())
}
