package caddyfile

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/hostproxy/hostproxy/examples/caddyfile/site"
)

// global holds the global options.
type global struct {
	httpPort, httpsPort int
	bind                []string
	email, ca           string
	localCerts          bool
	autoHTTPS           string // "", "off" or "disable_redirects"
	defaultSNI          string
	storage             string
	ask                 *site.Ask
	trusted             []netip.Prefix
	hasTrusted          bool
	limits              limits
}

// readGlobal reads the global options. It reads ports first, since addresses
// depend on them.
func (t *translator) readGlobal(s *section) {
	t.once(s.block)
	for _, d := range s.block {
		t.globalOption(d)
	}
	if t.global.httpPort == t.global.httpsPort {
		t.fault(s.place, "http_port", "http_port and https_port must differ: both are %d", t.global.httpPort)
	}
}

func (t *translator) globalOption(d directive) {
	g := &t.global
	value := func() string {
		a, _ := t.one(d)
		return t.literal(a, d.name())
	}
	switch d.name() {
	case "email":
		if a, ok := t.one(d); ok {
			g.email = t.email(a, "email")
		}
	case "acme_ca":
		if a, ok := t.one(d); ok {
			g.ca = t.directory(a, "acme_ca")
		}
	case "http_port":
		g.httpPort = t.portOption(d)
	case "https_port":
		g.httpsPort = t.portOption(d)
	case "admin":
		if v := value(); v != "off" {
			t.fault(d.place, "admin", "not supported: there is no admin API; write admin off. Router.Set and hostproxy.StatusHandler do its job in the program that -go prints")
		}
	case "auto_https":
		if g.autoHTTPS = value(); g.autoHTTPS != "off" && g.autoHTTPS != "disable_redirects" {
			t.fault(d.place, "auto_https", "not supported: %q; want off or disable_redirects", g.autoHTTPS)
		}
	case "local_certs":
		g.localCerts = t.none(d)
	case "skip_install_trust": // no trust store is changed anyway
		t.none(d)
	case "persist_config":
		if v := value(); v != "off" {
			t.fault(d.place, "persist_config", "want off, got %q", v)
		}
	case "debug":
		t.plan.debug = t.none(d)
	case "grace_period":
		g.limits.DrainTimeout = t.positive(d)
	case "default_sni":
		if g.defaultSNI = value(); g.defaultSNI != "" && !hostSyntax.MatchString(g.defaultSNI) {
			t.fault(d.place, "default_sni", "%q is not a host: want one of the file, such as example.com", g.defaultSNI)
		}
	case "default_bind":
		g.bind = t.hosts(d)
	case "storage":
		t.storage(d)
	case "on_demand_tls":
		t.askOption(d)
	case "servers":
		t.servers(d)
	default:
		t.refuseGlobal(d)
	}
}

func (t *translator) portOption(d directive) int {
	n := t.number(d, 1)
	if n > 65535 {
		t.fault(d.place, d.name(), "a port is at most 65535")
	}
	return n
}

// refuseGlobal reports an unsupported global option.
func (t *translator) refuseGlobal(d directive) {
	issuer := "set Router.TLS.Issuer in the program that -go prints"
	hints := map[string]string{"acme_dns": "DNS providers are Go modules: set Router.TLS.DNS in the program that -go prints", "dns": "DNS providers are Go modules: set Router.TLS.DNS in the program that -go prints",
		"acme_ca_root": issuer, "acme_eab": issuer, "cert_issuer": issuer, "key_type": issuer, "preferred_chains": issuer, "cert_lifetime": issuer,
		"ocsp_stapling": "revocation is handled by the certificates' package: delete the line", "ocsp_interval": "revocation is handled by the certificates' package: delete the line",
		"renew_interval": "certificates are renewed when the CA suggests it: delete the line", "storage_clean_interval": "storage is cleaned once a day: delete the line",
		"storage_check": "delete the line", "shutdown_delay": "set it in front of the cancel of Serve's context in the program that -go prints",
		"log": "the log of the proxy goes to standard error; set Router.Logger in the program that -go prints. The directive log in a site is for requests",
		"pki": "set Router.TLS.Internal in the program that -go prints", "events": "set Upstream.TargetChanged and TLS.Observe in the program that -go prints",
		"order": "directives have Caddy's order; use route for another one", "metrics": "use examples/prometheus in the program that -go prints",
		"fallback_sni": "write default_sni", "filesystem": "files come from the local disk", "ech": "set Router.TLS.Config.EncryptedClientHelloKeys in the program that -go prints",
		"layer4": "use hostproxy.Passthrough in the program that -go prints", "crowdsec": "use middleware of your own in the program that -go prints", "frankenphp": "run FrankenPHP as a target"}
	hint, ok := hints[d.name()]
	if !ok {
		t.fault(d.place, d.name(), "this is not a global option of Caddy's standard modules: delete the line; the block of a site needs its address in front of {")
		return
	}
	t.fault(d.place, d.name(), "not supported: %s", hint)
}

