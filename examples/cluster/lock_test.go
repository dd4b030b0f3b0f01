package main

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
	"github.com/hostproxy/hostproxy/examples/storagetest"
)

// certificates.md, 17: after kill -9 the lock is taken over in about 10 s.
func TestALockOfAKilledProcessIsTakenOver(t *testing.T) {
	storagetest.RunKilled(t, lockTTL+2*lockPoll,
		func(t *testing.T) string { return startRedis(t).url },
		func(t *testing.T, url string) certmagic.Storage { return open(t, url) })
}

// shortTTL is that of a lock whose end a test waits for.
const shortTTL = 300 * time.Millisecond

// held checks that the lock that take takes for a is not to be had for b within d. It does so again where a was stopped for so
// long that its lock may have ended.
func held(t *testing.T, a, b *storage, d time.Duration, take func()) {
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
	redis := startRedis(t)
	a, b := hasty(t, redis.url, shortTTL), open(t, redis.url)
	held(t, a, b, 5*shortTTL, func() { require.NoError(t, a.Lock(t.Context(), "name")) })
	require.NoError(t, a.Unlock(t.Context(), "name"))
	require.NoError(t, b.Lock(within(t, proxytest.Patience), "name"))
	require.NoError(t, b.Unlock(t.Context(), "name"))
}

func TestALockOutlivesTheContextItWasTakenWith(t *testing.T) {
	redis := startRedis(t)
	a, b := hasty(t, redis.url, shortTTL), open(t, redis.url)
	held(t, a, b, 3*shortTTL, func() {
		ctx, cancel := context.WithCancel(t.Context())
		require.NoError(t, a.Lock(ctx, "name"))
		cancel()
	})
	require.NoError(t, a.Unlock(t.Context(), "name"))
}

func TestALockIsRenewedWhenRedisHasForgottenIt(t *testing.T) {
	redis := startRedis(t)
	a, b := hasty(t, redis.url, shortTTL), open(t, redis.url)
	held(t, a, b, 3*shortTTL, func() {
		require.NoError(t, a.Lock(t.Context(), "name"))
		require.NoError(t, redis.client.FlushAll(t.Context()).Err())
		proxytest.Eventually(t, "the lock", func() bool { return redis.client.Exists(t.Context(), lockPrefix+"name").Val() == 1 })
	})
	require.NoError(t, a.Unlock(t.Context(), "name"))
}

// Its holder was stopped for too long, and another process has it now.
func TestALostLockIsNotFreedForTheOneWhoHasIt(t *testing.T) {
	redis := startRedis(t)
	s := hasty(t, redis.url, shortTTL)
	require.NoError(t, s.Lock(t.Context(), "name"))
	require.NoError(t, redis.client.Set(t.Context(), lockPrefix+"name", "another", 0).Err())
	<-s.locks["name"].stopped // it gives up by itself
	require.NoError(t, s.Unlock(t.Context(), "name"))
	assert.Equal(t, "another", redis.client.Get(t.Context(), lockPrefix+"name").Val())
}

func TestAReplyThatIsLostDoesNotLockItsSenderOut(t *testing.T) {
	redis := startRedis(t)
	s := open(t, redis.url)
	l := &lock{name: "name", token: "ours"}
	for range 2 {
		ours, err := s.take(t.Context(), l)
		require.NoError(t, err)
		assert.True(t, ours)
	}
	ours, err := s.take(t.Context(), &lock{name: "name", token: "theirs"})
	require.NoError(t, err)
	assert.False(t, ours)
	assert.Equal(t, "ours", redis.client.Get(t.Context(), lockPrefix+"name").Val())
}

func TestUnlockFreesOnlyWhatIsHeld(t *testing.T) {
	redis := startRedis(t)
	a, b := open(t, redis.url), open(t, redis.url)
	require.NoError(t, a.Unlock(t.Context(), "name"))
	require.NoError(t, a.Lock(t.Context(), "name"))
	require.NoError(t, b.Unlock(t.Context(), "name"))
	require.ErrorIs(t, b.Lock(within(t, lockPoll), "name"), context.DeadlineExceeded)
	require.NoError(t, a.Unlock(t.Context(), "name"))
	require.NoError(t, a.Unlock(t.Context(), "name"))
	require.NoError(t, b.Lock(within(t, lockTTL/2), "name"), "it has not ended by itself")
	require.NoError(t, b.Unlock(t.Context(), "name"))
}

func TestOneWaiterOfAProcessAsksRedis(t *testing.T) {
	redis := startRedis(t)
	s := open(t, redis.url)
	require.NoError(t, redis.client.Set(t.Context(), lockPrefix+"name", "another", 0).Err())
	left := make(chan error)
	for range 50 {
		go func() { left <- s.Lock(within(t, 3*lockPoll), "name") }()
	}
	require.NoError(t, redis.client.ConfigResetStat(t.Context()).Err())
	for range 50 {
		require.ErrorIs(t, <-left, context.DeadlineExceeded)
	}
	stats, err := redis.client.InfoMap(t.Context(), "commandstats").Result()
	require.NoError(t, err)
	assert.Regexp(t, `^calls=[1-9],`, stats["Commandstats"]["cmdstat_evalsha"])
	assert.Empty(t, s.locks)
}

func TestAnUnlockThatFailsLetsOthersTry(t *testing.T) {
	redis := startRedis(t)
	s := open(t, redis.url)
	require.NoError(t, s.Lock(t.Context(), "name"))
	redis.stop()
	require.ErrorContains(t, s.Unlock(t.Context(), "name"), `unlock "name"`)
	require.ErrorContains(t, s.Lock(t.Context(), "name"), "connection refused") // it does not wait for itself
	require.NoError(t, s.Unlock(t.Context(), "name"))
}

func TestCloseFreesWhatIsHeld(t *testing.T) {
	redis := startRedis(t)
	s, err := openStorage(redis.url)
	require.NoError(t, err)
	for _, name := range []string{"one", "two"} {
		require.NoError(t, s.Lock(t.Context(), name))
	}
	require.NoError(t, s.Close())
	assert.Zero(t, redis.client.DBSize(t.Context()).Val())
}
