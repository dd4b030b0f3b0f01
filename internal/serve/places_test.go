package serve_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/serve"
)

func TestPlacesAreGivenInOrderAndFollowTheirBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p serve.Places
		p.Bound(1)
		assert.NoError(t, p.Take(time.Time{}, nil))
		got := make(chan int, 5)
		for i := range 5 {
			go func() {
				if p.Take(time.Time{}, nil) == nil {
					got <- i
				}
			}()
			synctest.Wait()
		}
		p.Leave()
		assert.Equal(t, 0, <-got)
		p.Bound(3)
		synctest.Wait()
		assert.Len(t, got, 2)
		assert.Equal(t, 3, <-got+<-got)
		p.Bound(1) // takes no place away
		p.Leave()
		p.Leave()
		synctest.Wait()
		assert.Empty(t, got)
		p.Bound(0)
		synctest.Wait()
		assert.Len(t, got, 2, "no bound")
		assert.NoError(t, p.Take(time.Time{}, nil))
	})
}

func TestAWaitForAPlaceEndsAtItsDeadlineOrAShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p serve.Places
		p.Bound(1)
		assert.NoError(t, p.Take(time.Now().Add(time.Second), nil))
		assert.ErrorIs(t, p.Take(time.Now().Add(time.Second), nil), serve.ErrNoSlot)
		done := make(chan struct{})
		close(done)
		assert.ErrorIs(t, p.Take(time.Time{}, done), serve.ErrDraining)
		p.Leave()
		assert.NoError(t, p.Take(time.Now().Add(time.Second), done), "waits that have ended hold no place")
		assert.Zero(t, p.Waiting())
	})
}
