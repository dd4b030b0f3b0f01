package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A claim is a container that asks for routes.
type claim struct {
	*container
	wishes
	target   string // URL; "" while it must get no traffic
	stopping bool   // it was told to stop
}

// newClaim returns what c asks for, as seen by a proxy in p. The error has all
// faults of its labels.
func newClaim(c *container, p place, stopping bool) (*claim, error) {
	w, err := readLabels(c.Config.Labels)
	if err != nil {
		return nil, err
	}
	l := &claim{container: c, wishes: w, stopping: stopping}
	if c.State.Status != "running" {
		return l, nil // it may have no address at the moment
	}
	target, err := p.target(c, w)
	if err == nil && !stopping && c.ready() {
		l.target = target
	}
	return l, err
}

// ready reports whether c may get traffic: it runs, and its health check has
// succeeded if it has one.
func (c *container) ready() bool {
	h := c.State.Health
	return c.State.Status == "running" && (h == nil || h.Status != "starting" && h.Status != "unhealthy")
}

// A route combines the containers that claim one pattern.
type route struct {
	settings
	targets []string // sorted, no duplicates
	first   *claim   // oldest container
}

// A refusal is a container's name and what is wrong with it.
type refusal struct{ container, reason string }

// refuse returns the refusal of a container for err, as one line of limited
// length.
func refuse(name string, err error) refusal {
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	return refusal{name, fmt.Sprintf("%.1500s", text)}
}

// resolve returns the routes for claims. A host belongs to the group of the
// oldest container that claims it; containers of other groups are refused. A
// container whose settings differ from those of the oldest one of its pattern
// is refused too, unless one of the two is stopping. No container gets a
// pattern in fixed. only lists the hosts that containers may claim; empty means
// all except wildcards.
func resolve(claims []*claim, fixed map[string]bool, only []string) (map[string]*route, []refusal) {
	slices.SortFunc(claims, func(a, b *claim) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	routes, owners, refusals := map[string]*route{}, map[string]*claim{}, []refusal(nil)
	for host := range hosts(fixed) {
		owners[host] = nil // this host belongs to the command line
	}
	for _, c := range claims {
		var errs []error
		for _, p := range c.patterns {
			if err := c.take(p, routes, owners, only); err != nil {
				errs = append(errs, err)
			}
		}
		if err := errors.Join(errs...); err != nil {
			refusals = append(refusals, refuse(c.Name, err))
		}
	}
	for _, r := range routes {
		slices.Sort(r.targets)
		r.targets = slices.Compact(r.targets)
	}
	return routes, refusals
}

// take adds c to the route of pattern, or returns why it may not.
func (c *claim) take(pattern string, routes map[string]*route, owners map[string]*claim, only []string) error {
	host, _, _ := strings.Cut(pattern, "/")
	if err := permitted(host, only); err != nil {
		return err
	}
	switch owner, taken := owners[host]; {
	case !taken:
		owners[host] = c
	case owner == nil:
		return fmt.Errorf("host %q has a -route on the command line of the proxy: choose another host, or remove -route", host)
	case owner.group != c.group:
		return fmt.Errorf("host %q belongs to container %q, which is older and in group %q, and this one is in %q: choose another host, or give both the same label hostproxy.group",
			host, owner.Name, owner.group, c.group)
	}
	r := routes[pattern]
	switch {
	case r == nil:
		r = &route{settings: c.settings, first: c}
		routes[pattern] = r
	case r.settings == c.settings || c.stopping:
	case r.first.stopping && len(r.targets) == 0:
		r.settings, r.first = c.settings, c
	default:
		return fmt.Errorf("route %q is that of container %q, which is older and says %s, and this one says %s: make the labels equal",
			pattern, r.first.Name, r.settings, c.settings)
	}
	if c.target != "" {
		r.targets = append(r.targets, c.target)
	}
	return nil
}

// permitted returns an error if labels may not claim host.
func permitted(host string, only []string) error {
	for _, o := range only {
		_, parent, _ := strings.Cut(host, ".")
		if o == "*" || host == o || host != "*" && strings.HasPrefix(o, "*.") && parent == o[2:] {
			return nil
		}
	}
	switch {
	case len(only) > 0:
		return fmt.Errorf("host %q is not one of those that -only allows: %.500s", host, strings.Join(only, ","))
	case strings.HasPrefix(host, "*"):
		return fmt.Errorf("host %q is a wildcard, which labels may claim only if -only of the proxy names it", host)
	}
	return nil
}

// hosts returns the hosts of patterns.
func hosts(patterns map[string]bool) map[string]bool {
	all := map[string]bool{}
	for p := range maps.Keys(patterns) {
		host, _, _ := strings.Cut(p, "/")
		all[host] = true
	}
	return all
}
