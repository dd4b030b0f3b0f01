package routes_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/hostname"
	"github.com/hostproxy/hostproxy/internal/routes"
)

// newTable returns a table whose values are the spellings of the patterns.
func newTable(t testing.TB, patterns ...string) *routes.Table[string] {
	t.Helper()
	table, err := routes.New(newRoutes(t, patterns...))
	require.NoError(t, err)
	return table
}

func newRoutes(t testing.TB, patterns ...string) []routes.Given[string] {
	t.Helper()
	rs := make([]routes.Given[string], len(patterns))
	for i, s := range patterns {
		rs[i] = newRoute(t, s)
	}
	return rs
}

func newRoute(t testing.TB, s string) routes.Given[string] {
	p, err := routes.ParsePattern(s)
	if err != nil {
		t.Helper()
		t.Fatal(err)
	}
	return routes.Given[string]{Route: &routes.Route[string]{Pattern: p, Value: s}, Spelling: s}
}

// served returns the value of the route that serves a request, or "none" or
// "ambiguous".
func served(table *routes.Table[string], host, path string) string {
	switch r, err := table.Lookup(host, path); {
	case err != nil:
		return "ambiguous"
	case r == nil:
		return "none"
	default:
		return r.Value
	}
}

func all(table *routes.Table[string]) []string {
	var values []string
	for r := range table.All() {
		values = append(values, r.Value)
	}
	return values
}

func TestLookupFindsTheMostSpecificRoute(t *testing.T) {
	table := newTable(t, "example.com", "api.example.com", "*.example.com", "example.com/api/", "example.com/api/v1",
		"paths.example.com/only", "*.example.com/static", "*.net/x", "only.net/y", "[::1]", "192.0.2.1", "_srv.example.org")
	for _, c := range []struct{ what, host, path, want string }{
		{"an exact host", "example.com", "/", "example.com"},
		{"an exact host, path empty", "example.com", "", "example.com"},
		{"an exact host before the wildcard", "api.example.com", "/", "api.example.com"},
		{"an exact host without that path before the wildcard with it", "api.example.com", "/static/", "api.example.com"},
		{"a wildcard", "www.example.com", "/", "*.example.com"},
		{"a wildcard takes one label", "a.b.example.com", "/", "none"},
		{"a wildcard takes no less than one label", "com", "/", "none"},
		{"a wildcard with a path", "www.example.com", "/static/a", "*.example.com/static"},
		{"an unknown host", "example.org", "/", "none"},
		{"a host that ends like a known one", "badexample.com", "/", "none"},
		{"a prefix itself", "example.com", "/api/", "example.com/api/"},
		{"a prefix without its slash", "example.com", "/api", "example.com/api/"},
		{"below a prefix", "example.com", "/api/x/y", "example.com/api/"},
		{"a segment that begins like a prefix", "example.com", "/apix", "example.com"},
		{"the longer prefix", "example.com", "/api/v1/x", "example.com/api/v1"},
		{"the longer prefix without its slash", "example.com", "/api/v1", "example.com/api/v1"},
		{"a segment that begins like the longer prefix", "example.com", "/api/v10", "example.com/api/"},
		{"upper case in a path is another path", "example.com", "/API/", "example.com"},
		{"an exact host whose paths do not match, wildcard's path does", "paths.example.com", "/static/x", "*.example.com/static"},
		{"an exact host whose paths do not match, wildcard", "paths.example.com", "/other", "*.example.com"},
		{"an exact host whose paths match", "paths.example.com", "/only/x", "paths.example.com/only"},
		{"an exact host whose paths do not match, nor the wildcard's", "only.net", "/z", "none"},
		{"an exact host whose paths do not match, but the wildcard's", "only.net", "/x", "*.net/x"},
		{"the path of OPTIONS", "example.com", "*", "example.com"},
		{"the path of OPTIONS, path routes only", "only.net", "*", "none"},
		{"IPv6", "::1", "/", "[::1]"},
		{"IPv4", "192.0.2.1", "/", "192.0.2.1"},
		{"an underscore", "_srv.example.org", "/", "_srv.example.org"},
		{"a literal star is no host", "*.example.com", "/", "*.example.com"},
	} {
		t.Run(c.what, func(t *testing.T) {
			assert.Equal(t, c.want, served(table, c.host, c.path))
		})
	}
}

