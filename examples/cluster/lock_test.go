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

// The default LockTTL would make this test take five times as long.
func TestALockOfAKilledProcessIsTakenOver(t *testing.T) {
	t.Parallel()
	const ttl = cluster.LockTTL / 5
	storagetest.RunKilled(t, ttl+2*cluster.LockPoll,
		func(t *testing.T) string { return redistest.Start(t).URL },
		func(t *testing.T, url string) certmagic.Storage { return hasty(t, url, ttl) })
}

// shortTTL is the TTL of locks whose expiry a test waits for.
const shortTTL = 300 * time.Millisecond

// held checks that b cannot get the lock that take takes for a within d. If the
// machine stood still for so long that the lock may have expired, it tries
// again.
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

func TestALockIsTakenAgainAfterRedisHasLostIt(t *testing.T) {
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

// The holder stood still for too long, and another process has taken the lock.
func TestUnlockDoesNotFreeALockThatAnotherProcessHasTaken(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := hasty(t, server.URL, shortTTL)
	require.NoError(t, s.Lock(t.Context(), "name"))
	require.NoError(t, connect(t, server.URL).Set(t.Context(), s.LockKey("name"), "another", 0).Err())
	<-s.Lost("name") // the renewal has given up
	require.NoError(t, s.Unlock(t.Context(), "name"))
	assert.Equal(t, "another", connect(t, server.URL).Get(t.Context(), s.LockKey("name")).Val())
}

func TestALockCanBeTakenAgainAfterALostReply(t *testing.T) {
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

func TestUnlockFreesOnlyALockThatThisProcessHolds(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	a, b := open(t, server.URL), open(t, server.URL)
	require.NoError(t, a.Unlock(t.Context(), "name"))
	require.NoError(t, a.Lock(t.Context(), "name"))
	require.NoError(t, b.Unlock(t.Context(), "name"))
	require.ErrorIs(t, b.Lock(within(t, cluster.LockPoll), "name"), context.DeadlineExceeded)
	require.NoError(t, a.Unlock(t.Context(), "name"))
	require.NoError(t, a.Unlock(t.Context(), "name"))
	require.NoError(t, b.Lock(within(t, cluster.LockTTL/2), "name"), "it did not expire by itself")
	require.NoError(t, b.Unlock(t.Context(), "name"))
}

func TestOnlyOneWaiterOfAProcessAsksRedis(t *testing.T) {
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
	// Lock does not wait for the lock of this process
	require.ErrorContains(t, s.Lock(t.Context(), "name"), "connection refused")
	require.NoError(t, s.Unlock(t.Context(), "name"))
}

func TestCloseFreesTheLocksThatAreHeld(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, server.URL)
	for _, name := range []string{"one", "two"} {
		require.NoError(t, s.Lock(t.Context(), name))
	}
	require.NoError(t, s.Close())
	assert.Zero(t, connect(t, server.URL).DBSize(t.Context()).Val())
}
