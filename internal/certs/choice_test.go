package certs_test

import (
	"context"
	"crypto/tls"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// issuers returns the issuer of each host that has a certificate.
func issuers(m *certs.Manager) map[string]string {
	by := make(map[string]string)
	for _, s := range m.Statuses() {
		by[s.Host] = s.Issuer
	}
	return by
}

func TestHostsMayHaveTheirOwnIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, private, exact := newIssuer(t, "ca", day(90)), newIssuer(t, "private", day(90)), newIssuer(t, "exact", day(90))
		o := with(ca)
		o.Choose = chosen(map[string]certs.Choice{
			"*.corp.internal": {Issuer: private}, "a.corp.internal": {Issuer: private}, "corp.internal": {Issuer: private},
			"x.example.com": {Issuer: exact}, "y.example.com": {Own: true},
		})
		m, _ := start(t, o, "*.corp.internal", "a.corp.internal", "corp.internal", "*.example.com", "x.example.com", "y.example.com", "z.example.com",
			"other.internal")
		require.NoError(t, m.Await(t.Context()))
		assert.Equal(t, map[string]string{
			"*.corp.internal": "private", "corp.internal": "private", "*.example.com": "ca", "x.example.com": "exact",
			"y.example.com": "ca", "other.internal": "hostproxy-local",
		}, issuers(m), "a wildcard covers the hosts that want nothing of their own")
	})
}

// The hook answers for the hosts before it answers for their wildcard.
func TestAHostWaitsToBeCoveredUntilTheHookHasAnsweredForItsWildcard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		private, w := newIssuer(t, "private", day(90)), newWishes()
		w.set("*.corp.internal", certs.Choice{Issuer: private})
		w.set("a.corp.internal", certs.Choice{Issuer: private})
		w.failing(func(pattern string) error {
			if pattern == "*.corp.internal" {
				time.Sleep(5 * time.Second)
			}
			return nil
		})
		o := with(newIssuer(t, "ca", day(90)))
		o.Choose = w.choose
		m, _ := start(t, o, "*.corp.internal", "a.corp.internal")
		require.NoError(t, m.Await(t.Context()))
		synctest.Wait()
		assert.Equal(t, map[string]string{"*.corp.internal": "private"}, issuers(m))
		assert.Equal(t, []string{"*.corp.internal"}, private.issued())
	})
}

func TestAHookThatFailsForAWildcardDoesNotHarmTheHostsBelowIt(t *testing.T) {
	for what, fail := range map[string]func(context.Context) error{
		"error": func(context.Context) error { return errors.New("no database") },
		"hangs": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				private, w := newIssuer(t, "private", day(90)), newWishes()
				w.set("a.example.com", certs.Choice{Issuer: private})
				w.failing(func(pattern string) error {
					if pattern == "*.example.com" {
						return fail(t.Context())
					}
					return nil
				})
				o := with(newIssuer(t, "ca", day(90)))
				o.Choose = w.choose
				m, _ := start(t, o, "*.example.com", "a.example.com", "b.example.com")
				time.Sleep(15 * time.Second)
				by := issuers(m)
				assert.Equal(t, "private", by["a.example.com"])
				assert.Equal(t, "ca", by["b.example.com"])
				for _, host := range []string{"a.example.com", "b.example.com"} {
					_, err := shake(t, m, host)
					require.NoError(t, err, host)
				}
			})
		})
	}
}

// always is a policy that allows any host.
func always(context.Context, string) error { return nil }