func TestRoutesOfAnyHostMatchLast(t *testing.T) {
	table := newTable(t, "*", "*/api", "example.com/x", "*.example.com")
	assert.Equal(t, "*", served(table, "example.org", "/"))
	assert.Equal(t, "*/api", served(table, "example.org", "/api/x"))
	assert.Equal(t, "*/api", served(table, "example.com", "/api"))
	assert.Equal(t, "example.com/x", served(table, "example.com", "/x"))
	assert.Equal(t, "*.example.com", served(table, "a.example.com", "/api"))
	assert.Equal(t, "*", served(table, "::1", "/"))
}

// threats.md, "Path vs RawPath disagree between matcher and upstream"
// (CVE-2025-66490, 2025-32431, 2019-9901, 2021-29492): a path that could have
// two routes is refused.
func TestLookupReportsAmbiguousPaths(t *testing.T) {
	table := newTable(t, "example.com", "example.com/admin", "example.com/public", "example.com/public/deep", "example.com/caf%C3%A9",
		"plain.example", "only.example/api", "*/fallback")
	for _, c := range []struct{ what, host, path, want string }{
		{"dot segments into another route", "example.com", "/public/../admin/", "ambiguous"},
		{"dot segments at the end", "example.com", "/public/deep/..", "ambiguous"},
		{"dot segments that stay within", "example.com", "/public/a/../b", "example.com/public"},
		{"dot segments above the root", "example.com", "/../../admin", "ambiguous"},
		{"escaped dot segments", "example.com", "/public/%2e%2E/admin", "ambiguous"},
		{"dot segments with parameters", "example.com", "/public/..;a=b/admin", "ambiguous"},
		{"dot segments with escaped parameters", "example.com", "/public/..%3Ba/admin", "ambiguous"},
		{"a dot segment before the prefix", "example.com", "/./admin", "ambiguous"},
		{"a dot segment in the prefix", "example.com", "/public/./deep", "ambiguous"},
		{"an escaped letter of the prefix", "example.com", "/%61dmin/", "ambiguous"},
		{"an escaped slash after the prefix", "example.com", "/admin%2F", "ambiguous"},
		{"an escaped slash within the prefix", "example.com", "/public%2fdeep/x", "ambiguous"},
		{"an escaped slash below the prefix", "example.com", "/public/a%2Fb", "example.com/public"},
		{"a slash too many at the start", "example.com", "//admin", "ambiguous"},
		{"a slash too many in the prefix", "example.com", "/public//deep", "ambiguous"},
		{"a slash too many at the end", "example.com", "/public//", "example.com/public"},
		{"a backslash", "example.com", `/public\deep`, "ambiguous"},
		{"a backslash and dots", "example.com", `/public/..\admin`, "ambiguous"},
		{"an escaped backslash", "example.com", "/%5Cadmin", "ambiguous"},
		{"an escape of an escape is decoded once", "example.com", "/%2561dmin", "example.com"},
		{"a bad escape stands for itself", "example.com", "/admin/%zz", "example.com/admin"},
		{"a bad escape before a good one", "example.com", "/%%61dmin", "example.com"},
		{"an escape that is cut off", "example.com", "/admin/%2", "example.com/admin"},
		{"a NUL below the prefix", "example.com", "/admin/%00", "example.com/admin"},
		{"three dots are a name", "example.com", "/public/.../admin", "example.com/public"},
		{"a name with a dot first", "example.com", "/public/.git", "example.com/public"},
		{"an escape as the pattern has it", "example.com", "/caf%C3%A9/x", "example.com/caf%C3%A9"},
		{"an escape in lower case", "example.com", "/caf%c3%a9/x", "ambiguous"},
		{"a byte that should be escaped", "example.com", "/caf\xc3\xa9/x", "ambiguous"},
		{"no slash at the start", "example.com", "admin", "ambiguous"},
		{"a host without path routes has no ambiguous paths", "plain.example", "//a/../%2e%2e/", "plain.example"},
		{"no route as it stands, one when decoded", "only.example", "/%61pi", "ambiguous"},
		{"no route when decoded, one as it stands", "only.example", "/api/..", "ambiguous"},
		{"no route in either form", "only.example", "/%62pi", "none"},
		{"the other route is the one of any host", "only.example", "/api/../fallback", "ambiguous"},
		{"a query is not a part of the path", "only.example", "/api/a=b&c", "only.example/api"},
		{"parameters in the prefix", "example.com", "/admin;x/secret", "ambiguous"},
		{"parameters in the last segment of the prefix", "example.com", "/admin;x=1,2", "ambiguous"},
		{"escaped parameters in the prefix", "example.com", "/admin%3bx/secret", "ambiguous"},
		{"a segment of parameters only", "example.com", "/;x/admin/secret", "ambiguous"},
		{"parameters below the prefix", "example.com", "/admin/a;x/b;jsessionid=1", "example.com/admin"},
		{"parameters where no prefix is", "example.com", "/shop;x/item;jsessionid=1", "example.com"},
		{"parameters between prefixes", "example.com", "/public;x/deep", "ambiguous"},
		{"a slash in parameters", "example.com", "/x;%2F..%2Fadmin", "ambiguous"},
		{"dots after a slash that some servers decode", "example.com", "/x%2Fy/../admin", "ambiguous"},
		{"dots after a backslash that is a slash for some servers", "example.com", "/x%5Cy/../admin", "ambiguous"},
		{"dots after slashes that some servers merge", "example.com", "/x/../admin//../y", "ambiguous"},
		{"dots after an escape that some servers decode", "example.com", "/%61dmin/../x", "ambiguous"},
		{"parameters on a host without path routes", "plain.example", "/;x/admin", "plain.example"},
	} {
		t.Run(c.what, func(t *testing.T) {
			assert.Equal(t, c.want, served(table, c.host, c.path))
		})
	}
	_, err := table.Lookup("example.com", "/%61dmin")
	assert.ErrorIs(t, err, routes.ErrAmbiguous)
}

