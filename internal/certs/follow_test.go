package certs_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

func TestAChangeOfRoutesLooksOnlyAtTheChangedHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, r := start(t, with(newIssuer(t, "ca", day(90))), names("h%d.example.com", 500)...)
		require.NoError(t, m.Await(t.Context()))
		scans, looks := r.scans.Load(), r.looks.Load()
		for i := range 10 {
			r.add(fmt.Sprintf("new%d.example.org", i))
		}
		require.NoError(t, m.Await(t.Context(), names("new%d.example.org", 10)...))
		r.remove("new3.example.org", "h7.example.com")
		time.Sleep(time.Second)
		assert.Len(t, m.Statuses(), 508)
		assert.Equal(t, scans, r.scans.Load(), "nothing walks over all routes")
		assert.Less(t, r.looks.Load()-looks, int64(100))
		_, err := shake(t, m, "h7.example.com")
		assert.ErrorContains(t, err, "unrecognized name")
	})
}

func TestAHandshakeDoesNotWaitForManyOtherChanges(t *testing.T) {
	m, r := start(t, with(newIssuer(t, "ca", day(90))), "old.example.com")
	require.NoError(t, m.Await(t.Context()))
	many := append(names("h%d.example.org", 100_000), "new.example.com")
	r.add(many...)
	looks := r.looks.Load()
	_, err := shake(t, m, "new.example.com")
	require.NoError(t, err)
	assert.Less(t, r.looks.Load()-looks, int64(100_000), "the handshake looks at its own name first")
}

func TestHostsGetTheirOwnCertificatesWhenTheirWildcardIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		m, r := start(t, with(ca), "*.example.com")
		require.NoError(t, m.Await(t.Context()))
		r.add("a.example.com", "b.example.com")
		time.Sleep(time.Second)
		assert.Equal(t, []string{"*.example.com"}, ca.issued(), "the wildcard's certificate covers them")

		r.remove("*.example.com")
		require.NoError(t, m.Await(t.Context(), "a.example.com", "b.example.com"))
		assert.Len(t, ca.issued(), 3)

		r.remove("a.example.com")
		r.add("*.example.com")
		require.NoError(t, m.Await(t.Context()))
		time.Sleep(day(64))
		assert.Equal(t, 1, ca.count("b.example.com"), "when its own is due, the wildcard's certificate does")
		leaf, err := shake(t, m, "b.example.com")
		require.NoError(t, err)
		assert.Equal(t, []string{"*.example.com"}, leaf.DNSNames)
	})
}

func TestAStoredCertificateIsServedWhileANewWildcardFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(6))
		o := with(ca)
		o.Storage = newMemStorage()
		m, _ := start(t, o, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		require.NoError(t, m.Close())

		slow := slowly(time.Minute)
		ca.hook(func(ctx context.Context, host string) error {
			if host == "*.example.com" {
				return errors.Join(slow(ctx, host), errors.New("no such record"))
			}
			return nil
		})
		m, _ = start(t, o, "a.example.com", "b.example.com", "*.example.com")
		synctest.Wait()
		leaf, err := shake(t, m, "a.example.com")
		require.NoError(t, err)
		assert.Equal(t, []string{"a.example.com"}, leaf.DNSNames)

		time.Sleep(day(4) + 6*time.Hour)
		assert.Equal(t, 2, ca.count("a.example.com"), "and renewed, while there is nothing else")
		assert.Zero(t, ca.count("b.example.com"), "a host without its own certificate waits for that of the wildcard")
	})
}

func TestLazyHostsGetCertificatesWhenAHandshakeAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		o := with(ca)
		o.Storage, o.Lazy = newMemStorage(), true
		m, _ := start(t, o, names("tenant%d.example.com", 5_000)...)
		time.Sleep(time.Hour)
		assert.Empty(t, ca.issued())
		require.NoError(t, m.Await(t.Context()), "they want none yet")
		_, err := shake(t, m, "tenant7.example.com")
		require.NoError(t, err)
		assert.Equal(t, []string{"tenant7.example.com"}, ca.issued())
		require.NoError(t, m.Close())

		// After a restart, stored certificates are served and renewed, whether
		// or not clients ask for them.
		m, _ = start(t, o, names("tenant%d.example.com", 5_000)...)
		time.Sleep(day(64))
		assert.Equal(t, 2, ca.count("tenant7.example.com"))
		assert.Len(t, ca.issued(), 2)
		var ready int
		for _, s := range m.Statuses() {
			if s.State == certs.Valid {
				ready++
			}
		}
		assert.Equal(t, 1, ready)
	})
}
