package certs_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestMain(m *testing.M) {
	_ = flag.Set("test.parallel", "32") // parallel tests mostly wait; -parallel overrides it
	proxytest.Main(m)
}

func with(i certmagic.Issuer) certs.Options {
	return certs.Options{Public: []certmagic.Issuer{i}}
}

func TestAHostOfARouteGetsItsCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		m, _ := start(t, with(ca), "a.example.com", "b.example.com")
		require.NoError(t, m.Await(t.Context()))
		leaf, err := shake(t, m, "a.example.com")
		require.NoError(t, err)
		assert.Equal(t, []string{"a.example.com"}, leaf.DNSNames)

		all := m.Statuses()
		require.Len(t, all, 2)
		assert.Equal(t, "a.example.com", all[0].Host)
		assert.Equal(t, certs.Valid, all[0].State)
		assert.Equal(t, "ca", all[0].Issuer)
		assert.Equal(t, leaf.SerialNumber, all[0].Serial)
		assert.True(t, leaf.NotAfter.Equal(all[0].NotAfter))
		assert.WithinRange(t, all[0].RenewAt, leaf.NotBefore.Add(day(60)), leaf.NotBefore.Add(day(63.1)))
	})
}

func TestARestartWithTheSameStorageOrdersNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		o := with(ca)
		o.Storage = newMemStorage()
		m, _ := start(t, o, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		require.NoError(t, m.Close())

		again, _ := start(t, o, "a.example.com")
		require.NoError(t, again.Await(t.Context()))
		assert.Len(t, ca.issued(), 1)
	})
}

// One bad host never delays another.
func TestAThousandFailingHostsDoNotDelayTenGoodOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		ca.hook(func(ctx context.Context, host string) error {
			if !strings.HasPrefix(host, "bad") {
				return nil
			}
			select { // as long as a CA takes to fail
			case <-time.After(20 * time.Second):
				return errors.New("the CA cannot reach the host")
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		o := with(ca)
		storage := newMemStorage()
		o.Storage = storage
		bad, good := names("bad%d.example.com", 1000), names("good%d.example.com", 10)
		m, r := start(t, o, bad...)
		time.Sleep(45 * time.Minute) // all have failed, some of them twice

		r.set(append(slices.Clone(bad), good...)...)
		begin := time.Now()
		require.NoError(t, m.Await(t.Context(), good...))
		assert.Less(t, time.Since(begin), 45*time.Second)
		assert.LessOrEqual(t, ca.width(), 16)

		// Between attempts a failing host holds neither a worker nor a lock.
		assert.LessOrEqual(t, len(storage.locked()), 16)
		n := runtime.NumGoroutine()
		assert.Less(t, n, 150)

		for _, s := range m.Statuses() {
			if strings.HasPrefix(s.Host, "bad") {
				require.Equal(t, certs.Failed, s.State)
				require.ErrorContains(t, s.Err, "the CA cannot reach the host")
			}
		}
	})
}

func TestAHandshakeMovesItsHostToTheFront(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		ca.hook(slowly(10 * time.Second))
		m, _ := start(t, with(ca), append(names("h%d.example.com", 500), "wanted.example.com")...)
		synctest.Wait()
		begin := time.Now()
		_, err := shake(t, m, "wanted.example.com")
		// a wait is limited, and the client retries
		for err != nil && time.Since(begin) < time.Minute {
			_, err = shake(t, m, "wanted.example.com")
		}
		require.NoError(t, err)
		assert.LessOrEqual(t, time.Since(begin), 21*time.Second)
	})
}

// Renewals have priority over first certificates.
func TestRenewalsGoBeforeFirstObtains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		m, r := start(t, with(ca), "old.example.com")
		require.NoError(t, m.Await(t.Context()))
		due := m.Statuses()[0].RenewAt
		time.Sleep(time.Until(due) - time.Minute)

		ca.hook(slowly(time.Minute))
		r.set(append(names("new%d.example.com", 1000), "old.example.com")...)
		time.Sleep(4 * time.Minute)
		assert.Equal(t, 2, ca.count("old.example.com"))
		assert.Less(t, len(ca.issued()), 100)
	})
}

func TestARenewedCertificateIsServedWithoutAGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(6))
		m, _ := start(t, with(ca), "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		serials := make(map[string]bool)
		for range 60 {
			leaf, err := shake(t, m, "a.example.com")
			require.NoError(t, err)
			require.True(t, time.Now().Before(leaf.NotAfter))
			serials[leaf.SerialNumber.String()] = true
			time.Sleep(12 * time.Hour)
		}
		assert.GreaterOrEqual(t, len(serials), 6)
		assert.LessOrEqual(t, len(ca.issued()), 9)
	})
}