// threats.md, CVE-2022-32190: 100 KB of dot segments take linear time, so
// Lookup ends.
func TestLookupOfALongPathEnds(t *testing.T) {
	table := newTable(t, "example.com/a", "example.com")
	assert.Equal(t, "ambiguous", served(table, "example.com", strings.Repeat("/..", 40_000)+"/a"))
	assert.Equal(t, "ambiguous", served(table, "example.com", strings.Repeat("/x", 40_000)+strings.Repeat("/..", 40_000)+"/a"))
	assert.Equal(t, "example.com/a", served(table, "example.com", "/a"+strings.Repeat("/x/..", 40_000)))
	assert.Equal(t, "example.com", served(table, "example.com", "/"+strings.Repeat("%61", 40_000)))
	assert.Equal(t, "example.com", served(table, "example.com", strings.Repeat(`/zz%2F%5C;x//..`, 30)), "unusual, but short")
	assert.Equal(t, "ambiguous", served(table, "example.com", strings.Repeat(`/zz%2F%5C;x//..`, 1000)), "too many readings")
}

// threats.md, CVE-2026-27588: matching turned case-sensitive above 100 hosts.
func TestHostsMatchInAnyCaseRegardlessOfTheirNumber(t *testing.T) {
	for _, n := range []int{1, 2, 7, 8, 99, 100, 101, 112, 113, 10_000} {
		t.Run(fmt.Sprint(n, " hosts"), func(t *testing.T) {
			patterns := make([]string, n)
			for i := range patterns {
				patterns[i] = fmt.Sprintf("Host-%d.Example.COM", i)
			}
			table := newTable(t, patterns...)
			for i, want := range patterns {
				for _, in := range []string{strings.ToLower(want), strings.ToUpper(want) + ".:443", want} {
					host, err := hostname.Canonical(in)
					require.NoError(t, err)
					require.Equal(t, want, served(table, host, "/"))
				}
				require.Equal(t, "none", served(table, fmt.Sprintf("host-%d.example.org", i), "/"))
			}
		})
	}
}

func TestHostsOfAnyLengthMatch(t *testing.T) {
	for n := 1; n <= 253; n++ {
		host := strings.Repeat("abcdefg.", 32)[:n-1] + "x"
		table := newTable(t, host)
		require.Equal(t, host, served(table, host, "/"))
		require.Equal(t, "none", served(table, "z"+host[1:], "/"))
		require.Equal(t, "none", served(table, host[:n-1]+"y", "/"))
	}
}

