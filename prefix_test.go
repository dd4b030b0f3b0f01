package hostproxy_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
)

func stripping(strip, add string) *hostproxy.Upstream {
	u := hostproxy.To("a:1")
	u.StripPrefix, u.AddPrefix = strip, add
	return u
}

func TestBadPrefixesAreRefused(t *testing.T) {
	for _, tt := range []struct{ pattern, strip, add, want string }{
		{"a.test", "api", "", `StripPrefix: prefix "api": a prefix begins with a slash`},
		{"a.test", "/", "", `StripPrefix: prefix "/": every path begins with a slash`},
		{"a.test", "/a/../b", "", `StripPrefix: prefix "/a/../b": write the path in its normal form, "/b/"`},
		{"a.test", "/a?b", "", `normal form`},
		{"a.test", "", "v2", `AddPrefix: prefix "v2": a prefix begins with a slash`},
		{"a.test", "/{id}", "//", `StripPrefix: prefix "/{id}": braces`},
		{"a.test", "/api", "/api/", `fields StripPrefix and AddPrefix are both "/api"`},
		{"a.test/web", "/api", "", `pattern "a.test/web": its paths do not begin with the Upstream's StripPrefix, "/api": every request would get 404`},
		{"a.test/apix", "/api", "", `every request would get 404`},
		{"a.test/api", "", "", ""},
		{"a.test/api", "/api", "", ""},
		{"a.test/api/v1", "/api/", "", ""},
		{"a.test/api", "/api/v1", "", ""},
		{"a.test", "/api", "", ""},
		{"*", "/api", "/v2", ""},
	} {
		for name, h := range map[string]http.Handler{
			"alone":              stripping(tt.strip, tt.add),
			"behind BasicAuth":   &hostproxy.BasicAuth{Users: map[string]string{"ali": "$2a$04$r.H.IwusjCYoQM/2jE2t1ex2PJE9s8XUMzwU8yUGnPrQeuF57GLjS"}, Next: stripping(tt.strip, tt.add)},
			"behind a Guard":     &hostproxy.Guard{Next: stripping(tt.strip, tt.add)},
			"behind ForwardAuth": &hostproxy.ForwardAuth{Auth: hostproxy.To("auth:1"), Path: "/", Next: stripping(tt.strip, tt.add)},
		} {
			t.Run(name+" at "+tt.pattern+" "+tt.strip+" "+tt.add, func(t *testing.T) {
				var r hostproxy.Router
				set, replaced := r.Set(tt.pattern, h), r.Replace(map[string]http.Handler{tt.pattern: h})
				if tt.want == "" {
					assert.NoError(t, set)
					assert.NoError(t, replaced)
					assert.NoError(t, r.Check())
					return
				}
				assert.ErrorContains(t, set, tt.want)
				assert.ErrorContains(t, replaced, tt.want)
			})
		}
	}
}

func TestCheckAndReplaceFindAPrefixThatNoPathHas(t *testing.T) {
	var r hostproxy.Router
	u := hostproxy.To("a:1")
	r.Handle("a.test/web", u)
	u.StripPrefix = "/api"
	assert.ErrorContains(t, r.Check(), "every request would get 404")
	both := map[string]http.Handler{"a.test/api": u, "b.test/web": u}
	assert.ErrorContains(t, r.Replace(both), `pattern "b.test/web"`, "also when the Upstream is good at another pattern")

	var s hostproxy.Router
	v := stripping("/api", "")
	require.NoError(t, s.Set("a.test/api", v))
	ask(&s, "GET", "http://a.test/api/x")
	v.StripPrefix = "/web"
	assert.ErrorContains(t, s.Check(), "StripPrefix")
}

func TestExplainShowsThePathThatIsForwarded(t *testing.T) {
	for _, tt := range []struct {
		strip, add, path string
		rule, want       string
		status           int
	}{
		{"/api", "", "/api/x%2Fy?q", "Upstream.StripPrefix", "passes: the path becomes /x%2Fy, behind the path of the target's URL", 0},
		{"/api", "/v2", "/api", "Upstream.StripPrefix", "passes: the path becomes /v2/, behind the path of the target's URL", 0},
		{"", "/v2", "/x", "Upstream.AddPrefix", "passes: the path becomes /v2/x, behind the path of the target's URL", 0},
		{"/api", "", "/apix", "Upstream.StripPrefix", "refuses: the path is not below /api", 404},
		{"/api", "", "/api/..%2fx", "Upstream.StripPrefix", "refuses: path is ambiguous: a target may read it as a path outside the prefix", 400},
		{"/api", "", "/api//x", "Upstream.StripPrefix", "refuses: path would begin with two slashes", 400},
	} {
		var r hostproxy.Router
		r.Handle("a.test", stripping(tt.strip, tt.add))
		e := explain(&r, "http://a.test"+tt.path)
		assert.Contains(t, rule(t, e, tt.rule), tt.want)
		assert.Equal(t, tt.status, e.Status, "%s", e)
	}
}