func (t *translator) storage(d directive) {
	args := d.args()
	switch {
	case len(args) >= 1 && args[0].text == "file_system" && len(args) == 2 && !d.open:
		t.global.storage = t.literal(args[1], "storage")
	case len(args) == 1 && args[0].text == "file_system" && len(d.block) == 1 && d.block[0].name() == "root":
		if a, ok := t.one(d.block[0]); ok {
			t.global.storage = t.literal(a, "root")
		}
	default:
		t.fault(d.place, "storage", "not supported, except storage file_system DIRECTORY; set Router.TLS.Storage in the program that -go prints. examples/cluster has one for Redis")
	}
}

func (t *translator) askOption(d directive) {
	t.only(d)
	t.once(d.block)
	for _, line := range d.block {
		a, ok := t.one(line)
		switch {
		case !ok:
		case line.name() != "ask":
			t.fault(line.place, line.name(), "not supported: of the options of on_demand_tls, ask is; set TLS.HostPolicy in the program that -go prints")
		case !strings.HasPrefix(a.text, "http://") && !strings.HasPrefix(a.text, "https://"):
			t.fault(a.place, "ask", "%q is not a URL: want http://… or https://…", a.text)
		default:
			t.global.ask = &site.Ask{URL: t.literal(a, "ask")}
		}
	}
	if len(d.block) == 0 {
		t.fault(d.place, "on_demand_tls", "want ask with a URL, in a block")
	}
}

// servers reads limits of connections and trusted proxies.
func (t *translator) servers(d directive) {
	if len(d.args()) > 0 {
		t.fault(d.args()[0].place, "servers", "not supported: options for one listener; they apply to all")
	}
	t.once(d.block)
	for _, line := range d.block {
		switch line.name() {
		case "trusted_proxies":
			args := t.some(line)
			if len(args) == 0 || args[0].text != "static" {
				t.fault(line.place, "trusted_proxies", "want trusted_proxies static and addresses")
				continue
			}
			t.global.trusted, t.global.hasTrusted = t.ranges(line.place, args[1:], "trusted_proxies"), true
		case "protocols":
			t.protocols(line)
		case "timeouts":
			t.timeouts(line)
		case "max_header_size":
			t.global.limits.MaxHeaderBytes = int(t.size(line))
		case "client_ip_headers", "trusted_proxies_strict", "trusted_proxies_unix":
			t.fault(line.place, line.name(), "not supported: the client is read from X-Forwarded-For, from right to left; set Router.TrustedProxies in the program that -go prints")
		default:
			t.fault(line.place, line.name(), "not supported: of the options of servers, trusted_proxies, protocols, timeouts and max_header_size are; see hostproxy.Server for others in the program that -go prints")
		}
	}
}

// protocols wants those that are served anyway.
func (t *translator) protocols(d directive) {
	served := 0
	for _, a := range t.some(d) {
		switch a.text {
		case "h1", "h2":
			served++
		case "h3", "h2c":
			t.fault(a.place, "protocols", "not supported: %s; use examples/http3 or Listener.H2C in the program that -go prints", a.text)
		default:
			t.fault(a.place, "protocols", "want h1 h2, got %q", a.text)
		}
	}
	if served != 2 {
		t.fault(d.place, "protocols", "want h1 h2: both are always served")
	}
}

