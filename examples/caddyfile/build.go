package caddyfile

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/caddyserver/certmagic"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/caddyfile/site"
)

// build makes the Servers of a plan.
func (p *plan) build() ([]*hostproxy.Server, error) {
	routers := map[*server]*hostproxy.Router{}
	for _, s := range p.servers {
		r, err := p.router(s)
		if err != nil {
			return nil, err
		}
		routers[s] = r
	}
	var servers []*hostproxy.Server
	for _, s := range p.servers {
		l := s.limits
		srv := &hostproxy.Server{Router: routers[s], Listeners: s.listeners(), DrainTimeout: l.DrainTimeout,
			ReadHeaderTimeout: l.ReadHeaderTimeout, IdleTimeout: l.IdleTimeout, MaxHeaderBytes: l.MaxHeaderBytes}
		for _, c := range slices.Backward(s.challenge) {
			if srv.Handler == nil {
				srv.Handler = routers[s]
			}
			srv.Handler = routers[c].HTTPHandler(srv.Handler)
		}
		servers = append(servers, srv)
	}
	return servers, nil
}

// router makes the Router of one server.
func (p *plan) router(s *server) (*hostproxy.Router, error) {
	r := &hostproxy.Router{TrustedProxies: s.trustedProxies, TLS: s.tlsConf}
	if s.storage != "" {
		r.TLS.Storage = &certmagic.FileStorage{Path: s.storage}
	}
	if s.hosts != nil {
		r.TLS.Host = site.Hosts(s.hosts)
	}
	if s.ask != nil {
		r.TLS.HostPolicy = s.ask.HostPolicy
	}
	if p.debug {
		r.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	if s.logs != nil {
		observe, err := site.Observe(s.logs...)
		if err != nil {
			return nil, fmt.Errorf("caddyfile: %w", err)
		}
		r.Observe = observe
	}
	var errs []error
	for _, route := range s.routes {
		errs = append(errs, r.Set(route.pattern, route.handler))
	}
	return r, errors.Join(errs...)
}

// check reports hostproxy's errors about routes and settings as faults of the
// file.
func (t *translator) check(p *plan) {
	for u, h := range p.hooks {
		var r hostproxy.Router
		if err := errors.Join(r.Set("*", u), r.Check()); err != nil {
			t.fault(h.at, h.word, "%s", plain(err))
		}
	}
	if len(t.faults) > 0 {
		return // faults of the routes would repeat these
	}
	for _, s := range p.servers {
		r := &hostproxy.Router{TrustedProxies: s.trustedProxies}
		for _, route := range s.routes {
			if err := r.Set(route.pattern, route.handler); err != nil {
				t.fault(route.at, route.pattern, "%s", plain(err))
			}
		}
		t.spellings(r, s)
	}
}

// spellings reports addresses that are the same for a Router, such as a.example
// and "a.example." with a dot: only the last would count.
func (t *translator) spellings(r *hostproxy.Router, s *server) {
	known := maps.Collect(r.All())
	if len(t.faults) > 0 || len(known) == len(s.routes) {
		return
	}
	for _, route := range s.routes {
		if _, ok := known[route.pattern]; !ok {
			t.fault(route.at, route.pattern, "another site has this address in another spelling: each site needs an address of its own, written in the same way")
		}
	}
}

// plain returns the text of an error from hostproxy.
func plain(err error) string {
	text := strings.ReplaceAll(strings.ReplaceAll(err.Error(), "hostproxy: ", ""), "\n", "; ")
	return strings.TrimPrefix(text, `pattern "*": `)
}
