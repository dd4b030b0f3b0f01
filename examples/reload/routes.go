package reload

import (
	"bytes"
	"fmt"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/hostproxy/hostproxy"
)

// route adds a route to the plan.
func (b *planner) route(pattern string, c *Route) {
	inner := b.inner(pattern, c)
	if inner == nil {
		return // the route has faults
	}
	own := *c
	own.Inline = Upstream{}
	k := kept{key: b.key(&own), inner: inner}
	if c.ForwardAuth != nil {
		if u := b.reference(c.ForwardAuth.Auth, "routes", pattern, "forward_auth", "auth"); u != nil {
			k.key += fmt.Sprintf("# %p\n", u.Upstream)
		}
	}
	if old := b.old.built[pattern]; old.key == k.key && old.inner == inner {
		k.outer = old.outer
	} else {
		k.outer = b.wrap(pattern, c, inner)
	}
	b.built[pattern], b.routes[pattern] = k, k.outer
}

// inner returns the innermost handler of a route. It returns nil after a fault.
func (b *planner) inner(pattern string, c *Route) http.Handler {
	var given []string
	add := func(key string, is bool) {
		if is {
			given = append(given, key)
		}
	}
	add("upstream", c.Use != "")
	add("redirect", c.Redirect != "")
	add("passthrough", c.Passthrough != nil)
	add("page", c.Page != nil)
	add("handler", c.Handler != "")
	own := !reflect.DeepEqual(c.Inline, Upstream{})
	add("settings of an upstream of its own", own)
	at := []string{"routes", pattern}
	switch {
	case len(given) == 0:
		b.fault(at, "nothing serves the route: want targets, upstream, redirect, passthrough, page or handler")
		return nil
	case len(given) > 1:
		b.fault(at, "the route has %s: want one of these; settings of an upstream with a name stand in upstreams", strings.Join(given, " and "))
		return nil
	case own:
		return b.besides(b.upstream(&c.Inline, at...), &c.Inline, at...).Upstream
	case c.Use != "":
		return handlerOf(b.reference(c.Use, "routes", pattern, "upstream"))
	}
	leaf := kept{key: b.key(&Route{Redirect: c.Redirect, Passthrough: c.Passthrough, Page: c.Page, Handler: c.Handler})}
	if old := b.old.leaves[pattern]; old.key == leaf.key {
		leaf.outer = old.outer
	} else {
		leaf.outer = b.leaf(c, at...)
	}
	b.leaves[pattern] = leaf
	return leaf.outer
}

// handlerOf returns u as a handler, or nil if u is nil.
func handlerOf(u *upstream) http.Handler {
	if u == nil {
		return nil
	}
	return u.Upstream
}

// leaf returns a new handler for a route without an upstream.
func (b *planner) leaf(c *Route, at ...string) http.Handler {
	switch {
	case c.Redirect != "":
		h, rule := redirect(c.Redirect)
		if rule != "" {
			b.fault(append(at, "redirect"), "%s", rule)
		}
		return h
	case c.Passthrough != nil:
		p := new(hostproxy.Passthrough)
		fill(reflect.ValueOf(p), reflect.ValueOf(c.Passthrough))
		return p
	case c.Page != nil:
		return b.page(c.Page, http.StatusServiceUnavailable, append(at, "page")...)
	}
	return b.handler(c.Handler, append(at, "handler")...)
}

// redirect returns a redirect to a host, or the rule that the host breaks.
func redirect(host string) (h http.Handler, rule string) {
	defer func() {
		if p := recover(); p != nil {
			rule = strings.TrimPrefix(fmt.Sprint(p), "hostproxy: ")
		}
	}()
	return hostproxy.Redirect(host), ""
}

// handler returns the handler of this name.
func (b *planner) handler(name string, at ...string) http.Handler {
	h := b.named[name]
	if h == nil {
		var names []string
		for name := range b.named {
			names = append(names, name)
		}
		slices.Sort(names)
		b.fault(at, "handler %s is unknown: want one of %s", quoted(name), strings.Join(names, ", "))
	}
	return h
}

