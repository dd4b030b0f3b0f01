package certs_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A wrongNames issues certificates for another name than the requested one.
type wrongNames struct{ *fakeIssuer }

func (w wrongNames) Issue(ctx context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	c := *csr
	c.DNSNames = []string{"www.other.example"}
	return w.fakeIssuer.Issue(ctx, &c)
}

// A host that is covered again does not wait for a certificate of its own.
func TestLazyHostsOutliveAWildcardThatGoesAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		o := with(ca)
		o.Lazy = true
		m, r := start(t, o, "*.example.com", "a.example.com")
		require.NoError(t, m.Await(t.Context(), "*.example.com"))
		_, err := shake(t, m, "a.example.com")
		require.NoError(t, err)
		r.remove("*.example.com")
		time.Sleep(time.Minute)
		r.add("*.example.com")
		time.Sleep(time.Minute)
		_, err = shake(t, m, "other.example.com")
		require.NoError(t, err, "the wildcard's certificate is there")
		for range 3 {
			_, err = shake(t, m, "a.example.com")
			assert.NoError(t, err)
			time.Sleep(day(1))
		}
		s, _ := m.Status("a.example.com")
		t.Log(s.State, s.Err, s.Waiting)
	})
}

// A full disk must not end it for good.
func TestALazyHostIsServedAfterAnOutageOfStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		o := with(ca)
		o.Lazy = true
		storage := newMemStorage()
		o.Storage = storage
		m, _ := start(t, o, "a.example.com")
		time.Sleep(time.Minute)
		var down atomic.Bool
		down.Store(true)
		storage.hook(func(verb, key string) error {
			if down.Load() && (verb == "store" || verb == "lock") {
				return errors.New("disk full")
			}
			return nil
		})
		_, err := shake(t, m, "a.example.com")
		require.Error(t, err)
		time.Sleep(10 * time.Second)
		down.Store(false)
		time.Sleep(day(1))
		for range 3 {
			_, err = shake(t, m, "a.example.com")
			assert.NoError(t, err, "a day after the outage")
			time.Sleep(day(1))
		}
		s, _ := m.Status("a.example.com")
		t.Log(s.State, s.Err, s.NextTry)
	})
}

// Nor must a limit of the CA.
func TestALazyHostIsServedAfterARateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		begin := time.Now()
		ca.hook(func(context.Context, string) error {
			if time.Since(begin) < 3*time.Hour {
				return limitOf("too many new orders (300) from this account", begin.Add(3*time.Hour))
			}
			return nil
		})
		o := with(ca)
		o.Lazy = true
		m, _ := start(t, o, "a.example.com", "b.example.com")
		time.Sleep(time.Minute)
		_, err := shake(t, m, "a.example.com")
		require.Error(t, err)
		_, err = shake(t, m, "b.example.com")
		require.Error(t, err)
		time.Sleep(day(1))
		for range 3 {
			_, err = shake(t, m, "a.example.com")
			assert.NoError(t, err, "a")
			_, err = shake(t, m, "b.example.com")
			assert.NoError(t, err, "b, a day after the limit")
			time.Sleep(day(1))
		}
		s, _ := m.Status("b.example.com")
		t.Log(s.State, s.Err, s.NextTry, ca.issued())
	})
}

// The host itself is removed when storage has nothing for it.
func TestAHandshakeAtStartIsServedByTheWildcardAbove(t *testing.T) {
	for _, again := range []bool{false, true} {
		t.Run(fmt.Sprint("restart ", again), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca := newIssuer(t, "ca", day(90))
				o := with(ca)
				storage := newMemStorage()
				o.Storage = storage
				if again {
					m, _ := startOnce(t, o, "*.example.com", "a.example.com")
					require.NoError(t, m.Await(t.Context(), "*.example.com"))
					require.NoError(t, m.Close())
				}
				storage.hook(func(verb, key string) error {
					time.Sleep(5 * time.Millisecond)
					if strings.Contains(key, "wildcard_") {
						time.Sleep(10 * time.Millisecond)
					}
					return nil
				})
				m, _ := start(t, o, "*.example.com", "a.example.com")
				_, err := shake(t, m, "a.example.com")
				assert.NoError(t, err, "the wildcard's certificate is a moment away")
			})
		})
	}
}

// Its certificates are for another name.
func TestHandshakesCauseNoOrdersAtAnIssuerOfWrongCertificates(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		o := with(ca)
		o.Public[0] = wrongNames{ca}
		m, _ := start(t, o, "a.example.com")
		for range 3600 {
			time.Sleep(time.Second)
			_, _ = shake(t, m, "a.example.com")
		}
		s, _ := m.Status("a.example.com")
		t.Log(len(ca.issued()), "orders an hour;", s.State, s.Attempts, s.Err)
		assert.LessOrEqual(t, len(ca.issued()), 20)
	})
}

// The existing hosts are due, and cannot be renewed.
func TestNewHostsGetTheirTurnWhileThePolicyIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		ca := newIssuer(t, "ca", day(90))
		o := with(ca)
		o.Policy = func(context.Context, string) error {
			if down.Load() {
				return errors.New("database down")
			}
			return nil
		}
		m, r := start(t, o, "*")
		for i := range 80 {
			_, err := shake(t, m, fmt.Sprintf("customer%d.example.com", i))
			require.NoError(t, err)
			_, err = shake(t, m, fmt.Sprintf("customer%d.example.com", i))
			require.NoError(t, err)
		}
		down.Store(true)
		time.Sleep(day(66))
		r.add("new.example.org")
		time.Sleep(6 * time.Hour)
		assert.Equal(t, 1, ca.count("new.example.org"), "a new host's first certificate is not starved")
	})
}

// A route is added while the policy decides.
func TestHostsOnDemandThatAWildcardCoversFreeTheirPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		o := with(ca)
		o.Policy = func(ctx context.Context, host string) error {
			time.Sleep(5 * time.Second)
			return nil
		}
		m, r := start(t, o, "*")
		var wg sync.WaitGroup
		all := names("customer%d.example.com", 64)
		for _, name := range all {
			wg.Go(func() { _, _ = shake(t, m, name) })
		}
		time.Sleep(time.Second)
		r.add("*.example.com") // one route
		time.Sleep(2 * time.Second)
		wg.Wait()
		time.Sleep(day(1))
		_, err := shake(t, m, "fine.example.org")
		assert.NoError(t, err, "a day later")
	})
}

// The certificate's key may have leaked.
func TestARequestedRenewalIsDoneAfterARateLimitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		o := with(ca)
		m, r := start(t, o, "a.example.com")
		_, err := shake(t, m, "a.example.com")
		require.NoError(t, err)
		begin := time.Now()
		ca.hook(func(context.Context, string) error {
			if time.Since(begin) < 2*time.Hour {
				return limitOf("too many new orders (300) from this account", begin.Add(2*time.Hour))
			}
			return nil
		})
		r.add("b.example.com")
		time.Sleep(time.Minute)
		require.NoError(t, m.Renew("a.example.com")) // its key has leaked
		time.Sleep(day(2))
		assert.Equal(t, 2, ca.count("a.example.com"), "renewed when the limit is over")
		s, _ := m.Status("a.example.com")
		t.Log(s.State, s.Err)
	})
}
