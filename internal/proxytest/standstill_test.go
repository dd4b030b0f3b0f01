package proxytest_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestWithoutDelaysThereIsNoStandstill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := proxytest.WatchStandstills(t)
		time.Sleep(time.Hour)
		assert.Zero(t, s.Total())
	})
}

// A watch without a running goroutine is like a process that stands still.
func TestTotalReportsAStandstillInProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := proxytest.UnkeptStandstills()
		time.Sleep(time.Second)
		assert.Equal(t, time.Second, s.Total())
		time.Sleep(20 * time.Millisecond) // could be the scheduler
		assert.Equal(t, time.Second, s.Total())
		time.Sleep(2 * time.Second)
		assert.Equal(t, 3*time.Second, s.Total())
	})
}
