package certs_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

func TestAllCallersOfAPacerShareItsPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := certs.NewPacer(10, 10*time.Second)
		begin := time.Now()
		for range 10 {
			require.Zero(t, p.Take())
		}
		assert.Equal(t, 10*time.Second, p.Take())
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() { assert.NoError(t, p.Await(t.Context())) })
		}
		wg.Wait()
		assert.Equal(t, 20*time.Second, time.Since(begin))
		assert.Equal(t, 10*time.Second, p.Take(), "the waiting calls have used up the pace")
		p.Back()
		assert.Zero(t, p.Take())
		assert.NotZero(t, p.Take())
	})
}
