package hostproxy

import (
	"crypto/tls"
	"net/http"
	"slices"

	"github.com/hostproxy/hostproxy/internal/reach"
	"github.com/hostproxy/hostproxy/internal/routes"
)

// What external tests need from inside the package.

// UntilSignal is the signal handling of ListenAndServe.
var UntilSignal = untilSignal

// Moved returns, sorted, the host patterns whose TLS ends at r before f but not
// after it, or after f but not before it.
func Moved(r *Router, f func()) []string {
	old := r.table.Load()
	f()
	t := r.table.Load()
	coming, leaving := slices.Collect(routes.Only(t, old)), slices.Collect(routes.Only(old, t))
	return slices.Sorted(slices.Values(moved(old, t, routes.Differ(old, t, coming, leaving), len(coming))))
}

// SameHandler reports whether a route stays as it is when its handler a is
// replaced by b.
func SameHandler(a, b http.Handler) bool { return reach.Same(a, b) }

// Hit returns the pattern of the route by which the fast lane would serve a
// request, "" if the handler lane serves it.
func Hit(r *Router, host, path string, state *tls.ConnectionState) string {
	hit, _ := r.hit(host, path, state)
	return hit.Pattern
}
