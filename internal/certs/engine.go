package certs

import (
	"context"
	"crypto/x509"
	"net/http"
	"strings"

	"github.com/caddyserver/certmagic"
)

// newConfig returns a Config with every field set on purpose: certmagic.New
// fills those left zero from variables that any package may change.
func (m *Manager) newConfig() *certmagic.Config {
	cfg := certmagic.New(m.cache, certmagic.Config{
		RenewalWindowRatio: renewalRatio,
		OnEvent:            func(context.Context, string, map[string]any) error { return nil },
		ShouldEmitFunc:     func(string) bool { return false },
		Issuers:            []certmagic.Issuer{},
		IssuerPolicy:       certmagic.UseFirstIssuer,
		KeySource:          certmagic.StandardKeyGenerator{KeyType: certmagic.P256},
		OCSP:               certmagic.OCSPConfig{DisableStapling: true},
		Storage:            m.storage,
		Logger:             m.zap,
	})
	cfg.OnDemand = nil
	cfg.MustStaple = false
	cfg.DisableARI = m.options.DisableARI
	cfg.LocalCache = nil
	cfg.DefaultServerName, cfg.FallbackServerName = "", ""
	return cfg
}

// newACME binds a template to cfg, field by field for the same reason.
func (m *Manager) newACME(cfg *certmagic.Config, t *certmagic.ACMEIssuer) *certmagic.ACMEIssuer {
	set := *t
	set.Logger = m.zap
	if set.HTTPProxy == nil {
		set.HTTPProxy = http.ProxyFromEnvironment
	}
	if set.TrustedRoots == nil {
		// An error leaves nil, which crypto/tls takes as the same roots.
		set.TrustedRoots, _ = x509.SystemCertPool()
	}
	iss := certmagic.NewACMEIssuer(cfg, set)
	iss.TestCA = "" // probes are ours
	iss.Email = t.Email
	if strings.TrimSpace(t.Email) == "" {
		iss.Email = noEmail
	}
	iss.AccountKeyPEM = t.AccountKeyPEM
	iss.Agreed = true // documented at TLS: using a CA is agreeing to its terms
	iss.ExternalAccount = t.ExternalAccount
	iss.NotBefore, iss.NotAfter = t.NotBefore, t.NotAfter
	iss.DisableTLSALPNChallenge = t.DisableTLSALPNChallenge
	iss.DNS01Solver = t.DNS01Solver
	iss.CertObtainTimeout = t.CertObtainTimeout
	iss.NewAccountFunc = t.NewAccountFunc
	iss.DisableHTTPChallenge = t.DisableHTTPChallenge
	return iss
}

// noEmail is an ACME account without a contact. certmagic takes an empty
// e-mail as leave to adopt the first one that any issuer of the process has
// used, or to ask for one on the terminal; a blank it trims and uses.
const noEmail = " "
