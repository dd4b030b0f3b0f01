package caddyfile

import (
	"crypto/tls"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddyserver/certmagic"

	"github.com/hostproxy/hostproxy"
)

// A tlsBlock holds the settings of one tls directive.
type tlsBlock struct {
	place
	email, ca string
	files     hostproxy.CertFile
	internal  bool
	onDemand  bool
	seen      map[string]bool // settings that must not be repeated
	client    *hostproxy.ClientAuth
}

// tls translates the directive tls.
func (t *translator) tls(d directive, s *siteScope) {
	if s.tls == nil {
		s.tls = &tlsBlock{place: d.place, seen: map[string]bool{}}
	}
	b := s.tls
	switch args := d.args(); {
	case len(args) == 1 && args[0].text == "internal":
		b.internal = b.once(t, args[0].place, "internal")
	case len(args) == 1 && strings.Contains(args[0].text, "@"):
		b.once(t, args[0].place, "email")
		b.email = t.email(args[0], "tls")
	case len(args) == 1 && args[0].text == "off":
		t.fault(args[0].place, "tls", "this is of Caddy 1: write http:// in front of the address")
	case len(args) == 1:
		t.fault(args[0].place, "tls", "want internal, an e-mail address, or the files of a certificate and its key, got %q", args[0].text)
	case len(args) == 2 && args[0].text == "internal":
		t.fault(args[1].place, "tls", "want internal alone: %q is too much", args[1].text)
	case len(args) == 2:
		b.once(t, args[0].place, "files")
		b.files = hostproxy.CertFile{CertFile: t.literal(args[0], "tls"), KeyFile: t.literal(args[1], "tls")}
	case len(args) > 2:
		t.fault(args[2].place, "tls", "want internal, an e-mail address, or two files: %q is too much", args[2].text)
	case len(d.block) == 0:
		t.fault(d.place, "tls", "want internal, an e-mail address, two files, or a block")
	}
	for _, line := range d.block {
		b.once(t, line.place, line.name())
		t.tlsLine(line, b)
	}
}

// once reports a setting that is repeated, perhaps under another name, and one
// that another setting makes ineffective. It returns true.
func (b *tlsBlock) once(t *translator, at place, name string) bool {
	if b.seen[name] {
		t.fault(at, name, "this is written twice: only one of the two could count")
	}
	b.seen[name] = true
	for _, pair := range [][2]string{{"files", "internal"}, {"files", "email"}, {"files", "ca"}, {"files", "issuer"}, {"files", "on_demand"},
		{"internal", "email"}, {"internal", "ca"}, {"internal", "on_demand"}} {
		if (name == pair[0] || name == pair[1]) && b.seen[pair[0]] && b.seen[pair[1]] {
			t.fault(at, name, "not supported: %s beside %s in one site; delete one of them", pair[1], pair[0])
		}
	}
	return true
}