func TestAFailedRenewalKeepsTheCertificateAndIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		m, _ := start(t, with(ca), "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		ca.hook(func(context.Context, string) error { return errors.New("the CA is down") })
		time.Sleep(time.Until(m.Statuses()[0].RenewAt) + time.Hour)
		s := m.Statuses()[0]
		assert.Equal(t, certs.Failed, s.State)
		assert.NotZero(t, s.Attempts)
		assert.WithinRange(t, s.NextTry, time.Now(), time.Now().Add(13*time.Minute))
		_, err := shake(t, m, "a.example.com")
		require.NoError(t, err)

		ca.unhook()
		time.Sleep(15 * time.Minute)
		s = m.Statuses()[0]
		assert.Equal(t, certs.Valid, s.State)
		assert.NoError(t, s.Err)
		assert.Zero(t, s.Attempts)
		assert.True(t, s.NotAfter.After(time.Now().Add(day(89))))
	})
}

// In certmagic, RemoveManaged during an order in flight lets the certificate
// come back.
func TestARemovalDuringAnOrderEndsTheAttemptAndFreesItsLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		ca := newIssuer(t, "ca", day(90))
		ca.hook(func(ctx context.Context, _ string) error {
			<-ctx.Done()
			ended <- ctx.Err()
			return ctx.Err()
		})
		o := with(ca)
		storage := newMemStorage()
		o.Storage = storage
		m, r := start(t, o, "a.example.com")
		synctest.Wait()
		require.Len(t, storage.locked(), 1)
		r.set()
		require.ErrorIs(t, <-ended, context.Canceled)
		synctest.Wait()
		assert.Empty(t, m.Statuses())
		assert.Empty(t, storage.locked())
	})
}

func TestACertificateThatComesAfterTheRemovalIsNotServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		ca := newIssuer(t, "ca", day(90))
		// ignores its context
		ca.hook(func(context.Context, string) error { <-release; return nil })
		m, r := start(t, with(ca), "a.example.com")
		synctest.Wait()
		r.set()
		time.Sleep(time.Second)
		close(release)
		synctest.Wait()
		_, err := shake(t, m, "a.example.com")
		require.ErrorContains(t, err, "unrecognized name")
		assert.Empty(t, m.Statuses())

		// The host can come back.
		r.set("a.example.com")
		require.NoError(t, m.Await(t.Context()))
		_, err = shake(t, m, "a.example.com")
		require.NoError(t, err)
	})
}

// The Router is the gate.
func TestUnknownNamesGetUnrecognizedNameAndCostNoStorageRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := with(newIssuer(t, "ca", day(90)))
		storage := newMemStorage()
		o.Storage = storage
		m, _ := start(t, o, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		synctest.Wait()
		before := storage.reads.Load()
		for _, sni := range []string{"b.example.com", "x.a.example.com", "localhost", "example.com", "xn--a.example.com"} {
			_, err := shake(t, m, sni)
			assert.ErrorContains(t, err, "unrecognized name", sni)
			_, err = shake(t, m, sni, "acme-tls/1")
			assert.Error(t, err, sni)
		}
		_, err := shake(t, m, "")
		assert.ErrorContains(t, err, "unrecognized name")
		assert.Equal(t, before, storage.reads.Load())
	})
}

func TestReplacingAllRoutesCostsBoundedWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		o := with(ca)
		storage := newMemStorage()
		o.Storage = storage
		m, r := start(t, o, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		ca.hook(func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() })
		storage.hook(func(string, string) error { time.Sleep(time.Millisecond); return nil })
		storage.most.Store(0)
		before, reads := runtime.NumGoroutine(), storage.reads.Load()
		r.set(names("h%d.example.com", 10_000)...)
		time.Sleep(10 * time.Second)
		assert.Less(t, runtime.NumGoroutine()-before, 100)
		assert.LessOrEqual(t, storage.most.Load(), int64(8+16))
		// one each, plus running attempts
		assert.Less(t, storage.reads.Load()-reads, int64(10_000+500))
		assert.Len(t, m.Statuses(), 10_000)

		scans := r.scans.Load()
		for range 1_000 {
			m.Changed()
		}
		time.Sleep(time.Second)
		assert.Less(t, r.scans.Load()-scans, int64(5))
	})
}

