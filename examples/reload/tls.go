package reload

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"

	"github.com/hostproxy/hostproxy"
)

// checkRoutes adds hostproxy's faults in the combination of patterns and
// handlers.
func (b *planner) checkRoutes() {
	_, err := new(hostproxy.Router).CheckReplace(b.routes)
	if len(b.faults) == 0 && err == nil {
		return
	}
	before := len(b.faults)
	for _, pattern := range slices.Sorted(maps.Keys(b.Routes)) {
		h := b.routes[pattern]
		if h == nil || before > 0 {
			h = new(page) // stands for a handler whose faults are known
		}
		_, err := new(hostproxy.Router).CheckReplace(map[string]http.Handler{pattern: h})
		b.library(err, *b.Routes[pattern], "routes", pattern)
	}
	if len(b.faults) > 0 {
		return
	}
	// the rest concerns several routes, such as two spellings of a pattern
	for _, err := range split(err) {
		at := []string{"routes"}
		for _, pattern := range slices.Sorted(maps.Keys(b.routes)) {
			if strings.Contains(err.Error(), strconv.Quote(pattern)) {
				at = []string{"routes", pattern}
			}
		}
		b.fault(at, "%s", strings.TrimPrefix(err.Error(), "hostproxy: "))
	}
}

// checkRouter adds the faults in the Router's settings.
func (b *planner) checkRouter() {
	b.planRouter()
	r := b.router()
	r.Logger = slog.New(slog.DiscardHandler) // the faults are returned, so they need no log
	b.library(r.Check(), b.Config)
	if b.NotFound != nil {
		b.page(b.NotFound, http.StatusNotFound, "not_found")
	}
	dir, err := os.MkdirTemp("", "reload")
	if err != nil {
		b.fault([]string{"tls"}, "the settings cannot be checked: %v", err)
		return
	}
	defer os.RemoveAll(dir)
	t := &hostproxy.Router{TLS: b.tls, Logger: r.Logger}
	t.TLS.Storage = &certmagic.FileStorage{Path: dir} // without routes, no certificate is ordered
	_, err = t.TLSConfig()
	b.library(err, b.TLS, "tls")
	_ = t.Close()
}

// router returns a Router with the file's settings, without routes and hooks.
func (b *plan) router() *hostproxy.Router {
	return &hostproxy.Router{
		TrustedProxies: b.TrustedProxies,
		RequestID:      hostproxy.RequestIDHeader(b.RequestID),
		ResponseHeader: b.edit,
		HSTS:           (*hostproxy.HSTS)(b.HSTS),
		RateLimit:      rateLimit(b.RateLimit),
		TLS:            b.tls,
	}
}

// planRouter builds the Router's settings that need more than a copy.
func (b *planner) planRouter() {
	b.tls = b.planTLS()
	b.edit = b.headerEdit(b.ResponseHeader, "response_header")
}

// planTLS returns the file's settings for Router.TLS, without hooks.
func (b *planner) planTLS() (t hostproxy.TLS) {
	c := &b.TLS
	fill(reflect.ValueOf(&t), reflect.ValueOf(c))
	if c.Issuer != nil {
		t.Issuer = b.issuer(c.Issuer, "tls", "issuer")
	}
	for i := range c.Fallbacks {
		t.Fallbacks = append(t.Fallbacks, b.issuer(&c.Fallbacks[i], "tls", "fallbacks", strconv.Itoa(i)))
	}
	if c.Internal != nil {
		t.Internal = b.issuer(c.Internal, "tls", "internal")
	}
	if c.Storage != "" {
		t.Storage = &certmagic.FileStorage{Path: b.path(c.Storage)}
		if info, err := os.Stat(b.path(c.Storage)); err == nil && !info.IsDir() {
			b.fault([]string{"tls", "storage"}, "%s is no directory: want one", quoted(string(c.Storage)))
		}
	}
	for i, f := range c.Files {
		if f := b.certFile(f, "tls", "files", strconv.Itoa(i)); f.CertFile != "" && f.KeyFile != "" {
			t.Files = append(t.Files, f)
		}
	}
	if c.Config != nil {
		t.Config = b.serverTLS(c.Config)
	}
	return t
}

