//go:build !race

package client_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/client"
	"github.com/hostproxy/hostproxy/internal/pool"
)

// The race detector makes sync.Pool drop items at random, so this test runs
// without it. Each exchange on the short way of the handler lane starts an
// attempt.
func TestAnAttemptStartsWithoutAllocating(t *testing.T) {
	c := client.New(new(pool.Pool), client.Timeouts{})
	assert.Zero(t, testing.AllocsPerRun(1000, func() {
		try := c.Start(t.Context(), nil, nil, nil)
		try.Free()
	}))
}
