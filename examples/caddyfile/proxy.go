package caddyfile

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/caddyfile/site"
)

// maxTargets limits the targets of one upstream.
const maxTargets = 256

// A proxyTrust is the trusted proxies of one reverse_proxy.
type proxyTrust struct {
	place
	ranges []netip.Prefix // nil if it has none
}

// A proxy is a reverse_proxy that is being read.
type proxy struct {
	t       *translator
	d       directive
	u       *hostproxy.Upstream // has the settings; the targets are set last
	h       hooks
	targets []token
	dynamic string // host:port to look up

	secure, insecure bool // TLS to the target; TLS without verification
	serverName       string
	h2c              bool
	retries          int
	try, every       time.Duration
	health           map[string]directive // health_ lines, by name
	passive          map[string]directive // lines of passive checks
	seen             map[string]bool      // options that must not be repeated
	host             bool                 // a line sets the Host header
	asks             bool                 // it is a forward_auth
	edits            site.Edits           // changes to requests
	trust            *proxyTrust
}

func (t *translator) reverseProxy(d directive, sc *scope) func(http.Handler) http.Handler {
	p := t.proxy(d, nil)
	sc.site.proxy = append(sc.site.proxy, p.trust)
	u := p.upstream()
	if u == nil {
		return nil
	}
	sc.site.uses(u)
	return in(u)
}

// proxy reads the lines of reverse_proxy or forward_auth. own gets each line
// first, and reports whether it has handled it.
func (t *translator) proxy(d directive, own func(directive) bool) *proxy {
	p := &proxy{t: t, d: d, targets: d.args(), retries: -1, health: map[string]directive{}, passive: map[string]directive{}, seen: map[string]bool{},
		trust: &proxyTrust{place: d.place}, asks: own != nil}
	p.u, p.h.at, p.h.word = site.To("localhost:80"), d.place, d.name()
	for _, line := range d.block {
		p.once(line)
		if own == nil || !own(line) {
			p.line(line)
		}
	}
	return p
}

// line reads one option.
func (p *proxy) line(d directive) {
	t := p.t
	switch name := d.name(); name {
	case "to":
		p.targets = append(p.targets, t.some(d)...)
	case "dynamic":
		p.dynamicLine(d)
	case "lb_policy":
		p.policy(d)
	case "lb_retries":
		p.retries = t.number(d, 0)
	case "lb_try_duration":
		p.try = t.duration(d)
	case "lb_try_interval":
		p.every = t.positive(d)
	case "health_uri", "health_interval", "health_timeout", "health_status", "health_passes", "health_fails", "health_headers":
		p.health[name] = d
	case "fail_duration", "max_fails", "unhealthy_status", "unhealthy_latency":
		p.passive[name] = d
	case "unhealthy_request_count":
		p.u.MaxTargetInFlight = t.number(d, 1)
	case "flush_interval": // every write is flushed anyway
		if a, ok := t.one(d); ok && a.text != "-1" {
			t.duration(d)
		}
	case "request_buffers":
		p.u.BufferRequests = t.size(d)
	case "response_buffers":
		p.u.BufferResponses = t.size(d)
	case "stream_timeout":
		p.u.StreamTimeout = t.duration(d)
	case "stream_close_delay":
		p.u.StreamGrace = t.duration(d)
	case "trusted_proxies":
		p.trust = &proxyTrust{d.place, t.ranges(d.place, t.some(d), name)}
	case "header_up":
		p.headerUp(d)
	case "header_down":
		p.headerDown(d)
	case "transport":
		p.transport(d)
	default:
		p.refuse(d)
	}
}

// once reports a repeated option: it would replace the first one.
func (p *proxy) once(d directive) {
	switch name := d.name(); {
	case name == "to" || name == "copy_headers" || name == "header_up" || name == "header_down" || name == "tls_trusted_ca_certs":
	case p.seen[name]:
		p.t.fault(d.place, name, "this option is written twice")
	default:
		p.seen[name] = true
	}
}

// refuse reports an unsupported option.
func (p *proxy) refuse(d directive) {
	hints := map[string]string{
		"lb_retry_match":          "GET and other idempotent requests are retried; set Upstream.Retry in the program that -go prints",
		"health_path":             "write health_uri",
		"health_port":             "checks go to the port of the target; set Upstream.Health in the program that -go prints",
		"health_upstream":         "checks go to the target",
		"health_method":           "checks are GET requests",
		"health_body":             "checks look at the status: write health_status",
		"health_request_body":     "checks are GET requests without a body",
		"health_follow_redirects": "checks follow no redirects: write the final path in health_uri",
		"method":                  "set the method in Upstream.Rewrite in the program that -go prints",
		"rewrite":                 "write the directive rewrite in front of reverse_proxy, in a handle block",
		"handle_response":         "use Upstream.Pages or Upstream.ModifyResponse in the program that -go prints",
		"replace_status":          "use Upstream.ModifyResponse in the program that -go prints",
		"verbose_logs":            "access logs name target and attempts; see the directive log",
		"stream_buffer_size":      "buffers have a size of their own",
		"buffer_requests":         "write request_buffers with a size",
		"buffer_responses":        "write response_buffers with a size",
	}
	hint, ok := hints[d.name()]
	if !ok {
		p.t.fault(d.place, d.name(), "this is not an option of %s", p.d.name())
		return
	}
	p.t.fault(d.place, d.name(), "not supported: %s", hint)
}

