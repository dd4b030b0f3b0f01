package caddyfile

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/caddyfile/site"
	"github.com/hostproxy/hostproxy/examples/compress"
)

// A translator turns the blocks of a file into a plan.
type translator struct {
	options  Options
	faults   Faults
	global   global
	plan     *plan
	handlers int  // number of handlers composed so far
	inErrors bool // true within handle_errors
}

func newTranslator(o Options) *translator {
	return &translator{options: o, global: global{httpPort: 80, httpsPort: 443},
		plan: &plan{encoded: map[http.Handler]encoded{}, hooks: map[*hostproxy.Upstream]*hooks{}}}
}

// fault adds a fault and returns false.
func (t *translator) fault(at place, word, format string, args ...any) bool {
	t.faults = append(t.faults, Fault{at.file, at.line, at.col, word, fmt.Sprintf(format, args...)})
	return false
}

// broken reports whether quotes or braces are wrong. The blocks are then not
// what they seem.
func (t *translator) broken() bool {
	return slices.ContainsFunc(t.faults, func(f Fault) bool {
		return f.Word == "{" || f.Word == "}" || strings.Contains(f.Text, "is not closed")
	})
}

// A scope is the block whose directives are being translated: a site, or a
// block in it.
type scope struct {
	site    *siteScope
	named   map[string]*site.Match // named matchers of this block and of the blocks around it
	nested  bool
	literal bool // within route: directives act in the order of the file
}

// A siteScope has the settings of a whole site.
type siteScope struct {
	at    place
	bind  []string
	bound bool // a directive of the site has set bind
	tls   *tlsBlock
	logs  []*site.AccessLog
	proxy []*proxyTrust // trusted_proxies of each reverse_proxy

	errors    site.First // handlers of handle_errors
	errorsAt  place
	upstreams []*hostproxy.Upstream
	auth      bool // whether there is a basic_auth
}

// translate makes the plan. After faults, it is incomplete.
func (t *translator) translate(start place, options *section, sites []section) *plan {
	if options != nil {
		t.readGlobal(options)
	}
	if len(sites) == 0 && len(t.faults) == 0 {
		t.fault(start, "", "the file has no site: write an address such as example.com and a block")
	}
	for _, s := range sites {
		t.site(s)
	}
	if t.handlers > maxHandlers {
		t.fault(start, "", "the file makes more than %d handlers: split it", maxHandlers)
	}
	if len(t.faults) == 0 {
		t.finish()
	}
	return t.plan
}

// site translates one site and adds it to the servers of its addresses.
func (t *translator) site(s section) {
	sc := &scope{site: &siteScope{at: s.place, bind: t.global.bind}, named: map[string]*site.Match{}}
	entries := t.block(s.block, sc)
	h := t.withErrors(t.compose(grouped(entries), site.Empty{}), sc.site)
	var patterns []string
	for _, n := range s.names {
		a, ok := t.address(n)
		if !ok {
			continue
		}
		for _, host := range sc.site.listen() {
			if srv := t.server(a, host, t.secure(a, sc.site.tls != nil)); srv != nil {
				t.route(srv, a, h, sc.site)
				patterns = append(patterns, a.pattern())
			}
		}
	}
	for _, l := range sc.site.logs {
		l.Patterns = slices.Compact(slices.Sorted(slices.Values(patterns)))
	}
}

// listen returns the addresses to listen on, without ports.
func (s *siteScope) listen() []string {
	if len(s.bind) == 0 {
		return []string{""}
	}
	return s.bind
}

// route adds the route of one address.
func (t *translator) route(srv *server, a address, h http.Handler, s *siteScope) {
	for _, r := range srv.routes {
		if r.pattern == a.pattern() {
			t.fault(a.place, a.text, "the address exists already, at line %d: each site needs an address of its own", r.at.line)
			return
		}
	}
	srv.routes = append(srv.routes, route{at: a.place, pattern: a.pattern(), handler: h})
	for _, l := range s.logs {
		if !slices.Contains(srv.logs, l) {
			srv.logs = append(srv.logs, l)
		}
	}
	t.trust(srv, s.proxy)
	if srv.tls {
		t.hostTLS(srv, a, s.tls)
	} else if s.tls != nil {
		t.fault(s.tls.place, "tls", "the site has the address %s, which is served without TLS: give it a block of its own", a.text)
	}
}

// block translates the directives of a block.
func (t *translator) block(ds []directive, sc *scope) (es []entry) {
	named := map[string]*site.Match{}
	for k, v := range sc.named {
		named[k] = v
	}
	sc.named = named
	for _, d := range ds {
		if strings.HasPrefix(d.name(), "@") && !d.words[0].quoted {
			t.define(d, sc)
		}
	}
	for _, d := range ds {
		if !strings.HasPrefix(d.name(), "@") || d.words[0].quoted {
			es = append(es, t.directive(d, sc)...)
		}
	}
	if !sc.literal {
		sorted(es)
	}
	return es
}

// A maker translates a directive from which the matcher was removed.
type maker func(t *translator, d directive, sc *scope) func(next http.Handler) http.Handler