// tlsLine reads one option.
func (t *translator) tlsLine(d directive, b *tlsBlock) {
	name := d.name()
	hints := map[string]string{
		"dns":                           "DNS providers are Go modules: set Router.TLS.DNS in the program that -go prints, for instance to &cloudflare.Provider{APIToken: os.Getenv(\"TOKEN\")}",
		"ciphers":                       "set Router.TLS.Config.CipherSuites in the program that -go prints",
		"curves":                        "set Router.TLS.Config.CurvePreferences in the program that -go prints",
		"alpn":                          "set Router.TLS.Config.NextProtos in the program that -go prints",
		"ca_root":                       "set TrustedRoots of a certmagic.ACMEIssuer in Router.TLS.Issuer in the program that -go prints",
		"key_type":                      "set Router.TLS.Issuer to a hostproxy.Issuer with KeyType in the program that -go prints",
		"eab":                           "set ExternalAccount of a certmagic.ACMEIssuer in Router.TLS.Issuer in the program that -go prints",
		"load":                          "list the files in Router.TLS.Files in the program that -go prints",
		"get_certificate":               "set Router.TLS.Config.GetCertificate in the program that -go prints",
		"insecure_secrets_log":          "set Router.TLS.Config.KeyLogWriter in the program that -go prints",
		"reuse_private_keys":            "each certificate has a key of its own",
		"renewal_window_ratio":          "certificates are renewed when the CA suggests it",
		"resolvers":                     "DNS providers are Go modules: set Router.TLS.DNS in the program that -go prints",
		"propagation_timeout":           "DNS providers are Go modules: set Router.TLS.DNS in the program that -go prints",
		"propagation_delay":             "DNS providers are Go modules: set Router.TLS.DNS in the program that -go prints",
		"dns_ttl":                       "DNS providers are Go modules: set Router.TLS.DNS in the program that -go prints",
		"dns_challenge_override_domain": "DNS providers are Go modules: set Router.TLS.DNS in the program that -go prints",
		"force_automate":                "each host has a certificate of its own unless a wildcard covers it",
	}
	switch name {
	case "ca":
		if a, ok := t.one(d); ok {
			b.ca = t.directory(a, "ca")
		}
	case "on_demand":
		b.onDemand = t.none(d)
	case "protocols":
		for _, a := range d.args() {
			if a.text != "tls1.2" && a.text != "tls1.3" || len(d.args()) == 1 && a.text == "tls1.3" {
				t.fault(a.place, name, "not supported: only tls1.2 tls1.3, the default; set Router.TLS.Config.MinVersion in the program that -go prints")
			}
		}
		t.some(d)
	case "issuer":
		t.issuer(d, b)
	case "client_auth":
		t.clientAuth(d, b)
	default:
		if hint, ok := hints[name]; ok {
			t.fault(d.place, name, "not supported: %s", hint)
			return
		}
		t.fault(d.place, name, "this is not an option of tls")
	}
}

// email reads the e-mail address of an account.
func (t *translator) email(a token, word string) string {
	name, domain, _ := strings.Cut(a.text, "@")
	if name == "" || domain == "" || strings.ContainsAny(a.text, " :\t\n") || strings.Contains(domain, "@") {
		t.fault(a.place, word, "%q is not an e-mail address: want one such as ops@example.com", a.text)
	}
	return t.literal(a, word)
}

// directory reads the URL of a CA.
func (t *translator) directory(a token, word string) string {
	if !strings.HasPrefix(a.text, "https://") {
		t.fault(a.place, word, "%q is not the URL of an ACME directory: want https://…", a.text)
	}
	return t.literal(a, word)
}

func (t *translator) issuer(d directive, b *tlsBlock) {
	switch args := d.args(); {
	case len(args) == 1 && args[0].text == "internal" && !d.open:
		b.internal = b.once(t, d.place, "internal")
	case len(args) >= 1 && args[0].text == "acme" && len(args) <= 2:
		if len(args) == 2 {
			b.once(t, args[1].place, "ca")
			b.ca = t.directory(args[1], "issuer")
		}
		for _, line := range d.block {
			switch a, ok := t.one(line); {
			case !ok:
			case line.name() == "dir":
				b.once(t, line.place, "ca")
				b.ca = t.directory(a, "dir")
			case line.name() == "email":
				b.once(t, line.place, "email")
				b.email = t.email(a, "email")
			default:
				t.fault(line.place, line.name(), "not supported: of the options of issuer acme, dir and email are; set Router.TLS.Issuer in the program that -go prints")
			}
		}
	default:
		t.fault(d.place, "issuer", "not supported, except issuer internal and issuer acme; set Router.TLS.Issuer in the program that -go prints")
	}
}