// dynamicLine reads a target that is looked up at run time.
func (p *proxy) dynamicLine(d directive) {
	args := d.args()
	if len(args) != 3 || args[0].text != "a" {
		p.t.fault(d.place, "dynamic", "not supported, except dynamic a HOST PORT; for SRV records set Upstream.Discover to hostproxy.SRVSource in the program that -go prints")
		return
	}
	p.dynamic, p.h.refresh = net.JoinHostPort(p.t.literal(args[1], "dynamic"), args[2].text), time.Minute
	p.targets = append(p.targets, token{place: args[1].place, text: p.dynamic})
	p.t.once(d.block)
	for _, line := range d.block {
		if line.name() != "refresh" {
			p.t.fault(line.place, line.name(), "not supported: of the options of dynamic a, refresh is")
			continue
		}
		p.h.refresh = p.t.positive(line)
	}
}

// policy reads the load balancing policy.
func (p *proxy) policy(d directive) {
	args := p.t.some(d)
	if len(args) == 0 {
		return
	}
	rest := args[1:]
	want := func(n int) bool {
		return len(rest) == n || p.t.fault(args[0].place, "lb_policy", "%s wants %d arguments, got %d", args[0].text, n, len(rest))
	}
	switch name := args[0].text; name {
	case "random", "round_robin", "first", "least_conn", "ip_hash", "client_ip_hash", "uri_hash":
		want(0)
		p.u.Policy = map[string]hostproxy.Policy{"random": hostproxy.Random, "round_robin": hostproxy.RoundRobin, "first": hostproxy.FirstAvailable,
			"least_conn": hostproxy.LeastInFlight}[name]
		if strings.HasSuffix(name, "_hash") {
			p.u.Policy, p.u.HashBy.URI = hostproxy.ConsistentHash, name == "uri_hash"
		}
	case "random_choose":
		if want(1) && rest[0].text != "2" {
			p.t.fault(rest[0].place, "lb_policy", "not supported: random_choose %s; two targets are compared", rest[0].text)
		}
	case "weighted_round_robin":
		p.u.Policy = hostproxy.RoundRobin
		for _, a := range rest {
			p.u.Weights = append(p.u.Weights, p.t.number(directive{place: a.place, words: []token{args[0], a}}, 0))
		}
	case "header":
		if want(1) {
			p.u.Policy, p.u.HashBy.Header = hostproxy.ConsistentHash, p.t.literal(rest[0], "lb_policy")
		}
	case "cookie":
		p.cookie(args[0], rest)
	default:
		p.t.fault(args[0].place, "lb_policy", "not supported: %q; want random, round_robin, weighted_round_robin, least_conn, first, ip_hash, client_ip_hash, uri_hash, header or cookie; for others set Upstream.Pick in the program that -go prints", name)
	}
}

func (p *proxy) cookie(at token, rest []token) {
	p.u.Sticky = &hostproxy.Sticky{Cookie: "lb"}
	if len(rest) > 0 {
		p.u.Sticky.Cookie = p.t.literal(rest[0], "lb_policy")
	}
	if len(rest) > 1 {
		if p.u.Sticky.Key = []byte(p.t.literal(rest[1], "lb_policy")); len(p.u.Sticky.Key) < 16 {
			p.t.fault(rest[1].place, "lb_policy", "the secret has %d bytes: want at least 16", len(p.u.Sticky.Key))
		}
	}
	if len(rest) > 2 {
		p.t.fault(at.place, "lb_policy", "cookie wants a name and a secret, got %d arguments", len(rest))
	}
}

// headerUp reads a change of the request to the target.
func (p *proxy) headerUp(d directive) {
	if len(d.args()) == 0 {
		p.t.fault(d.place, "header_up", "want a header and a value")
		return
	}
	p.t.noBlock(d)
	a := d.args()
	field, removed := strings.CutPrefix(a[0].text, "-")
	if strings.EqualFold(strings.TrimSuffix(strings.TrimPrefix(field, "+"), ":"), "Host") {
		p.hostHeader(a, removed)
		return
	}
	p.t.edit(directive{place: a[0].place, words: a}, &p.edits)
	if removed && holdsHost(field) {
		p.setHost(a[0], token{})
	}
}

