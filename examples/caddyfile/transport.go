package caddyfile

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/caddyfile/site"
)

// transport reads how to reach targets.
func (p *proxy) transport(d directive) {
	if len(d.args()) != 1 || d.args()[0].text != "http" {
		p.t.fault(d.place, "transport", "not supported, except transport http; PHP needs an HTTP server of its own, such as FrankenPHP")
		return
	}
	for _, line := range d.block {
		p.transportLine(line)
	}
}

func (p *proxy) transportLine(d directive) {
	t := p.t
	p.once(d)
	switch name := d.name(); name {
	case "tls":
		p.secure = t.none(d)
	case "tls_insecure_skip_verify":
		p.secure, p.insecure = t.none(d), true
	case "tls_server_name":
		if a, ok := t.one(d); ok {
			p.secure, p.serverName = true, t.literal(a, name)
		}
	case "tls_trusted_ca_certs", "tls_trust_pool":
		p.rootCAs(d)
	case "tls_client_auth":
		if p.secure = true; len(d.args()) != 2 {
			t.fault(d.place, name, "want the files of a certificate and its key")
			return
		}
		p.h.keys = [2]string{t.literal(d.args()[0], name), t.literal(d.args()[1], name)}
	case "dial_timeout":
		p.u.DialTimeout = t.positive(d)
	case "response_header_timeout":
		p.u.ResponseHeaderTimeout = t.positive(d)
	case "proxy_protocol":
		if a, ok := t.one(d); ok {
			if p.u.ProxyProtocol = 1 + slices.Index([]string{"v1", "v2"}, a.text); p.u.ProxyProtocol == 0 {
				t.fault(a.place, name, "want v1 or v2, got %q", a.text)
			}
		}
	case "compression":
		if a, ok := t.one(d); ok && a.text != "off" {
			t.fault(a.place, name, "want off, got %q", a.text)
		}
	case "versions":
		p.versions(d)
	default:
		p.refuseTransport(d)
	}
}

// versions reads the HTTP versions. Targets with TLS get HTTP/1.1, or HTTP/2 if
// they require it.
func (p *proxy) versions(d directive) {
	var vs []string
	for _, a := range p.t.some(d) {
		vs = append(vs, a.text)
	}
	slices.Sort(vs)
	switch joined := strings.Join(vs, " "); joined {
	case "h2c", "2 h2c":
		p.h2c = true
	case "1.1", "1.1 2":
	default:
		p.t.fault(d.place, "versions", "not supported: %q; want 1.1, 1.1 2, or h2c", joined)
	}
}

func (p *proxy) rootCAs(d directive) {
	args := d.args()
	p.secure = true
	if d.name() == "tls_trust_pool" {
		if len(args) == 0 || args[0].text != "file" {
			p.t.fault(d.place, d.name(), "not supported, except tls_trust_pool file FILES")
			return
		}
		args = args[1:]
		for _, line := range d.block {
			if line.name() != "pem_file" {
				p.t.fault(line.place, line.name(), "want pem_file with files")
			}
			args = append(args, line.args()...)
		}
	}
	for _, a := range args {
		p.h.rootCAs = append(p.h.rootCAs, p.t.literal(a, d.name()))
	}
	if len(args) == 0 {
		p.t.fault(d.place, d.name(), "want files with the certificates of CAs")
	}
}

// refuseTransport reports an unsupported option of a transport.
func (p *proxy) refuseTransport(d directive) {
	name := d.name()
	pool := "connections are reused by rules of the package: delete the line"
	hints := map[string]string{"read_timeout": "set Upstream.IdleTimeout in the program that -go prints", "write_timeout": "set Upstream.IdleTimeout in the program that -go prints",
		"keepalive": pool, "keepalive_interval": pool, "keepalive_idle_conns": pool, "keepalive_idle_conns_per_host": pool,
		"max_conns_per_host": "write unhealthy_request_count in reverse_proxy, which limits the requests at each target",
		"read_buffer":        "buffers have a size of their own: delete the line", "write_buffer": "buffers have a size of their own: delete the line",
		"max_response_header": "heads of responses have a limit of their own: delete the line", "dial_fallback_delay": "set Upstream.Dial in the program that -go prints",
		"resolvers": "set Upstream.Dial in the program that -go prints", "expect_continue_timeout": "the proxy answers 100 Continue as the target does: delete the line",
		"tls_timeout": "dial_timeout covers TLS too", "tls_renegotiation": "renegotiation is off", "tls_curves": "set Upstream.TLS in the program that -go prints",
		"tls_except_ports": "all targets must have the same scheme", "local_address": "set Upstream.Dial in the program that -go prints",
		"forward_proxy_url": "set Upstream.Dial in the program that -go prints", "network_proxy": "set Upstream.Dial in the program that -go prints"}
	hint, ok := hints[name]
	if !ok {
		p.t.fault(d.place, name, "this is not an option of transport http")
		return
	}
	p.t.fault(d.place, name, "not supported: %s", hint)
}

