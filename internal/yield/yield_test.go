package yield_test

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/yield"
)

func TestLongWorkLetsOthersRun(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for name, work := range map[string]func(*yield.Turn){
		"short steps": func(turn *yield.Turn) {
			for range 100 {
				turn.Step()
			}
		},
		"long steps": (*yield.Turn).Check,
	} {
		var turn yield.Turn
		work(&turn)
		var ran atomic.Bool
		go ran.Store(true)
		yielded := 0
		// the runtime sometimes resumes the goroutine that yields
		for ; yielded < 10 && !ran.Load(); yielded++ {
			for begin := time.Now(); time.Since(begin) < time.Millisecond; {
			}
			work(&turn)
		}
		assert.True(t, ran.Load(), name)
	}
}

func TestLongWorkGetsAFairShareOfTheCPU(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	spin := func(d time.Duration) {
		for begin := time.Now(); time.Since(begin) < d; {
		}
	}
	var done atomic.Bool
	var others sync.WaitGroup
	for range 20 {
		others.Go(func() {
			for !done.Load() {
				spin(time.Millisecond)
				runtime.Gosched()
			}
		})
	}
	var turn yield.Turn
	var worked time.Duration
	rounds := 0
	turn.Check()
	for begin := time.Now(); worked < 50*time.Millisecond; worked, begin = worked+time.Since(begin), time.Now() {
		spin(100 * time.Microsecond)
		if turn.Check(); time.Since(begin) > 10*time.Millisecond {
			begin = time.Now() // others had their turn
			rounds++
		}
	}
	done.Store(true)
	others.Wait()
	assert.Less(t, rounds, 40, "a round takes more than half a millisecond of work")
}

func TestATurnDoesNotAllocate(t *testing.T) {
	var turn yield.Turn
	assert.Zero(t, testing.AllocsPerRun(1000, turn.Step))
}