// Storage that hangs blocks no handshake.
func TestAHandshakeOfACachedHostDoesNotWaitForStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(2))
		o := with(ca)
		storage := newMemStorage()
		o.Storage = storage
		m, r := start(t, o, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		storage.hook(func(string, string) error { time.Sleep(3 * time.Second); return nil })
		r.set(append(names("h%d.example.com", 100), "a.example.com")...)
		for range int(day(2) / time.Hour) { // across renewals
			begin := time.Now()
			_, err := shake(t, m, "a.example.com")
			require.NoError(t, err)
			require.Zero(t, time.Since(begin))
			time.Sleep(time.Hour)
		}
		assert.Greater(t, ca.count("a.example.com"), 1)
	})
}

func TestAStorageThatHangsForEverFailsItsHostsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := with(newIssuer(t, "ca", day(90)))
		storage := newMemStorage()
		hang := make(chan struct{})
		storage.hook(func(string, string) error { <-hang; return nil })
		o.Storage = storage
		m, _ := start(t, o, names("h%d.example.com", 100)...)
		time.Sleep(20 * time.Minute)
		assert.LessOrEqual(t, storage.now.Load(), int64(64))
		for _, s := range m.Statuses() {
			require.ErrorContains(t, s.Err, "no response in time")
		}
		close(hang)
		storage.hook(func(string, string) error { return nil })
		require.NoError(t, m.Await(t.Context()))
	})
}

func TestDamagedStorageIsReplaced(t *testing.T) {
	for _, suffix := range []string{".crt", ".key"} {
		t.Run(suffix, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca := newIssuer(t, "ca", day(90))
				o := with(ca)
				storage := newMemStorage()
				o.Storage = storage
				m, _ := start(t, o, "a.example.com")
				require.NoError(t, m.Await(t.Context()))
				require.NoError(t, m.Close())

				storage.damage(t, suffix)
				again, _ := start(t, o, "a.example.com")
				require.NoError(t, again.Await(t.Context()))
				_, err := shake(t, again, "a.example.com")
				require.NoError(t, err)
				assert.Len(t, ca.issued(), 2)
			})
		})
	}
}

func TestTheNextIssuerIsAskedWhenTheFirstRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newIssuer(t, "first", day(90)), newIssuer(t, "second", day(90))
		first.hook(func(context.Context, string) error { return errors.New("not today") })
		o := certs.Options{Public: []certmagic.Issuer{first, second}, Storage: newMemStorage()}
		m, _ := start(t, o, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		assert.Equal(t, "second", m.Statuses()[0].Issuer)
		require.NoError(t, m.Close())

		// After a restart the second issuer's certificate is found.
		again, _ := start(t, o, "a.example.com")
		require.NoError(t, again.Await(t.Context()))
		assert.Len(t, second.issued(), 1)

		// At renewal the first issuer is tried first, and its certificate is
		// served.
		first.unhook()
		time.Sleep(day(64))
		assert.Equal(t, "first", again.Statuses()[0].Issuer)

		second.hook(func(context.Context, string) error { return errors.New("nor tomorrow") })
		first.hook(func(context.Context, string) error { return errors.New("not today") })
		time.Sleep(time.Until(again.Statuses()[0].RenewAt) + time.Hour)
		err := again.Statuses()[0].Err
		require.ErrorContains(t, err, "not today")
		require.ErrorContains(t, err, "nor tomorrow")
	})
}

func TestHostsBelowAWildcardShareItsCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90)) // not ACME: may sign wildcards
		m, r := start(t, with(ca), "*.example.com", "x.example.com", "a.x.example.com", "example.com", "*")
		require.NoError(t, m.Await(t.Context()))
		assert.ElementsMatch(t, []string{"*.example.com", "a.x.example.com", "example.com"}, ca.issued(),
			"a covered host shares the wildcard's certificate")
		leaf, err := shake(t, m, "x.example.com")
		require.NoError(t, err)
		assert.Equal(t, []string{"*.example.com"}, leaf.DNSNames)
		require.NoError(t, m.Await(t.Context(), "x.example.com"))

		r.set("x.example.com")
		require.NoError(t, m.Await(t.Context(), "x.example.com"))
		assert.Equal(t, 1, ca.count("x.example.com"), "without the wildcard the host gets its own")

		r.set("x.example.com", "*.example.com")
		require.NoError(t, m.Await(t.Context()))
		leaf, err = shake(t, m, "x.example.com")
		require.NoError(t, err)
		assert.Equal(t, []string{"x.example.com"}, leaf.DNSNames, "and keeps it")
	})
}

