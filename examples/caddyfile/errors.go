package caddyfile

import (
	"net/http"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/caddyfile/site"
)

// handleErrors translates the directive handle_errors: how a site handles
// failures, all of them or those with some statuses.
func (t *translator) handleErrors(d directive, s *siteScope, named map[string]*site.Match) {
	if !d.open {
		t.fault(d.place, "handle_errors", "want a block")
	}
	c := site.Case{}
	if len(d.args()) > 0 {
		line := d
		line.open = false
		c.Match = &site.Match{Statuses: t.statuses(line)}
	}
	t.inErrors = true
	es := grouped(t.block(d.block, &scope{site: s, named: named, nested: true}))
	t.inErrors = false
	c.Next = t.compose(es, site.Fail{})
	at := len(s.errors)
	if c.Match != nil { // the one for all statuses must come last
		for at > 0 && s.errors[at-1].Match == nil {
			at--
		}
	} else if at > 0 && s.errors[at-1].Match == nil {
		t.fault(d.place, "handle_errors", "there is one for all statuses already")
	}
	s.errors = append(s.errors[:at:at], append(site.First{c}, s.errors[at:]...)...)
	s.errorsAt = d.place
}

// withErrors puts the handlers for failures in front of a site.
func (t *translator) withErrors(h http.Handler, s *siteScope) http.Handler {
	if s.errors == nil {
		return h
	}
	if s.auth {
		t.fault(s.errorsAt, "handle_errors", "not supported in a site with basic_auth, whose 401 has a page of its own")
	}
	for _, u := range s.upstreams {
		u.ErrorHandler = site.UpstreamFailed
		t.plan.hooks[u].failed = true
	}
	handle := append(site.First{}, s.errors...)
	if handle[len(handle)-1].Match != nil {
		handle = append(handle, site.Case{Next: site.Fail{}})
	}
	return &site.Errors{Handle: &handle, Next: h}
}

// uses records that a site uses an Upstream.
func (s *siteScope) uses(u *hostproxy.Upstream) { s.upstreams = append(s.upstreams, u) }
