package acmetest_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/acmetest"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// client returns an ACME client for a CA.
func client(ca *acmetest.CA) *acme.Client {
	return &acme.Client{Directory: ca.URL, HTTPClient: &http.Client{
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.HTTPS}, DisableKeepAlives: true}}}
}

// deactivate deactivates an account, like an operator with an ACME client.
func deactivate(t testing.TB, ca *acmetest.CA, account acme.Account) {
	t.Helper()
	account.Status = "deactivated"
	got, err := client(ca).UpdateAccount(t.Context(), account)
	require.NoError(t, err)
	require.Equal(t, "deactivated", got.Status)
}

// account returns the account in a proxy's storage.
func (p *proxy) account(t testing.TB) (account acme.Account) {
	t.Helper()
	for _, key := range p.files(t, "/users") {
		b, err := p.r.TLS.Storage.Load(t.Context(), key)
		require.NoError(t, err)
		if strings.HasSuffix(key, ".json") {
			require.NoError(t, json.Unmarshal(b, &account))
			continue
		}
		account.PrivateKey, err = certmagic.PEMDecodePrivateKey(b)
		require.NoError(t, err)
	}
	return account
}

// An account may be deactivated by mistake, or because its key was lost. No
// host may expire because of that.
func TestADeactivatedAccountIsReplacedOnce(t *testing.T) {
	var log proxytest.Log
	hosts := []string{"a.example.com", "b.example.com", "c.example.com", "d.example.com"}
	p := run(t, acmetest.Options{}, func(r *hostproxy.Router, _ *acmetest.CA, _ acmetest.Options) {
		r.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}, hosts...)
	p.await(t)
	before := make(map[string]*x509.Certificate)
	for _, host := range hosts {
		leaf, err := p.shake(host)
		require.NoError(t, err)
		before[host] = leaf
	}
	p.stop()
	p.makeDue(t)
	deactivate(t, p.ca, p.account(t))
	accounts := p.ca.Seen("/sign-me-up")
	p.restart(t)
	for _, host := range hosts {
		p.renewed(t, host, before[host])
		assert.Zero(t, p.status(host).Attempts, host)
	}
	assert.Equal(t, 1, p.ca.Seen("/sign-me-up")-accounts)
	assert.Len(t, p.files(t, "/users/"), 2, "a registration and its key")
	p.stop()
	assert.Equal(t, 1, strings.Count(log.String(), "level=WARN"), log.String())
	assert.Contains(t, log.String(), "it was deactivated at the CA")
	assert.Contains(t, log.String(), "account=https://")
}

// The program provides the key, so no other account can be used.
func TestADeactivatedAccountWithTheProgramsKeyIsReported(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalECPrivateKey(key)
	require.NoError(t, err)
	var account acme.Account
	p := run(t, acmetest.Options{}, func(r *hostproxy.Router, ca *acmetest.CA, _ acmetest.Options) {
		account, err = client(ca).NewAccount(t.Context(), acme.Account{PrivateKey: key, TermsOfServiceAgreed: true})
		require.NoError(t, err)
		account.PrivateKey = key
		issuer := ca.Issuer()
		issuer.AccountKeyPEM = string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
		r.TLS.Issuer = issuer
	}, "a.example.com")
	p.await(t)
	deactivate(t, p.ca, account)
	for range 2 {
		require.NoError(t, p.r.RenewCertificate("a.example.com"))
		proxytest.Eventually(t, "the failure", func() bool { return p.status("a.example.com").Attempts > 0 })
		require.ErrorContains(t, p.status("a.example.com").Err, "set AccountKeyPEM to the key of another account")
	}
	_, err = p.shake("a.example.com")
	require.NoError(t, err, "the existing certificate is served")
}
