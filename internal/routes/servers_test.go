package routes_test

import (
	"net/url"
	gopath "path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// servers are the ways in which some well-known servers read a path, each
// written after the server's code and not after ours. "" means that the server
// refuses the path. Read-only.
var servers = map[string]func(path string) string{
	"Tomcat":               func(path string) string { return tomcat(path, true) },
	"Tomcat with %2F kept": func(path string) string { return tomcat(path, false) },
	"nginx": func(path string) string {
		text, err := url.PathUnescape(path)
		if err != nil {
			return ""
		}
		return gopath.Clean("/" + text)
	},
	"IIS": func(path string) string {
		text, err := url.PathUnescape(path)
		if err != nil {
			return ""
		}
		return gopath.Clean("/" + strings.ReplaceAll(text, `\`, "/"))
	},
	"a server that resolves dots as RFC 3986 says": func(path string) string {
		u, err := url.Parse("http://a.test/")
		if err != nil {
			return ""
		}
		ref, err := u.Parse("http://a.test" + path)
		if err != nil {
			return ""
		}
		return ref.JoinPath().Path
	},
	"a server that decodes first and drops parameters then": func(path string) string {
		text, err := url.PathUnescape(path)
		if err != nil {
			return ""
		}
		return gopath.Clean(parameters.ReplaceAllString(text, ""))
	},
	"HAProxy that resolves dots, then merges slashes": func(path string) string { return slashRuns.ReplaceAllString(resolved(path), "/") },
	"Envoy with normalize_path and merge_slashes": func(path string) string {
		return slashRuns.ReplaceAllString(resolved(encodedDots.ReplaceAllString(strings.ReplaceAll(path, `\`, "/"), ".")), "/")
	},
	"nginx behind a proxy that resolves dots": func(path string) string {
		text, err := url.PathUnescape(resolved(path))
		if err != nil {
			return ""
		}
		return gopath.Clean("/" + text)
	},
	"Tomcat behind a proxy that resolves dots":             func(path string) string { return tomcat(resolved(path), true) },
	"a server that drops parameters and does nothing else": func(path string) string { return parameters.ReplaceAllString(path, "") },
}

// Read-only.
var (
	parameters  = regexp.MustCompile(`;[^/]*`)
	slashRuns   = regexp.MustCompile(`//+`)
	encodedDots = regexp.MustCompile(`(?i)%2e`)
)

// tomcat does what CoyoteAdapter does: path parameters, then escapes, then
// backslashes, slashes and dot segments.
func tomcat(path string, decodeSlash bool) string {
	path = parameters.ReplaceAllString(path, "")
	if !decodeSlash {
		path = regexp.MustCompile(`(?i)%2f`).ReplaceAllString(path, "%252F")
	}
	text, err := url.PathUnescape(path)
	if err != nil {
		return ""
	}
	return gopath.Clean("/" + strings.ReplaceAll(text, `\`, "/"))
}

// prefixes are the path prefixes of the routes, except the route for all paths,
// longest first. Read-only.
var prefixes = []string{"/public/deep", "/team/inner", "/public", "/admin"}

// checkServers compares the route of a path with the route of each server's
// reading of it.
func checkServers(t *testing.T, path string) {
	t.Helper()
	got := served(newTable(t, "b.test", "b.test/admin", "b.test/public", "b.test/public/deep", "b.test/team/inner"), "b.test", path)
	if got == "ambiguous" {
		return
	}
	for name, read := range servers {
		seen, want := read(path), "b.test"
		if i := slices.IndexFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(seen+"/", prefix+"/") }); i >= 0 {
			want += prefixes[i]
		}
		require.True(t, seen == "" || want == got, "%s reads %q as %q: want %s, got %s", name, path, seen, want, got)
	}
}

// oddPaths are seeds and cases: each was once, or could be, read in two ways.
// Read-only.
var oddPaths = []string{
	"/admin;x/secret", "/;x/admin/secret", "/admin%3Bx/secret", "/admin%3bx/secret", "/;/;/admin", "/public;x/deep;y/z", "/public/;x/deep",
	"/admin;%2Fx/secret", "/x;%2F..%2Fadmin/secret", "/public;/..;/admin", "/x%2Fy/../admin/secret", "/x%5Cy/../admin/secret", "/y/../admin//../secret",
	"/%61dmin/../x", "/public/..;a=b/admin", "/public;v=1/x", "/admin;", "/admin;x", "/admin/;x", "//admin;x/..", "/..;/admin", "/%2e%2e;/admin",
	"/admin;x%2F..%2Fpublic", `/public;x\deep`, "/public/deep;jsessionid=1", "/%3B/admin", "/a;b=c;d/e", "/;admin", "/.;/admin", "/%2F;x%2Fadmin",
	"/team///../inner/secret", "/team//../inner", "/team/a/..;/../inner;x/secret", "/team/%2e%2e/../%69nner", `/team/a;//\..\inner`,
}

// threats.md: a path that a target may read as one of another route is refused,
// whatever the target runs on.
func TestNoServerReadsAPathAsThatOfAnotherRoute(t *testing.T) {
	for _, path := range oddPaths {
		t.Run(strings.ReplaceAll(path, "/", " "), func(t *testing.T) { checkServers(t, path) })
	}
}

func FuzzWhatServersRead(f *testing.F) {
	for _, path := range oddPaths {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if strings.HasPrefix(path, "/") && !strings.ContainsAny(path, "?#") {
			checkServers(t, path)
		}
	})
}
