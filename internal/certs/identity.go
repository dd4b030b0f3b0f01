package certs

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"reflect"

	"github.com/caddyserver/certmagic"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

// An Issuer is an issuer with a type of key. It implements certmagic.Issuer, so
// it can be used wherever an issuer can.
type Issuer struct {
	Issuer  certmagic.Issuer  // the real issuer; ACME issuers are templates, as in Options
	KeyType certmagic.KeyType // of the certificates' keys; "" means certmagic.P256
}

// IssuerKey implements certmagic.Issuer.
func (i Issuer) IssuerKey() string { return i.Issuer.IssuerKey() }

// Issue implements certmagic.Issuer.
func (i Issuer) Issue(ctx context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	return i.Issuer.Issue(ctx, csr)
}

var errNilIssuer = errors.New("the issuer is nil: set it, or remove the setting")

// An identity holds everything that makes issuers differ: two are the same only
// if all of it is equal. It is comparable.
type identity struct {
	account  accountID
	solver   any
	roots    *x509.CertPool
	template *certmagic.ACMEIssuer // set if it has funcs, which cannot be compared
	settings string
}

// open returns the parts of an issuer from the program. Templates are copied.
func open(given certmagic.Issuer) (template certmagic.Issuer, key certmagic.KeyType, err error) {
	template, key = given, certmagic.P256
	if i, ok := given.(Issuer); ok {
		template = i.Issuer
		if i.KeyType != "" {
			key = i.KeyType
		}
	}
	switch key {
	case certmagic.ED25519, certmagic.P256, certmagic.P384, certmagic.RSA2048, certmagic.RSA4096, certmagic.RSA8192:
	default:
		return nil, "", fmt.Errorf("KeyType is %q: want certmagic.ED25519, P256, P384, RSA2048, RSA4096 or RSA8192", key)
	}
	if template == nil {
		return nil, "", errNilIssuer
	}
	t, ok := template.(*certmagic.ACMEIssuer)
	if !ok {
		return template, key, nil
	}
	if t == nil {
		return nil, "", errNilIssuer
	}
	set := *t
	if set.CA == "" {
		set.CA = certmagic.LetsEncryptProductionCA
	}
	if set.CA == certmagic.LetsEncryptProductionCA && set.TestCA == "" {
		set.TestCA = certmagic.LetsEncryptStagingCA
	}
	return &set, key, errors.Join(checkDirectory("CA", set.CA), checkDirectory("TestCA", set.TestCA))
}

// checkDirectory checks the URL of an ACME directory; "" is accepted.
func checkDirectory(field, directory string) error {
	if directory == "" {
		return nil
	}
	u, err := url.Parse(directory)
	if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !hostname.IsInternal(u.Hostname())) {
		return fmt.Errorf("%s %q: want the https URL of an ACME directory", field, directory)
	}
	return nil
}

// identityOf returns the identity of an issuer from open. given is the
// program's own value.
func identityOf(given, template certmagic.Issuer, key certmagic.KeyType) identity {
	t, ok := template.(*certmagic.ACMEIssuer)
	if !ok {
		return identity{account: accountID{issuer: asKey(template)}, settings: string(key)}
	}
	id := identity{account: accountOf(t), solver: asKey(t.DNS01Solver), roots: t.TrustedRoots}
	if t.HTTPProxy != nil || t.NewAccountFunc != nil {
		if i, ok := given.(Issuer); ok {
			given = i.Issuer
		}
		id.template, _ = given.(*certmagic.ACMEIssuer)
	}
	mac, smallest := "", ""
	if t.ExternalAccount != nil {
		mac = t.ExternalAccount.MACKey
	}
	if p := t.PreferredChains.Smallest; p != nil {
		smallest = fmt.Sprint(*p)
	}
	id.settings = fmt.Sprintf("%q %q %q %q %q %s %q %q %v %v %v %t %t %t", key, mac, t.TestCA, t.Profile, t.Resolver, smallest,
		t.PreferredChains.RootCommonName, t.PreferredChains.AnyCommonName, t.CertObtainTimeout, t.NotBefore, t.NotAfter,
		t.DisableHTTPChallenge, t.DisableTLSALPNChallenge, t.DisableDistributedSolvers)
	return id
}

// asKey returns v, or a value that equals no other if v cannot be compared.
func asKey(v any) any {
	if v == nil || reflect.ValueOf(v).Comparable() {
		return v
	}
	return new(struct{ _ byte })
}
