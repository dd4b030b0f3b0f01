package caddyfile

import (
	"maps"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/hostproxy/hostproxy/examples/caddyfile/site"
)

// matcher removes the matcher from the arguments of d, quoted or not: *, a
// path, or a name. It returns nil if d applies to all requests.
func (t *translator) matcher(d *directive, sc *scope) (*site.Match, bool) {
	name := d.name()
	if name == "try_files" || len(d.args()) == 0 {
		if name == "handle_path" {
			return nil, t.fault(d.place, name, "want a path, such as /api/*")
		}
		return nil, true
	}
	a := d.args()[0]
	if (name == "root" || name == "rewrite") && len(d.args()) == 1 {
		return nil, true
	}
	rest := append([]token{d.words[0]}, d.words[2:]...)
	switch {
	case strings.HasPrefix(a.text, "/"):
		if name == "handle_path" {
			rest[0].text = a.text // used as the prefix
		}
		d.words = rest
		return &site.Match{Paths: []string{t.path(a, name)}}, true
	case name == "handle_path":
		return nil, t.fault(a.place, name, "want a path, such as /api/*: other matchers are not allowed here")
	case a.text == "*":
		d.words = rest
		return nil, true
	case strings.HasPrefix(a.text, "@"):
		d.words = rest
		m, ok := sc.named[a.text]
		if !ok {
			return nil, t.fault(a.place, name, "the matcher %s is not defined in this block or one around it", a.text)
		}
		return m, true
	}
	return nil, true
}

// path reads the path in a matcher.
func (t *translator) path(a token, word string) string {
	p := t.literal(a, word)
	if strings.Contains(p, "%") {
		t.fault(a.place, word, "not supported: an escape in a path; paths are compared decoded")
	}
	if _, err := path.Match(p, "/"); err != nil {
		t.fault(a.place, word, "%q is not a path: want /api for that path alone, or /api/* for all below it", a.text)
	}
	return p
}

// define translates a named matcher.
func (t *translator) define(d directive, sc *scope) {
	m := &site.Match{}
	switch {
	case d.open && len(d.args()) > 0:
		t.fault(d.place, d.name(), "want a matcher on this line or a block with one per line, not both")
	case d.open:
		for _, line := range d.block {
			t.condition(line, m, d.name())
		}
	case len(d.args()) == 0:
		t.fault(d.place, d.name(), "want a matcher, such as path /api/*")
	case d.args()[0].quoted:
		t.fault(d.args()[0].place, d.name(), "not supported: expressions (CEL); write matchers such as path, method, header and not, or http.Handler middleware of your own in the program that -go prints")
	default:
		t.condition(directive{place: d.args()[0].place, words: d.args()}, m, d.name())
	}
	if _, ok := sc.named[d.name()]; ok && !sc.nested {
		t.fault(d.place, d.name(), "this matcher is defined already in this block")
	}
	sc.named[d.name()] = m
}

// condition adds one line of a matcher.
func (t *translator) condition(d directive, m *site.Match, set string) {
	name := d.name()
	if name != "not" && !t.noBlock(d) {
		return
	}
	switch name {
	case "path":
		for _, a := range t.some(d) {
			m.Paths = append(m.Paths, t.path(a, name))
		}
	case "host":
		for _, a := range t.some(d) {
			m.Hosts = append(m.Hosts, t.matchHost(a))
		}
	case "method":
		for _, a := range t.some(d) {
			m.Methods = append(m.Methods, strings.ToUpper(t.literal(a, name)))
		}
	case "header":
		t.matchHeader(d, m)
	case "query":
		t.matchQuery(d, m)
	case "remote_ip":
		m.RemoteIPs = append(m.RemoteIPs, t.ranges(d.place, t.some(d), name)...)
	case "client_ip":
		m.ClientIPs = append(m.ClientIPs, t.ranges(d.place, t.some(d), name)...)
	case "path_regexp":
		t.matchPathRE(d, m, set)
	case "header_regexp":
		t.matchHeaderRE(d, m, set)
	case "protocol":
		if a, ok := t.one(d); ok {
			if m.Protocol != "" {
				t.fault(d.place, name, "only one protocol is possible in a matcher")
			}
			if m.Protocol = strings.ToLower(a.text); !slices.Contains([]string{"http", "https", "grpc"}, m.Protocol) {
				t.fault(a.place, name, "not supported: %q; want http, https or grpc", a.text)
			}
		}
	case "not":
		t.not(d, m, set)
	case "file":
		t.fault(d.place, name, "not supported: a matcher by files; try_files rewrites to a file that exists")
	case "expression", "vars", "vars_regexp", "tls":
		t.fault(d.place, name, "not supported: write matchers such as path, method, header and not, or http.Handler middleware of your own in the program that -go prints")
	default:
		t.fault(d.place, name, "this is not a matcher: want path, path_regexp, host, method, header, header_regexp, query, remote_ip, client_ip, protocol or not")
	}
}

// matchHost reads the host in a matcher, in the form that it has in requests.
func (t *translator) matchHost(a token) string {
	host := strings.ToLower(t.literal(a, "host"))
	switch {
	case strings.ContainsFunc(host, func(r rune) bool { return r > 127 }):
		t.fault(a.place, "host", "not supported: %q; requests have the ASCII form of a host, which begins with xn--: write that", a.text)
	case strings.ContainsAny(host, "/") || strings.Count(host, ":") == 1:
		t.fault(a.place, "host", "%q never matches: want a host alone, without scheme, port and path", a.text)
	}
	return host
}

