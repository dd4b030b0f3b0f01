package site

import (
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/hostproxy/hostproxy"
)

// placeholder matches text that looks like a placeholder. Other braces are
// plain text. Read-only.
var placeholder = regexp.MustCompile(`\{[a-zA-Z_%?][^{}\s"',;]*\}`)

// Placeholders returns the placeholders in s, known or not.
func Placeholders(s string) []string { return placeholder.FindAllString(s, -1) }

// Known reports whether Expand replaces a placeholder, such as {host}.
func Known(name string) bool {
	q := &http.Request{URL: &url.URL{Path: "/"}, Header: http.Header{}}
	_, ok := value(strings.Trim(name, "{}"), q)
	return ok
}

// Expand replaces the known placeholders in s. Any other text in braces stays.
func Expand(s string, q *http.Request) string {
	return expand(s, q, func(v string) string { return v })
}

func expand(s string, q *http.Request, escape func(string) string) string {
	if !strings.Contains(s, "{") {
		return s
	}
	return placeholder.ReplaceAllStringFunc(s, func(p string) string {
		if v, ok := value(p[1:len(p)-1], q); ok {
			return escape(v)
		}
		return p
	})
}

// value returns the value of a placeholder by its short or long name.
func value(name string, q *http.Request) (string, bool) {
	for _, group := range [][2]string{{"header.", "http.request.header."}, {"cookie.", "http.request.cookie."},
		{"query.", "http.request.uri.query."}, {"labels.", "http.request.host.labels."}, {"re.", "http.regexp."}, {"path.", "http.request.uri.path."}} {
		for _, prefix := range group {
			if rest, ok := strings.CutPrefix(name, prefix); ok {
				if v, ok := keyed(group[0], rest, q); ok {
					return v, true
				}
			}
		}
	}
	if rest, ok := strings.CutPrefix(name, "env."); ok {
		return os.Getenv(rest), true
	}
	if v, ok := urlValue(name, q); ok {
		return v, true
	}
	return requestValue(name, q)
}

// keyed returns the value of a placeholder with a key, such as
// {header.User-Agent}.
func keyed(group, key string, q *http.Request) (string, bool) {
	switch group {
	case "header.":
		return strings.Join(headerValues(q, key), ","), true
	case "cookie.":
		c, err := q.Cookie(key)
		if err != nil {
			return "", true
		}
		return c.Value, true
	case "query.":
		return strings.Join(q.URL.Query()[key], ","), true
	case "re.":
		return stateOf(q).groups[key], true
	}
	n, err := strconv.Atoi(key)
	if err != nil || n < 0 {
		return "", false
	}
	parts := strings.Split(strings.Trim(q.URL.Path, "/"), "/")
	if group == "labels." {
		parts = strings.Split(hostname(q), ".")
		n = len(parts) - 1 - n
	}
	if n < 0 || n >= len(parts) {
		return "", true
	}
	return parts[n], true
}

// urlValue returns the value of a placeholder for the path and query, either
// current or from before the first rewrite.
func urlValue(name string, q *http.Request) (string, bool) {
	u := q.URL
	rest, ok := strings.CutPrefix(name, "http.request.uri")
	if !ok {
		if rest, ok = strings.CutPrefix(name, "http.request.orig_uri"); !ok {
			rest, ok = strings.CutPrefix(name, "orig_")
			rest = "." + rest
		}
		if s := stateOf(q); ok && s.original != nil {
			u = s.original
		}
	}
	if !ok {
		rest = "." + name
	}
	switch rest {
	case "", ".uri":
		return u.RequestURI(), true
	case ".path":
		return u.Path, true
	case ".%path", ".path_escaped":
		return u.EscapedPath(), true
	case ".file", ".path.file":
		_, file := path.Split(u.Path)
		return file, true
	case ".dir", ".path.dir":
		dir, _ := path.Split(u.Path)
		return dir, true
	case ".query":
		return u.RawQuery, true
	case ".?query", ".prefixed_query":
		if u.RawQuery == "" {
			return "", true
		}
		return "?" + u.RawQuery, true
	}
	return "", false
}

// requestValue returns the value of any other placeholder.
func requestValue(name string, q *http.Request) (string, bool) {
	switch name {
	case "host", "http.request.host":
		return hostname(q), true
	case "hostport", "http.request.hostport":
		return q.Host, true
	case "port", "http.request.port":
		_, port, _ := net.SplitHostPort(q.Host)
		return port, true
	case "method", "http.request.method":
		return q.Method, true
	case "scheme", "http.request.scheme":
		return scheme(q), true
	case "http.request.proto":
		return q.Proto, true
	case "remote", "http.request.remote":
		return q.RemoteAddr, true
	case "remote_host", "http.request.remote.host":
		host, _, err := net.SplitHostPort(q.RemoteAddr)
		if err != nil {
			return q.RemoteAddr, true
		}
		return host, true
	case "remote_port", "http.request.remote.port":
		_, port, _ := net.SplitHostPort(q.RemoteAddr)
		return port, true
	case "client_ip", "http.vars.client_ip":
		if a := hostproxy.ClientAddr(q); a.IsValid() {
			return a.String(), true
		}
		return "", true
	case "err.status_code", "http.error.status_code":
		return itoa(stateOf(q).status), true
	case "err.status_text", "http.error.status_text":
		return http.StatusText(stateOf(q).status), true
	case "http.vars.root":
		return stateOf(q).root, true
	case "system.hostname":
		host, err := os.Hostname()
		return host, err == nil
	}
	return "", false
}

// hostname returns the host of a request without its port.
func hostname(q *http.Request) string {
	host, _, err := net.SplitHostPort(q.Host)
	if err != nil {
		return q.Host
	}
	return host
}

func scheme(q *http.Request) string {
	if q.TLS != nil {
		return "https"
	}
	return "http"
}

func itoa(n int) string { return strconv.Itoa(n) }
