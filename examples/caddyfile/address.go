package caddyfile

import (
	"net"
	"regexp"
	"strconv"
	"strings"
)

// An address is an address of a site: a host and a port, with or without TLS.
type address struct {
	token
	host   string // "" means any
	scheme string // "http", "https" or ""
	port   int
}

// hostSyntax matches a host name, or one with a wildcard as its first label.
// Read-only.
var hostSyntax = regexp.MustCompile(`^(\*\.)?[\pL\pN_-]+(\.[\pL\pN_-]+)*\.?$`)

// address parses the address of a site.
func (t *translator) address(n token) (address, bool) {
	a := address{token: n}
	rest := n.text
	if scheme, after, has := strings.Cut(rest, "://"); has {
		a.scheme, rest = strings.ToLower(scheme), after
	}
	rest, path, _ := strings.Cut(rest, "/")
	port := ""
	a.host = rest
	if h, p, err := net.SplitHostPort(rest); err == nil {
		a.host, port = h, p
	}
	a.host = strings.ToLower(strings.Trim(a.host, "[]"))
	switch {
	case strings.ContainsAny(n.text, "{}"):
		return a, t.fault(n.place, n.text, "not supported: braces in the address of a site; {$NAME} is replaced when the file is read, other placeholders are not")
	case path != "":
		return a, t.fault(n.place, n.text, "not supported: a path in the address of a site; write the host alone, and handle /%s { … } in its block", path)
	case a.scheme != "" && a.scheme != "http" && a.scheme != "https":
		return a, t.fault(n.place, n.text, "the scheme %q is none for a site: want http:// or https://, or no scheme", a.scheme)
	case a.host == "0.0.0.0" || a.host == "::":
		return a, t.fault(n.place, n.text, "the address of a site is the host that clients ask for: write :%s for any host, and bind for the address to listen on", port)
	case a.host == "*":
		return a, t.fault(n.place, n.text, "not supported: * alone, which is any host of one label; write :PORT, or http:// or https:// alone, for any host")
	case a.host != "" && net.ParseIP(a.host) == nil && !hostSyntax.MatchString(a.host):
		return a, t.fault(n.place, n.text, "this is not the address of a site: want a host such as example.com, *.example.com or an IP address, with http:// or :port if need be; or a directive is outside of a block")
	}
	return a, t.port(&a, port)
}

// port sets the port of an address. "" means the implied one.
func (t *translator) port(a *address, port string) bool {
	switch {
	case port != "":
		n, err := strconv.Atoi(port)
		if err != nil || n < 1 || n > 65535 {
			return t.fault(a.place, a.text, "the port %q is not a number from 1 to 65535", port)
		}
		a.port = n
	case a.scheme == "http":
		a.port = t.global.httpPort
	default:
		a.port = t.global.httpsPort
	}
	if a.scheme == "http" && a.port == t.global.httpsPort || a.scheme == "https" && a.port == t.global.httpPort {
		return t.fault(a.place, a.text, "the scheme %s:// does not go with port %d", a.scheme, a.port)
	}
	return true
}

// secure reports whether the address is served over TLS. A site with a tls
// directive is, even without a host.
func (t *translator) secure(a address, hasTLS bool) bool {
	if a.scheme == "http" || a.port == t.global.httpPort {
		return false
	}
	return a.scheme == "https" || a.host != "" || a.port == t.global.httpsPort || hasTLS
}

// pattern returns the route pattern for the address.
func (a address) pattern() string {
	switch {
	case a.host == "":
		return "*"
	case strings.Contains(a.host, ":"):
		return "[" + a.host + "]"
	}
	return a.host
}