// wrap puts the route's middleware around its innermost handler h.
func (b *planner) wrap(pattern string, c *Route, h http.Handler) http.Handler {
	at := []string{"routes", pattern}
	if a := c.ForwardAuth; a != nil {
		u := b.reference(a.Auth, "routes", pattern, "forward_auth", "auth")
		if u != nil {
			h = &hostproxy.ForwardAuth{Auth: u.Upstream, Path: a.Path, User: a.User, Fields: a.Fields, Next: h}
			b.check(h, *a, append(at, "forward_auth")...)
		}
	}
	if a := c.BasicAuth; a != nil {
		h = &hostproxy.BasicAuth{Users: b.users(a.UsersFile, pattern), Realm: a.Realm, UserHeader: a.UserHeader, Next: h}
		b.check(h, *a, append(at, "basic_auth")...)
	}
	if g := c.Guard; g != nil {
		guard := &hostproxy.Guard{Allow: g.Allow, Deny: g.Deny, RateLimit: rateLimit(g.RateLimit), Next: h}
		if g.Allow == nil && g.Deny == nil && g.RateLimit == nil {
			b.fault(append(at, "guard"), "the guard lets every request pass: set allow, deny or rate_limit, or remove it")
		}
		b.allowed(g.Allow, append(at, "guard", "allow")...)
		b.check(guard, *g, append(at, "guard")...)
		h = guard
	}
	return h
}

// check adds hostproxy's faults in h, unless h already has faults: these would
// be found twice.
func (b *planner) check(h http.Handler, v any, at ...string) {
	if n := len(b.faults); n > 0 && b.faults[n-1].Line == b.locate(at...).Line {
		return
	}
	_, err := new(hostproxy.Router).CheckReplace(map[string]http.Handler{"*": h})
	b.library(err, v, at...)
}

// users reads a file of names and bcrypt hashes.
func (b *planner) users(name File, pattern string) map[string]string {
	at := []string{"routes", pattern, "basic_auth", "users_file"}
	if name == "" {
		b.fault(at, "users_file is missing: want a file with lines of name:hash, as htpasswd -B writes them")
		return nil
	}
	users := map[string]string{}
	for i, line := range bytes.Split(b.must(name, at...), []byte("\n")) {
		user, hash, ok := strings.Cut(strings.TrimSpace(string(line)), ":")
		switch {
		case user == "" && !ok || strings.HasPrefix(user, "#"):
		case !ok || user == "" || !strings.HasPrefix(hash, "$2"):
			b.fault(at, "%s, line %d: want name:hash with a bcrypt hash, as htpasswd -B writes it", string(name), i+1)
		case users[user] != "":
			b.fault(at, "%s, line %d: user %s is there already: keep one of the lines", string(name), i+1, quoted(user))
		default:
			users[user] = hash
		}
	}
	return users
}

// page returns a handler that writes c. status is the default of Page.Status.
func (b *planner) page(c *Page, status int, at ...string) *page {
	p := &page{Page: b.hostPage(c, at...)}
	if p.Status == 0 {
		p.Status = status
	}
	if p.ContentType == "" {
		p.ContentType = "text/plain; charset=utf-8"
	}
	return p
}

// hostPage converts c into a hostproxy.Page.
func (b *planner) hostPage(c *Page, at ...string) hostproxy.Page {
	p := hostproxy.Page{Status: c.Status, ContentType: c.ContentType, RetryAfter: c.RetryAfter, Body: []byte(c.Body)}
	if c.BodyFile != "" {
		if c.Body != "" {
			b.fault(append(at, "body_file"), "the page has body too: want one of body and body_file")
			return p
		}
		p.Body = b.must(c.BodyFile, append(at, "body_file")...)
	}
	if s := c.Status; s != 0 && (s < 200 || s > 599 || s == 204 || s == 304) {
		b.fault(append(at, "status"), "status %d: want 200 to 599, except 204 and 304, which have no body", s)
	}
	if strings.ContainsFunc(c.ContentType, func(r rune) bool { return r < ' ' || r > '~' }) {
		b.fault(append(at, "content_type"), "%s: want a media type, such as text/html; charset=utf-8", quoted(c.ContentType))
	}
	return p
}

// A page is a fixed response.
type page struct{ hostproxy.Page }

// ServeHTTP writes the page.
func (p *page) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	h := w.Header()
	h.Set("Content-Type", p.ContentType)
	h.Set("Content-Length", strconv.Itoa(len(p.Body)))
	if p.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int((p.RetryAfter+999_999_999)/1_000_000_000)))
	}
	w.WriteHeader(p.Status)
	if q.Method != http.MethodHead {
		_, _ = w.Write(p.Body)
	}
}

// allowed refuses an empty list: it looks as if it admits no address, but it
// admits every address.
func (b *planner) allowed(list []netip.Prefix, at ...string) {
	if list != nil && len(list) == 0 {
		b.fault(at, "the list is empty, which allows every address: name those that may pass, or remove it")
	}
}