// tls sets the TLS settings for the targets. It reads the files, so that an
// invalid one is a fault of the Caddyfile.
func (p *proxy) tls() {
	if p.insecure || p.serverName != "" || p.h.rootCAs != nil || p.h.keys[0] != "" {
		p.u.TLS = &tls.Config{InsecureSkipVerify: p.insecure, ServerName: p.serverName}
	}
	if p.h.rootCAs != nil {
		pool, err := site.RootCAs(p.h.rootCAs...)
		if err != nil {
			p.t.fault(p.d.place, p.d.name(), "%v", err)
			pool = x509.NewCertPool()
		}
		p.u.TLS.RootCAs = pool
	}
	if p.h.keys[0] != "" {
		cert, err := tls.LoadX509KeyPair(p.h.keys[0], p.h.keys[1])
		if err != nil {
			p.t.fault(p.d.place, "tls_client_auth", "the certificate cannot be read: %v", err)
		}
		p.u.TLS.Certificates = []tls.Certificate{cert}
	}
}

// checks sets active and passive health checks.
func (p *proxy) checks() {
	t := p.t
	uri, ok := p.health["health_uri"]
	if !ok {
		for name, d := range p.health {
			t.fault(d.place, name, "this has no effect without health_uri")
		}
	} else {
		p.active(uri)
	}
	fail, ok := p.passive["fail_duration"]
	if !ok {
		for name, d := range p.passive {
			t.fault(d.place, name, "this has no effect without fail_duration")
		}
		return
	}
	b := &hostproxy.Breaker{Failures: 1, OpenFor: t.duration(fail)}
	if b.OpenFor > 5*time.Minute || b.OpenFor == 0 {
		t.fault(fail.place, "fail_duration", "not supported: %s; want more than 0 and at most 5m", b.OpenFor)
	}
	if d, ok := p.passive["max_fails"]; ok {
		b.Failures = t.number(d, 1)
	}
	if d, ok := p.passive["unhealthy_status"]; ok {
		b.Statuses = t.statuses(d)
	}
	if d, ok := p.passive["unhealthy_latency"]; ok {
		b.Slow = t.positive(d)
	}
	p.u.Breaker, p.u.FailClosed = b, true
}

// active sets the health checks, with Caddy's defaults.
func (p *proxy) active(uri directive) {
	t := p.t
	c := &hostproxy.HealthCheck{Interval: 30 * time.Second, Fall: 1, Statuses: site.Statuses("2xx")}
	if a, ok := t.one(uri); ok {
		if c.Path = t.literal(a, "health_uri"); !strings.HasPrefix(c.Path, "/") {
			c.Path = "/" + c.Path
		}
	}
	if d, ok := p.health["health_interval"]; ok {
		c.Interval = t.positive(d)
	}
	if d, ok := p.health["health_timeout"]; ok {
		c.Timeout = t.positive(d)
	}
	if d, ok := p.health["health_status"]; ok {
		c.Statuses = t.statuses(d)
	}
	if d, ok := p.health["health_passes"]; ok {
		c.Rise = t.number(d, 1)
	}
	if d, ok := p.health["health_fails"]; ok {
		c.Fall = t.number(d, 1)
	}
	if d, ok := p.health["health_headers"]; ok && t.only(d) {
		for _, line := range d.block {
			if a, ok := t.one(line); ok && strings.EqualFold(line.name(), "Host") {
				c.Host = t.literal(a, line.name())
			} else if f := t.field(line, line.name()); ok && f != "" {
				if c.Header == nil {
					c.Header = http.Header{}
				}
				c.Header.Add(f, t.literal(a, line.name()))
			}
		}
	}
	p.u.Health, p.u.FailClosed = c, true
}

// retry sets retries. A single target is tried again; of several targets, each
// is tried once.
func (p *proxy) retry() {
	if p.retries < 1 && p.try == 0 {
		if p.every > 0 {
			p.t.fault(p.d.place, "lb_try_interval", "this has no effect without lb_try_duration or lb_retries")
		}
		return
	}
	if p.every == 0 {
		p.every = 250 * time.Millisecond
	}
	if len(p.targets) == 1 && p.dynamic == "" && !strings.Contains(p.targets[0].text, "-") {
		wait := p.try
		if wait == 0 {
			wait = time.Duration(p.retries) * p.every
		}
		p.h.redial = &site.Redial{For: wait, Every: p.every}
		p.u.DialTimeout += wait
		return
	}
	p.u.Retry.Attempts = 10
	if p.retries >= 0 {
		p.u.Retry.Attempts = min(p.retries+1, 10)
	}
	p.u.Retry.Timeout = -1
	if p.try > 0 {
		p.u.Retry.Timeout = p.try
	}
}

// finishUpstream connects the hooks.
func (t *translator) finishUpstream(u *hostproxy.Upstream, h hooks) *hostproxy.Upstream {
	if h.up != nil {
		u.Rewrite = h.up.Rewrite
	}
	if h.down != nil {
		u.ModifyResponse = h.down.ModifyResponse
	}
	if h.redial != nil {
		u.Dial = h.redial.Dial
	}
	if h.discover != "" {
		u.Discover = hostproxy.DNSSource(h.discover, h.refresh)
	}
	t.plan.hooks[u] = &h

	return u
}
