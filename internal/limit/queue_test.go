package limit_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/limit"
)

// tokens are the things that callers of a queue wait for.
type tokens struct{ free atomic.Int64 }

func (k *tokens) take() bool {
	if n := k.free.Add(-1); n < 0 {
		k.free.Add(1)
		return false
	}
	return true
}

func TestARequestDoesNotWaitIfThereIsRoom(t *testing.T) {
	q := limit.Queue{}
	assert.NoError(t, q.Do(nil, func() bool { return true }))
	assert.ErrorIs(t, q.Do(nil, func() bool { return false }), limit.ErrQueueFull, "the zero queue has no places")
	assert.Zero(t, q.Len())
}

func TestTheQueueServesInTheOrderOfArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, k := limit.Queue{Max: 10, Wait: time.Minute}, tokens{}
		var mu sync.Mutex
		var served []int
		for i := range 10 {
			go func() {
				assert.NoError(t, q.Do(nil, k.take))
				mu.Lock()
				defer mu.Unlock()
				served = append(served, i)
			}()
			synctest.Wait()
		}
		assert.Equal(t, 10, q.Len())
		assert.ErrorIs(t, q.Do(nil, k.take), limit.ErrQueueFull)
		for i := range 10 {
			k.free.Add(1)
			q.Wake()
			synctest.Wait()
			assert.Len(t, served, i+1)
		}
		assert.Equal(t, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, served)
		assert.Zero(t, q.Len())
	})
}

func TestOneWakeAdmitsAllWaitersThatFit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, k := limit.Queue{Max: 10, Wait: time.Minute}, tokens{}
		for range 5 {
			go func() { assert.NoError(t, q.Do(nil, k.take)) }()
		}
		synctest.Wait()
		k.free.Add(5)
		q.Wake()
		synctest.Wait()
		assert.Zero(t, q.Len())
	})
}

func TestAWaitEndsAtItsTimeoutOrAClientDisconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, k := limit.Queue{Max: 10, Wait: time.Second}, tokens{}
		start, gone := time.Now(), make(chan struct{})
		var first, second, third error
		var thirdAt time.Duration
		go func() { first = q.Do(nil, k.take) }()
		synctest.Wait()
		go func() { second = q.Do(gone, k.take) }()
		synctest.Wait()
		later := time.NewTimer(500 * time.Millisecond)
		<-later.C
		go func() { third, thirdAt = q.Do(nil, k.take), time.Since(start) }()
		synctest.Wait()
		close(gone)
		synctest.Wait()
		assert.ErrorIs(t, second, limit.ErrQueueLeft)
		assert.Equal(t, 2, q.Len())
		later.Reset(700 * time.Millisecond)
		<-later.C
		synctest.Wait()
		assert.ErrorIs(t, first, limit.ErrQueueTimeout)
		k.free.Add(1)
		q.Wake()
		synctest.Wait()
		assert.NoError(t, third, "the third has become the first waiter")
		assert.Equal(t, 1200*time.Millisecond, thirdAt)
	})
}

// A caller that is about to wait does not miss what becomes free: nothing would
// wake it later.
func TestNoWakeIsLost(t *testing.T) {
	q, k := limit.Queue{Max: 1000, Wait: time.Minute}, tokens{}
	k.free.Store(3)
	var inside, done atomic.Int64
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for range 2000 {
				if !assert.NoError(t, q.Do(nil, k.take)) {
					return
				}
				assert.LessOrEqual(t, inside.Add(1), int64(3))
				inside.Add(-1)
				k.free.Add(1)
				q.Wake()
				done.Add(1)
			}
		})
	}
	all.Wait()
	assert.EqualValues(t, 32_000, done.Load())
	assert.Zero(t, q.Len())
}

// A try that fails may hold for a moment what the first waiter then does not
// get. The queue has to be told when that is over.
func TestAFailedTryLetsTheNextWaiterTryAgain(t *testing.T) {
	for name, room := range map[string]int{"and waits too": 2, "and finds the queue full": 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := limit.Queue{Max: room, Wait: time.Minute}
				var held atomic.Bool
				failed, first := make(chan struct{}), make(chan error, 1)
				held.Store(true)
				gone := make(chan struct{})
				go func() {
					_ = q.Do(gone, func() bool {
						if held.Load() {
							<-failed
							held.Store(false)
						}
						return false
					})
				}()
				synctest.Wait()
				go func() { first <- q.Do(nil, func() bool { return !held.Load() }) }()
				synctest.Wait()
				q.Wake()
				synctest.Wait()
				close(failed)
				synctest.Wait()
				select {
				case err := <-first:
					assert.NoError(t, err)
				default:
					t.Error("the first waiter was not woken")
				}
				close(gone)
			})
		})
	}
}

func BenchmarkQueueWhileNobodyWaits(b *testing.B) {
	q := limit.Queue{Max: 10, Wait: time.Second}
	yes := func() bool { return true }
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_ = q.Do(nil, yes)
			q.Wake()
		}
	})
}