// makers has the directives that handle requests. Read-only.
func makers() map[string]maker {
	return map[string]maker{"root": (*translator).root, "header": (*translator).header, "request_body": (*translator).requestBody,
		"redir": (*translator).redir, "rewrite": (*translator).rewrite, "uri": (*translator).uri, "try_files": (*translator).tryFiles,
		"basic_auth": (*translator).basicAuth, "forward_auth": (*translator).forwardAuth, "request_header": (*translator).requestHeader,
		"encode": (*translator).encode, "handle": (*translator).handle, "handle_path": (*translator).handlePath, "route": (*translator).inOrder,
		"abort": (*translator).abort, "error": (*translator).status, "respond": (*translator).respond,
		"reverse_proxy": (*translator).reverseProxy, "file_server": (*translator).fileServer}
}

// directive translates one directive. The result is entries, or a setting of
// the whole site.
func (t *translator) directive(d directive, sc *scope) []entry {
	name := d.name()
	switch name {
	case "basicauth":
		name = "basic_auth"
	case "tls", "log", "bind", "handle_errors":
		if sc.nested {
			t.fault(d.place, name, "this belongs in the block of the site, not in a block within")
			return nil
		}
		if name == "handle_errors" {
			t.handleErrors(d, sc.site, sc.named)
			return nil
		}
		map[string]func(directive, *siteScope){"tls": t.tls, "log": t.log, "bind": t.bind}[name](d, sc.site)
		return nil
	}
	mk, ok := makers()[name]
	if !ok {
		t.unknown(d)
		return nil
	}
	e := entry{name: name}
	var fine bool
	if e.match, fine = t.matcher(&d, sc); !fine {
		return nil
	}
	if e.wrap = mk(t, d, sc); e.wrap == nil {
		return nil
	}
	if name == "handle_path" {
		e.name = "handle"
	}
	return []entry{e}
}

// unknown reports an unsupported directive.
func (t *translator) unknown(d directive) {
	if hint, ok := unsupported()[d.name()]; ok {
		t.fault(d.place, d.name(), "not supported: %s", hint)
		return
	}
	if strings.HasSuffix(d.name(), ":") {
		t.fault(d.place, d.name(), "this is not a directive; an address of a site belongs outside of blocks")
		return
	}
	t.fault(d.place, d.name(), "not a directive of Caddy's standard modules: delete the line, or put your own middleware in front of the route in the program that -go prints")
}

// handle translates a block that excludes the other handle blocks beside it.
func (t *translator) handle(d directive, sc *scope) func(http.Handler) http.Handler {
	if len(d.args()) > 0 {
		t.fault(d.args()[0].place, d.name(), "want a matcher and a block: %q is too much", d.args()[0].text)
	}
	if !d.open {
		t.fault(d.place, d.name(), "want a block")
	}
	es := grouped(t.block(d.block, &scope{site: sc.site, named: sc.named, nested: true}))
	return func(next http.Handler) http.Handler { return t.compose(es, next) }
}

// handlePath translates handle_path: handle that removes the prefix of its
// matcher.
func (t *translator) handlePath(d directive, sc *scope) func(http.Handler) http.Handler {
	inner := t.handle(d, sc)
	prefix := strings.TrimSuffix(strings.TrimSuffix(d.words[0].text, "*"), "/")
	return func(next http.Handler) http.Handler { return &site.Rewrite{StripPrefix: prefix, Next: inner(next)} }
}

// inOrder translates a block whose directives act in the order of the file.
func (t *translator) inOrder(d directive, sc *scope) func(http.Handler) http.Handler {
	if len(d.args()) > 0 {
		t.fault(d.args()[0].place, d.name(), "want a matcher and a block: %q is too much", d.args()[0].text)
	}
	if !d.open {
		t.fault(d.place, d.name(), "want a block")
	}
	es := grouped(t.block(d.block, &scope{site: sc.site, named: sc.named, nested: true, literal: true}))
	return func(next http.Handler) http.Handler { return t.compose(es, next) }
}

// bind translates the addresses to listen on.
func (t *translator) bind(d directive, s *siteScope) {
	if !s.bound { // replaces default_bind
		s.bind, s.bound = nil, true
	}
	s.bind = append(s.bind, t.hosts(d)...)
}

// hosts reads addresses to listen on, without ports.
func (t *translator) hosts(d directive) (hosts []string) {
	t.noBlock(d)
	if len(d.args()) == 0 {
		t.fault(d.place, d.name(), "want addresses of this machine, such as 127.0.0.1")
	}
	for _, a := range d.args() {
		host := strings.Trim(t.literal(a, d.name()), "[]")
		if strings.ContainsAny(host, "/|") {
			t.fault(a.place, d.name(), "not supported: %q; want an IP address or a host name. For a unix socket, set Listener.Addr in the program that -go prints", a.text)
			continue
		}
		if _, err := netip.ParseAddr(host); strings.Contains(host, ":") && err != nil {
			t.fault(a.place, d.name(), "%q is not an address of this machine: want an IP address or a host name, without a port, which is that of the site", a.text)
			continue
		}
		hosts = append(hosts, host)
	}
	return hosts
}

// encoded has the arguments of a compress.Handler.
type encoded struct {
	next    http.Handler
	options compress.Options
}
