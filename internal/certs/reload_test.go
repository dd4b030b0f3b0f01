package certs_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

// crowded starts a Manager that keeps fewer certificates in memory than it has
// hosts.
func crowded(t *testing.T, o certs.Options, held int, r *routes) *certs.Manager {
	t.Helper()
	o.Hosts, o.Wants, o.Knows, o.Logger = r.all, r.wants, r.knows, slog.New(slog.DiscardHandler)
	m, err := certs.New(o)
	require.NoError(t, err)
	r.m = m
	m.MaxLoaded(held)
	m.Start(0)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	require.NoError(t, m.Await(t.Context()))
	return m
}

// shakeFor is shake by a client that waits at most d.
func shakeFor(t *testing.T, m *certs.Manager, host string, d time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	_, err := shakeContext(ctx, t, m, host)
	return err
}

// Renewals become due faster than slow storage can be read.
func TestAHostThatIsNotInMemoryIsServedWhileRenewalsQueueForStorage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		storage := newMemStorage()
		var o certs.Options
		o.Storage = storage
		r := routesOf(names("h%d.test", 600)...)
		m := crowded(t, o, 10, r)
		time.Sleep(3 * time.Hour)
		others := names("x%d.test", 10)
		r.add(others...)
		require.NoError(t, m.Await(t.Context()))
		require.Equal(t, 10, m.Held())
		storage.hook(func(verb, key string) error {
			if verb == "load" && strings.Contains(key, ".test/h") {
				time.Sleep(9 * time.Second)
			}
			return nil
		})
		time.Sleep(5*time.Hour + 25*time.Minute)
		for _, host := range others {
			require.NoError(t, shakeFor(t, m, host, time.Second), host)
		}
		storage.heal()
		time.Sleep(time.Minute)
	})
}

// The host's certificate is good while the CA that should renew it hangs.
func TestAHostThatIsNotInMemoryIsServedWhileItsRenewalHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(6))
		o := with(ca)
		o.Storage = newMemStorage()
		hosts := names("h%d.example.com", 30)
		m := crowded(t, o, 3, routesOf(hosts...))
		time.Sleep(day(4))
		ca.hook(func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() })
		time.Sleep(8 * time.Hour)
		for range 3 {
			for _, host := range hosts {
				require.NoError(t, shakeFor(t, m, host, time.Second), host)
			}
			time.Sleep(time.Minute)
		}
		assert.Equal(t, 3, m.Held())
	})
}

// A storage that fails is not read again for each handshake.
func TestAHostThatIsNotInMemoryIsLookedForOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemStorage()
		o := with(newIssuer(t, "ca", day(90)))
		o.Storage = storage
		m := crowded(t, o, 1, routesOf("a.example.com", "b.example.com"))
		require.NoError(t, shakeFor(t, m, "b.example.com", time.Second)) // evicts a
		time.Sleep(time.Hour)
		var loads atomic.Int64
		storage.hook(func(verb, key string) error {
			if verb == "load" && strings.Contains(key, "a.example.com") {
				loads.Add(1)
			}
			return errors.New("down")
		})
		for range 1000 {
			require.Error(t, shakeFor(t, m, "a.example.com", time.Second))
			time.Sleep(10 * time.Millisecond)
		}
		assert.LessOrEqual(t, loads.Load(), int64(25))
		storage.heal()
		time.Sleep(2 * time.Second)
		require.NoError(t, shakeFor(t, m, "a.example.com", time.Second))
	})
}
