package certs

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
)

// shortlived is the profile under which Let's Encrypt signs IP addresses.
const shortlived = "shortlived"

// challenges are the types of challenge, the ones that prove most first.
// Read-only.
var challenges = []string{acme.ChallengeTypeDNS01, acme.ChallengeTypeTLSALPN01, acme.ChallengeTypeHTTP01}

// An order is a host's request to its chain.
type order struct {
	name   string
	serial *big.Int      // of the certificate in use; nil if there is none
	due    bool          // renewal is due: no rate limit holds the order
	force  bool          // renew even if the certificate in use is not due
	chain  *chain        // issuers that the order is placed with
	left   time.Duration // remaining life of the certificate in use; 0 if there is none
}

// An authority is an issuer with the state that certmagic needs for it.
type authority struct {
	engine   *engine
	template certmagic.Issuer
	identity identity
	keyType  certmagic.KeyType
	key      string // its key in storage
	prefix   string // of the storage keys of its certificates
	account  *account
	down     downtime   // outages of the CA
	staging  *authority // the CA's staging directory, for probes; nil if there is none

	mu      sync.Mutex
	configs map[variant]*certmagic.Config
	orders  map[string]struct{} // hosts with orders in flight
	hasty   sync.Once           // logs once that certificates expire too soon
	silent  time.Time           // no probes before this time, since one got no answer
}

// A variant is what an authority does differently for some hosts.
type variant struct {
	challenge string // the only type that is offered; "" where there is none
	ip        bool   // the host is an address
}

// A draft is an issuer from the program, read and checked. Making one calls a
// method of the program, which may hang: no lock is held then.
type draft struct {
	template certmagic.Issuer
	identity identity
	keyType  certmagic.KeyType
	key      string
	staging  *draft // the CA's staging directory; nil if there is none
}

// draftOf checks an issuer. An ACME issuer is a template.
func draftOf(given certmagic.Issuer) (*draft, error) {
	template, keyType, err := open(given)
	if err != nil {
		return nil, err
	}
	d := &draft{
		template: template,
		identity: identityOf(given, template, keyType),
		keyType:  keyType,
		key:      template.IssuerKey(),
	}
	if t, ok := template.(*certmagic.ACMEIssuer); ok && t.TestCA != "" && t.TestCA != t.CA {
		test := *t
		test.CA, test.TestCA = t.TestCA, ""
		if d.staging, err = draftOf(&test); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// newAuthority returns the authority of a draft. s.mu is held, except in New.
func (s *issuers) newAuthority(d *draft) *authority {
	a := &authority{
		engine:   s.engine,
		template: d.template,
		identity: d.identity,
		keyType:  d.keyType,
		key:      d.key,
		prefix:   certmagic.StorageKeys.CertsPrefix(d.key),
		account:  s.accountOf(d.identity.account, d.key),
		configs:  make(map[variant]*certmagic.Config),
		orders:   make(map[string]struct{}),
	}
	if d.staging != nil {
		a.staging = s.newAuthority(d.staging)
	}
	return a
}

// accountOf returns the account that all authorities with the same ID share.
// s.mu is held, except in New.
func (s *issuers) accountOf(id accountID, issuerKey string) *account {
	if s.accounts[id] == nil {
		a := newAccount(id, issuerKey)
		if _, local := id.issuer.(*LocalCA); !local {
			a.met = newLedger(s.engine.storage, issuerKey, id.directory, id.email, id.key, id.external)
		}
		s.accounts[id] = a
	}
	return s.accounts[id]
}

// wildcards reports whether the authority can prove control of a whole zone.
func (a *authority) wildcards() bool {
	t, ok := a.template.(*certmagic.ACMEIssuer)
	return !ok || t.DNS01Solver != nil
}

// directory returns the name of the CA, as in errors.
func (a *authority) directory() string {
	if t, ok := a.template.(*certmagic.ACMEIssuer); ok {
		return t.CA
	}
	return a.key
}

// offered returns the types of challenge that can be answered. An order offers
// one of them.
func (a *authority) offered() ([]string, error) {
	t, ok := a.template.(*certmagic.ACMEIssuer)
	switch {
	case !ok:
		return []string{""}, nil
	case t.DNS01Solver != nil:
		return []string{acme.ChallengeTypeDNS01}, nil
	}
	var types []string
	if !t.DisableTLSALPNChallenge {
		types = append(types, acme.ChallengeTypeTLSALPN01)
	}
	if !t.DisableHTTPChallenge && a.engine.http.Load() {
		types = append(types, acme.ChallengeTypeHTTP01)
	}
	if len(types) == 0 {
		return nil, errors.New("no challenge type is available: add a listener for plain HTTP (HTTP-01), or enable TLS-ALPN-01 in the issuer")
	}
	return types, nil
}

// issue obtains or renews the certificate for o, once, and leaves it in
// storage. It does nothing if another process has already done so.
func (a *authority) issue(ctx context.Context, o order) error {
	entered, err := a.enter(ctx, o)
	if err != nil {
		return err
	}
	look, err := a.down.enter(o)
	if err != nil {
		a.account.holds.release(entered, errNotAsked)
		return err
	}
	defer a.ordering(o.name)()
	began := time.Now()
	err = a.place(ctx, o)
	a.account.holds.release(entered, err)
	if ctx.Err() != nil { // the host or the process ends: no fault of the CA
		a.down.release(look, errNotAsked)
	} else {
		a.engine.silences.note(a.directory(), began, err)
		if a.down.release(look, err) {
			a.engine.answers()
		}
	}
	switch {
	case err == errNotAsked:
		return nil
	case noAnswer(err):
		return &downError{err: err}
	}
	if l, ok := readLimit(err, o.name); ok {
		until := time.Now().Add(clampLimit(l.until))
		if o.due {
			until = a.account.holds.refuse(o.name, l.until, o.left)
		}
		err = &limitedError{until: until, err: err}
	}
	return err
}

// ordering notes an order in flight until end is called.
func (a *authority) ordering(name string) (end func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.orders[name] = struct{}{}
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.orders, name)
	}
}