func TestNewReportsAllConflicts(t *testing.T) {
	rs := newRoutes(t, "example.com", "EXAMPLE.com/", "example.com/api", "Example.com/api/", "*.example.com", "*", "a.test", "*.example.com", "A.test", "a.TEST")
	here, there := routes.Caller(0), routes.Caller(0)
	rs[0].Where, rs[1].Where, rs[3].Where = here, there, there
	rs[4].Spelling = ""
	rs[8].Route, rs[9].Route = rs[6].Route, rs[6].Route
	table, err := routes.New(append(rs, rs[5]))
	assert.Nil(t, table)
	require.Error(t, err)
	assert.Equal(t, `pattern "EXAMPLE.com/" (`+there.String()+`) conflicts with "example.com" (`+here.String()+`): both mean "example.com"
pattern "Example.com/api/" (`+there.String()+`) conflicts with "example.com/api": both mean "example.com/api/"
pattern "*.example.com" conflicts with "*.example.com": both mean "*.example.com"
pattern "A.test" conflicts with "a.test": both mean "a.test"
pattern "a.TEST" conflicts with "a.test": both mean "a.test"
pattern "*" conflicts with "*": both mean "*"`, err.Error())
}

func TestAPlaceIsTheLineOfTheCaller(t *testing.T) {
	assert.Regexp(t, `/routes_test\.go:\d+$`, routes.Caller(0).String())
	assert.Empty(t, routes.Place(0).String())
	assert.Empty(t, routes.Caller(1000).String())
}

func TestNilAndZeroTablesAreEmpty(t *testing.T) {
	p := newRoute(t, "*.example.com/api").Pattern
	empty, err := routes.New[string](nil)
	require.NoError(t, err)
	for name, table := range map[string]*routes.Table[string]{"nil": nil, "zero": {}, "new": empty} {
		t.Run(name, func(t *testing.T) {
			assert.Zero(t, table.Len())
			assert.Empty(t, all(table))
			assert.Equal(t, "none", served(table, "example.com", "/%61"))
			assert.False(t, table.Knows("example.com"))
			_, ok := table.Get(p)
			assert.False(t, ok)
			same, ok := table.Without(p)
			assert.False(t, ok)
			assert.Same(t, table, same)
			assert.Equal(t, []string{"*"}, all(table.With(newRoute(t, "*").Route)))
			assert.Equal(t, []string{"a.example"}, all(table.With(newRoute(t, "a.example").Route)))
		})
	}
}

func TestKnowsReportsWhetherAnyRouteMatchesTheHost(t *testing.T) {
	table := newTable(t, "example.com/api", "*.example.org")
	assert.True(t, table.Knows("example.com"), "a host with path routes only")
	assert.True(t, table.Knows("a.example.org"), "a host below a wildcard")
	assert.False(t, table.Knows("example.org"))
	assert.False(t, table.Knows("a.b.example.org"))
	assert.False(t, table.Knows("example"))
	assert.True(t, table.With(newRoute(t, "*/api").Route).Knows("example"), "any host")
}

func TestGetFindsOnlyTheSamePattern(t *testing.T) {
	table := newTable(t, "example.com/api", "*.example.com", "*")
	for _, c := range []struct {
		pattern string
		want    bool
	}{
		{"EXAMPLE.com/api/", true}, {"*.example.com/", true}, {"*", true},
		{"example.com", false}, {"example.com/api/v1", false}, {"example.com/ap", false}, {"a.example.com", false}, {"*/api", false}, {"*.com", false},
	} {
		r, ok := table.Get(newRoute(t, c.pattern).Pattern)
		require.Equal(t, c.want, ok, c.pattern)
		if ok {
			assert.Equal(t, newRoute(t, c.pattern).Pattern, r.Pattern)
		}
	}
}

func TestAllIsSortedByHostThenPath(t *testing.T) {
	want := []string{"*", "*/z", "*.a.example", "*.a.example/b", "a.example", "a.example/b", "a.example/b/c", "a.example/b-c", "a.example.org", "b.example/a"}
	table := newTable(t, "b.example/a", "a.example/b/c", "*/z", "a.example.org", "a.example/b", "*.a.example/b", "a.example/b-c", "a.example", "*.a.example", "*")
	assert.ElementsMatch(t, want, all(table))
	assert.True(t, slices.IsSortedFunc(slices.Collect(table.All()), func(a, b *routes.Route[string]) int {
		return strings.Compare(a.Pattern.Host()+" "+a.Pattern.Path(), b.Pattern.Host()+" "+b.Pattern.Path())
	}))
	assert.Equal(t, len(want), table.Len())
}