// serverTLS returns the TLS settings for client connections.
func (b *planner) serverTLS(c *ServerTLS) *tls.Config {
	conf := &tls.Config{MinVersion: max(tlsVersion(c.MinVersion), tls.VersionTLS12), SessionTicketsDisabled: c.SessionTicketsDisabled}
	for i, name := range c.CipherSuites {
		suites := tls.CipherSuites()
		n := slices.IndexFunc(suites, func(s *tls.CipherSuite) bool { return s.Name == name })
		if n < 0 || !slices.Contains(suites[n].SupportedVersions, tls.VersionTLS12) {
			var names []string
			for _, s := range suites {
				if slices.Contains(s.SupportedVersions, tls.VersionTLS12) {
					names = append(names, s.Name)
				}
			}
			b.fault([]string{"tls", "config", "cipher_suites", strconv.Itoa(i)}, "cipher suite %s is unknown, or not for TLS 1.2: want one of %s", quoted(name), strings.Join(names, ", "))
			continue
		}
		conf.CipherSuites = append(conf.CipherSuites, suites[n].ID)
	}
	if len(c.CipherSuites) > 0 && c.MinVersion == "1.3" {
		b.fault([]string{"tls", "config", "cipher_suites"}, "cipher_suites are for TLS 1.2, and min_version is 1.3: remove one of them")
	}
	return conf
}

// certFile returns f with resolved paths.
func (b *planner) certFile(f CertFile, at ...string) hostproxy.CertFile {
	if f.CertFile == "" || f.KeyFile == "" {
		b.fault(at, "want cert_file and key_file")
	}
	return hostproxy.CertFile{CertFile: b.path(f.CertFile), KeyFile: b.path(f.KeyFile)}
}

// issuer returns an ACME issuer.
func (b *planner) issuer(c *Issuer, at ...string) certmagic.Issuer {
	i := &certmagic.ACMEIssuer{CA: c.CA, TestCA: c.TestCA, Email: c.Email, Profile: c.Profile, Agreed: true}
	if len(c.TrustedRoots) > 0 {
		i.TrustedRoots = b.pool(c.TrustedRoots, append(at, "trusted_roots")...)
	}
	if e := c.ExternalAccount; e != nil {
		at := append(at, "external_account")
		if e.KeyID == "" || e.MACKeyFile == "" {
			b.fault(at, "want key_id and mac_key_file")
		} else {
			i.ExternalAccount = &acme.EAB{KeyID: e.KeyID, MACKey: b.secret(e.MACKeyFile, append(at, "mac_key_file")...)}
		}
	}
	if c.KeyType == "" {
		return i
	}
	return hostproxy.Issuer{Issuer: i, KeyType: certmagic.KeyType(c.KeyType)}
}

