package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
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

func TestRedisIsACertmagicStorage(t *testing.T) {
	t.Parallel()
	url := redistest.Start(t).URL
	storagetest.Run(t, func(t *testing.T) certmagic.Storage { return open(t, url) })
}

func TestStatKnowsSizeAndTime(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Start(t).URL)
	require.NoError(t, s.Store(t.Context(), "a/b", []byte("12345")))
	first, err := s.Stat(t.Context(), "a/b")
	require.NoError(t, err)
	assert.EqualValues(t, 5, first.Size)
	assert.WithinDuration(t, time.Now(), first.Modified, time.Minute)
	require.NoError(t, s.Store(t.Context(), "a/b", nil))
	second, err := s.Stat(t.Context(), "a/b")
	require.NoError(t, err)
	assert.Zero(t, second.Size)
	assert.True(t, second.Modified.After(first.Modified), "%v is not after %v", second.Modified, first.Modified)
}

func TestAListHasAllPages(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Start(t).URL)
	for _, n := range []int{cluster.PageSize - 1, cluster.PageSize, cluster.PageSize + 1, 2*cluster.PageSize + 1} {
		dir := fmt.Sprint("d", n)
		for i := range n {
			require.NoError(t, s.Store(t.Context(), fmt.Sprintf("%s/%d/file", dir, i), nil))
		}
		for _, recursive := range []bool{false, true} {
			keys, err := s.List(t.Context(), dir, recursive)
			require.NoError(t, err)
			assert.Len(t, keys, n)
		}
	}
}

func TestAFileMayAlsoBeADirectory(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Start(t).URL)
	for _, key := range []string{"d/a", "d/a-b", "d/a/x"} {
		require.NoError(t, s.Store(t.Context(), key, []byte(key)))
	}
	keys, err := s.List(t.Context(), "d", false)
	require.NoError(t, err)
	assert.Equal(t, []string{"d/a", "d/a-b"}, keys)
	info, err := s.Stat(t.Context(), "d/a")
	require.NoError(t, err)
	assert.True(t, info.IsTerminal)
}

func TestDeleteLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Start(t).URL)
	for _, key := range []string{"d/x/1", "d/x/2", "d/y"} {
		require.NoError(t, s.Store(t.Context(), key, []byte("value")))
	}
	require.NoError(t, s.Lock(t.Context(), "name"))
	require.NoError(t, s.Unlock(t.Context(), "name"))
	require.NoError(t, s.Delete(t.Context(), "d"))
	keys, err := s.Client().Keys(t.Context(), "*").Result()
	require.NoError(t, err)
	assert.Empty(t, keys)
}

// operations are all operations that ask Redis, except Unlock, which asks only
// if a lock is held.
func operations(s *cluster.Storage) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"store":  func(ctx context.Context) error { return s.Store(ctx, "key", nil) },
		"load":   func(ctx context.Context) error { _, err := s.Load(ctx, "key"); return err },
		"delete": func(ctx context.Context) error { return s.Delete(ctx, "key") },
		"stat":   func(ctx context.Context) error { _, err := s.Stat(ctx, "key"); return err },
		"list":   func(ctx context.Context) error { _, err := s.List(ctx, "dir", false); return err },
		"lock":   func(ctx context.Context) error { return s.Lock(ctx, "name") },
	}
}

// silent returns the URL of a server that accepts connections and never
// answers.
func silent(t *testing.T) string {
	t.Helper()
	return "redis://" + proxytest.Listen(t).Addr().String() // the kernel accepts connections
}

func TestASilentRedisDelaysNoCallBeyondItsDeadline(t *testing.T) {
	t.Parallel()
	s := open(t, silent(t))
	for name, op := range operations(s) {
		t.Run(name, func(t *testing.T) {
			stills, begin := proxytest.WatchStandstills(t), time.Now()
			err := op(within(t, 100*time.Millisecond))
			require.ErrorIs(t, err, context.DeadlineExceeded)
			assert.ErrorContains(t, err, name)
			assert.Less(t, time.Since(begin)-stills.Total(), time.Second)
		})
	}
	assert.False(t, s.Exists(within(t, 100*time.Millisecond), "key"))
}

func TestASilentRedisDelaysNoCallBeyondTheTimeout(t *testing.T) {
	t.Parallel()
	stills, begin := proxytest.WatchStandstills(t), time.Now()
	var wg sync.WaitGroup
	for name, op := range operations(open(t, silent(t))) {
		wg.Go(func() {
			assert.ErrorIs(t, op(t.Context()), context.DeadlineExceeded, name)
			took := time.Since(begin)
			assert.GreaterOrEqual(t, took, cluster.CommandLimit-time.Second, name)
			assert.LessOrEqual(t, took-stills.Total(), cluster.CommandLimit+time.Second, name)
		})
	}
	wg.Wait()
}

func TestARedisThatIsAwayIsAnErrorAndNotAMissingKey(t *testing.T) {
	t.Parallel()
	s := open(t, "redis://"+proxytest.Refused(t))
	for name, op := range operations(s) {
		t.Run(name, func(t *testing.T) {
			err := op(t.Context())
			require.ErrorContains(t, err, "connection refused")
			assert.False(t, errors.Is(err, fs.ErrNotExist))
		})
	}
}
