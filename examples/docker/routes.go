package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hostproxy/hostproxy"
)

// A proxy is a Router whose routes follow the containers of a daemon.
type proxy struct {
	router  hostproxy.Router
	log     *slog.Logger
	inside  bool                    // the proxy runs in a container
	self    string                  // the proxy's own container, or "host"; "" detects it
	network string                  // preferred network; "" means none
	only    []string                // hosts that labels may claim; empty means all except wildcards
	fixed   map[string]http.Handler // routes from the command line

	gather time.Duration // wait for further events before the daemon is asked again
	pause  time.Duration // wait after a failure; doubles up to half a minute
	resync time.Duration // the daemon is asked again after this time even if there are no events

	live  map[string]*live      // by pattern
	shown map[string]string     // targets of each pattern as last logged
	seen  map[string]*container // last answer for each container
	told  map[refusal]bool      // refusals that were logged and still hold
	place place

	mu       sync.Mutex           // guards stopping
	stopping map[string]time.Time // when containers were told to stop
}

// A live is a route as it currently is in the Router.
type live struct {
	settings
	upstream *hostproxy.Upstream
	targets  []string // current targets of upstream
}

// newProxy returns a proxy. inside says whether it runs in a container.
func newProxy(l *slog.Logger, inside bool) *proxy {
	return &proxy{
		router: hostproxy.Router{Logger: l, Observe: observe(l, inside)}, log: l, inside: inside, fixed: map[string]http.Handler{},
		gather: 100 * time.Millisecond, pause: 500 * time.Millisecond, resync: time.Minute, stopping: map[string]time.Time{},
	}
}

// serve follows the daemon at host and serves the routes until ctx is done.
func (p *proxy) serve(ctx context.Context, host, https, plain string) error {
	e, err := newEngine(cmp.Or(host, findSocket()))
	if err != nil {
		return err
	}
	if plain == "" {
		return errors.New("-http is empty: want an address such as :80, which redirects to HTTPS")
	}
	if err := p.apply(nil); err != nil { // routes from -route work without a daemon
		return err
	}
	var tls net.Listener
	if https != "" {
		if tls, err = listen(https); err != nil {
			return err
		}
	}
	ln, err := listen(plain)
	if err != nil {
		if tls != nil {
			_ = tls.Close()
		}
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() { p.watch(ctx, e) })
	err = (&hostproxy.Server{Router: &p.router}).Serve(ctx, tls, ln)
	cancel()
	watching.Wait()
	return err
}

// add adds a route host=target from the command line.
func (p *proxy) add(s string) error {
	pattern, target, ok := strings.Cut(s, "=")
	if !ok {
		return fmt.Errorf("route %q: want host=target, such as old.example.com=host.docker.internal:4006", s)
	}
	u, err := hostproxy.NewUpstream(target)
	if err != nil {
		return err
	}
	if pattern, err = spelled(pattern, u); err != nil {
		return err
	}
	if p.fixed[pattern] != nil {
		return fmt.Errorf("route %q is given twice", pattern)
	}
	p.fixed[pattern] = u
	return nil
}

// allow adds hosts to those that labels may claim.
func (p *proxy) allow(list string) error {
	for host := range strings.SplitSeq(list, ",") {
		host, err := spelled(strings.TrimSpace(host), http.NotFoundHandler())
		switch {
		case err != nil:
			return err
		case strings.Contains(host, "/"):
			return fmt.Errorf("%q has a path: want hosts only", host)
		}
		p.only = append(p.only, host)
	}
	return nil
}

// unready answers for a route without a container that is ready.
func unready(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Retry-After", "2")
	http.Error(w, "503 Service Unavailable: no container is ready", http.StatusServiceUnavailable)
}

// apply makes routes, and those of the command line, the only ones. A route
// with unchanged settings keeps its Upstream, and its unchanged targets keep
// their WebSockets. A route that cannot be set up stays as it was and is named
// in the error.
func (p *proxy) apply(routes map[string]*route) error {
	table, next, gone := map[string]http.Handler{}, map[string]*live{}, map[*live][]string{}
	maps.Copy(table, p.fixed)
	var errs []error
	for pattern, r := range routes {
		if len(r.targets) == 0 {
			table[pattern] = http.HandlerFunc(unready)
			continue
		}
		l, err := p.grow(p.live[pattern], r)
		if err != nil {
			errs = append(errs, fmt.Errorf("route %q: %w", pattern, err))
			if l = p.live[pattern]; l == nil {
				continue
			}
			next[pattern], table[pattern] = l, l.upstream
			continue
		}
		gone[l] = without(l.targets, r.targets)
		next[pattern], table[pattern] = l, l.upstream
	}
	if err := p.router.Replace(table); err != nil {
		return errors.Join(append(errs, err)...)
	}
	p.report(routes)
	p.live = next
	for l, targets := range gone { // only after the table has changed: until then, both serve
		if len(targets) > 0 {
			errs = append(errs, l.upstream.Remove(targets...))
			l.targets = without(l.targets, targets)
		}
	}
	return errors.Join(errs...)
}

// grow returns l with the targets of r added, or a new live if l cannot be
// kept.
func (p *proxy) grow(l *live, r *route) (*live, error) {
	if l == nil || l.settings != r.settings {
		u, err := r.settings.upstream(r.targets...)
		return &live{settings: r.settings, upstream: u, targets: r.targets}, err
	}
	if more := without(r.targets, l.targets); len(more) > 0 {
		if err := l.upstream.Add(more...); err != nil {
			return nil, err
		}
		l.targets = slices.Concat(l.targets, more)
	}
	return l, nil
}

// report logs the routes that have changed.
func (p *proxy) report(routes map[string]*route) {
	shown := map[string]string{}
	for pattern, r := range routes {
		targets := strings.Join(r.targets, " ")
		shown[pattern] = targets
		if before, ok := p.shown[pattern]; !ok || before != targets {
			p.log.Info("route changed", "pattern", pattern, "targets", targets)
		}
	}
	for pattern := range p.shown {
		if routes[pattern] == nil {
			p.log.Info("route removed", "pattern", pattern)
		}
	}
	p.shown = shown
}

// without returns the elements of a that are not in b.
func without(a, b []string) (rest []string) {
	for _, s := range a {
		if !slices.Contains(b, s) {
			rest = append(rest, s)
		}
	}
	return rest
}
