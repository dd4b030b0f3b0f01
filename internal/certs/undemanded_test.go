package certs_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

const onlyInternal = "is a public name: the local CA signs internal names only"

// Clients choose the names, so neither handshakes nor names may add lines.
func TestAnOnDemandHostThatNoIssuerSignsIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, log := new(policy), new(logBuffer)
		o := certs.Options{Public: []certmagic.Issuer{&certs.LocalCA{}}, Policy: p.allow, Logger: log.logger(slog.LevelInfo)}
		m, _ := start(t, o, "*")
		for i := range 20 {
			_, err := shake(t, m, fmt.Sprintf("customer%d.example.com", i/2))
			require.ErrorContains(t, err, "unrecognized name")
		}
		assert.Equal(t, 1, strings.Count(log.String(), onlyInternal), log.String())
		assert.Contains(t, log.String(), `level=ERROR msg="no certificate possible" host=customer0.example.com`)
		about := m.Outlook("customer9.example.com").About
		assert.Contains(t, about, `no certificate: "customer9.example.com" `+onlyInternal)
		assert.NotContains(t, about, "HostPolicy")
		assert.Zero(t, p.total(), "HostPolicy is not asked about what cannot be")
	})
}

func TestAnUnsignableNameOnDemandIsNotLoggedAsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, log := new(policy), new(logBuffer)
		o := certs.Options{Public: []certmagic.Issuer{&certmagic.ACMEIssuer{CA: certmagic.LetsEncryptProductionCA}}, Policy: p.allow, Logger: log.logger(slog.LevelInfo)}
		m, _ := start(t, o, "*")
		for i := range 10 {
			_, err := shake(t, m, fmt.Sprintf("nas%d.lan", i))
			require.Error(t, err)
		}
		assert.Equal(t, 1, strings.Count(log.String(), "no public CA signs"), log.String())
		assert.Contains(t, log.String(), `level=INFO msg="no certificate possible" host=nas0.lan`)
		assert.Contains(t, m.Outlook("nas.lan").About, `no certificate: no public CA signs "nas.lan"`)
	})
}

func TestAnIssuerOfTLSHostThatSignsNoPublicNamesIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, log := new(policy), new(logBuffer)
		own := &certs.LocalCA{Storage: newMemStorage()}
		o := certs.Options{Public: []certmagic.Issuer{own}, Policy: p.allow, Logger: log.logger(slog.LevelInfo)}
		o.Choose = func(string) (certs.Choice, error) { return certs.Choice{Issuer: own}, nil }
		m, _ := start(t, o, "*")
		require.NoError(t, m.Await(t.Context()))
		for range 3 {
			_, err := shake(t, m, "customer1.example.com")
			require.Error(t, err)
		}
		assert.Equal(t, 1, strings.Count(log.String(), onlyInternal), log.String())
		assert.Equal(t, 1, p.total())
		about := m.Outlook("customer2.example.com").About
		assert.Contains(t, about, "if HostPolicy allows it and TLS.Host returns an issuer that signs it")
		assert.Contains(t, about, onlyInternal)
	})
}

func TestAPublicNameWithoutAHostPolicyIsWarnedAboutOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(logBuffer)
		o := with(newIssuer(t, "ca", day(90)))
		o.Logger = log.logger(slog.LevelInfo)
		m, _ := start(t, o, "*")
		for _, name := range []string{"a.example.com", "a.example.com", "b.example.org"} {
			_, err := shake(t, m, name)
			require.ErrorContains(t, err, "unrecognized name")
		}
		assert.Equal(t, 1, strings.Count(log.String(), "TLS.HostPolicy is not set"), log.String())
		assert.Contains(t, log.String(), "level=WARN")
		assert.Contains(t, log.String(), "host=a.example.com")
		assert.Contains(t, log.String(), "remedy=")
	})
}

// A program that serves internal names by a wildcard is not to be alarmed, by
// any name that a scanner sends.
func TestAWildcardForInternalNamesCausesNoWarning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(logBuffer)
		o := certs.Options{Public: []certmagic.Issuer{&certs.LocalCA{}}, Logger: log.logger(slog.LevelInfo)}
		m, _ := start(t, o, "*")
		_, err := shake(t, m, "app.internal")
		require.NoError(t, err)
		for _, name := range []string{"nas.lan", "bob.net", "8.8.8.8"} {
			_, err := shake(t, m, name)
			require.Error(t, err)
		}
		assert.NotContains(t, log.String(), "level=WARN")
		assert.NotContains(t, log.String(), "level=ERROR")

		public := new(logBuffer)
		o = with(&certmagic.ACMEIssuer{CA: certmagic.LetsEncryptProductionCA})
		o.Logger = public.logger(slog.LevelInfo)
		m, _ = start(t, o, "*")
		_, err = shake(t, m, "app.internal")
		require.NoError(t, err)
		for _, name := range []string{"nas.lan", "8.8.8.8"} {
			_, err := shake(t, m, name)
			require.Error(t, err)
		}
		assert.NotContains(t, public.String(), "level=WARN", "no public CA signs these")
		assert.Contains(t, m.Outlook("8.8.8.8").About, "no route names the address")
	})
}