func TestAHostOnDemandHasTheSettingsOfItsPattern(t *testing.T) {
	client, clients := clientCertificate(t)
	synctest.Test(t, func(t *testing.T) {
		ca, zone, own, w := newIssuer(t, "ca", day(90)), newIssuer(t, "zone", day(90)), newIssuer(t, "own", day(90)), newWishes()
		w.set("*.example.com", certs.Choice{ClientAuth: &certs.ClientAuth{CAs: clients}})
		w.set("a.example.com", certs.Choice{Issuer: ca})
		w.set("own.example.com", certs.Choice{Issuer: own})
		w.set("*", certs.Choice{Issuer: zone})
		// Without a DNS-01 solver the wildcard itself has no certificate.
		o := certs.Options{Public: []certmagic.Issuer{letsEncrypt()}, Policy: always, Choose: w.choose}
		m, r := start(t, o, "*.example.com", "*")
		for _, host := range []string{"a.example.com", "own.example.com", "other.example.org"} {
			_, err := shake(t, m, host)
			require.NoError(t, err)
		}
		assert.Equal(t, map[string]string{"a.example.com": "ca", "own.example.com": "own", "other.example.org": "zone"}, onDemandIssuers(m))
		for _, host := range []string{"a.example.com", "own.example.com"} {
			_, err := mutual(t, m, host)
			require.Error(t, err, "no client certificate")
			proved, err := mutual(t, m, host, client)
			require.NoError(t, err)
			assert.True(t, m.Admits(proved, host))
			assert.False(t, m.Admits(&tls.ConnectionState{ServerName: host}, host))
			assert.Zero(t, testing.AllocsPerRun(10, func() { m.Admits(proved, host) }))
		}

		w.set("*.example.com", certs.Choice{})
		m.ReloadTLS("*.example.com")
		time.Sleep(time.Second)
		_, err := mutual(t, m, "a.example.com")
		require.NoError(t, err, "later changes of the pattern's settings apply too")

		w.set("a.example.com", certs.Choice{Issuer: ca, ClientAuth: &certs.ClientAuth{CAs: clients}})
		r.add("a.example.com")
		time.Sleep(time.Second)
		_, err = mutual(t, m, "a.example.com")
		require.Error(t, err, "the hook is called again for a route of its own")
		require.NoError(t, m.Await(t.Context(), "a.example.com"))

		w.set("*.example.com", certs.Choice{None: true})
		m.ReloadTLS()
		time.Sleep(time.Second)
		_, err = shake(t, m, "own.example.com")
		require.ErrorContains(t, err, "unrecognized name")
		_, err = mutual(t, m, "a.example.com", client)
		require.NoError(t, err, "another pattern")
	})
}

func TestAHostOnDemandFollowsTheNewIssuerOfItsPattern(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken, next, w := newIssuer(t, "broken", day(90)), newIssuer(t, "next", day(90)), newWishes()
		broken.hook(failing("no"))
		w.set("*", certs.Choice{Issuer: broken})
		o := certs.Options{Public: []certmagic.Issuer{letsEncrypt()}, Policy: always, Choose: w.choose}
		m, _ := start(t, o, "*")
		_, err := shake(t, m, "a.example.com")
		require.Error(t, err)
		w.set("*", certs.Choice{Issuer: next})
		m.ReloadTLS("*")
		time.Sleep(time.Second)
		_, err = shake(t, m, "a.example.com")
		require.NoError(t, err)
		assert.Equal(t, "next", status(t, m, "a.example.com").Issuer)
	})
}

func onDemandIssuers(m *certs.Manager) map[string]string {
	by := make(map[string]string)
	for _, s := range m.Statuses() {
		if s.OnDemand {
			by[s.Host] = s.Issuer
		}
	}
	return by
}

func TestAllConflictingSettingsOfAHostAreReportedAtOnce(t *testing.T) {
	cert, _ := proxytest.Certificate(t, "a.example.com")
	ca := newIssuer(t, "own", day(90))
	files := certs.KeyPair{CertFile: "a.crt", KeyFile: "a.key"}
	for name, c := range map[string]struct {
		pattern string
		given   certs.Choice
		want    []string
	}{
		"no certificate and an issuer":      {"a.example.com", certs.Choice{None: true, Issuer: ca}, []string{"NoCertificate cannot be combined with other settings"}},
		"no certificate and one of its own": {"a.example.com", certs.Choice{None: true, Own: true}, []string{"NoCertificate cannot be combined with other settings"}},
		"a certificate, files and an issuer": {"a.example.com", certs.Choice{Certificate: &cert, Files: files, Issuer: ca},
			[]string{"Certificate and Files cannot be combined with Issuer", "Certificate cannot be combined with Files"}},
		"a certificate and one of its own": {"a.example.com", certs.Choice{Certificate: &cert, Own: true}, []string{"cannot be combined with Issuer and OwnCertificate"}},
		"one of its own for a wildcard":    {"*.example.com", certs.Choice{Own: true}, []string{`OwnCertificate is only for single hosts, not for "*.example.com"`}},
		"an issuer that is nil":            {"a.example.com", certs.Choice{Issuer: certs.Issuer{}}, []string{"the issuer is nil"}},
		"client authentication without CAs, and a bad key type": {"a.example.com",
			certs.Choice{ClientAuth: &certs.ClientAuth{}, Issuer: certs.Issuer{Issuer: ca, KeyType: "rot13"}}, []string{"requires CAs", "rot13"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := with(newIssuer(t, "ca", day(90)))
				o.Choose = chosen(map[string]certs.Choice{c.pattern: c.given})
				m, _ := start(t, o, c.pattern)
				time.Sleep(time.Second)
				s := status(t, m, c.pattern)
				assert.Equal(t, certs.Failed, s.State)
				for _, want := range c.want {
					assert.ErrorContains(t, s.Err, want)
				}
			})
		})
	}
}
