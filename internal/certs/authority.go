package certs

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

// noEmail is an ACME account without a contact. certmagic takes an empty
// e-mail as leave to adopt the first one that any issuer of the process has
// used, or to ask for one on the terminal; a blank it trims and uses.
const noEmail = " "

// shortlived is the profile under which Let's Encrypt signs IP addresses.
const shortlived = "shortlived"

// limitedHosts is how many hosts in a row an issuer must turn away for their
// number before it is left alone by all.
const limitedHosts = 3

// An authority is an issuer and what certmagic needs around it.
type authority struct {
	manager  *Manager
	template certmagic.Issuer
	key      string // of its place in storage

	mu      sync.Mutex
	configs map[variant]*certmagic.Config
	limited int       // hosts in a row that met the rate limit
	paused  time.Time // until when it is left alone
}

// A variant is what one authority has to do differently for some hosts.
type variant struct {
	http bool // HTTP-01 can be answered
	ip   bool // the host is an address
}

// newAuthority checks an issuer. ACME issuers are templates.
func newAuthority(m *Manager, template certmagic.Issuer) (*authority, error) {
	if template == nil {
		return nil, errors.New("an issuer is nil")
	}
	if t, ok := template.(*certmagic.ACMEIssuer); ok {
		t := *t
		if t.CA == "" {
			t.CA = certmagic.LetsEncryptProductionCA
		}
		u, err := url.Parse(t.CA)
		if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !hostname.IsInternal(u.Hostname())) {
			return nil, fmt.Errorf("CA %q: want the https URL of an ACME directory", t.CA)
		}
		template = &t
	}
	return &authority{
		manager:  m,
		template: template,
		key:      template.IssuerKey(),
		configs:  make(map[variant]*certmagic.Config),
	}, nil
}

// wildcards reports whether the authority can prove control of a whole zone.
func (a *authority) wildcards() bool {
	t, ok := a.template.(*certmagic.ACMEIssuer)
	return !ok || t.DNS01Solver != nil
}

// issue obtains or renews the certificate for name, once, and leaves it in
// storage. It does nothing if another process has done so by now.
func (a *authority) issue(ctx context.Context, name string) (err error) {
	if until := a.pausedUntil(); !until.IsZero() {
		return &limitedError{until: until, err: fmt.Errorf("the rate limit of %s is used up", a.key)}
	}
	cfg, err := a.config(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, maxIssueTime, errors.New("the CA does not answer in time"))
	defer cancel()
	// Storages with leases renew them only for attempts that are counted.
	ctx = context.WithValue(ctx, certmagic.AttemptsCtxKey, new(int))
	defer rescue("issuer", &err)
	ctx, mark := markStorage(ctx)
	// Renewing what is not there is obtaining. Sync is one attempt; Async would sleep between its own for up to 30 days, with the lock of the host.
	err = mark(cfg.RenewCertSync(ctx, name, false))
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return a.judge(err)
}

// judge keeps count of rate limits and dresses their errors.
func (a *authority) judge(err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	until, limited := rateLimit(err)
	if !limited {
		a.limited = 0
		return err
	}
	if a.limited++; a.limited >= limitedHosts {
		a.paused, a.limited = until, 0
	}
	return &limitedError{until: until, err: err}
}

func (a *authority) pausedUntil() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Now().Before(a.paused) {
		return a.paused
	}
	return time.Time{}
}

// renewalInfo asks the CA when it wants the certificate renewed. Authorities
// that have no opinion return acme.ErrUnsupported.
func (a *authority) renewalInfo(ctx context.Context, leaf *x509.Certificate) (info acme.RenewalInfo, err error) {
	cfg, err := a.config("")
	if err != nil {
		return info, err
	}
	g, ok := cfg.Issuers[0].(certmagic.RenewalInfoGetter)
	if !ok {
		return info, acme.ErrUnsupported
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	defer rescue("issuer", &err)
	var c certmagic.Certificate
	c.Leaf = leaf
	return g.GetRenewalInfo(ctx, c)
}

// config returns the authority's Config for a host, making it on first use:
// by then the listeners are known.
func (a *authority) config(name string) (*certmagic.Config, error) {
	_, notIP := netip.ParseAddr(name)
	v := variant{http: a.manager.http.Load(), ip: notIP == nil}
	a.mu.Lock()
	defer a.mu.Unlock()
	if cfg := a.configs[v]; cfg != nil {
		return cfg, nil
	}
	cfg := a.manager.newConfig()
	t, ok := a.template.(*certmagic.ACMEIssuer)
	if !ok {
		cfg.Issuers = []certmagic.Issuer{a.template}
		cfg.DisableStorageCheck = true // worth it before an order at a CA only
	} else {
		host, port, err := a.manager.port.open()
		if err != nil {
			return nil, fmt.Errorf("loopback port for challenges: %w", err)
		}
		iss := a.manager.newACME(cfg, t)
		iss.ListenHost, iss.AltHTTPPort, iss.AltTLSALPNPort = host, port, port
		iss.DisableHTTPChallenge = t.DisableHTTPChallenge || !v.http
		if v.ip && t.Profile == "" && strings.Contains(t.CA, "letsencrypt.org") {
			iss.Profile = shortlived
		}
		cfg.Issuers = []certmagic.Issuer{iss}
	}
	a.configs[v] = cfg
	return cfg, nil
}

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
	iss.TestCA = "" // retries are ours, and they ask the CA that is to sign
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

// closeIdle closes the connections to CAs that carry no request. certmagic keeps
// its client to itself and has no word for this: without it, two goroutines for
// each connection would stay for as long as the CA likes.
func (a *authority) closeIdle() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, cfg := range a.configs {
		for _, iss := range cfg.Issuers {
			acme, ok := iss.(*certmagic.ACMEIssuer)
			if !ok {
				continue
			}
			client := reflect.ValueOf(acme).Elem().FieldByName("httpClient")
			if client.IsValid() && client.Type() == reflect.TypeFor[*http.Client]() && !client.IsNil() {
				(*http.Client)(client.UnsafePointer()).CloseIdleConnections()
			}
		}
	}
}
