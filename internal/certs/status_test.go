package certs_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

func TestAnExpiredCertificateIsNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", 3*time.Hour)
		m, _ := start(t, with(ca), "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		ca.hook(failing("down"))
		time.Sleep(4 * time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := m.Await(ctx, "a.example.com")
		require.ErrorContains(t, err, "has expired")
		require.ErrorContains(t, err, "down")
		ca.unhook()
		require.NoError(t, m.Await(t.Context()))
	})
}

func TestHostsAreServedSecondsAfterAStorageThatWasDownAtStartReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := with(newIssuer(t, "ca", day(90)))
		storage := newMemStorage()
		o.Storage = storage
		m, _ := start(t, o, names("h%d.example.com", 50)...)
		require.NoError(t, m.Await(t.Context()))
		require.NoError(t, m.Close())

		storage.hook(func(string, string) error { return errors.New("connection refused") })
		m, _ = start(t, o, names("h%d.example.com", 50)...)
		time.Sleep(time.Hour)
		for _, s := range m.Statuses() {
			require.Equal(t, certs.Failed, s.State)
			require.Zero(t, s.Attempts, "no CA was asked")
		}
		storage.hook(func(string, string) error { return nil })
		back := time.Now()
		_, err := shake(t, m, "h7.example.com")
		if err != nil { // storage was read less than a second ago
			time.Sleep(time.Second)
			_, err = shake(t, m, "h7.example.com")
		}
		require.NoError(t, err, "a handshake hurries its host")
		assert.LessOrEqual(t, time.Since(back), 2*time.Second)
		require.NoError(t, m.Await(t.Context()))
		assert.LessOrEqual(t, time.Since(back), 40*time.Second)
	})
}

func TestAnErrorOfThePolicyKeepsExistingCertificates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		ca := newIssuer(t, "ca", day(90))
		o := with(ca)
		o.Policy = func(context.Context, string) error {
			if broken.Load() {
				return errors.New("the database is down")
			}
			return nil
		}
		m, _ := start(t, o, "*")
		_, err := shake(t, m, "a.example.com")
		require.NoError(t, err)
		broken.Store(true)
		for range 60 * 4 {
			time.Sleep(6 * time.Hour)
			_, err := shake(t, m, "a.example.com")
			require.NoError(t, err)
		}
		for range 24 * 4 { // now it is due
			time.Sleep(6 * time.Hour)
			_, err := shake(t, m, "a.example.com")
			require.NoError(t, err)
		}
		s := m.Statuses()[0]
		assert.ErrorContains(t, s.Err, "the database is down")
		assert.Zero(t, s.Attempts)
		broken.Store(false)
		time.Sleep(2 * time.Hour)
		_, err = shake(t, m, "a.example.com")
		require.NoError(t, err)
		assert.Equal(t, 2, ca.count("a.example.com"))
	})
}

func TestRandomNamesDoNotHammerADatabaseThatIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		o := with(newIssuer(t, "ca", day(90)))
		o.Policy = func(context.Context, string) error { calls.Add(1); return errors.New("the database is down") }
		m, _ := start(t, o, "*")
		for range 100 {
			_, err := shake(t, m, "a.example.com")
			require.ErrorContains(t, err, "internal error", "it is no refusal")
			time.Sleep(100 * time.Millisecond)
		}
		assert.LessOrEqual(t, calls.Load(), int64(3), "it is remembered for 5 s")
	})
}

func TestAPolicyThatNeverReturnsHoldsOnlyItsOwnGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		defer close(release)
		o := with(newIssuer(t, "ca", day(90)))
		o.Policy = func(context.Context, string) error { <-release; return nil }
		m, _ := start(t, o, "*", "good.example.com")
		for _, host := range names("h%d.example.com", 100) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := shakeContext(ctx, t, m, host)
			require.Error(t, err)
			cancel()
		}
		_, err := shake(t, m, "good.example.com")
		require.NoError(t, err)
		begin := time.Now()
		require.NoError(t, m.Close())
		assert.LessOrEqual(t, time.Since(begin), time.Second)
	})
}

func TestHowLongARefusalIsRememberedCanBeSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := new(policy)
		o := onDemand(t, p, newIssuer(t, "ca", day(90)))
		o.PolicyTTL = time.Hour
		m, _ := start(t, o, "*")
		for range 100 {
			_, err := shake(t, m, "stranger.example.com")
			require.ErrorContains(t, err, "unrecognized name")
			time.Sleep(time.Minute)
		}
		assert.Equal(t, 2, p.count("stranger.example.com"))
	})
}

func TestACertificateOutsideTheMemoryIsServedEvenIfItsRenewalFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		o := with(ca)
		o.Storage = newMemStorage()
		r := routesOf(names("h%d.example.com", 40)...)
		o.Hosts, o.Wants, o.Knows, o.Logger = r.all, r.wants, r.knows, (&logBuffer{}).logger(8)
		m, err := certs.New(o)
		require.NoError(t, err)
		defer func() { require.NoError(t, m.Close()) }()
		m.MaxLoaded(10)
		m.Start(0)
		require.NoError(t, m.Await(t.Context()))
		ca.hook(failing("down"))
		time.Sleep(day(60) + 6*time.Hour)
		orders := len(ca.issued())
		for _, host := range names("h%d.example.com", 40) {
			_, err := shake(t, m, host)
			require.NoError(t, err, host)
		}
		assert.LessOrEqual(t, len(ca.issued())-orders, 40, "the backoff stays as it was")
	})
}

func TestACertificateThatCannotBeStoredIsNotOrderedEverySecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		o := with(ca)
		storage := newMemStorage()
		storage.hook(func(verb, key string) error {
			if verb == "store" && strings.HasPrefix(key, "certificates/") {
				return errors.New("disk full")
			}
			return nil
		})
		o.Storage = storage
		m, _ := start(t, o, "a.example.com")
		for range 600 {
			_, err := shake(t, m, "a.example.com")
			require.Error(t, err)
			time.Sleep(time.Second)
		}
		assert.LessOrEqual(t, len(ca.issued()), 6)
	})
}

func TestALazyHostThatIsNamedIsWaitedForAndNotOrdered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		o := with(ca)
		o.Lazy = true
		m, _ := start(t, o, "a.example.com")
		require.NoError(t, m.Await(t.Context()), "it wants no certificate yet")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorContains(t, m.Await(ctx, "a.example.com"), `no certificate for "a.example.com": TLS.Lazy waits for the first handshake`)
		assert.Empty(t, ca.issued())
		require.NoError(t, m.Renew("a.example.com"))
		require.NoError(t, m.Await(t.Context(), "a.example.com"))
	})
}

// The list is allocated once, in its final size.
func TestStatusesAllocatesItsListOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		allocations := func(hosts int) float64 {
			o := with(newIssuer(t, "ca", day(90)))
			o.Lazy = true
			m, _ := start(t, o, names("h%d.example.com", hosts)...)
			time.Sleep(time.Minute) // until storage was read for all
			require.Len(t, m.Statuses(), hosts)
			return testing.AllocsPerRun(10, func() { m.Statuses() })
		}
		few := allocations(10)
		assert.Less(t, allocations(10_000), few+5)
	})
}
