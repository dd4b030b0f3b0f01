package cluster_test

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/examples/cluster"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestMain(m *testing.M) { proxytest.Main(m) }

// connect returns a client that is closed at the end of the test.
func connect(t *testing.T, url string) redis.UniversalClient {
	t.Helper()
	c, err := cluster.Connect(url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// open opens the storage at url until the test ends. Each call stands for a
// process.
func open(t *testing.T, url string) *cluster.Storage {
	return openWith(t, url, cluster.StorageOptions{})
}

// openWith opens the storage with options.
func openWith(t *testing.T, url string, o cluster.StorageOptions) *cluster.Storage {
	t.Helper()
	s, err := cluster.NewStorage(connect(t, url), o)
	require.NoError(t, err)
	return s
}

// hasty opens the storage with locks that outlive their holder by ttl.
func hasty(t *testing.T, url string, ttl time.Duration) *cluster.Storage {
	t.Helper()
	return openWith(t, url, cluster.StorageOptions{LockTTL: ttl})
}

// within returns a context that ends after d, or at the end of the test.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
