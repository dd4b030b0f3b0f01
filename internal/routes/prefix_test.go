package routes_test

import (
	"math/rand/v2"
	"net/url"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/routes"
)

func TestParsePrefixFollowsTheRulesOfPatterns(t *testing.T) {
	for in, want := range map[string]string{"/api": "/api", "/api/": "/api", "/a/b%20c": "/a/b%20c"} {
		got, err := routes.ParsePrefix(in)
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
	for in, rule := range map[string]string{
		"": "begins with a slash", "/": "every path begins with a slash", "api": "begins with a slash", "/a//b": "normal form", "/a/../b": "normal form",
		"/a%2fb": "normal form", "/{x}": "braces", "/*": "not allowed", "/a;b": "normal form",
	} {
		_, err := routes.ParsePrefix(in)
		if assert.Error(t, err, in) {
			assert.Contains(t, err.Error(), rule)
		}
	}
}

func TestAPrefixMatchesWholeSegments(t *testing.T) {
	for _, tt := range []struct {
		path, prefix string
		below        bool
	}{
		{"/api", "/api", true}, {"/api/", "/api", true}, {"/api/x", "/api", true}, {"/x", "", true}, {"", "", true},
		{"/apix", "/api", false}, {"/api%2Fx", "/api", false}, {"/ap", "/api", false}, {"//api", "/api", false}, {"/API", "/api", false}, {"/api;x", "/api", false},
	} {
		assert.Equal(t, tt.below, routes.Below(tt.path, tt.prefix), "%s below %s", tt.path, tt.prefix)
	}
}

func TestStaysRefusesPathsThatLeaveTheirPrefix(t *testing.T) {
	for _, p := range []string{"", "/", "/x", "/x/", "/x//y", "/x/../y", "/%20", "/a;b", "/..x", "/x/..", "/.../x", "/%2e%2ex", "/x/%2e%2e/y", "/.", "/x%2fy"} {
		assert.True(t, routes.Stays(p), "%q", p)
	}
	for _, p := range []string{"/..", "/../x", "/../a/x", "/../b/x", "/../../a/x", "/x/../../y", "/%2e%2e/x", "/.%2E/x", "/..%2fx", "/..\\x", "/..%5cx",
		"/x/..%2f..%2fy", "/..;/x", "/..;a=b/x", "/x;/../..", "/;/..", "//..", "/x//../../..", "/./..", "/a;%2fb/../..",
		strings.Repeat("/%2e;x", 4000)} {
		assert.False(t, routes.Stays(p), "%.60q", p)
	}
}

// If Stays is true, common servers read a prefix and the path as a path below
// the prefix.
func TestAPathThatStaysIsReadBelowAnyPrefix(t *testing.T) {
	parts := []string{"/", "..", ".", "%2e", "%2F", "%5c", "\\", ";", "a", "b", "x", "%"}
	stayed := 0
	for range 20_000 {
		rest := "/"
		for range rand.IntN(8) {
			rest += parts[rand.IntN(len(parts))]
		}
		if !routes.Stays(rest) {
			continue
		}
		stayed++
		for _, prefix := range []string{"/a", "/a/b", "/v2"} {
			for _, read := range []func(string) string{
				func(s string) string { return s },
				func(s string) string {
					u, err := url.PathUnescape(s)
					return map[bool]string{true: u, false: s}[err == nil]
				},
				func(s string) string { return strings.ReplaceAll(s, "\\", "/") },
			} {
				require.True(t, routes.Below(path.Clean(read(prefix+rest)), prefix), "path %s after prefix %s", rest, prefix)
			}
		}
	}
	assert.Greater(t, stayed, 1000)
}