// hostHeader reads a change of the Host header.
func (p *proxy) hostHeader(a []token, removed bool) {
	switch {
	case removed && len(a) > 1:
		p.t.fault(a[1].place, "header_up", "want no value for a header that is removed")
	case removed:
		p.setHost(a[0], token{})
	case len(a) != 2:
		p.t.fault(a[0].place, "header_up", "want one value for Host")
	default:
		p.setHost(a[0], a[1])
	}
}

// setHost sets the Host header of requests to targets. Without a value, as for
// {upstream_hostport}, it is the target's host.
func (p *proxy) setHost(at, value token) {
	if p.host {
		p.t.fault(at.place, "header_up", "Host is set or removed twice")
	}
	p.host = true
	switch value.text {
	case "", "{upstream_hostport}", "{http.reverse_proxy.upstream.hostport}":
		p.u.TargetHost = true
	case "{host}", "{hostport}", "{http.request.host}", "{http.request.hostport}":
		// this is the default
	default:
		p.up().Host = p.t.text(value, "header_up")
	}
}

func (p *proxy) up() *site.HeaderUp {
	if p.h.up == nil {
		p.h.up = &site.HeaderUp{Question: p.asks}
	}
	return p.h.up
}

// headerDown reads a change of the target's response.
func (p *proxy) headerDown(d directive) {
	if len(d.args()) == 0 {
		p.t.fault(d.place, "header_down", "want a header and a value")
		return
	}
	p.t.noBlock(d)
	if p.h.down == nil {
		p.h.down = &site.HeaderDown{}
	}
	p.t.edit(directive{place: d.args()[0].place, words: d.args()}, &p.h.down.Edits)
}

// fixed returns e as a hostproxy.HeaderEdit if that has the same meaning: no
// placeholders, stars or replacements, and only one kind of change per header.
func fixed(e site.Edits) (edit hostproxy.HeaderEdit, ok bool) {
	seen := map[string]bool{}
	for _, h := range []http.Header{e.Add, e.Set} {
		for field, values := range h {
			plain := !seen[field] && !strings.HasPrefix(field, "X-Forwarded-") && field != "Forwarded" && field != "Via" && field != "Host"
			if !plain || slices.ContainsFunc(values, func(v string) bool { return v == "" || len(site.Placeholders(v)) > 0 }) {
				return edit, false
			}
			seen[field] = true
		}
	}
	for _, name := range e.Remove {
		if strings.Contains(name, "*") || seen[http.CanonicalHeaderKey(name)] || strings.EqualFold(name, "Host") {
			return edit, false
		}
	}
	return hostproxy.HeaderEdit{Remove: e.Remove, Set: e.Set, Add: e.Add}, len(e.Replace) == 0
}

// upstream returns the Upstream, or nil if a target is invalid.
func (p *proxy) upstream() *hostproxy.Upstream {
	p.checks()
	p.retry()
	if e, ok := fixed(p.edits); ok {
		p.u.RequestHeader = e
	} else {
		p.up().Edits = p.edits
	}
	if p.h.down != nil {
		if e, ok := fixed(p.h.down.Edits); ok {
			p.u.ResponseHeader, p.h.down = e, nil
		}
	}
	scheme := p.addresses()
	if p.h.targets == nil {
		return nil
	}
	base, err := hostproxy.NewUpstream(p.h.targets...)
	if err != nil {
		p.t.fault(p.d.place, p.d.name(), "%s", strings.TrimPrefix(err.Error(), "hostproxy: "))
		return nil
	}
	p.u.Targets = base.Targets
	if scheme == "https" {
		p.u.TargetHost = p.u.TargetHost || !p.host
		p.tls()
	} else if p.secure {
		p.t.fault(p.d.place, p.d.name(), "TLS is set, but the targets are not reached by TLS: write https:// in front of them")
	}
	if p.h2c && scheme != "h2c" {
		p.t.fault(p.d.place, p.d.name(), "not supported: versions h2c for targets by TLS or at a unix socket; write h2c:// in front of targets")
	}
	if p.dynamic != "" {
		p.h.discover = p.h.targets[len(p.h.targets)-1]
		if len(p.h.targets) > 1 {
			p.t.fault(p.d.place, p.d.name(), "not supported: dynamic beside other targets")
		}
	}
	return p.t.finishUpstream(p.u, p.h)
}

