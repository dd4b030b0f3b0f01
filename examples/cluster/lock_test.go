package cluster_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/examples/cluster"
	"github.com/hostproxy/hostproxy/examples/cluster/internal/redistest"
	"github.com/hostproxy/hostproxy/examples/storagetest"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// With the LockTTL of production it takes five times as long.
func TestALockOfAKilledProcessIsTakenOver(t *testing.T) {
	t.Parallel()
	const ttl = cluster.LockTTL / 5
	storagetest.RunKilled(t, ttl+2*cluster.LockPoll,
		func(t *testing.T) string { return redistest.Start(t).URL },
		func(t *testing.T, url string) certmagic.Storage { return hasty(t, url, ttl) })
}

// shortTTL is that of a lock whose end a test waits for.
const shortTTL = 300 * time.Millisecond

// held checks that the lock that take takes for a is not to be had for b within
// d. It does so again where a was stopped for so long that its lock may have
// ended.
func held(t *testing.T, a, b *cluster.Storage, d time.Duration, take func()) {
	t.Helper()
	stills := proxytest.WatchStandstills(t)
	for {
		before := stills.Total()
		take()
		err := b.Lock(within(t, d), "name")
		if stills.Total()-before < shortTTL/2 {
			require.ErrorIs(t, err, context.DeadlineExceeded)
			return
		}
		require.NoError(t, errors.Join(a.Unlock(t.Context(), "name"), b.Unlock(t.Context(), "name")))
	}
}

func TestALockIsHeldForLongerThanItsTTL(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	a, b := hasty(t, server.URL, shortTTL), open(t, server.URL)
	held(t, a, b, 5*shortTTL, func() { require.NoError(t, a.Lock(t.Context(), "name")) })
	require.NoError(t, a.Unlock(t.Context(), "name"))
	require.NoError(t, b.Lock(within(t, proxytest.Patience), "name"))
	require.NoError(t, b.Unlock(t.Context(), "name"))
}

func TestALockOutlivesTheContextItWasTakenWith(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	a, b := hasty(t, server.URL, shortTTL), open(t, server.URL)
	held(t, a, b, 3*shortTTL, func() {
		ctx, cancel := context.WithCancel(t.Context())
		require.NoError(t, a.Lock(ctx, "name"))
		cancel()
	})
	require.NoError(t, a.Unlock(t.Context(), "name"))
}

func TestALockIsRenewedWhenRedisHasForgottenIt(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	a, b := hasty(t, server.URL, shortTTL), open(t, server.URL)
	held(t, a, b, 3*shortTTL, func() {
		require.NoError(t, a.Lock(t.Context(), "name"))
		require.NoError(t, connect(t, server.URL).FlushAll(t.Context()).Err())
		proxytest.Eventually(t, "the lock", func() bool { return connect(t, server.URL).Exists(t.Context(), a.LockKey("name")).Val() == 1 })
	})
	require.NoError(t, a.Unlock(t.Context(), "name"))
}

// Its holder was stopped for too long, and another process has it now.
func TestALostLockIsNotFreedForTheOneWhoHasIt(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := hasty(t, server.URL, shortTTL)
	require.NoError(t, s.Lock(t.Context(), "name"))
	require.NoError(t, connect(t, server.URL).Set(t.Context(), s.LockKey("name"), "another", 0).Err())
	<-s.Lost("name") // it gives up by itself
	require.NoError(t, s.Unlock(t.Context(), "name"))
	assert.Equal(t, "another", connect(t, server.URL).Get(t.Context(), s.LockKey("name")).Val())
}

func TestAReplyThatIsLostDoesNotLockItsSenderOut(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, server.URL)
	for range 2 {
		ours, err := s.Take(t.Context(), "name", "ours")
		require.NoError(t, err)
		assert.True(t, ours)
	}
	ours, err := s.Take(t.Context(), "name", "theirs")
	require.NoError(t, err)
	assert.False(t, ours)
	assert.Equal(t, "ours", connect(t, server.URL).Get(t.Context(), s.LockKey("name")).Val())
}

func TestUnlockFreesOnlyWhatIsHeld(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	a, b := open(t, server.URL), open(t, server.URL)
	require.NoError(t, a.Unlock(t.Context(), "name"))
	require.NoError(t, a.Lock(t.Context(), "name"))
	require.NoError(t, b.Unlock(t.Context(), "name"))
	require.ErrorIs(t, b.Lock(within(t, cluster.LockPoll), "name"), context.DeadlineExceeded)
	require.NoError(t, a.Unlock(t.Context(), "name"))
	require.NoError(t, a.Unlock(t.Context(), "name"))
	require.NoError(t, b.Lock(within(t, cluster.LockTTL/2), "name"), "it has not ended by itself")
	require.NoError(t, b.Unlock(t.Context(), "name"))
}

func TestOneWaiterOfAProcessAsksRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, server.URL)
	require.NoError(t, connect(t, server.URL).Set(t.Context(), s.LockKey("name"), "another", 0).Err())
	left := make(chan error)
	for range 50 {
		go func() { left <- s.Lock(within(t, 3*cluster.LockPoll), "name") }()
	}
	require.NoError(t, connect(t, server.URL).ConfigResetStat(t.Context()).Err())
	for range 50 {
		require.ErrorIs(t, <-left, context.DeadlineExceeded)
	}
	stats, err := connect(t, server.URL).InfoMap(t.Context(), "commandstats").Result()
	require.NoError(t, err)
	assert.Regexp(t, `^calls=[1-9],`, stats["Commandstats"]["cmdstat_evalsha"])
	assert.Zero(t, s.Locks())
}

func TestAnUnlockThatFailsLetsOthersTry(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, server.URL)
	require.NoError(t, s.Lock(t.Context(), "name"))
	server.Kill()
	require.ErrorContains(t, s.Unlock(t.Context(), "name"), `unlock "name"`)
	// it does not wait for itself
	require.ErrorContains(t, s.Lock(t.Context(), "name"), "connection refused")
	require.NoError(t, s.Unlock(t.Context(), "name"))
}

func TestCloseFreesWhatIsHeld(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, server.URL)
	for _, name := range []string{"one", "two"} {
		require.NoError(t, s.Lock(t.Context(), name))
	}
	require.NoError(t, s.Close())
	assert.Zero(t, connect(t, server.URL).DBSize(t.Context()).Val())
}
