package forward

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"path"
	"strconv"
	"strings"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

// ParseTarget reads a target's address: host:port, unix:/path, or a URL.
// (url.Parse would read the host of host:port as a scheme.) The error quotes s,
// and says which rule it breaks and how to keep it.
func ParseTarget(s string) (*url.URL, error) {
	t, err := parseTarget(s)
	if err == nil {
		err = checkTarget(t)
	}
	if err != nil {
		return nil, fmt.Errorf("target %q: %w", s, err)
	}
	return t, nil
}

func parseTarget(s string) (*url.URL, error) {
	switch {
	case s == "":
		return nil, errors.New("it is empty: write host:port, a URL such as http://127.0.0.1:8080, or unix:/path")
	case strings.HasPrefix(s, "unix:") && !strings.HasPrefix(s, "unix://"):
		return &url.URL{Scheme: "unix", Path: strings.TrimPrefix(s, "unix:")}, nil
	case isList(s):
		return nil, errors.New("a target is one address: pass each one as a separate argument")
	case strings.Contains(s, "://"):
		t, err := url.Parse(s)
		if err != nil {
			return nil, plainCause(err)
		}
		return t, nil
	}
	if err := checkSlashes(s); err != nil {
		return nil, err
	}
	host, port, err := hostname.Split(s)
	if err != nil {
		return nil, addressRule("", s, err)
	}
	if port == "" {
		return nil, fmt.Errorf("the port is missing: write %s:80 or another port", bracketed(host))
	}
	return &url.URL{Scheme: "http", Host: s}, nil
}

// isList reports whether s has a comma in its host and port.
func isList(s string) bool {
	_, rest, found := strings.Cut(s, "://")
	if !found {
		rest = s
	}
	authority, _, _ := strings.Cut(rest, "/")
	return strings.Contains(authority, ",")
}

// errExtra is the rule for the parts of a URL that a target cannot have.
var errExtra = errors.New("a target has no user, query or fragment: write only scheme, host, port and path")

// checkSlashes returns the rule that a target without "://" breaks if it was
// probably meant as a URL, or nil.
func checkSlashes(s string) error {
	for _, scheme := range []string{"https", "http", "h2c"} {
		rest, is := strings.CutPrefix(s, scheme)
		address := strings.TrimLeft(rest, ":/")
		if is && (strings.HasPrefix(rest, "//") || strings.HasPrefix(rest, ":/") || strings.HasPrefix(rest, ":") && strings.Contains(address, ":")) {
			return fmt.Errorf("a scheme ends with a colon and two slashes: write %s://%s", scheme, address)
		}
	}
	switch {
	case strings.ContainsAny(s, "?#@"):
		return errExtra
	case strings.Contains(s, "/"):
		return fmt.Errorf("a path requires a scheme: write http://%s", s)
	}
	return nil
}

// plainCause returns the error of net/url without the URL, which the caller
// quotes.
func plainCause(err error) error {
	var e *url.Error
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

func bracketed(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

// otherSchemes has the schemes of other programs, each with the protocol that
// it means and the scheme to use here. Read-only.
var otherSchemes = map[string][2]string{
	"ws": {"WebSocket", "http"}, "wss": {"WebSocket over TLS", "https"}, "h2": {"HTTP/2 over TLS", "https"},
	"grpc": {"gRPC", "h2c"}, "grpcs": {"gRPC over TLS", "https"}, "dns": {"gRPC", "h2c"}, "passthrough": {"gRPC", "h2c"},
}

// checkTarget returns the rule that a target's URL breaks, or nil.
func checkTarget(u *url.URL) error {
	if u == nil {
		return errors.New("nil URL: want one such as http://127.0.0.1:8080")
	}
	if u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return errExtra
	}
	switch u.Scheme {
	case "unix":
		return checkSocket(u)
	case "http", "https", "h2c":
		host, port, err := hostname.Split(u.Host)
		switch {
		case err != nil:
			return addressRule(u.Scheme+"://", u.Host, err)
		case u.Scheme == "h2c" && port == "":
			return fmt.Errorf("the port is missing, and h2c has no default: write h2c://%s:50051 or another port", bracketed(host))
		}
		return nil
	}
	if use, ok := otherSchemes[u.Scheme]; ok {
		at := cmp.Or(u.Host, strings.Trim(u.Path, "/"), "host:port")
		return fmt.Errorf("the scheme %q is not supported: for %s write %s://%s", u.Scheme, use[0], use[1], at)
	}
	return fmt.Errorf("the scheme %q is not supported: use http, https, h2c or unix", u.Scheme)
}

func checkSocket(u *url.URL) error {
	switch {
	case u.Host != "" || !path.IsAbs(u.Path):
		return errors.New("unix requires an absolute path: write unix:/run/app.sock")
	case strings.Contains(u.Path, ":/"):
		return errors.New("unix takes only the path of the socket: remove what follows it")
	}
	return nil
}

// addressRule is the rule that an address breaks, which follows scheme. err is
// hostname's error. A port alone is the commonest of these mistakes.
func addressRule(scheme, address string, err error) error {
	port := strings.TrimPrefix(address, ":")
	if n, bad := strconv.ParseUint(port, 10, 16); bad == nil && n > 0 {
		return fmt.Errorf("a port needs a host: write %slocalhost:%d", scheme, n)
	}
	return rule(err)
}

// rule returns the rule of package hostname that was broken, without the host.
func rule(err error) error {
	var broken interface{ Rule() string }
	if errors.As(err, &broken) {
		return errors.New(broken.Rule())
	}
	return err
}
