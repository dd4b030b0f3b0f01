package certs_test

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

// Two issuers with the same key, which is the name of their CA, are two
// issuers.
func TestIssuersOfOneCAAreToldApart(t *testing.T) {
	first, second := newIssuer(t, "ca", day(90)), newIssuer(t, "ca", day(90))
	m, _ := start(t, certs.Options{Choose: issuedBy(map[string]certmagic.Issuer{
		"a.example.com": first, "b.example.com": second, "c.example.com": second,
	})}, "a.example.com", "b.example.com", "c.example.com")
	require.NoError(t, m.Await(t.Context()))
	assert.Equal(t, []string{"a.example.com"}, first.issued())
	assert.ElementsMatch(t, []string{"b.example.com", "c.example.com"}, second.issued())
}

func TestAnIssuerHasItsTypeOfKey(t *testing.T) {
	ca := newIssuer(t, "ca", day(90))
	m, _ := start(t, certs.Options{Choose: issuedBy(map[string]certmagic.Issuer{
		"a.example.com": certs.Issuer{Issuer: ca, KeyType: certmagic.RSA2048}, "b.example.com": ca,
	})}, "a.example.com", "b.example.com")
	require.NoError(t, m.Await(t.Context()))
	leaf, err := shake(t, m, "a.example.com")
	require.NoError(t, err)
	assert.IsType(t, &rsa.PublicKey{}, leaf.PublicKey)
	leaf, err = shake(t, m, "b.example.com")
	require.NoError(t, err)
	assert.Equal(t, x509.ECDSA, leaf.PublicKeyAlgorithm)

	for _, c := range []struct {
		issuer certmagic.Issuer
		want   string
	}{
		{certs.Issuer{Issuer: ca, KeyType: "rot13"}, "rot13"},
		{certs.Issuer{}, "the issuer is nil"},
		{(*certmagic.ACMEIssuer)(nil), "the issuer is nil"},
		{&certmagic.ACMEIssuer{CA: "https://ca.example/dir", TestCA: "ftp://ca.example"}, "TestCA"},
	} {
		_, err := certs.New(certs.Options{Public: []certmagic.Issuer{c.issuer}, Logger: slog.New(slog.DiscardHandler)})
		require.ErrorContains(t, err, c.want)
	}
}

// An issuer of the program may have its own cache.
func TestARenewalRequiresANewCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := &repeatingIssuer{fakeIssuer: newIssuer(t, "ca", day(6))}
		m, _ := start(t, certs.Options{Public: []certmagic.Issuer{ca}}, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		time.Sleep(day(5))
		s := m.Statuses()[0]
		require.Error(t, s.Err)
		assert.Contains(t, s.Err.Error(), "returned the current certificate")
		assert.Less(t, len(ca.issued()), 50)
	})
}

// A repeatingIssuer signs with the serial of the first certificate.
type repeatingIssuer struct{ *fakeIssuer }

func (i *repeatingIssuer) Issue(ctx context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	i.mu.Lock()
	i.serials = 1
	i.mu.Unlock()
	return i.fakeIssuer.Issue(ctx, csr)
}

// Processes that share storage renew only once.
func TestARenewalOfAnotherProcessIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage, ca := newMemStorage(), newIssuer(t, "ca", day(6))
		ca.hook(func(context.Context, string) error { time.Sleep(5 * time.Second); return nil })
		var all []*certs.Manager
		for range 3 {
			m, _ := start(t, certs.Options{Public: []certmagic.Issuer{ca}, Storage: storage}, "a.example.com")
			all = append(all, m)
		}
		time.Sleep(day(22))
		assert.Equal(t, len(ca.issued()), 1+22/4, "one each four days")
		for _, m := range all {
			assert.Equal(t, certs.Valid, m.Statuses()[0].State)
		}
	})
}

func TestAFailureIsReportedAsOneSentence(t *testing.T) {
	const host, directory = "a.example.com", "https://acme.example.org/directory"
	for _, c := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("[a.example.com] Obtain: [a.example.com] creating new order: %w (ca=https://acme.example.org/directory)",
			acme.Problem{Status: 400, Type: acme.ProblemTypeRejectedIdentifier, Detail: "The ACME server refuses\nthis name"}),
			"the CA acme.example.org refused: The ACME server refuses; this name (rejectedIdentifier)"},
		{fmt.Errorf("solving challenge: %w", invalid(host)), `the CA acme.example.org could not validate "a.example.com": no answer at a.example.com (unauthorized)`},
		{acme.Problem{Status: 418}, "the CA acme.example.org refused: HTTP 418"},
		{acme.Problem{Status: 403, Type: acme.ProblemTypeCompound, Detail: "two", Subproblems: []acme.Subproblem{
			{Problem: acme.Problem{Detail: "no CAA"}}, {Problem: acme.Problem{Detail: "no A"}}}}, "the CA acme.example.org refused: two; no CAA; no A (compound)"},
		{errors.New("[a.example.com] Renew: [a.example.com] connection refused (ca=https://acme.example.org/directory)"), "connection refused"},
	} {
		got := certs.Explain(c.err, directory, host)
		assert.Equal(t, c.want, got.Error())
		var problem acme.Problem
		require.Equal(t, errors.As(c.err, &problem), errors.As(got, &problem))
	}
	hostile := certs.Explain(acme.Problem{Status: 403, Detail: strings.Repeat("\x1b[31m\r\nWARN ", 10_000)}, directory, host).Error()
	assert.Less(t, len(hostile), 600)
	assert.NotContains(t, hostile, "\x1b")
	assert.NotContains(t, hostile, "\n")
}

