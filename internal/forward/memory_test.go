package forward_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/forward"
)

func TestTheMemoryOfBuffersIsBounded(t *testing.T) {
	u, err := forward.ParseTarget("a:1")
	require.NoError(t, err)
	for most, c := range map[int64]forward.Config{64 << 20: {BufferRequests: 1}, 100 << 20: {BufferRequests: 100 << 20}, 90 << 20: {BufferResponses: 90 << 20}} {
		c.Targets, c.Retry.Attempts = []forward.Endpoint{{URL: u}}, 1
		f, err := forward.New(c)
		require.NoError(t, err)
		assert.True(t, f.Memory.Take(most-1))
		assert.True(t, f.Memory.Take(1))
		assert.False(t, f.Memory.Take(1), "%d", most)
		f.Memory.Give(2)
		assert.False(t, f.Memory.Take(3))
		assert.True(t, f.Memory.Take(2))
	}
}
