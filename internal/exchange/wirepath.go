package exchange

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/hostproxy/hostproxy/internal/h1"
)

// WirePath returns the path of q as the client spelled it, or as handlers
// around us have changed it. url.URL alone would respell some paths.
func WirePath(q *http.Request) string {
	path, _, _ := strings.Cut(q.RequestURI, "?")
	if !strings.HasPrefix(path, "/") || !spells(path, q.URL) {
		path = q.URL.RawPath
	}
	if h1.ValidTarget(path) && !strings.Contains(path, "?") && spells(path, q.URL) {
		return path
	}
	path = q.URL.EscapedPath()
	switch {
	case path != "" || !pathless(q.RequestURI):
		return path
	case q.Method == http.MethodOptions && q.URL.RawQuery == "" && !q.URL.ForceQuery:
		return "*" // a question about the server (RFC 9112, 3.2.4)
	}
	return "/" // RFC 9112, 3.2.1: decisions by path must see the target's path
}

// pathless reports whether a request target is a URL without a path.
func pathless(target string) bool {
	scheme, rest, ok := strings.Cut(target, "://")
	authority, _, _ := strings.Cut(rest, "?")
	return ok && !strings.ContainsAny(scheme, "/?") && !strings.Contains(authority, "/")
}

// WireURI is WirePath with the query.
func WireURI(q *http.Request) string {
	if q.URL.RawQuery != "" || q.URL.ForceQuery {
		return WirePath(q) + "?" + q.URL.RawQuery
	}
	return WirePath(q)
}

// spells reports whether the escaped path is a spelling of u's path.
func spells(path string, u *url.URL) bool {
	unescaped, err := url.PathUnescape(path)
	return err == nil && unescaped == u.Path
}
