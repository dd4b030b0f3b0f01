//go:build unix && !portable

package pool_test

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/pool"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// The cost of a kept connection.
const (
	idleGoroutines = 0
	keptAllocs     = 0
)

// A waiting read must not need a buffer.
func TestNoBufferIsHeldWhileWaiting(t *testing.T) {
	ln := proxytest.Listen(t)
	serve(t, ln, echo)
	c := open(t, poolFor(t, ln))
	ask(t, c, "hello")
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
	require.ErrorIs(t, c.Fill(), os.ErrDeadlineExceeded)
	assert.False(t, pool.HoldsBuffer(c))
}