// RFC 9773, 5: only an order can be refused because of what it replaces, not a
// validation.
func TestAnOrderIsRepeatedOnlyIfItWasRefusedForWhatItReplaces(t *testing.T) {
	order := func(p acme.Problem) error { return fmt.Errorf("creating new order: %w", p) }
	for what, err := range map[string]error{
		"another account's":   order(acme.Problem{Status: 403, Type: acme.ProblemTypeUnauthorized}),
		"a bad identifier":    order(acme.Problem{Status: 400, Type: acme.ProblemTypeMalformed}),
		"unknown, at Boulder": order(acme.Problem{Status: 404, Type: acme.ProblemTypeMalformed}),
		"unknown, at Pebble":  order(acme.Problem{Status: 500, Type: acme.ProblemTypeServerInternal}),
	} {
		assert.True(t, certs.RefusedReplacing(err), what)
	}
	for what, err := range map[string]error{
		"a failed validation": fmt.Errorf("solving challenge: %w", invalid("a.example.com")),
		"a rate limit":        order(acme.Problem{Status: 429, Type: acme.ProblemTypeRateLimited}),
		"a busy CA":           order(acme.Problem{Status: 503, Type: acme.ProblemTypeServerInternal}),
		"a name":              order(acme.Problem{Status: 400, Type: acme.ProblemTypeRejectedIdentifier}),
		"an account":          order(acme.Problem{Status: 400, Type: acme.ProblemTypeAccountDoesNotExist}),
		"the network":         errors.New("creating new order: connection refused"),
		"nothing":             nil,
	} {
		assert.False(t, certs.RefusedReplacing(err), what)
	}
}

// RFC 8555, 7.3.6: many other refusals have the same problem type.
func TestARefusalForADeactivatedAccountIsKnownByItsText(t *testing.T) {
	order := func(p acme.Problem) error { return fmt.Errorf("creating new order: %w", p) }
	for detail, want := range map[string]bool{
		`Account is not valid, has status "deactivated"`:                           true,
		`Unable to validate JWS :: Account is not valid, has status "deactivated"`: true,
		"Account has been deactivated":                                             true,
		"An account with the provided public key exists but is deactivated":        true,
		`Account is not valid, has status "revoked"`:                               false,
		"No order for the account":                                                 false,
		"The authorization has been deactivated":                                   false,
	} {
		for _, status := range []int{401, 403} {
			assert.Equal(t, want, certs.Deactivated(order(acme.Problem{Status: status, Type: acme.ProblemTypeUnauthorized, Detail: detail})), detail)
		}
		assert.False(t, certs.Deactivated(order(acme.Problem{Status: 403, Type: acme.ProblemTypeMalformed, Detail: detail})), detail)
	}
	validation := acme.Problem{Status: 403, Type: acme.ProblemTypeUnauthorized, Detail: "This account has been deactivated",
		Resource: acme.Authorization{}}
	assert.False(t, certs.Deactivated(validation), "what the page of a web server says")
	assert.False(t, certs.Deactivated(nil))
}

// The other process has written the certificate, but not its key yet.
func TestARenewalThatAnotherProcessIsWritingIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage, elsewhere, ca := newMemStorage(), newMemStorage(), newIssuer(t, "ca", day(90))
		m, _ := start(t, certs.Options{Public: []certmagic.Issuer{ca}, Storage: storage}, "a.example.com")
		other, _ := start(t, certs.Options{Public: []certmagic.Issuer{ca}, Storage: elsewhere}, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		require.NoError(t, other.Await(t.Context()))
		put := func(suffix string) {
			key := m.SiteKey("a.example.com", suffix)
			require.NoError(t, storage.Store(t.Context(), key, []byte(elsewhere.content(key))))
		}
		put(".crt")
		require.NoError(t, m.Renew("a.example.com"))
		time.Sleep(1500 * time.Millisecond)
		put(".key")
		put(".json")
		time.Sleep(time.Minute)
		assert.Len(t, ca.issued(), 2)
		assert.Equal(t, other.Statuses()[0].Serial, m.Statuses()[0].Serial)
	})
}