// busy returns the hosts with orders in flight, sorted.
func (a *authority) busy() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Sorted(maps.Keys(a.orders))
}

// enter holds back an order that would run into a rate limit.
func (a *authority) enter(ctx context.Context, o order) ([]*hold, error) {
	if o.due {
		if until := a.account.holds.resumes(o.name); !until.IsZero() && !o.force {
			return nil, a.usedUp(until)
		}
		return nil, nil
	}
	a.account.met.read(ctx, a.account.holds)
	registered := a.account.known.Load()
	if !registered && a.account.holds.counting(addressScope) {
		registered = a.account.exists(ctx, a.engine.storage)
	}
	entered, until := a.account.holds.enter(o.name, registered)
	if until.IsZero() {
		return entered, nil
	}
	return nil, a.usedUp(until)
}

// usedUp returns the error for an order that a rate limit holds until then.
func (a *authority) usedUp(until time.Time) error {
	return &heldError{until: until, err: fmt.Errorf("a rate limit of the CA %s is reached", a.directory())}
}

// sayHasty logs, once, that certificates of the authority cannot be renewed in
// time.
func (a *authority) sayHasty(name string, s *stored) {
	a.hasty.Do(func() {
		a.engine.log.Warn("certificates of an issuer expire too soon to be renewed in time",
			"remedy", "have the issuer sign for a minute or longer, and check the clocks", "issuer", a.key, "host", name, "life", s.life(),
			"not_after", s.cert.Leaf.NotAfter, "least_time_between_orders", s.rest())
	})
}

// renewalInfo asks the CA when it wants the certificate renewed. If the
// authority has no such information, the error is acme.ErrUnsupported.
func (a *authority) renewalInfo(ctx context.Context, leaf *x509.Certificate) (info acme.RenewalInfo, err error) {
	cfg, err := a.config(variant{})
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

// variant returns the variant for a host and a type of challenge.
func (a *authority) variant(name, challenge string) variant {
	return variant{challenge: challenge, ip: isIP(name)}
}

// config returns the authority's Config for a variant. It is made on first use:
// by then the listeners are known.
func (a *authority) config(v variant) (*certmagic.Config, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if cfg := a.configs[v]; cfg != nil {
		return cfg, nil
	}
	cfg := a.engine.newConfig()
	cfg.KeySource = certmagic.StandardKeyGenerator{KeyType: a.keyType}
	cfg.OnEvent = onEvent
	t, ok := a.template.(*certmagic.ACMEIssuer)
	if !ok {
		cfg.Issuers = []certmagic.Issuer{a.template}
		cfg.DisableStorageCheck = true // only an order at a CA makes the check worthwhile
	} else {
		host, port, err := a.engine.port.open()
		if err != nil {
			return nil, fmt.Errorf("loopback port for challenges: %w", err)
		}
		cfg.Storage = accountStorage{a.engine.storage, a.account}
		iss := a.engine.newACME(cfg, t)
		iss.ListenHost, iss.AltHTTPPort, iss.AltTLSALPNPort = host, port, port
		iss.DisableHTTPChallenge = v.challenge != acme.ChallengeTypeHTTP01
		iss.DisableTLSALPNChallenge = v.challenge != acme.ChallengeTypeTLSALPN01
		if v.ip && t.Profile == "" && strings.Contains(t.CA, "letsencrypt.org") {
			iss.Profile = shortlived
		}
		cfg.Issuers = []certmagic.Issuer{iss}
	}
	a.configs[v] = cfg
	return cfg, nil
}

// onEvent calls the current attempt before the CA is contacted.
func onEvent(ctx context.Context, event string, _ map[string]any) error {
	if t := attemptOf(ctx); t != nil && t.begin != nil && event == "cert_obtaining" {
		return t.begin(ctx)
	}
	return nil
}

// closeIdle closes idle connections to CAs. certmagic does not expose its HTTP
// client and has no method for this: otherwise, two goroutines per connection
// would stay for as long as the CA keeps it open.
func (a *authority) closeIdle() {
	if a.staging != nil {
		a.staging.closeIdle()
	}
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
