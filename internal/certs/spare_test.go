package certs_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

// A host has a certificate for 90 days of one issuer, and a later one for six
// days of another; then both fail.
func TestAnOlderCertificateIsServedWhenTheOneInUseHasExpired(t *testing.T) {
	t.Parallel()
	for what, fails := range map[string]func(context.Context, string) error{
		"the issuers fail": failing("down"),
		"the issuers hang": func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				short, long := newIssuer(t, "short", day(6)), newIssuer(t, "long", day(90))
				o := certs.Options{Public: []certmagic.Issuer{short, long}, Storage: newMemStorage()}
				short.hook(failing("down"))
				m, _ := startOnce(t, o, "a.example.com")
				require.NoError(t, m.Await(t.Context()))
				require.NoError(t, m.Close())
				time.Sleep(time.Hour)
				short.unhook()
				m, _ = start(t, o, "a.example.com")
				require.NoError(t, m.Await(t.Context()))
				require.NoError(t, m.Renew("a.example.com"))
				time.Sleep(time.Minute)
				s, _ := m.Status("a.example.com")
				require.Equal(t, "short", s.Issuer)
				short.hook(fails)
				long.hook(fails)
				time.Sleep(time.Until(s.NotAfter) - time.Second)
				leaf, err := shake(t, m, "a.example.com")
				require.NoError(t, err)
				assert.Equal(t, "short", leaf.Issuer.CommonName)
				time.Sleep(time.Second)
				for range 20 {
					leaf, err = shake(t, m, "a.example.com")
					require.NoError(t, err)
					assert.Equal(t, "long", leaf.Issuer.CommonName)
					assert.True(t, time.Now().Before(leaf.NotAfter))
					time.Sleep(time.Hour)
				}
			})
		})
	}
}

// A wildcard has served a host that has an older certificate of its own.
func TestAHostsOwnCertificateIsServedWhenThatOfItsWildcardHasExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage, ca := newMemStorage(), newIssuer(t, "ca", day(90))
		o := with(ca)
		o.Storage = storage
		m, _ := startOnce(t, o, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		require.NoError(t, m.Close())

		ca.life = day(6)
		m, r := start(t, o, "*.example.com")
		require.NoError(t, m.Await(t.Context()))
		r.add("a.example.com", "b.example.com")
		time.Sleep(time.Minute)
		wild, _ := m.Status("a.example.com")
		require.Equal(t, "*.example.com", wild.Host)
		ca.hook(failing("down"))
		time.Sleep(time.Until(wild.NotAfter))
		reads := storage.reads.Load()
		for range 60 {
			leaf, err := shake(t, m, "a.example.com")
			require.NoError(t, err)
			assert.Equal(t, []string{"a.example.com"}, leaf.DNSNames)
			leaf, err = shake(t, m, "b.example.com")
			require.NoError(t, err)
			assert.Equal(t, []string{"*.example.com"}, leaf.DNSNames, "it has no other")
			time.Sleep(100 * time.Millisecond)
		}
		assert.Less(t, storage.reads.Load()-reads, int64(60), "once, not in each handshake")
	})
}