// checkHosts builds the settings of hosts, and adds their faults.
func (b *planner) checkHosts() {
	hosts := map[string]bool{}
	wild := false
	for pattern := range b.Routes {
		host, _, _ := strings.Cut(pattern, "/")
		hosts[canonical(host)] = true
		wild = wild || strings.HasPrefix(host, "*")
	}
	for _, spelling := range slices.Sorted(maps.Keys(b.TLS.Hosts)) {
		pattern, at := canonical(spelling), []string{"tls", "hosts", spelling}
		if !hosts[pattern] && !(wild && b.onDemand(pattern)) {
			b.fault(at, "no route has this host: write it as in routes, or remove it")
		}
		if b.hosts[pattern] != nil {
			b.fault(at, "the host is there in another spelling: keep one of them")
		}
		c := b.TLS.Hosts[spelling]
		h := &hostTLS{b.host(pattern, c, at...), b.key(c)}
		if old := b.old.hosts[pattern]; old != nil && old.key == h.key {
			h = old // keeps the same pools of CAs: a new pool would count as a change
		}
		b.hosts[pattern] = h
	}
	for i, h := range b.TLS.HostPolicy {
		at := []string{"tls", "host_policy", strconv.Itoa(i)}
		if strings.ContainsAny(strings.TrimPrefix(h, "*."), "*/: ") || !strings.Contains(h, ".") {
			b.fault(at, "%s: want a host such as a.example.com, or *.example.com for one label", quoted(h))
		} else if c := canonical(h); c != h {
			b.fault(at, "%s: want the canonical spelling, %s", quoted(h), c)
		}
	}
	if b.TLS.HostPolicy != nil && !wild {
		b.fault([]string{"tls", "host_policy"}, "no route has a wildcard, and only hosts of one get certificates on demand: add one such as \"*.example.com\", or remove it")
	}
}

// onDemand reports whether HostPolicy allows a certificate for the host.
func (f *file) onDemand(host string) bool {
	_, parent, _ := strings.Cut(host, ".")
	return slices.Contains(f.TLS.HostPolicy, host) || slices.Contains(f.TLS.HostPolicy, "*."+parent)
}

// canonical returns the Router's spelling of a host pattern. It returns an
// invalid one unchanged.
func canonical(host string) string {
	var r hostproxy.Router
	if err := r.Set(host, new(page)); err != nil {
		return host
	}
	for pattern := range r.All() {
		host = pattern
	}
	return host
}

// A hostTLS has the settings of a host, and a key that is equal for equal
// settings.
type hostTLS struct {
	hostproxy.HostTLS
	key string
}

// host returns the settings of a host.
func (b *planner) host(pattern string, c *HostTLS, at ...string) hostproxy.HostTLS {
	h := hostproxy.HostTLS{OwnCertificate: c.OwnCertificate, NoCertificate: c.NoCertificate}
	if c.Issuer != nil {
		h.Issuer = b.issuer(c.Issuer, append(at, "issuer")...)
	}
	if c.Files != nil {
		h.Files = b.certFile(*c.Files, append(at, "files")...)
		b.covers(pattern, h.Files, append(at, "files")...)
	}
	for _, x := range []struct {
		both bool
		rule string
	}{
		{c.NoCertificate && (c.Files != nil || c.Issuer != nil || c.OwnCertificate || c.ClientAuth != nil), "no_certificate refuses handshakes: remove it, or the other settings"},
		{c.Files != nil && (c.Issuer != nil || c.OwnCertificate), "files are the certificate: remove them, or issuer and own_certificate"},
	} {
		if x.both {
			b.fault(at, "%s", x.rule)
		}
	}
	if a := c.ClientAuth; a != nil {
		h.ClientAuth = &hostproxy.ClientAuth{Mode: clientAuth(a.Mode)}
		for _, f := range a.CAFiles {
			h.ClientAuth.CAFiles = append(h.ClientAuth.CAFiles, b.path(f))
		}
		at := append(at, "client_auth")
		b.pool(a.CAFiles, append(at, "ca_files")...)
		if verifies := a.Mode == "" || a.Mode == "verify_if_given"; verifies != (len(a.CAFiles) > 0) {
			b.fault(at, "ca_files are required if mode verifies certificates, and have no effect if it does not")
		}
	}
	return h
}

