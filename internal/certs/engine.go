package certs

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

var errUnused = errors.New("certmagic's cache is not used")

// An engine is certmagic as one Manager uses it: where it keeps what it has,
// and by what challenges are answered.
type engine struct {
	storage *boundedStorage
	shapes  *shapes
	log     *slog.Logger
	zap     *zap.Logger
	noARI   bool             // ignore what CAs say of renewals
	cache   *certmagic.Cache // always empty; a Config wants one; nil before start
	port    heldPort
	http    atomic.Bool // HTTP-01 can be answered
	answers func()      // called when a CA answers orders again
}

// start is called once, before the first Config is made.
func (e *engine) start() {
	e.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert:   func(certmagic.Certificate) (*certmagic.Config, error) { return nil, errUnused },
		RenewCheckInterval: time.Minute, // also how much earlier than asked certmagic renews
		OCSPCheckInterval:  24 * time.Hour,
		Logger:             e.zap,
	})
}

// stop ends the maintenance of the cache.
func (e *engine) stop() {
	if e.cache != nil {
		e.cache.Stop()
	}
}

// newConfig returns a Config with every field set on purpose: certmagic.New
// fills those left zero from variables that any package may change.
func (e *engine) newConfig() *certmagic.Config {
	cfg := certmagic.New(e.cache, certmagic.Config{
		RenewalWindowRatio: renewalRatio,
		OnEvent:            func(context.Context, string, map[string]any) error { return nil },
		ShouldEmitFunc:     func(string) bool { return false },
		Issuers:            []certmagic.Issuer{},
		IssuerPolicy:       certmagic.UseFirstIssuer,
		KeySource:          certmagic.StandardKeyGenerator{KeyType: certmagic.P256},
		OCSP:               certmagic.OCSPConfig{DisableStapling: true},
		Storage:            e.storage,
		Logger:             e.zap,
	})
	cfg.OnDemand = nil
	cfg.MustStaple = false
	cfg.DisableARI = e.noARI
	cfg.LocalCache = nil
	cfg.DefaultServerName, cfg.FallbackServerName = "", ""
	return cfg
}

// newACME binds a template to cfg, field by field for the same reason.
func (e *engine) newACME(cfg *certmagic.Config, t *certmagic.ACMEIssuer) *certmagic.ACMEIssuer {
	set := *t
	set.Logger = e.zap
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