func TestAWildcardWithoutSolverFailsAtOnceWithTheRemedy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []certs.Status
		o := with(&certmagic.ACMEIssuer{CA: "https://acme.invalid/directory"})
		o.Observe = func(s certs.Status) { seen = append(seen, s) }
		m, _ := start(t, o, "*.example.com")
		synctest.Wait()
		s := m.Statuses()[0]
		assert.Equal(t, certs.Failed, s.State)
		assert.ErrorContains(t, s.Err, "set a DNS provider")
		assert.Zero(t, s.NextTry)
		require.Len(t, seen, 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		assert.ErrorContains(t, m.Await(ctx), "set a DNS provider")
	})
}

func TestInternalNamesGoToTheLocalCA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		m, _ := start(t, with(ca), "www.example.com", "app.localhost", "shop.test", "10.0.0.7", "*.dev.internal", "*.localhost")
		require.NoError(t, m.Await(t.Context()))
		assert.Equal(t, []string{"www.example.com"}, ca.issued())
		for _, host := range []string{"app.localhost", "shop.test", "x.dev.internal", "any.localhost"} {
			leaf, err := shake(t, m, host)
			require.NoError(t, err, host)
			assert.NoError(t, leaf.VerifyHostname(host))
			assert.Contains(t, leaf.Issuer.CommonName, "hostproxy local CA")
		}
		time.Sleep(day(3))
		leaf, err := shake(t, m, "any.localhost")
		require.NoError(t, err)
		assert.True(t, leaf.NotAfter.After(time.Now()), "a certificate kept only in memory is made again")
		leaf, err = shake(t, m, "app.localhost")
		require.NoError(t, err)
		assert.True(t, leaf.NotAfter.After(time.Now().Add(3*time.Hour)), "leaves of 12 h are renewed")
	})
}

func TestObserveSeesEveryChangeInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		fail := true
		ca.hook(func(context.Context, string) error {
			if fail {
				fail = false
				return errors.New("once")
			}
			return nil
		})
		var seen []string
		o := with(ca)
		o.Observe = func(s certs.Status) { seen = append(seen, fmt.Sprint(s.State, s.Attempts)) }
		m, _ := start(t, o, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		synctest.Wait()
		assert.Equal(t, []string{"failed1", "valid0"}, seen)
	})
}

func TestAPanicInAnIssuerFailsOnlyItsHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		ca.hook(func(_ context.Context, host string) error {
			if host == "bad.example.com" {
				panic("oops")
			}
			return nil
		})
		m, _ := start(t, with(ca), "bad.example.com", "good.example.com")
		require.NoError(t, m.Await(t.Context(), "good.example.com"))
		synctest.Wait()
		assert.ErrorContains(t, m.Statuses()[0].Err, "panic in issuer: oops")
	})
}

func TestCloseEndsEverythingOnceAndFreesItsLocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		ca.hook(func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() })
		o := with(ca)
		storage := newMemStorage()
		o.Storage = storage
		m, _ := start(t, o, "a.example.com")
		synctest.Wait()
		require.Len(t, storage.locked(), 1)
		require.NoError(t, m.Close())
		require.NoError(t, m.Close())
		assert.Empty(t, storage.locked())
		_, err := shake(t, m, "a.example.com")
		assert.Error(t, err)
		_, err = shake(t, m, "b.example.com", "acme-tls/1")
		assert.Error(t, err)
		assert.Error(t, m.Await(t.Context()))
	})
}

func TestCloseWorksWithoutStart(t *testing.T) {
	r := &routes{}
	m, err := certs.New(certs.Options{Hosts: r.all, Wants: r.wants, Knows: r.knows, Storage: newMemStorage(), Logger: (&logBuffer{}).logger(0)})
	require.NoError(t, err)
	require.NoError(t, m.Close())
	m.Start(0)
	require.NoError(t, m.Close())
}

func TestBadIssuersAreErrorsAtOnce(t *testing.T) {
	r := &routes{}
	_, err := certs.New(certs.Options{
		Hosts: r.all, Wants: r.wants, Knows: r.knows, Storage: newMemStorage(), Logger: (&logBuffer{}).logger(0),
		Public: []certmagic.Issuer{
			&certmagic.ACMEIssuer{CA: "http://ca.example.com/dir"},
			&certmagic.ACMEIssuer{CA: "letsencrypt"},
		},
	})
	require.ErrorContains(t, err, `"http://ca.example.com/dir"`)
	require.ErrorContains(t, err, `"letsencrypt"`)
	require.ErrorContains(t, err, "want the https URL of an ACME directory")
}
