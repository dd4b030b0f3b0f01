package caddyfile

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/compress"
)

// ErrRestart means that the file changes more than sites. Running.Reload
// returns it.
var ErrRestart = errors.New("caddyfile: ports, global options, tls or log have changed: restart to use the new file")

// A Running is a Config with running Servers.
type Running struct {
	plan    *plan
	servers []*hostproxy.Server
}

// Run makes the Servers of c like Config.Servers. The result can be reloaded.
func (c *Config) Run() (*Running, error) {
	servers, err := c.plan.build()
	if err != nil {
		return nil, err
	}
	return &Running{c.plan, servers}, nil
}

// Servers returns the Servers, for site.Serve.
func (r *Running) Servers() []*hostproxy.Server { return r.servers }

// Reload replaces the sites by those of c. Unchanged routes keep their
// handlers, and so their connections. If c changes anything else, the error is
// ErrRestart. After an error, nothing has changed. Do not call Reload
// concurrently.
func (r *Running) Reload(c *Config) error {
	if !slices.EqualFunc(r.plan.servers, c.plan.servers, func(a, b *server) bool { return r.plan.settings(a) == c.plan.settings(b) }) {
		return ErrRestart
	}
	all := make([]map[string]http.Handler, len(r.servers))
	for i, s := range c.plan.servers {
		old := map[string]route{}
		for _, route := range r.plan.servers[i].routes {
			old[route.pattern] = route
		}
		all[i] = map[string]http.Handler{}
		for j, route := range s.routes {
			if o, ok := old[route.pattern]; ok && r.plan.describe(o.handler) == c.plan.describe(route.handler) {
				s.routes[j].handler = o.handler
			}
			all[i][route.pattern] = s.routes[j].handler
		}
		if _, err := r.servers[i].Router.CheckReplace(all[i]); err != nil {
			return fmt.Errorf("caddyfile: %w", err)
		}
	}
	for i := range all {
		if err := r.servers[i].Router.Replace(all[i]); err != nil {
			return fmt.Errorf("caddyfile: %w", err)
		}
	}
	c.plan.adopt(r.plan)
	r.plan = c.plan
	return nil
}

// adopt takes over the data about kept handlers from an older plan.
func (p *plan) adopt(old *plan) {
	w, seen := newPrinter(old), map[any]bool{}
	var visit func(http.Handler)
	visit = func(h http.Handler) {
		key := identity(h)
		if key == nil || seen[key] {
			return
		}
		seen[key] = true
		switch h := h.(type) {
		case *hostproxy.Upstream:
			if known, ok := old.hooks[h]; ok {
				p.hooks[h] = known
			}
			return
		case *compress.Handler:
			known, ok := old.encoded[h]
			if !ok {
				return // new, and so are all handlers behind it
			}
			p.encoded[h] = known
		}
		for _, c := range w.children(h) {
			visit(c)
		}
	}
	for _, s := range p.servers {
		for _, r := range s.routes {
			visit(r.handler)
		}
	}
}

// describe returns the expression for a handler, which contains all its
// settings.
func (p *plan) describe(h http.Handler) string {
	w := newPrinter(p)
	w.tally(h)
	text := w.handler(h)
	return strings.Join(w.lines, "\n") + "\n" + text
}

// settings returns the code for a server without its routes.
func (p *plan) settings(s *server) string {
	bare := *s
	bare.routes = nil
	w := newPrinter(p)
	return fmt.Sprint(w.router(0, &bare), s.listeners(), s.limits, len(s.challenge))
}
