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

// An engine is certmagic as one Manager uses it: its storage, and the
// challenges that can be answered.
type engine struct {
	storage  *boundedStorage
	shapes   *shapes
	log      *slog.Logger
	zap      *zap.Logger
	noARI    bool             // ignore renewal information of CAs
	cache    *certmagic.Cache // always empty, but a Config requires one; nil before start
	port     heldPort
	http     atomic.Bool // HTTP-01 can be answered
	answers  func()      // called when a CA answers orders again
	silences silences
}

// start is called once, before the first Config is made.
func (e *engine) start() {
	e.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert:   func(certmagic.Certificate) (*certmagic.Config, error) { return nil, errUnused },
		RenewCheckInterval: time.Minute, // certmagic also renews this much earlier than asked
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

// newConfig returns a Config in which every field is set explicitly:
// certmagic.New fills zero fields from variables that any package may change.
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
		// On an error it stays nil, which crypto/tls treats as the same roots.
		set.TrustedRoots, _ = x509.SystemCertPool()
	}
	iss := certmagic.NewACMEIssuer(cfg, set)
	iss.TestCA = "" // we do the probes
	iss.Email = t.Email
	if strings.TrimSpace(t.Email) == "" {
		iss.Email = noEmail
	}
	iss.AccountKeyPEM = t.AccountKeyPEM
	iss.Agreed = true // TLS documents that using a CA means agreeing to its terms
	iss.ExternalAccount = t.ExternalAccount
	iss.NotBefore, iss.NotAfter = t.NotBefore, t.NotAfter
	iss.DisableTLSALPNChallenge = t.DisableTLSALPNChallenge
	iss.DNS01Solver = t.DNS01Solver
	iss.CertObtainTimeout = t.CertObtainTimeout
	iss.NewAccountFunc = t.NewAccountFunc
	iss.DisableHTTPChallenge = t.DisableHTTPChallenge
	return iss
}

// noEmail stands for an ACME account without a contact. If the e-mail is empty,
// certmagic adopts the first one that any issuer of the process has used, or
// asks on the terminal; a blank is trimmed and used.
const noEmail = " "
