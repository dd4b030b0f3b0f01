package routes_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/routes"
)

func TestParsePatternReturnsTheCanonicalHostAndPath(t *testing.T) {
	for _, c := range []struct{ what, in, host, path string }{
		{"a host", "api.example.com", "api.example.com", ""},
		{"a host and a slash", "api.example.com/", "api.example.com", ""},
		{"a host in another spelling", "API.Example.COM.", "api.example.com", ""},
		{"an international host", "bücher.example", "xn--bcher-kva.example", ""},
		{"IPv4", "192.0.2.1", "192.0.2.1", ""},
		{"IPv6", "[2001:DB8::1]", "2001:db8::1", ""},
		{"IPv6 with a path", "[::1]/api", "::1", "/api/"},
		{"a wildcard", "*.example.com", "*.example.com", ""},
		{"a wildcard in another spelling", "*.BÜCHER.example", "*.xn--bcher-kva.example", ""},
		{"any host", "*", "*", ""},
		{"any host and a path", "*/.well-known/", "*", "/.well-known/"},
		{"a path", "example.com/api/", "example.com", "/api/"},
		{"a path without a slash at its end", "example.com/api", "example.com", "/api/"},
		{"several segments", "example.com/api/v1", "example.com", "/api/v1/"},
		{"a wildcard with a path", "*.example.com/api", "*.example.com", "/api/"},
		{"plain bytes that are no letters", "example.com/~a-b_c.d!$&'()+,=:@/", "example.com", "/~a-b_c.d!$&'()+,=:@/"},
		{"escapes that must be", "example.com/caf%C3%A9%20%25/", "example.com", "/caf%C3%A9%20%25/"},
		{"dots in a segment", "example.com/.well-known/a..b/...", "example.com", "/.well-known/a..b/.../"},
	} {
		t.Run(c.what, func(t *testing.T) {
			p, err := routes.ParsePattern(c.in)
			require.NoError(t, err)
			assert.Equal(t, [2]string{c.host, c.path}, [2]string{p.Host(), p.Path()})

			again, err := routes.ParsePattern(p.String())
			require.NoError(t, err)
			assert.Equal(t, p, again, "the pattern of %s", p)
		})
	}
}

func TestParsePatternRefusesInvalidPatterns(t *testing.T) {
	for _, c := range []struct{ what, in, says string }{
		{"nothing", "", "a pattern begins with a host: write * for any host"},
		{"a path without a host", "/api/", "a pattern begins with a host: write */api/ for any host"},
		{"a scheme", "https://example.com", "a pattern has no scheme"},
		{"a port", "example.com:443", "a pattern has no port"},
		{"an empty port", "example.com:/api", "a pattern has no port"},
		{"a port after brackets", "[::1]:80/api", "a pattern has no port"},
		{"a port after a wildcard", "*.example.com:80", "a pattern has no port"},
		{"a bad port", "example.com:x", "a port is a number"},
		{"userinfo", "me@example.com", "character '@'"},
		{"IPv6 without brackets", "::1", "needs brackets"},
		{"a zone", "[fe80::1%25eth0]", "brackets must hold an IPv6 address"},
		{"a query", "example.com/a?b=c", "no query and no fragment"},
		{"a fragment", "example.com/a#b", "no query and no fragment"},
		{"a query without a path", "example.com?b", "no query and no fragment"},
		{"a bare star and dot", "*.", "empty"},
		{"two stars", "*.*.example.com", `"*" must be the whole first label`},
		{"a star within a label", "a*.example.com", `"*" must be the whole first label`},
		{"a star at the end of a label", "*a.example.com", `"*" must be the whole first label`},
		{"a star in the middle", "a.*.example.com", `"*" must be the whole first label`},
		{"two stars in a label", "**.example.com", `"*" must be the whole first label`},
		{"a wildcard of an address", "*.127.0.0.1", "an IP address has none"},
		{"a wildcard of IPv6", "*.[::1]", "an IP address has none"},
		{"a wildcard of a port", "*:80", `"*" must be the whole first label`},
		{"a star in the path", "example.com/api/*", `"*" is not allowed in a path`},
		{"an escaped star in the path", "example.com/%2A/", "in its normal form"},
		{"a path in braces", "example.com/{id}/", "braces are not allowed in a path"},
		{"a method", "GET example.com", "a pattern has no method and no spaces"},
		{"a dot segment", "example.com/./api/", `in its normal form, "/api/"`},
		{"a segment of two dots", "example.com/a/../b", `in its normal form, "/b/"`},
		{"an escaped dot segment", "example.com/%2e%2E/b", `in its normal form, "/b/"`},
		{"a dot segment with parameters", "example.com/a/..;x/b", `in its normal form, "/b/"`},
		{"a segment with parameters", "example.com/api;v=1/x", `in its normal form, "/api/x/"`},
		{"a segment with escaped parameters", "example.com/api%3Bv=1/x", `in its normal form, "/api/x/"`},
		{"an empty segment", "example.com//api/", `in its normal form, "/api/"`},
		{"an empty segment at the end", "example.com/api//", `in its normal form, "/api/"`},
		{"two slashes only", "example.com//", `in its normal form, "/"`},
		{"a backslash", `example.com/a\b`, `in its normal form, "/a/b/"`},
		{"an escaped slash", "example.com/a%2Fb", `in its normal form, "/a/b/"`},
		{"an escape that need not be", "example.com/%61pi/", `in its normal form, "/api/"`},
		{"an escape in lower case", "example.com/caf%c3%a9/", `in its normal form, "/caf%C3%A9/"`},
		{"bytes without the escape they need", "example.com/café/", `in its normal form, "/caf%C3%A9/"`},
		{"a bad escape", "example.com/%zz/", `in its normal form, "/%25zz/"`},
		{"an escape that is cut off", "example.com/a%2", `in its normal form, "/a%252/"`},
		{"a space", "example.com/a b/", `in its normal form, "/a%20b/"`},
	} {
		t.Run(c.what, func(t *testing.T) {
			_, err := routes.ParsePattern(c.in)
			require.ErrorContains(t, err, c.says)
			assert.ErrorContains(t, err, `pattern "`)
		})
	}
}