// addresses reads the targets into p.h.targets and returns their scheme.
func (p *proxy) addresses() (scheme string) {
	for _, a := range p.targets {
		s, hosts := p.address(a)
		if scheme != "" && s != scheme && s != "" {
			p.t.fault(a.place, p.d.name(), "all targets must have the same scheme: %q differs from %s://", a.text, scheme)
		}
		if scheme == "" {
			scheme = s
		}
		p.h.targets = append(p.h.targets, hosts...)
		if len(p.h.targets) > maxTargets {
			p.t.fault(a.place, p.d.name(), "more than %d targets", maxTargets)
			return scheme
		}
	}
	if len(p.targets) == 0 {
		p.t.fault(p.d.place, p.d.name(), "want a target, such as localhost:8080")
	}
	return scheme
}

// address reads one target, which may have a range of ports.
func (p *proxy) address(a token) (scheme string, targets []string) {
	scheme, text, has := strings.Cut(a.text, "://")
	if !has {
		scheme, text = "http", a.text
	}
	switch {
	case len(site.Placeholders(a.text)) > 0:
		p.t.fault(a.place, p.d.name(), "not supported: a placeholder in a target; set Upstream.Pick in the program that -go prints, or write a site for each host")
		return "", nil
	case strings.HasPrefix(a.text, "unix/"):
		return "http", []string{"unix:" + strings.TrimPrefix(a.text, "unix/")}
	case has && scheme != "http" && scheme != "https" && scheme != "h2c":
		p.t.fault(a.place, p.d.name(), "not supported: the scheme %q of a target; want http, https, h2c, or unix//path", scheme)
		return "", nil
	case strings.ContainsAny(strings.TrimSuffix(text, "/"), "/?"):
		p.t.fault(a.place, p.d.name(), "a target has no path: write %s://HOST:PORT, and rewrite in front of reverse_proxy to change the path", scheme)
		return "", nil
	}
	if scheme == "http" && p.secure {
		if has {
			p.t.fault(a.place, p.d.name(), "the target has http://, but TLS is set in transport http: write https://, or delete one of the two")
		}
		scheme = "https"
	}
	if scheme == "http" && p.h2c {
		scheme = "h2c"
	}
	for _, host := range p.ports(a, strings.TrimSuffix(text, "/"), scheme) {
		if scheme != "http" {
			host = scheme + "://" + host
		}
		targets = append(targets, host)
	}
	return scheme, targets
}

// ports adds the implied port to a target, and expands a range of ports.
func (p *proxy) ports(a token, text, scheme string) (hosts []string) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		host, port = strings.Trim(text, "[]"), "80"
		if scheme == "https" {
			port = "443"
		}
	}
	if host == "" {
		host = "localhost"
	}
	first, last, isRange := strings.Cut(port, "-")
	if !isRange {
		last = first
	}
	from, err1 := strconv.Atoi(first)
	to, err2 := strconv.Atoi(last)
	if err1 != nil || err2 != nil || from < 1 || to > 65535 || from > to {
		p.t.fault(a.place, p.d.name(), "%q has no valid port: want a number from 1 to 65535, or a range such as 8001-8006", a.text)
		return nil
	}
	for n := from; n <= to && len(hosts) <= maxTargets; n++ {
		hosts = append(hosts, net.JoinHostPort(host, strconv.Itoa(n)))
	}
	return hosts
}

// forwardAuth translates an authentication server.
func (t *translator) forwardAuth(d directive, sc *scope) func(http.Handler) http.Handler {
	var path string
	var fields []string
	p := t.proxy(d, func(line directive) bool {
		switch line.name() {
		case "uri":
			if a, ok := t.one(line); ok {
				path = t.literal(a, "uri")
			}
		case "copy_headers":
			words := line.args()
			for _, l := range line.block {
				words = append(words, l.words...)
			}
			if len(words) == 0 {
				t.fault(line.place, "copy_headers", "want headers to copy")
			}
			for _, w := range words {
				if strings.Contains(w.text, "*") {
					t.fault(w.place, "copy_headers", "not supported: a star; write the names of the headers")
				}
				if strings.Contains(w.text, ">") {
					t.fault(w.place, "copy_headers", "not supported: another name for a header; copy it as it is")
				}
				fields = append(fields, w.text)
			}
		default:
			return false
		}
		return true
	})
	sc.site.proxy = append(sc.site.proxy, p.trust)
	u := p.upstream()
	if _, err := url.ParseRequestURI(path); path == "" || err != nil {
		t.fault(d.place, "forward_auth", "want uri with the path that the authentication server checks, such as uri /api/verify")
	}
	if u == nil {
		return nil
	}
	sc.site.uses(u)
	return func(next http.Handler) http.Handler {
		return &hostproxy.ForwardAuth{Auth: u, Path: path, Fields: fields, Next: next}
	}
}