func (t *translator) timeouts(d directive) {
	t.only(d)
	t.once(d.block)
	for _, line := range d.block {
		switch line.name() {
		case "read_header":
			t.global.limits.ReadHeaderTimeout = t.positive(line)
		case "idle":
			t.global.limits.IdleTimeout = t.positive(line)
		default:
			t.fault(line.place, line.name(), "not supported: slow bodies are limited by rate, not by time; set Upstream.IdleTimeout in the program that -go prints")
		}
	}
}

// trust sets the trusted proxies of a server: what the reverse_proxies of its
// sites say must be the same.
func (t *translator) trust(srv *server, proxies []*proxyTrust) {
	for _, p := range proxies {
		want := t.global.trusted
		if p.ranges != nil {
			want = p.ranges
		}
		if srv.trusted && !slices.Equal(srv.trustedProxies, want) || t.global.hasTrusted && !slices.Equal(want, t.global.trusted) {
			t.fault(p.place, "trusted_proxies", "not supported: other trusted proxies than for the rest of the listener; write them once, as the global option servers { trusted_proxies static … }")
		}
		srv.trustedProxies, srv.trusted = want, true
	}
}

// server returns the server for an address. It makes a new one if necessary.
func (t *translator) server(a address, host string, secure bool) *server {
	for _, s := range t.plan.servers {
		if s.host == host && s.port == a.port {
			if s.tls != secure {
				t.fault(a.place, a.text, "port %d is served with TLS and without: give the sites different ports, or write http:// or https:// in front of all of them", a.port)
				return nil
			}
			return s
		}
	}
	s := &server{host: host, port: a.port, tls: secure}
	s.trustedProxies = t.global.trusted
	t.plan.servers = append(t.plan.servers, s)
	return s
}

// finish adds redirects and shared settings.
func (t *translator) finish() {
	plain := func(host string) *server {
		for _, s := range t.plan.servers {
			if s.host == host && s.port == t.global.httpPort {
				return s
			}
		}
		return nil
	}
	secure := map[string]int{}
	for _, s := range t.plan.servers {
		s.httpAt, s.storage, s.limits = t.global.httpPort, t.global.storage, t.global.limits
		if t.global.trusted != nil {
			s.trustedProxies = t.global.trusted
		}
		if s.tls {
			secure[s.host]++
			s.tlsConf.Email, s.tlsConf.CA, s.tlsConf.DefaultHost = t.global.email, t.global.ca, t.global.defaultSNI
		}
	}
	for _, s := range slices.Clone(t.plan.servers) {
		if !s.tls {
			continue
		}
		redirect := t.global.autoHTTPS == ""
		p := plain(s.host)
		if redirect && p == nil && secure[s.host] == 1 && s.port == t.global.httpsPort {
			s.redirects = true
			continue
		}
		if p == nil && redirect {
			p = &server{host: s.host, port: t.global.httpPort, limits: s.limits, httpAt: t.global.httpPort}
			p.trustedProxies = s.trustedProxies
			t.plan.servers = append(t.plan.servers, p)
		}
		if p != nil {
			p.challenge = append(p.challenge, s)
		}
		if redirect {
			t.redirects(s, p)
		}
	}
	t.overlaps()
}

// overlaps reports a port that is served both at one address and at all
// addresses. The system would refuse the second listener.
func (t *translator) overlaps() {
	everywhere := func(s *server) bool { return s.host == "" || s.host == "0.0.0.0" || s.host == "::" }
	for i, all := range t.plan.servers {
		for j, one := range t.plan.servers {
			if !everywhere(all) || everywhere(one) && i >= j || len(one.routes) == 0 {
				continue
			}
			for _, port := range one.ports() {
				if at := one.routes[0]; slices.Contains(all.ports(), port) {
					t.fault(at.at, at.pattern, "not supported: port %d at %s here, and at all addresses for other sites; write bind in all of them, or the global option default_bind", port, one.host)
				}
			}
		}
	}
}

// redirects adds routes that redirect the hosts of a server to HTTPS, except
// hosts that have a site without TLS.
func (t *translator) redirects(from, to *server) {
	port := from.port
	if port == t.global.httpsPort {
		port = 0
	}
	for _, r := range from.routes {
		if r.pattern != "*" && !slices.ContainsFunc(to.routes, func(x route) bool { return x.pattern == r.pattern }) {
			to.routes = append(to.routes, route{at: r.at, pattern: r.pattern, handler: &site.ToHTTPS{Port: port}})
		}
	}
}
