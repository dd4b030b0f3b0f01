package certs_test

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

func TestIssuersThatNoHostUsesAnyMoreAreReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWishes()
		o := with(newIssuer(t, "ca", day(90)))
		o.Choose = w.choose
		kept := newIssuer(t, "kept", day(90))
		w.set("kept.example.com", certs.Choice{Issuer: kept})
		m, r := start(t, o, "a.example.com", "kept.example.com")
		require.NoError(t, m.Await(t.Context()))
		before, accounts := m.Kept()
		require.Equal(t, 1, before)
		goroutines := runtime.NumGoroutine()
		for range 50 {
			w.set("a.example.com", certs.Choice{Issuer: newIssuer(t, "fresh", day(90))})
			m.ReloadTLS("a.example.com")
			time.Sleep(time.Second)
		}
		broken := newIssuer(t, "broken", day(90))
		broken.hook(failing("no"))
		w.set("b.example.com", certs.Choice{Issuer: broken})
		r.add("b.example.com")
		time.Sleep(10 * time.Minute)
		n, _ := m.Kept()
		assert.Greater(t, n, 50, "a step under way may still want one")
		r.remove("b.example.com")
		w.set("a.example.com", certs.Choice{})
		m.ReloadTLS("a.example.com")
		time.Sleep(20 * time.Minute)
		n, k := m.Kept()
		assert.Equal(t, 1, n)
		assert.Equal(t, accounts, k)
		assert.Less(t, runtime.NumGoroutine(), goroutines+10)

		again := newIssuer(t, "again", day(90))
		for range 3 { // the host comes and goes
			w.set("c.example.com", certs.Choice{Issuer: again})
			r.add("c.example.com")
			require.NoError(t, m.Await(t.Context(), "c.example.com"))
			r.remove("c.example.com")
			time.Sleep(time.Hour)
		}
		n, _ = m.Kept()
		assert.Equal(t, 1, n)
		time.Sleep(day(61))
		assert.Equal(t, 2, kept.count("kept.example.com"), "a certificate in use is renewed")
	})
}

// A slow renewal in progress ends with the old issuer; the next one uses the
// new issuer.
func TestAnIssuerIsNotReleasedDuringItsRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, next, w := newIssuer(t, "slow", day(90)), newIssuer(t, "next", day(90)), newWishes()
		w.set("a.example.com", certs.Choice{Issuer: slow})
		o := with(newIssuer(t, "ca", day(90)))
		o.Choose = w.choose
		m, _ := start(t, o, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		slow.hook(func(ctx context.Context, _ string) error { time.Sleep(4 * time.Minute); return ctx.Err() })
		require.NoError(t, m.Renew("a.example.com"))
		time.Sleep(time.Second)
		w.set("a.example.com", certs.Choice{Issuer: next})
		m.ReloadTLS("a.example.com")
		time.Sleep(time.Hour)
		assert.Equal(t, certs.Valid, status(t, m, "a.example.com").State)
		time.Sleep(day(61))
		assert.Equal(t, "next", status(t, m, "a.example.com").Issuer)
		n, _ := m.Kept()
		assert.Equal(t, 1, n)
	})
}

func TestStoredHostsOnDemandOfAnIssuerOfTheHookAreFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		zone, w := newIssuer(t, "zone", day(90)), newWishes()
		w.set("*", certs.Choice{Issuer: zone})
		o := with(newIssuer(t, "ca", day(90)))
		o.Choose, o.Policy, o.Storage = w.choose, always, newMemStorage()
		m, _ := startOnce(t, o, "*")
		_, err := shake(t, m, "a.example.com")
		require.NoError(t, err)
		require.NoError(t, m.Close())
		m, _ = start(t, o, "*")
		time.Sleep(time.Minute)
		assert.Equal(t, map[string]string{"a.example.com": "zone"}, onDemandIssuers(m))
	})
}
