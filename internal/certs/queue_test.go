package certs_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

// slowly returns a hook that takes some time.
func slowly(d time.Duration) func(context.Context, string) error {
	return func(ctx context.Context, _ string) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func TestRenewalsNearerToExpiryGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		o := with(ca)
		o.Storage = newMemStorage()
		m, r := start(t, o, "h0.example.com")
		require.NoError(t, m.Await(t.Context()))
		for i := range 100 { // each expires a minute after the previous one
			r.add(fmt.Sprintf("h%d.example.com", i+1))
			time.Sleep(time.Minute)
		}
		require.NoError(t, m.Close())

		// All are due when the next Manager starts, and a slow CA takes them in
		// turn.
		time.Sleep(day(70))
		issued := len(ca.issued())
		ca.hook(slowly(time.Minute))
		all := names("h%d.example.com", 101)
		slices.Reverse(all)
		start(t, o, append(names("new%d.example.com", 500), all...)...)
		time.Sleep(9 * time.Minute)
		again := ca.issued()[issued:]
		require.Greater(t, len(again), 101)
		first := again[16:80] // up to sixteen start before storage is fully read
		assert.NotContains(t, strings.Join(first, " "), "new", "no new host among them")
		place := func(host string) (n int) {
			_, err := fmt.Sscanf(host, "h%d.", &n)
			require.NoError(t, err)
			return n
		}
		for i := range len(first) - 16 { // that many are in flight at a time
			assert.Less(t, place(first[i]), place(first[i+16]), "the one that expires first")
		}
	})
}

func TestAHostThatFailedDoesNotWaitForAllNewHosts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		broken := true
		ca.hook(func(ctx context.Context, host string) error {
			if host == "old.example.com" && broken {
				return errors.New("DNS is wrong")
			}
			return slowly(20*time.Second)(ctx, host)
		})
		m, r := start(t, with(ca), "old.example.com")
		synctest.Wait()
		broken = false
		begin := time.Now()
		for i := range 15 { // new hosts come faster than the CA can issue
			r.add(names(fmt.Sprintf("new%d-%%d.example.com", i), 60)...)
			time.Sleep(time.Minute)
		}
		s := m.Statuses()
		i := slices.IndexFunc(s, func(s certs.Status) bool { return s.Host == "old.example.com" })
		require.NotNil(t, s[i].Serial, "it had its turn")
		assert.WithinRange(t, s[i].NotBefore, begin.Add(-time.Second), begin.Add(5*time.Minute))
	})
}

func TestDeadDomainsDoNotKeepAHealthyRenewalWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(1))
		m, _ := start(t, with(ca), append(names("dead%d.example.com", 90), "good.example.com")...)
		ctx, cancel := context.WithTimeout(t.Context(), day(1))
		defer cancel()
		require.NoError(t, m.Await(ctx))
		ca.hook(func(ctx context.Context, host string) error {
			if strings.HasPrefix(host, "dead") {
				_ = slowly(4*time.Minute)(ctx, host)
				return errors.New("the domain is gone")
			}
			return nil
		})
		for range 30 {
			leaf, err := shake(t, m, "good.example.com")
			require.NoError(t, err)
			require.True(t, time.Now().Before(leaf.NotAfter), "a healthy host's certificate expired")
			time.Sleep(time.Hour)
		}
	})
}

func TestFailingHostsAreQuietInTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logBuffer
		ca := newIssuer(t, "ca", day(90))
		ca.hook(failing("no"))
		o := with(ca)
		o.Logger = log.logger(4) // slog.LevelWarn
		start(t, o, names("h%d.example.com", 1_000)...)
		time.Sleep(30 * time.Minute)
		lines := strings.Count(log.String(), "\n")
		t.Logf("%d warnings", lines)
		assert.Less(t, lines, 50)
		assert.Contains(t, log.String(), "certificates of more hosts failed")
		assert.NotContains(t, log.String(), "0001-01-01")
		each := make(map[string]int)
		for line := range strings.Lines(log.String()) {
			if _, after, ok := strings.Cut(line, "host="); ok {
				host, _, _ := strings.Cut(after, " ")
				each[host]++
				require.LessOrEqual(t, each[host], 1, "one warning per host and change of state")
			}
		}
	})
}
