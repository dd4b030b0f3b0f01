package hostproxy

import (
	"crypto/tls"
	"net/http"
	"slices"

	"github.com/hostproxy/hostproxy/internal/reach"
	"github.com/hostproxy/hostproxy/internal/routes"
)

// What tests need from inside.

// UntilSignal is what ListenAndServe does about signals.
var UntilSignal = untilSignal

// Moved returns the host patterns whose TLS ends at r only before or only after
// f, sorted.
func Moved(r *Router, f func()) []string {
	old := r.table.Load()
	f()
	t := r.table.Load()
	coming, leaving := slices.Collect(routes.Only(t, old)), slices.Collect(routes.Only(old, t))
	return slices.Sorted(slices.Values(moved(old, t, routes.Differ(old, t, coming, leaving), len(coming))))
}

// SameHandler reports whether a route with one handler stays as it is when it
// is given the other.
func SameHandler(a, b http.Handler) bool { return reach.Same(a, b) }

// Hit returns the pattern of the route that the fast lane would serve a request
// by, "" if the other lane is to.
func Hit(r *Router, host, path string, state *tls.ConnectionState) string {
	hit, _ := r.hit(host, path, state)
	return hit.Pattern
}