func TestOrderOfRegistrationDoesNotMatter(t *testing.T) {
	patterns := []string{"example.com", "example.com/a", "example.com/a/b", "*.com", "*.com/a", "*", "*/a", "a.example.com/c", "*.example.com"}
	requests := [][2]string{{"example.com", "/"}, {"example.com", "/a/b"}, {"x.com", "/a"}, {"a.example.com", "/"}, {"a.example.com", "/c"}, {"y", "/a"}}
	first := newTable(t, patterns...)
	for range 100 {
		rand.Shuffle(len(patterns), func(i, j int) { patterns[i], patterns[j] = patterns[j], patterns[i] })
		var grown *routes.Table[string]
		for _, r := range newRoutes(t, patterns...) {
			grown = grown.With(r.Route)
		}
		for _, table := range []*routes.Table[string]{newTable(t, patterns...), grown} {
			require.Equal(t, all(first), all(table))
			for _, q := range requests {
				require.Equal(t, served(first, q[0], q[1]), served(table, q[0], q[1]), "%v %v", q, patterns)
			}
		}
	}
}

func TestLookupDoesNotAllocate(t *testing.T) {
	few := newRoutes(t, "example.com", "*.example.com", "paths.example.com/api", "paths.example.com/api/v1", "*/fallback", "*",
		strings.Repeat("long-", 12)+"x.example.com")
	many := slices.Concat(few, hostRoutes(t, 50_000, "tenant-%d.apps.example.com"), hostRoutes(t, 50_000, "*.tenant-%d.example.com"))
	long := "/api/v1/" + strings.Repeat("a", 150) + "/%2e%2e/" + strings.Repeat("%C3%A9/", 10)
	requests := [][2]string{
		{"example.com", "/"}, {"www.example.com", "/x"}, {"example.org", "/"}, {"paths.example.com", "/api/v1/x"}, {"paths.example.com", "/other"},
		{strings.Repeat("long-", 12) + "x.example.com", "/"}, {"paths.example.com", long},
		{"tenant-7.apps.example.com", "/"}, {"tenant-49999.apps.example.com", "/x"}, {"www.tenant-12345.example.com", long}, {"tenant-50000.apps.example.com", "/"},
	}
	for name, rs := range map[string][]routes.Given[string]{"few routes": few, "a hundred thousand": many} {
		table, err := routes.New(rs)
		require.NoError(t, err)
		for _, q := range requests {
			require.NotEqual(t, "none", served(table, q[0], q[1]))
			assert.Zero(t, testing.AllocsPerRun(100, func() { _, _ = table.Lookup(q[0], q[1]) }), "%s: Lookup(%s, %s)", name, q[0], q[1])
			assert.Zero(t, testing.AllocsPerRun(100, func() { _ = table.Knows(q[0]) }), "%s: Knows(%s)", name, q[0])
		}
		assert.Equal(t, "ambiguous", served(table, "paths.example.com", "/%61pi"))
		assert.Zero(t, testing.AllocsPerRun(100, func() { _, _ = table.Lookup("paths.example.com", "/%61pi") }))
	}
}

func TestDifferYieldsEachHostThatChangedOnce(t *testing.T) {
	for _, more := range []int{0, 20_000} { // few changes, and many
		stays := newRoutes(t, "stays.test", "paths.test/a", "*.stays.test", "*")
		goes := append(newRoutes(t, "goes.test/a", "goes.test/b", "*.goes.test", "swapped.test", "whole.test", "both.test", "both.test/a"), hostRoutes(t, more, "old-%d.test")...)
		comes := append(newRoutes(t, "paths.test/b", "paths.test/c", "*/c", "swapped.test", "whole.test/a", "both.test", "both.test/b"), hostRoutes(t, more, "new-%d.test")...)
		from, err := routes.New(slices.Concat(stays, goes))
		require.NoError(t, err)
		to, err := routes.New(slices.Concat(comes, stays))
		require.NoError(t, err)
		coming, leaving := slices.Collect(routes.Only(to, from)), slices.Collect(routes.Only(from, to))
		require.Len(t, coming, len(comes))
		require.Len(t, leaving, len(goes))
		want := []string{"goes.test", "*.goes.test", "swapped.test", "whole.test", "both.test", "paths.test", "*"}
		for i := range more {
			want = append(want, fmt.Sprintf("old-%d.test", i), fmt.Sprintf("new-%d.test", i))
		}
		got := slices.Sorted(routes.Differ(from, to, coming, leaving))
		assert.Equal(t, slices.Compact(slices.Sorted(slices.Values(want))), slices.DeleteFunc(got, func(host string) bool { return host == "stays.test" || host == "*.stays.test" }))
	}
}
