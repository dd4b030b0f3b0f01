package cluster_test

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/examples/cluster"
	"github.com/hostproxy/hostproxy/examples/cluster/internal/redistest"
	"github.com/hostproxy/hostproxy/examples/storagetest"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestARedisClusterIsACertmagicStorage(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t)
	warnings, err := open(t, c.URL).Check(t.Context())
	require.NoError(t, err)
	assert.Len(t, warnings, 3, "each master persists nothing")
	storagetest.Run(t, func(t *testing.T) certmagic.Storage { return open(t, c.URL) })
}

func TestARedisClusterSharesTheWorkOfALimiter(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t)
	one, two := limiter(t, c.URL, cluster.LimiterOptions{Rate: 0.01}), limiter(t, c.URL, cluster.LimiterOptions{Rate: 0.01})
	for i := range 60 {
		q, err := one.AllowKey(t.Context(), fmt.Sprint(i))
		require.NoError(t, err)
		assert.True(t, q.OK)
		q, err = two.AllowKey(t.Context(), fmt.Sprint(i))
		require.NoError(t, err)
		assert.False(t, q.OK)
	}
	assert.Zero(t, one.LocalBuckets())
	for _, s := range c.Nodes {
		assert.Positive(t, connect(t, s.URL).DBSize(t.Context()).Val(), "buckets at %s", s.Addr)
	}
	c.Nodes[1].Kill() // its clients are now counted in this process, all others still in Redis
	q, err := one.AllowKey(t.Context(), "60")
	require.NoError(t, err)
	assert.True(t, q.OK)
}

// The answers of other nodes must not keep requests of the dead node's keys
// waiting, and its silence must not delay theirs.
func TestADeadNodeDelaysThreeRequestsOfItsKeysAndNoOthers(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t)
	for _, n := range c.Nodes { // the other nodes still serve their keys
		n.CLI(t, "config", "set", "cluster-require-full-coverage", "no")
	}
	const timeout = 300 * time.Millisecond
	said := new(logged)
	l := limiter(t, c.URL, cluster.LimiterOptions{Rate: 0.01, Timeout: timeout, Logger: said.logger()})
	_, err := l.AllowKey(t.Context(), "first")
	require.NoError(t, err)
	client := connect(t, c.URL).(*redis.ClusterClient)
	dead, others := keysOf(t, l, client, c.Nodes[1].Addr)
	c.Nodes[1].Stop()
	waited := 0
	for i := range dead {
		began := time.Now()
		_, err := l.AllowKey(t.Context(), dead[i])
		require.NoError(t, err)
		if time.Since(began) > timeout/2 {
			waited++
		}
		local := l.LocalBuckets()
		assert.Equal(t, i+1, local, "counted in this process")
		_, err = l.AllowKey(t.Context(), others[i])
		require.NoError(t, err)
		assert.Equal(t, local, l.LocalBuckets(), "counted in Redis")
	}
	assert.LessOrEqual(t, waited, 3)
	assert.True(t, l.Open())
	assert.Contains(t, said.String(), "node="+c.Nodes[1].Addr)
	c.Nodes[1].Continue()
	proxytest.Eventually(t, "the breaker closes", func() bool {
		_, _ = l.AllowKey(t.Context(), dead[0])
		return !l.Open()
	})
}

// keysOf returns 20 keys whose buckets are at a node, and 20 others.
func keysOf(t *testing.T, l *cluster.Limiter, c *redis.ClusterClient, addr string) (at, others []string) {
	t.Helper()
	for i := 0; len(at) < 20 || len(others) < 20; i++ {
		key := fmt.Sprint("key", i)
		n, err := c.MasterForKey(t.Context(), l.BucketKey(key))
		require.NoError(t, err)
		if n.Options().Addr == addr {
			at = append(at, key)
		} else {
			others = append(others, key)
		}
	}
	return at, others
}

// A failover keeps what the replica has. Only what was stored last may be lost
// with the master.
func TestAFailoverBySentinelsKeepsTheStorage(t *testing.T) {
	t.Parallel()
	w := redistest.StartWatched(t)
	a, b := hasty(t, w.URL, 2*time.Second), open(t, w.URL)
	warnings, err := a.Check(t.Context())
	require.NoError(t, err)
	require.Len(t, warnings, 1)
	assert.Contains(t, warnings[0], "the Redis that the Sentinels name persists nothing")
	require.NoError(t, a.Store(t.Context(), "d/file", []byte("value")))
	require.NoError(t, a.Lock(t.Context(), "name"))
	proxytest.Eventually(t, "the replica has both", func() bool {
		return w.Replica.CLI(t, "exists", a.LockKey("name"), a.Key(":values")) == "2"
	})
	w.Master.Kill()
	_, err = b.Load(t.Context(), "d/file")
	require.Error(t, err)
	assert.False(t, errors.Is(err, fs.ErrNotExist), "a value that cannot be read is not missing: %v", err)
	proxytest.Eventually(t, "the new master", func() bool { return b.Store(t.Context(), "d/other", nil) == nil })
	value, err := b.Load(t.Context(), "d/file")
	require.NoError(t, err)
	assert.Equal(t, "value", string(value))
	proxytest.Eventually(t, "the holder has its lock at the new master", func() bool {
		return w.Replica.CLI(t, "exists", a.LockKey("name")) == "1"
	})
	require.NoError(t, a.Unlock(t.Context(), "name"))
	require.NoError(t, b.Lock(within(t, proxytest.Patience), "name"))
	require.NoError(t, b.Unlock(t.Context(), "name"))
}

func TestAWrongMasterNameIsExplained(t *testing.T) {
	t.Parallel()
	w := redistest.StartWatched(t)
	_, err := check(t, strings.Replace(w.URL, "=main", "=other", 1))
	require.ErrorContains(t, err, "the Redis that the Sentinels name is unknown to them: correct master_name in the URL")
	assert.NotErrorIs(t, err, cluster.ErrUnreachable)
	assert.NotContains(t, err.Error(), "\n", "one sentence")
	sentinel, _, _ := strings.Cut(w.URL, "?")
	_, err = check(t, sentinel)
	require.ErrorContains(t, err, "is a Sentinel: add the name of the master that it watches to the URL")
}
