package routes_test

import (
	"encoding/hex"
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

// A model is a list of routes that is searched linearly, without regard to
// speed.
type model map[routes.Pattern]string

// served returns what the function served returns for a table of the same
// routes.
func (m model) served(host, path string) string {
	raw := m.read(host, path, false)
	if path == "*" || !m.hasPaths(host) {
		return raw
	}
	type reading struct {
		path    string
		decoded bool
	}
	seen := map[reading]bool{}
	// a server may get the path from another proxy
	for _, received := range []string{path, resolved(path), normalized(path)} {
		for _, steps := range everySteps {
			r := reading{take(received, steps), slices.Contains(steps, "decode")}
			if !seen[r] && m.read(host, r.path, r.decoded) != raw {
				return "ambiguous"
			}
			seen[r] = true
		}
	}
	return raw
}

func (m model) hasPaths(host string) bool {
	for p := range m {
		if p.Path() != "" && slices.Contains([]string{host, oneLabelLess(host), "*"}, p.Host()) {
			return true
		}
	}
	return false
}

// read returns the value of the route of a path. It compares the path byte by
// byte with the prefixes, or with their decoded forms.
func (m model) read(host, path string, decodes bool) string {
	value := "none"
	for _, pattern := range []string{host, oneLabelLess(host), "*"} {
		if value == "none" {
			value = m.longest(pattern, func(prefix string) bool {
				if decodes {
					prefix = decoded(prefix)
				}
				return strings.HasPrefix(path+"/", prefix)
			})
		}
	}
	return value
}

// everySteps has all combinations of steps by which servers read a path, in the
// order in which they take them. Read-only.
var everySteps = func() (all [][]string) {
	names := []string{"cut", "keep-slashes", "decode", "backslash", "strip", "merge", "dots"}
	for choice := range 1 << len(names) {
		var steps []string
		for i, name := range names {
			if choice>>i&1 != 0 {
				steps = append(steps, name)
			}
		}
		all = append(all, steps)
	}
	return all
}()

// escapedSlash stands for an escape of a slash that is not decoded.
const escapedSlash = "\x00slash\x00"

// take returns the result of the steps for a path. Each step is a pass over the
// whole path.
func take(path string, steps []string) string {
	path = "/" + strings.TrimPrefix(path, "/")
	for _, step := range steps {
		switch step {
		case "cut", "strip":
			path = eachSegment(path, func(s string) string { s, _, _ = strings.Cut(s, ";"); return s })
		case "keep-slashes":
			path = strings.NewReplacer("%2F", escapedSlash, "%2f", escapedSlash).Replace(path)
		case "decode":
			path = decoded(path)
		case "backslash":
			path = strings.ReplaceAll(path, `\`, "/")
		case "merge":
			path = merged(path)
		case "dots":
			path = resolved(path)
		}
	}
	return path
}

func eachSegment(path string, f func(string) string) string {
	segments := strings.Split(path, "/")
	for i, s := range segments {
		segments[i] = f(s)
	}
	return strings.Join(segments, "/")
}

// merged returns a path without empty segments, except the first. It does not
// look at dot segments.
func merged(path string) string {
	return "/" + strings.Join(slices.DeleteFunc(strings.Split(path, "/"), func(s string) bool { return s == "" }), "/")
}

// normalized returns a path as proxies forward it that decode escapes, except
// those of slashes, and resolve dot segments.
func normalized(path string) (text string) {
	for i, part := range strings.Split(take(path, []string{"keep-slashes", "decode", "backslash", "dots"}), escapedSlash) {
		if i > 0 {
			text += "%2F"
		}
		for _, c := range []byte(part) {
			if strings.IndexByte(plainBytes, c) >= 0 {
				text += string(c)
			} else {
				text += fmt.Sprintf("%%%02X", c)
			}
		}
	}
	return text
}

// plainBytes stand for themselves in a path.
const plainBytes = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@/"

// resolved returns a path without dot segments. ".." may remove an empty
// segment.
func resolved(path string) string {
	var out []string
	for _, s := range strings.Split(strings.TrimPrefix(path, "/"), "/") {
		switch s {
		case ".":
		case "..":
			out = out[:max(0, len(out)-1)]
		default:
			out = append(out, s)
		}
	}
	return "/" + strings.Join(out, "/")
}

// longest returns the value of the route with the longest matching path prefix,
// among the routes of a host pattern.
func (m model) longest(host string, matches func(prefix string) bool) string {
	best, value := -1, "none"
	for p, v := range m {
		if p.Host() == host && len(p.Path()) > best && (p.Path() == "" || matches(p.Path())) {
			best, value = len(p.Path()), v
		}
	}
	return value
}

func oneLabelLess(host string) string {
	_, rest, found := strings.Cut(host, ".")
	if !found {
		return "no such host"
	}
	return "*." + rest
}

// decoded returns a path with its escapes decoded once.
func decoded(path string) (text string) {
	for i := 0; i < len(path); i++ {
		if b, err := hex.DecodeString(path[min(i+1, len(path)):min(i+3, len(path))]); path[i] == '%' && err == nil && len(b) == 1 {
			text += string(b)
			i += 2
		} else {
			text += path[i : i+1]
		}
	}
	return text
}

// maxFuzzed is the longest path for which the table compares all readings,
// whatever their number.
const maxFuzzed = 150

func FuzzLookup(f *testing.F) {
	for _, seed := range [][3]string{
		{"example.com example.com/a *.example.com *", "example.com", "/a/../b"},
		{"a.b/x/y */x *.b/%C3%A9", "a.b", "/%c3%a9"},
		{"a.b/x/y a.b/x a.b", "a.b", `/x\..;z/%2fy//.`},
		{"a.b/%25", "a.b", "/%25%2"},
		{"[::1]/a *", "::1", "*"},
		{"a/. a//b a/b", "a", "b"},
		{"b.test b.test/admin", "b.test", "/;x/admin/secret"},
		{"b.test b.test/admin", "b.test", "/admin%3bx%2F;/secret"},
		{"b.test b.test/admin", "b.test", "/x%2Fy/../admin"},
		{"b.test b.test/admin", "b.test", "/y/../admin//../secret"},
		{"b.test/admin", "b.test", "/y/..//admin//../secret"},
		{"b.test/admin", "b.test", "/y/%2e%2e//admin%20//..%5csecret"},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, patterns, host, path string) {
		host, err := hostname.Canonical(host)
		if err != nil || len(path) > maxFuzzed {
			return
		}
		m, rs := model{}, []routes.Given[string]{}
		for _, s := range strings.Fields(patterns) {
			p, err := routes.ParsePattern(s)
			if err != nil {
				continue
			}
			again, err := routes.ParsePattern(p.String())
			require.NoError(t, err)
			require.Equal(t, p, again)
			if _, taken := m[p]; !taken {
				m[p] = s
				rs = append(rs, newRoute(t, s))
			}
		}
		table, err := routes.New(rs)
		require.NoError(t, err)
		require.Equal(t, m.served(host, path), served(table, host, path))
		require.Equal(t, len(m), table.Len())
	})
}

// A world is a small set of hosts and paths, so that routes often match
// requests.
type world struct{ hosts, paths []string }

func newWorld(hosts int) world {
	w := world{paths: []string{"", "", "/a", "/a/b", "/a/b/c", "/b", "/ab", "/%C3%A9", "/a/%20"}}
	for i := range hosts {
		w.hosts = append(w.hosts, fmt.Sprintf("h%d.%c.example", i, 'a'+i%7))
	}
	return w
}

func (w world) host() string { return w.hosts[rand.IntN(len(w.hosts))] }

func (w world) pattern() string {
	host := w.host()
	switch rand.IntN(20) {
	case 0:
		host = "*"
	case 1, 2:
		host = oneLabelLess(host)
	}
	return host + w.paths[rand.IntN(len(w.paths))]
}

func (w world) path() string {
	parts := []string{"/", "a", "b", "c", "//", ".", "..", ";x", "%3B", "%2F", "%2e", "%61", `\`, "%C3%A9", "%c3%a9", "%20", "%"}
	path := "/"
	for range rand.IntN(6) {
		path += parts[rand.IntN(len(parts))]
	}
	return path
}

func TestTablesAgreeWithTheModel(t *testing.T) {
	for _, hosts := range []int{1, 10, 100} {
		w := newWorld(hosts)
		for range 10 {
			m := model{}
			var rs []routes.Given[string]
			for range 3 * hosts {
				r := newRoute(t, w.pattern())
				if _, taken := m[r.Pattern]; !taken {
					m[r.Pattern] = r.Value
					rs = append(rs, r)
				}
			}
			table, err := routes.New(rs)
			require.NoError(t, err)
			for range 100 {
				host, path := w.host(), w.path()
				require.Equal(t, m.served(host, path), served(table, host, path), "%s%s among %v", host, path, m)
			}
		}
	}
}

// A version is a table and the values that it must keep.
type version struct {
	table *routes.Table[string]
	want  []string
}

func (v version) check(t *testing.T) {
	t.Helper()
	require.Equal(t, v.want, all(v.table))
	require.Equal(t, len(v.want), v.table.Len())
	for _, s := range v.want {
		r, ok := v.table.Get(newRoute(t, patternOf(s)).Pattern)
		require.True(t, ok, s)
		require.Equal(t, s, r.Value)
	}
}

// patternOf returns the pattern in a value such as "7 example.com", whose
// number is the change that added it.
func patternOf(value string) string { return value[strings.IndexByte(value, ' ')+1:] }

// Style rule 12, copy on write: a table never changes, whatever tables are made
// from it.
func TestWithAndWithoutLeaveTheOldTableAlone(t *testing.T) {
	for _, c := range []struct{ hosts, changes int }{{3, 300}, {40, 600}, {3000, 12_000}} {
		t.Run(fmt.Sprint(c.hosts, " hosts"), func(t *testing.T) {
			w, m := newWorld(c.hosts), map[routes.Pattern]string{}
			var table *routes.Table[string]
			var old []version
			for i := range c.changes {
				r := newRoute(t, w.pattern())
				r.Value = fmt.Sprint(i, " ", r.Value)
				if _, there := m[r.Pattern]; there && rand.IntN(3) > 0 {
					var ok bool
					table, ok = table.Without(r.Pattern)
					require.True(t, ok)
					delete(m, r.Pattern)
				} else {
					table = table.With(r.Route)
					m[r.Pattern] = r.Value
				}
				if i%(c.changes/10) == 0 {
					old = append(old, version{table, sortedValues(m)})
				}
			}
			for _, v := range append(old, version{table, sortedValues(m)}) {
				v.check(t)
			}
			for p := range m {
				table, _ = table.Without(p)
			}
			version{table, nil}.check(t)
			assert.False(t, table.Knows(w.host()))
		})
	}
}

func sortedValues(m map[routes.Pattern]string) []string {
	patterns := []routes.Pattern{}
	for p := range m {
		patterns = append(patterns, p)
	}
	slices.SortFunc(patterns, func(a, b routes.Pattern) int {
		return strings.Compare(a.Host()+" "+a.Path(), b.Host()+" "+b.Path())
	})
	var values []string
	for _, p := range patterns {
		values = append(values, m[p])
	}
	return values
}

func TestWithReplacesTheRouteOfTheSamePattern(t *testing.T) {
	before := newTable(t, "example.com/api", "example.com")
	r := newRoute(t, "EXAMPLE.com/api/")
	after := before.With(r.Route)
	assert.Equal(t, 2, after.Len())
	assert.Equal(t, "EXAMPLE.com/api/", served(after, "example.com", "/api"))
	assert.Equal(t, "example.com/api", served(before, "example.com", "/api"))
}

func TestWithoutKeepsRoutesOfLongerPaths(t *testing.T) {
	before := newTable(t, "example.com", "example.com/a", "example.com/a/b")
	after, ok := before.Without(newRoute(t, "example.com/a").Pattern)
	require.True(t, ok)
	assert.Equal(t, "example.com/a/b", served(after, "example.com", "/a/b"))
	assert.Equal(t, "example.com", served(after, "example.com", "/a"))
	_, ok = after.Without(newRoute(t, "example.com/a").Pattern)
	assert.False(t, ok)
}
