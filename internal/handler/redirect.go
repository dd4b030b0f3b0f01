package handler

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/hostname"
)

// A Redirect is a handler that sends clients to another host. Equal values
// behave the same.
type Redirect struct {
	host string // canonical
	port string // "" keeps the port of the request
}

// NewRedirect parses a host with or without a port. An IPv6 address without a
// port needs no brackets. The error quotes the host and names the rule that it
// breaks.
func NewRedirect(to string) (Redirect, error) {
	host, port, err := splitRedirect(to)
	if err != nil {
		return Redirect{}, fmt.Errorf("redirect: %w", err)
	}
	return Redirect{host, port}, nil
}

func splitRedirect(to string) (host, port string, err error) {
	rule := ""
	switch {
	case strings.Contains(to, "://"):
		rule = "a redirect keeps the scheme of the request: write only the host"
	case strings.ContainsAny(to, "/?#"):
		rule = "a redirect keeps the path and query of the request: write only the host"
	case strings.Contains(to, "*"):
		rule = "a redirect leads to one host: \"*\" is allowed only in patterns"
	case strings.HasSuffix(to, ":"):
		rule = "a port is a number from 1 to 65535: omit the colon to keep the port of the request"
	}
	if rule != "" {
		return "", "", fmt.Errorf("host %q: %s", to, rule)
	}
	host, port, err = hostname.Split(to)
	if address, bad := netip.ParseAddr(to); err != nil && bad == nil && address.Zone() == "" {
		host, err = hostname.Canonical(to)
	}
	return host, port, err
}

// ServeHTTP answers with 308 and the same path and query on the other host.
func (r Redirect) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	w.Header().Set("Location", r.location(q))
	w.WriteHeader(http.StatusPermanentRedirect)
}

// location returns the URL for q. If r has no port, scheme and port are those
// that the client used. Port 443 means https, and port 80 http.
func (r Redirect) location(q *http.Request) string {
	scheme, asked := "http", q.Host
	if q.TLS != nil {
		scheme = "https"
	}
	if x := exchange.FromContext(q.Context()); x != nil {
		scheme, asked = x.ClientScheme, x.ClientHost
	}
	host, port := r.host, r.port
	switch port {
	case "":
		_, port, _ = hostname.Split(asked)
	case "443":
		scheme = "https"
	case "80":
		scheme = "http"
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port != "" && port != "443" && port != "80" {
		host += ":" + port
	}
	uri := exchange.WireURI(q)
	if !strings.HasPrefix(uri, "/") { // OPTIONS *, which has no other URL (RFC 9112, 3.2.4)
		uri = ""
	}
	return scheme + "://" + host + uri
}
