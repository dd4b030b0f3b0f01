package routes_test

import (
	"context"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/routes"
)

func TestALifeIsAContextThatEndsOnce(t *testing.T) {
	for _, waited := range []bool{false, true} {
		var l routes.Life
		var ctx context.Context = &l
		assert.NoError(t, ctx.Err())
		if waited {
			select {
			case <-ctx.Done():
				t.Fatal("Done is closed before End")
			default:
			}
		}
		l.End()
		l.End()
		<-ctx.Done()
		assert.ErrorIs(t, ctx.Err(), context.Canceled)
		assert.ErrorIs(t, context.Cause(ctx), context.Canceled)
		_, bounded := ctx.Deadline()
		assert.False(t, bounded)
		assert.Nil(t, ctx.Value(7))
	}
}

func TestAContinuedLifeEndsWithItsSuccessor(t *testing.T) {
	for _, waited := range []bool{false, true} {
		var old, l, other routes.Life
		if waited {
			_ = old.Done()
		}
		assert.False(t, l.Continues(&old))
		l.Continue(&old)
		assert.True(t, l.Continues(&old))
		assert.False(t, other.Continues(&old))
		assert.NoError(t, l.Err())
		l.End()
		<-old.Done()
		assert.Error(t, old.Err())
		assert.NoError(t, other.Err())
	}
}

func TestWaitingForALifeTakesNoGoroutine(t *testing.T) {
	l := new(routes.Life)
	before := runtime.NumGoroutine()
	told := make(chan struct{}, 2)
	for range 2 {
		defer context.AfterFunc(l, func() { told <- struct{}{} })()
	}
	ctx, cancel := context.WithCancel(l)
	defer cancel()
	assert.Equal(t, before, runtime.NumGoroutine())
	l.End()
	<-told
	<-told
	<-ctx.Done()
	left := context.AfterFunc(l, func() { told <- struct{}{} })
	<-told
	assert.False(t, left())
}

func TestALifeWithoutWaitersAllocatesNothing(t *testing.T) {
	lives := make([]routes.Life, 101)
	i := 0
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		_ = lives[i].Err()
		lives[i].End()
		_ = lives[i].Err()
		i++
	}))
}

func TestALifeMayEndWhileOthersBeginToWait(t *testing.T) {
	for range 1000 {
		var l routes.Life
		go l.End()
		<-l.Done()
		assert.Error(t, l.Err())
	}
}
