package routes_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/hostproxy/hostproxy/internal/routes"
)

// many is the number of different requests that a benchmark repeats, spread
// over all hosts.
const many = 4096

// hostRoutes returns routes for n hosts, in the form for New.
func hostRoutes(t testing.TB, n int, format string) []routes.Given[string] {
	rs := make([]routes.Given[string], n)
	for i := range rs {
		rs[i] = newRoute(t, fmt.Sprintf(format, i))
	}
	return rs
}

func build(b *testing.B, rs []routes.Given[string]) *routes.Table[string] {
	b.Helper()
	table, err := routes.New(rs)
	if err != nil {
		b.Fatal(err)
	}
	return table
}

func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{1, 100, 10_000, 100_000, 1_000_000} {
		exact := build(b, hostRoutes(b, n, "tenant-%d.apps.example.com"))
		wild := build(b, append(hostRoutes(b, n, "*.tenant-%d.example.com"), hostRoutes(b, n, "tenant-%d.apps.example.com")...))
		for _, c := range []struct {
			result, format string
			table          *routes.Table[string]
			hosts          int
		}{
			{"exact", "tenant-%d.apps.example.com", exact, many},
			{"exact-one-host", "tenant-%d.apps.example.com", exact, 1},
			{"wildcard", "www.tenant-%d.example.com", wild, many},
			{"miss", "tenant-%d.apps.example.net", exact, many},
			{"miss-wildcard", "tenant-%d.apps.example.net", wild, many},
		} {
			var hosts [many]string
			for i := range hosts {
				hosts[i] = fmt.Sprintf(c.format, rand.IntN(n)*min(c.hosts-1, 1))
			}
			b.Run(fmt.Sprintf("hosts=%d/result=%s", n, c.result), func(b *testing.B) {
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					_, _ = c.table.Lookup(hosts[i%many], "/")
				}
			})
		}
	}
}

func BenchmarkLookupPath(b *testing.B) {
	for _, n := range []int{1, 10, 1000} {
		rs := []routes.Given[string]{newRoute(b, "example.com")}
		for i := range n {
			rs = append(rs, newRoute(b, fmt.Sprintf("example.com/api/v%d/", i)))
		}
		table := build(b, rs)
		for name, path := range map[string]string{"prefix": "/api/v0/users/17", "host": "/index.html", "odd": "/api/v0/a%20b/../c"} {
			b.Run(fmt.Sprintf("paths=%d/result=%s", n, name), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					_, _ = table.Lookup("example.com", path)
				}
			})
		}
	}
}

func BenchmarkChange(b *testing.B) {
	for _, n := range []int{1, 100, 10_000, 100_000, 300_000, 1_000_000} {
		table, extra := build(b, hostRoutes(b, n, "tenant-%d.apps.example.com")), hostRoutes(b, many, "new-%d.example.com")
		b.Run(fmt.Sprintf("hosts=%d/op=with", n), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				table.With(extra[i%many].Route)
			}
		})
		b.Run(fmt.Sprintf("hosts=%d/op=with-and-without", n), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				_, _ = table.With(extra[i%many].Route).Without(extra[i%many].Pattern)
			}
		})
	}
}

func BenchmarkBuild(b *testing.B) {
	for _, n := range []int{10_000, 100_000, 1_000_000} {
		rs := hostRoutes(b, n, "tenant-%d.apps.example.com")
		b.Run(fmt.Sprintf("hosts=%d/by=New", n), func(b *testing.B) {
			for b.Loop() {
				build(b, rs)
			}
		})
		b.Run(fmt.Sprintf("hosts=%d/by=With", n), func(b *testing.B) {
			for b.Loop() {
				var table *routes.Table[string]
				for _, r := range rs {
					table = table.With(r.Route)
				}
			}
		})
	}
}
