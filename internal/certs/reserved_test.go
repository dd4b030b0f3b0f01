package certs_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

// letsEncrypt is a template that must not be used for orders.
func letsEncrypt() *certmagic.ACMEIssuer {
	return &certmagic.ACMEIssuer{CA: certmagic.LetsEncryptProductionCA, DisableHTTPChallenge: true}
}

// unsignable are names that no public CA signs.
func unsignable() []string {
	return []string{"nas", "nas.lan", "*.nas.lan", "hidden.onion", "a.invalid", "tv.home", "www.example", "gns.alt", "sso.corp", "mx.mail",
		"my_host.example.com", "ab--cd.example.com"}
}

func TestNamesThatNoPublicCASignsFailAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logs logBuffer
		o := with(letsEncrypt())
		o.Logger = logs.logger(0)
		o.Policy = func(context.Context, string) error { return nil }
		m, _ := start(t, o, unsignable()...)
		time.Sleep(24 * time.Hour)
		all := m.Statuses()
		require.Len(t, all, len(unsignable()))
		for _, s := range all {
			assert.Equal(t, certs.Failed, s.State, s.Host)
			assert.Zero(t, s.NextTry, s.Host)
			assert.Zero(t, s.Attempts, s.Host)
			if assert.Error(t, s.Err, s.Host) {
				assert.Regexp(t, `^no public CA signs "`, s.Err.Error())
				assert.Regexp(t, `TLS\.Host|IssuesOnion`, s.Err.Error(), "the remedy")
			}
		}
	})
}

func TestAPrivateIssuerSignsReservedNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "private", day(90))
		o := with(letsEncrypt())
		o.Choose = issuedBy(map[string]certmagic.Issuer{"nas": ca, "nas.lan": ca, "hidden.onion": ca})
		m, _ := start(t, o, "nas", "nas.lan", "hidden.onion")
		require.NoError(t, m.Await(t.Context(), "nas", "nas.lan"))
		s := m.Statuses()[0]
		assert.Equal(t, "hidden.onion", s.Host)
		assert.ErrorContains(t, s.Err, "IssuesOnion")
		assert.Zero(t, ca.count("hidden.onion"))
	})
}

// An onionCA reports that it signs names under .onion.
type onionCA struct{ *fakeIssuer }

func (onionCA) IssuesOnion() bool { return true }

func TestAnIssuerThatSaysSoSignsOnionNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := start(t, with(onionCA{newIssuer(t, "onion", day(90))}), "hidden.onion")
		require.NoError(t, m.Await(t.Context(), "hidden.onion"))
	})
}

func TestAPublicCAIsSkippedForNamesThatItDoesNotSign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "private", day(90))
		o := certs.Options{Public: []certmagic.Issuer{letsEncrypt(), ca}}
		m, _ := start(t, o, "nas.lan")
		require.NoError(t, m.Await(t.Context(), "nas.lan"))
		assert.Equal(t, []string{"nas.lan"}, ca.issued())
	})
}

func TestALocalCASignsOnlyInternalNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := with(letsEncrypt())
		local := &certs.LocalCA{Storage: newMemStorage()}
		o.Choose = issuedBy(map[string]certmagic.Issuer{"nas.lan": local, "app.test": local, "db.internal": letsEncrypt()})
		m, _ := start(t, o, "nas.lan", "app.test", "db.internal")
		require.NoError(t, m.Await(t.Context(), "app.test"))
		synctest.Wait() // until the others have failed
		for _, s := range m.Statuses() {
			if s.Host != "app.test" {
				assert.Error(t, s.Err, s.Host)
				assert.Zero(t, s.NextTry, s.Host)
			}
		}
	})
}

// An unknown directory belongs to a private CA, which may sign any name.
func TestAnUnknownDirectoryMaySignReservedNames(t *testing.T) {
	asked := make(chan struct{})
	ask := sync.OnceFunc(func() { close(asked) })
	directory := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		ask()
		http.Error(w, "no", http.StatusServiceUnavailable)
	}))
	defer directory.Close()
	roots := x509.NewCertPool()
	roots.AddCert(directory.Certificate())
	start(t, with(&certmagic.ACMEIssuer{CA: directory.URL, TrustedRoots: roots}), "nas.lan")
	select {
	case <-asked:
	case <-time.After(20 * time.Second):
		assert.Fail(t, "the CA was not asked")
	}
}

func TestKnownDirectoriesArePublic(t *testing.T) {
	for _, ca := range []string{
		"", certmagic.LetsEncryptProductionCA, certmagic.LetsEncryptStagingCA, certmagic.ZeroSSLProductionCA,
		certmagic.GoogleTrustProductionCA, certmagic.GoogleTrustStagingCA, "https://api.buypass.com/acme/directory",
		"https://acme.ssl.com/sslcom-dv-ecc", "https://acme-api.actalis.com/acme/directory", "https://acme.sectigo.com/v2/DV",
		"https://ACME-V02.api.letsencrypt.org:443/directory",
	} {
		assert.True(t, certs.IsPublic(&certmagic.ACMEIssuer{CA: ca}), ca)
	}
	for _, ca := range []string{
		"https://ca.example.com/directory", "https://letsencrypt.org.example.com/directory", "https://notletsencrypt.org/directory",
		"https://127.0.0.1:14000/dir", "http://localhost/directory",
	} {
		assert.False(t, certs.IsPublic(&certmagic.ACMEIssuer{CA: ca}), ca)
	}
	assert.True(t, certs.IsPublic(&certmagic.ZeroSSLIssuer{}))
	assert.False(t, certs.IsPublic(newIssuer(t, "any", day(1))))
}

func TestAnUnsignableNameIsRefusedBeforeThePolicyIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := with(letsEncrypt())
		var asked atomic.Int64
		o.Policy = func(context.Context, string) error { asked.Add(1); return errors.New("no") }
		m, _ := start(t, o, "*")
		for i := range 10 {
			for _, name := range []string{"nas%d.lan", "h%d.onion", "a%d_b.example.com"} {
				_, err := shake(t, m, fmt.Sprintf(name, i))
				assert.ErrorContains(t, err, "unrecognized name")
			}
		}
		assert.Zero(t, asked.Load())
		_, err := shake(t, m, "a.example.com")
		assert.Error(t, err)
		assert.Equal(t, int64(1), asked.Load())
	})
}