// clientAuth reads which client certificates are required.
func (t *translator) clientAuth(d directive, b *tlsBlock) {
	c := &hostproxy.ClientAuth{Mode: tls.RequireAnyClientCert}
	mode := false
	t.only(d)
	t.once(d.block, "trusted_ca_cert_file", "trust_pool")
	for _, line := range d.block {
		switch args := line.args(); {
		case line.name() == "mode" && len(args) == 1 && !line.open:
			modes := map[string]tls.ClientAuthType{"request": tls.RequestClientCert, "require": tls.RequireAnyClientCert,
				"verify_if_given": tls.VerifyClientCertIfGiven, "require_and_verify": tls.RequireAndVerifyClientCert}
			if c.Mode, mode = modes[args[0].text], true; c.Mode == 0 {
				t.fault(args[0].place, "mode", "want request, require, verify_if_given or require_and_verify, got %q", args[0].text)
			}
		case line.name() == "trusted_ca_cert_file":
			for _, a := range t.some(line) {
				c.CAFiles = append(c.CAFiles, t.literal(a, line.name()))
			}
		case line.name() == "trust_pool" && len(args) > 0 && args[0].text == "file":
			files := args[1:]
			for _, l := range line.block {
				if l.name() != "pem_file" {
					t.fault(l.place, l.name(), "want pem_file with files")
				}
				files = append(files, l.args()...)
			}
			for _, a := range files {
				c.CAFiles = append(c.CAFiles, t.literal(a, line.name()))
			}
		default:
			t.fault(line.place, line.name(), "not supported: of the options of client_auth, mode, trust_pool file and trusted_ca_cert_file are; set HostTLS.ClientAuth in the program that -go prints")
		}
	}
	switch {
	case !mode && c.CAFiles == nil:
		t.fault(d.place, "client_auth", "want mode, trust_pool file, or both, in the block")
	case !mode:
		c.Mode = tls.RequireAndVerifyClientCert
	case c.Mode >= tls.VerifyClientCertIfGiven && c.CAFiles == nil:
		t.fault(d.place, "client_auth", "this mode verifies certificates: write trust_pool file and the files of the CAs")
	}
	b.client = c
}

// hostTLS applies a tls directive to one address of its site.
func (t *translator) hostTLS(srv *server, a address, b *tlsBlock) {
	if b == nil {
		b = &tlsBlock{place: a.place}
	}
	h := hostproxy.HostTLS{ClientAuth: b.client}
	own := b.files.CertFile != ""
	switch {
	case own && a.host == "":
		srv.tlsConf.Files = append(srv.tlsConf.Files, b.files)
	case own:
		h.Files = b.files
	case t.global.autoHTTPS == "off":
		t.fault(a.place, a.text, "auto_https is off, so this site has no certificate: write tls with the files of one, or http:// in front of the address")
	case b.onDemand:
		t.onDemand(srv, a, b)
	case a.host == "":
		t.fault(a.place, a.text, "without a host there is no certificate: write the host, http:// in front, tls with the files of a certificate, or tls with on_demand")
	case (b.internal || t.global.localCerts) && b.ca == "":
		if !internal(a.host) {
			t.fault(b.place, "tls", "not supported: internal for %s; the local CA signs only localhost, .localhost, .test, .internal, .local, .home.arpa and private IP addresses. Set HostTLS.Issuer to a CA of your own in the program that -go prints", a.host)
		}
	case b.ca != "" && (internal(a.host) || b.ca != t.global.ca) || !internal(a.host) && b.email != "" && b.email != t.global.email:
		h.Issuer = &certmagic.ACMEIssuer{CA: first(b.ca, t.global.ca, certmagic.LetsEncryptProductionCA), Email: first(b.email, t.global.email)}
	}
	if h != (hostproxy.HostTLS{}) {
		if srv.hosts == nil {
			srv.hosts = map[string]hostproxy.HostTLS{}
		}
		srv.hosts[a.pattern()] = h
	}
}

// onDemand sets what decides on on-demand certificates.
func (t *translator) onDemand(srv *server, a address, b *tlsBlock) {
	switch {
	case a.host != "" && !strings.HasPrefix(a.host, "*."):
		t.fault(b.place, "on_demand", "not supported for the host %s, whose certificate is ordered at start: delete on_demand, or set Router.TLS.Lazy in the program that -go prints", a.host)
	case t.global.ask == nil:
		t.fault(b.place, "on_demand", "who may have a certificate? Write the global option on_demand_tls with ask and a URL")
	case b.ca != "" && b.ca != t.global.ca || b.email != "" && b.email != t.global.email:
		t.fault(b.place, "on_demand", "not supported beside a CA or an e-mail address of the site's own: write them as the global options acme_ca and email")
	default:
		srv.ask = t.global.ask
	}
}

func first(texts ...string) string {
	for _, s := range texts {
		if s != "" {
			return s
		}
	}
	return ""
}

// internal reports whether the local CA signs certificates for a host.
func internal(host string) bool {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast()
	}
	host = strings.TrimSuffix(host, ".")
	return slices.ContainsFunc([]string{"localhost", "test", "internal", "local", "home.arpa"}, func(top string) bool {
		return host == top || strings.HasSuffix(host, "."+top)
	})
}
