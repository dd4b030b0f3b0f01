package cluster_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/examples/cluster"
	"github.com/hostproxy/hostproxy/examples/cluster/internal/redistest"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// BenchmarkAllow measures Allow with Redis on the same machine, and with the
// buckets in memory while Redis is away.
func BenchmarkAllow(b *testing.B) {
	for about, url := range map[string]string{"redis": redistest.Start(b).URL, "memory": "redis://" + proxytest.Refused(b)} {
		b.Run(about, func(b *testing.B) {
			c, err := cluster.Connect(url)
			require.NoError(b, err)
			defer c.Close()
			l, err := cluster.NewLimiter(c, cluster.LimiterOptions{Rate: 1000})
			require.NoError(b, err)
			b.ReportAllocs()
			for b.Loop() {
				_, _ = l.Allow(b.Context(), client)
			}
		})
	}
}
