package forward

import (
	"net/url"
	"strings"

	"github.com/hostproxy/hostproxy/internal/header"
	"github.com/hostproxy/hostproxy/internal/routes"
)

// The fields of a response that contain paths.
const (
	location        = "Location"
	contentLocation = "Content-Location"
	setCookie       = "Set-Cookie"
)

// A translation turns the paths of a target into those of its clients.
//
// Hot path: no locks, no allocation once the destination has room.
type translation struct {
	inner string   // prefix of the target's paths; "" matches all paths
	outer string   // prefix of the clients' paths in its place
	own   *url.URL // the target's URL
	hosts []string // the proxy's hosts, as clients write them
}

func (e *Encoder) newTranslation(t *Target, hosts []string) translation {
	return translation{inner: t.Base, outer: e.Prefix.Strip, own: t.URL, hosts: hosts}
}

// appendReference appends a URI reference in the form for clients, and reports
// whether that differs. An absolute path, or a URL of the target itself,
// becomes a path for clients. In a URL of the proxy only the path changes.
// Other URLs and relative references stay.
func (m *translation) appendReference(dst []byte, ref string) ([]byte, bool) {
	path, own := ref, false
	if scheme, authority, rest := splitURL(ref); authority != "" {
		switch path = rest; {
		case m.public(scheme, authority):
		case m.isOwn(scheme, authority):
			own = true
		default:
			return dst, false
		}
	} else if !strings.HasPrefix(ref, "/") || strings.HasPrefix(ref, "//") {
		return dst, false
	}
	tail := ""
	if i := strings.IndexAny(path, "?#"); i >= 0 {
		path, tail = path[:i], path[i:]
	}
	before := ref[:len(ref)-len(path)-len(tail)]
	if own {
		before = ""
	}
	start := len(dst)
	dst = append(dst, before...)
	at := len(dst)
	dst, known := m.appendPath(dst, path)
	// two slashes would begin a host
	if !known || before == "" && len(dst) > at+1 && (dst[at+1] == '/' || dst[at+1] == '\\') {
		return dst[:start], false
	}
	dst = append(dst, tail...)
	return dst, string(dst[start:]) != ref
}

// appendPath appends the client's path for one of the target's, and reports
// whether there is one. A path that has the clients' prefix already stays: the
// target has obeyed X-Forwarded-Prefix.
func (m *translation) appendPath(dst []byte, path string) ([]byte, bool) {
	switch {
	case m.outer != "" && routes.Below(path, m.outer):
		return append(dst, path...), true
	case !routes.Below(path, m.inner):
		return dst, false
	}
	before := len(dst)
	if dst = append(append(dst, m.outer...), path[len(m.inner):]...); len(dst) == before {
		dst = append(dst, '/')
	}
	return dst, true
}

// splitURL splits a URL that has an authority. The scheme is "" if the
// reference has none; the authority is "" if it has no authority.
func splitURL(ref string) (scheme, authority, rest string) {
	rest, found := strings.CutPrefix(ref, "//")
	if !found {
		if scheme, rest, found = strings.Cut(ref, "://"); !found || strings.ContainsAny(scheme, "/?#") {
			return "", "", ""
		}
	}
	end := strings.IndexAny(rest, "/?#\\")
	if end < 0 {
		end = len(rest)
	}
	return scheme, rest[:end], rest[end:]
}

// public reports whether a URL leads to the proxy, by one of its hosts. HTTP
// and HTTPS both count, since a target may not know which one clients use.
func (m *translation) public(scheme, authority string) bool {
	for _, host := range m.hosts {
		if host != "" && isWeb(scheme) && sameAuthority(scheme, authority, host) {
			return true
		}
	}
	return false
}

// isOwn reports whether a URL leads to the target itself.
func (m *translation) isOwn(scheme, authority string) bool {
	own := "http"
	switch m.own.Scheme {
	case "unix":
		return false
	case "https":
		own = "https"
	}
	return (scheme == "" || strings.EqualFold(scheme, own)) && sameAuthority(own, authority, m.own.Host)
}

// isWeb reports whether a scheme is http or https, or empty.
func isWeb(scheme string) bool {
	return scheme == "" || strings.EqualFold(scheme, "http") || strings.EqualFold(scheme, "https")
}

// sameAuthority reports whether a URL's authority is that host. A default port
// counts as no port.
func sameAuthority(scheme, authority, host string) bool {
	if header.EqualFold(authority, host) { // the usual case
		return true
	}
	return header.EqualFold(withoutPort(authority, scheme), withoutPort(host, scheme))
}

// withoutPort removes the default port of the scheme.
func withoutPort(authority, scheme string) string {
	port := ":80"
	if strings.EqualFold(scheme, "https") {
		port = ":443"
	}
	return strings.TrimSuffix(authority, port)
}

// appendCookie appends the value of a Set-Cookie with its Path in the form for
// clients, and reports whether that differs. A cookie for all paths of the
// target becomes one for all paths with the clients' prefix. A cookie named
// __Host-… has to keep its Path.
func (m *translation) appendCookie(dst []byte, cookie string) ([]byte, bool) {
	if len(cookie) >= len(hostPrefix) && strings.EqualFold(cookie[:len(hostPrefix)], hostPrefix) {
		return dst, false
	}
	start, done := len(dst), 0
	for at := strings.IndexByte(cookie, ';'); at >= 0; {
		end := len(cookie)
		if i := strings.IndexByte(cookie[at+1:], ';'); i >= 0 {
			end = at + 1 + i
		}
		name, value, _ := strings.Cut(cookie[at+1:end], "=")
		if strings.EqualFold(strings.Trim(name, " \t"), "path") {
			value = strings.TrimRight(value, " \t")
			path := strings.TrimLeft(value, " \t")
			from := at + 1 + len(name) + 1 + len(value) - len(path)
			before := len(dst)
			dst = append(dst, cookie[done:min(from, end)]...)
			mapped, known := m.appendScope(dst, path)
			if known {
				dst, done = mapped, from+len(path)
			} else {
				dst = dst[:before]
			}
		}
		if at = end; end == len(cookie) {
			break
		}
	}
	if done == 0 {
		return dst[:start], false
	}
	dst = append(dst, cookie[done:]...)
	return dst, string(dst[start:]) != cookie
}

// hostPrefix begins the names of cookies whose Path must be "/".
const hostPrefix = "__Host-"

// appendScope appends the clients' form of a cookie's Path, and reports whether
// there is one.
func (m *translation) appendScope(dst []byte, path string) ([]byte, bool) {
	if !strings.HasPrefix(path, "/") {
		return dst, false
	}
	if m.outer != "" && routes.Below(path, m.outer) || !routes.Below(m.inner, strings.TrimSuffix(path, "/")) {
		return m.appendPath(dst, path)
	}
	if m.outer == "" {
		return append(dst, '/'), true
	}
	return append(dst, m.outer...), true
}