// some returns the arguments of d. There must be at least one, and no block.
func (t *translator) some(d directive) []token {
	t.noBlock(d)
	if len(d.args()) == 0 {
		t.fault(d.place, d.name(), "want an argument")
	}
	return d.args()
}

func (t *translator) matchHeader(d directive, m *site.Match) {
	args := d.args()
	if m.Header == nil {
		m.Header = http.Header{}
	}
	switch {
	case len(args) == 1 && strings.HasPrefix(args[0].text, "!") && len(args[0].text) > 1:
		m.Header[http.CanonicalHeaderKey(args[0].text[1:])] = nil
	case len(args) == 2 && !strings.HasPrefix(args[0].text, "!"):
		m.Header.Add(args[0].text, t.text(args[1], d.name()))
	default:
		t.fault(d.place, d.name(), "want a header and a value, such as Upgrade websocket or X-Debug *, or !X-Debug for a header that must be missing")
	}
}

func (t *translator) matchQuery(d directive, m *site.Match) {
	if m.Query == nil {
		m.Query = url.Values{}
	}
	for _, a := range t.some(d) {
		name, v, ok := strings.Cut(t.literal(a, d.name()), "=")
		switch {
		case a.text == "":
		case !ok:
			t.fault(a.place, d.name(), "want parameter=value, or parameter=* for any value, got %q", a.text)
		default:
			m.Query.Add(name, v)
		}
	}
}

// expr compiles a regular expression.
func (t *translator) expr(a token, word string) *regexp.Regexp {
	re, err := regexp.Compile(t.literal(a, word))
	if err != nil {
		t.fault(a.place, word, "%q is not a regular expression: %v", a.text, err)
		return regexp.MustCompile("")
	}
	return re
}

func (t *translator) matchPathRE(d directive, m *site.Match, set string) {
	args := d.args()
	if len(args) < 1 || len(args) > 2 {
		t.fault(d.place, d.name(), "want a regular expression, with a name in front of it if need be")
		return
	}
	if m.PathRE != nil {
		t.fault(d.place, d.name(), "only one path_regexp is possible in a matcher")
	}
	m.PathRE = &site.RE{Name: strings.TrimPrefix(set, "@"), Expr: t.expr(args[len(args)-1], d.name())}
	if len(args) == 2 {
		m.PathRE.Name = args[0].text
	}
}

func (t *translator) matchHeaderRE(d directive, m *site.Match, set string) {
	args := d.args()
	if len(args) < 2 || len(args) > 3 {
		t.fault(d.place, d.name(), "want a header and a regular expression, with a name in front of them if need be")
		return
	}
	h := site.HeaderRE{Field: args[len(args)-2].text, RE: site.RE{Name: strings.TrimPrefix(set, "@"), Expr: t.expr(args[len(args)-1], d.name())}}
	if len(args) == 3 {
		h.RE.Name = args[0].text
	}
	m.HeaderRE = append(m.HeaderRE, h)
}

// not translates a matcher that must not match: one on the line, or a whole
// block.
func (t *translator) not(d directive, m *site.Match, set string) {
	inner := &site.Match{}
	switch {
	case d.open && len(d.args()) == 0:
		for _, line := range d.block {
			t.condition(line, inner, set)
		}
	case !d.open && len(d.args()) > 0:
		t.condition(directive{place: d.args()[0].place, words: d.args()}, inner, set)
	default:
		t.fault(d.place, "not", "want a matcher on the line, or a block of matchers")
	}
	m.Not = append(m.Not, inner)
}

// unsupported are Caddy directives that are refused, with the alternative.
// Read-only.
func unsupported() map[string]string {
	return maps.Clone(map[string]string{
		"acme_server": "this proxy is no CA for others",
		"fs":          "files come from the local disk",
		"import":      "import must be the first word of its line",
		"intercept":   "set Upstream.Pages or Upstream.ModifyResponse in the program that -go prints",
		"invoke":      "named routes; use a snippet and import",
		"log_append":  "Router.Observe gets all fields of a request in the program that -go prints",
		"log_name":    "each site has its own log",
		"log_skip":    "filter in Router.Observe in the program that -go prints",
		"skip_log":    "filter in Router.Observe in the program that -go prints",
		"map":         "write matchers, or set headers in Upstream.Rewrite in the program that -go prints",
		"method":      "change the method in Upstream.Rewrite in the program that -go prints",
		"metrics":     "use examples/prometheus in the program that -go prints",
		"php_fastcgi": "there is no FastCGI here; run an HTTP server for PHP, such as FrankenPHP or nginx with php-fpm, and use reverse_proxy",
		"push":        "browsers have removed HTTP/2 push; send Link: rel=preload by header",
		"templates":   "render templates with html/template in a handler of the program that -go prints",
		"timeouts":    "set Server.ReadHeaderTimeout and Upstream.IdleTimeout in the program that -go prints",
		"tracing":     "use examples/otel in the program that -go prints",
		"vars":        "write the values where they are used, or {$NAME} of the environment",
		"order":       "this is a global option, and directives have Caddy's order; use route for another one",
	})
}
