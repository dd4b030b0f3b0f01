package routes_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/routes"
)

func TestCandidatesSayWhyTheyDoNotServe(t *testing.T) {
	table := newTable(t, "a.example.com", "a.example.com/api", "a.example.com/api/v2", "*.example.com", "*.example.com/x", "*", "b.test/y")
	want := func(host, path string, want ...[2]string) {
		t.Helper()
		var got [][2]string
		for _, c := range table.Candidates(host, path) {
			got = append(got, [2]string{c.Value, c.Why})
		}
		assert.Equal(t, want, got)
	}
	want("a.example.com", "/api/x",
		[2]string{"a.example.com/api/v2", "the path is not below /api/v2/"},
		[2]string{"a.example.com/api", ""},
		[2]string{"a.example.com", "a.example.com/api/ wins: its path is longer"},
		[2]string{"*.example.com/x", "the path is not below /x/"},
		[2]string{"*.example.com", "a.example.com/api/ wins: an exact host beats a wildcard and *"},
		[2]string{"*", "a.example.com/api/ wins: an exact host beats a wildcard and *"})
	want("b.example.com", "/",
		[2]string{"*.example.com/x", "the path is not below /x/"},
		[2]string{"*.example.com", ""},
		[2]string{"*", "*.example.com wins: a wildcard beats *"})
	want("b.test", "/%79/z",
		[2]string{"b.test/y", "it matches the path that a target may read, /y/z, but not the path as sent"},
		[2]string{"*", "it matches the path as sent, but a target may read the path as /y/z"})
	want("b.test", "/;x/y",
		[2]string{"b.test/y", "it matches the path that a target may read, /y, but not the path as sent"},
		[2]string{"*", "it matches the path as sent, but a target may read the path as /y"})
	assert.Empty(t, newTable(t, "a.test").Candidates("b.test", "/"))
	assert.Empty(t, (*routes.Table[string])(nil).Candidates("a.test", "/"))
}

func TestTheCandidateWithoutAReasonIsTheRouteThatServes(t *testing.T) {
	for _, hosts := range []int{1, 10} {
		w := newWorld(hosts)
		for range 30 {
			m, rs := model{}, []routes.Given[string]{}
			for range 3 * hosts {
				if r := newRoute(t, w.pattern()); m[r.Pattern] == "" {
					m[r.Pattern] = r.Value
					rs = append(rs, r)
				}
			}
			table, err := routes.New(rs)
			require.NoError(t, err)
			for range 100 {
				host, path := w.host(), w.path()
				want, _ := table.Lookup(host, path)
				var got *routes.Route[string]
				for _, c := range table.Candidates(host, path) {
					if c.Why == "" {
						require.Nil(t, got, "%s%s: only one candidate serves", host, path)
						got = c.Route
					}
				}
				require.Same(t, want, got, "%s%s among %v", host, path, m)
			}
		}
	}
}