// covers adds a fault if the files are not a certificate for the pattern.
func (b *planner) covers(pattern string, f hostproxy.CertFile, at ...string) {
	pair, err := tls.LoadX509KeyPair(f.CertFile, f.KeyFile)
	if err != nil {
		b.fault(at, "%v: want PEM files of a certificate and its key", err)
		return
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if name := strings.Replace(pattern, "*", "a", 1); err == nil && pattern != "*" {
		err = leaf.VerifyHostname(name)
	}
	if err != nil {
		b.fault(at, "%v: want a certificate for %s", err, quoted(pattern))
	}
}

func clientAuth(mode string) tls.ClientAuthType {
	return map[string]tls.ClientAuthType{"request": tls.RequestClientCert, "require_any": tls.RequireAnyClientCert, "verify_if_given": tls.VerifyClientCertIfGiven}[mode]
}

// listeners returns the listeners of the file.
func (f *file) listeners() []Listener {
	if f.Listeners == nil {
		return []Listener{{Addr: ":443"}, {Addr: ":80", Role: "redirects"}}
	}
	return f.Listeners
}

// checkListeners adds the faults in the listeners.
func (b *planner) checkListeners() {
	secure := false
	for i := range b.listeners() {
		secure = secure || b.listeners()[i].Role == ""
	}
	if len(b.listeners()) == 0 {
		b.fault([]string{"listeners"}, "there is no listener: want one at least, or leave the key out for :443 and :80")
	}
	for i, l := range b.Listeners {
		at := []string{"listeners", strconv.Itoa(i)}
		unix := strings.HasPrefix(l.Addr, "unix:")
		for _, x := range []struct {
			broken bool
			key    string
			rule   string
		}{
			{(l.Addr == "") == (l.Socket == ""), "addr", "want one of addr and socket"},
			{l.Mode != 0 && !unix, "mode", "mode is for unix sockets, and addr is none: remove it"},
			{l.H2C && l.Role != "plain", "h2c", "h2c requires the role plain"},
			{(l.Handler != "") != (l.Role == "internal"), "handler", "handler and the role internal require each other"},
			{l.Role == "redirects" && !secure, "role", "redirects lead to HTTPS, and no listener has the role tls: add one, or use the role plain"},
			{b.sameAddr(i), "addr", "another listener has this address or socket: a listener has one role"},
		} {
			if x.broken {
				b.fault(append(at, x.key), "%s", x.rule)
			}
		}
		if l.Handler != "" {
			b.handler(l.Handler, append(at, "handler")...)
		}
		b.proxyProtocol(l.ProxyProtocol, append(at, "proxy_protocol")...)
		if rule := addressRule(l.Addr); rule != "" && l.Addr != "" {
			b.fault(append(at, "addr"), "%s: %s", quoted(l.Addr), rule)
		}
	}
	b.proxyProtocol(b.Server.ProxyProtocol, "server", "proxy_protocol")
}

func (b *planner) proxyProtocol(p *ProxyProtocol, at ...string) {
	if p != nil && len(p.From) == 0 {
		b.fault(append(at, "from"), "from is missing: want the addresses of the load balancers, which may claim any client address")
	}
}

// sameAddr reports whether an earlier listener has the same address or socket
// as listener i.
func (b *planner) sameAddr(i int) bool {
	l := b.Listeners[i]
	return slices.ContainsFunc(b.Listeners[:i], func(o Listener) bool {
		return l.Addr != "" && o.Addr == l.Addr && !strings.HasSuffix(l.Addr, ":0") || l.Socket != "" && o.Socket == l.Socket
	})
}

// addressRule returns the rule that an address of a listener breaks, or "".
func addressRule(addr string) string {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		if !strings.HasPrefix(path, "/") {
			return "a unix socket needs an absolute path, such as unix:/run/proxy.sock"
		}
		return ""
	}
	i := strings.LastIndexByte(addr, ':')
	if i < 0 {
		return fmt.Sprintf("the port is missing: want host:port, or :port, such as %s", quoted(addr+":443"))
	}
	if n, err := strconv.ParseUint(addr[i+1:], 10, 16); err != nil {
		return fmt.Sprintf("port %s: want a number below 65536", quoted(addr[i+1:]))
	} else if n > 0 && strings.Contains(addr[:i], ":") && !strings.HasPrefix(addr, "[") {
		return "an IPv6 address stands in brackets, as in [::1]:443"
	}
	return ""
}
