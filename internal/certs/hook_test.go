package certs_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// keyless is an issuer of the program that panics when it is used.
type keyless struct{ *fakeIssuer }

func (keyless) IssuerKey() string { panic("oops") }

func TestAnIssuerOfTheHookWhoseKeyPanicsFailsOnlyItsHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := with(newIssuer(t, "ca", day(90)))
		o.Choose = chosen(map[string]certs.Choice{"bad.example.com": {Issuer: keyless{}}})
		m, _ := start(t, o, "bad.example.com", "good.example.com")
		require.NoError(t, m.Await(t.Context(), "good.example.com"))
		time.Sleep(time.Second)
		s := status(t, m, "bad.example.com")
		assert.Equal(t, certs.Failed, s.State)
		assert.ErrorContains(t, s.Err, "panic in issuer: oops")
	})
}

// A hook may wait forever for the lock of one tenant, and is called about that
// one repeatedly.
func TestAHostForWhichTheHookHangsDoesNotDelayOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release, w := make(chan struct{}), newWishes()
		w.failing(func(pattern string) error {
			if pattern == "bad.example.com" {
				<-release
			}
			return nil
		})
		o := with(newIssuer(t, "ca", day(90)))
		o.Choose = w.choose
		m, r := start(t, o, "bad.example.com")
		for range 100 { // this many tries
			time.Sleep(10 * time.Minute)
			m.ReloadTLS()
		}
		assert.Equal(t, 1, w.count("bad.example.com"), "one call at a time")
		r.add("good.example.com")
		time.Sleep(time.Second)
		s := status(t, m, "good.example.com")
		assert.Equal(t, certs.Valid, s.State, "%v", s.Err)

		close(release)
		time.Sleep(10 * time.Minute)
		s = status(t, m, "bad.example.com")
		assert.Equal(t, certs.Valid, s.State, "%v", s.Err)
	})
}

func TestSettingsOfAPatternEndWithItsRoute(t *testing.T) {
	_, clients := clientCertificate(t)
	for name, c := range map[string]struct{ open, closed, host string }{
		"a host below a wildcard": {"open.example.com", "*.example.com", "open.example.com"},
		"a wildcard":              {"*.example.com", "*", "open.example.com"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := with(newIssuer(t, "ca", day(90)))
				o.Choose = chosen(map[string]certs.Choice{c.closed: {ClientAuth: &certs.ClientAuth{CAs: clients}}})
				m, r := start(t, o, c.open, c.closed)
				require.NoError(t, m.Await(t.Context()))
				kept, err := mutual(t, m, c.host)
				require.NoError(t, err)
				require.True(t, m.Admits(kept, c.host))
				assert.Zero(t, testing.AllocsPerRun(10, func() { m.Admits(kept, c.host) }))
				r.remove(c.open)
				assert.False(t, m.Admits(kept, c.host), "at once: its requests have the other route by now")
				_, err = mutual(t, m, c.host)
				require.Error(t, err, "no client certificate")
				time.Sleep(time.Second)
				assert.False(t, m.Admits(kept, c.host))
			})
		})
	}
}

func TestANewRouteAppliesToOpenConnectionsOfItsHostOnDemandAtOnce(t *testing.T) {
	client, clients := clientCertificate(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWishes()
		o := with(newIssuer(t, "ca", day(90)))
		o.Choose, o.Policy = w.choose, always
		m, r := start(t, o, "*")
		_, err := shake(t, m, "a.example.com")
		require.NoError(t, err)
		kept, err := mutual(t, m, "a.example.com")
		require.NoError(t, err)
		require.True(t, m.Admits(kept, "a.example.com"))

		w.set("a.example.com", certs.Choice{ClientAuth: &certs.ClientAuth{CAs: clients}})
		r.add("a.example.com")
		assert.False(t, m.Admits(kept, "a.example.com"), "at once")
		_, err = mutual(t, m, "a.example.com")
		require.Error(t, err, "no client certificate")
		proved, err := mutual(t, m, "a.example.com", client)
		require.NoError(t, err)
		assert.True(t, m.Admits(proved, "a.example.com"))
	})
}

// A deploy may turn a Passthrough back into a normal route while the hook is
// asked about it.
func TestAHandshakeWaitsForTheHookIfItsRouteWasAPassthrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWishes()
		w.failing(func(string) error { time.Sleep(2 * time.Second); return nil })
		o := with(newIssuer(t, "ca", day(90)))
		var passed atomic.Bool
		passed.Store(true)
		o.Choose = w.choose
		o.Passes = func(pattern string) bool { return passed.Load() && pattern == "a.example.com" }
		m, r := start(t, o)
		m.Changed("a.example.com")
		time.Sleep(time.Second)
		require.Equal(t, 1, w.count("a.example.com"))
		passed.Store(false)
		r.add("a.example.com")
		_, err := shake(t, m, "a.example.com")
		require.NoError(t, err)
	})
}

func TestMissingFilesCauseOneWarningEach(t *testing.T) {
	cert, _ := proxytest.Certificate(t, "a.example.com")
	dir := t.TempDir()
	pair := certs.KeyPair{CertFile: filepath.Join(dir, "a.crt"), KeyFile: filepath.Join(dir, "a.key")}
	other := certs.KeyPair{CertFile: filepath.Join(dir, "b.crt"), KeyFile: filepath.Join(dir, "b.key")}
	ca := filepath.Join(dir, "ca.pem")
	put := func() {
		write(t, pair, cert, 100)
		write(t, other, cert, 100)
		require.NoError(t, os.WriteFile(ca, encode("CERTIFICATE", cert.Certificate[0]), 0o600))
	}
	put()
	synctest.Test(t, func(t *testing.T) {
		var logs logBuffer
		o := with(newIssuer(t, "ca", day(90)))
		o.Logger, o.Files = logs.logger(slog.LevelWarn), []certs.KeyPair{other}
		o.Choose = chosen(map[string]certs.Choice{
			"a.example.com": {Files: pair},
			"m.example.com": {ClientAuth: &certs.ClientAuth{CAFiles: []string{ca}}},
		})
		m, _ := start(t, o, "a.example.com", "m.example.com")
		// from here on, the test acts between two checks: none finds a
		// half-written file
		time.Sleep(time.Minute + time.Second)
		for n := range 2 { // the files come back, and go again
			for _, file := range []string{pair.CertFile, other.CertFile, ca} {
				require.NoError(t, os.Remove(file))
			}
			time.Sleep(time.Hour)
			synctest.Wait() // otherwise files may be read while they are written
			assert.Equal(t, 2*(n+1), strings.Count(logs.String(), "certificate files cannot be read"), logs.String())
			assert.Equal(t, n+1, strings.Count(logs.String(), "CA files for client authentication cannot be read"), logs.String())
			put()
			time.Sleep(time.Minute)
		}
		_, err := shake(t, m, "a.example.com")
		require.NoError(t, err)
	})
}

func TestAHostOnDemandThatTheHookRefusedIsReloaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWishes()
		w.set("a.example.com", certs.Choice{None: true})
		o := with(newIssuer(t, "ca", day(90)))
		o.Choose, o.Policy, o.PolicyTTL = w.choose, always, day(1)
		m, _ := start(t, o, "*")
		_, err := shake(t, m, "a.example.com")
		require.ErrorContains(t, err, "unrecognized name")

		w.set("a.example.com", certs.Choice{})
		_, err = shake(t, m, "a.example.com")
		require.Error(t, err, "remembered for a day")
		assert.Empty(t, m.ReloadTLS("a.example.com"))
		_, err = shake(t, m, "a.example.com")
		require.NoError(t, err)
	})
}
