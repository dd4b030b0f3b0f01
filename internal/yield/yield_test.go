package yield_test

import (
	"runtime"
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
		for ; yielded < 10 && !ran.Load(); yielded++ { // the runtime now and then resumes the one that yields
			for begin := time.Now(); time.Since(begin) < time.Millisecond; {
			}
			work(&turn)
		}
		assert.True(t, ran.Load(), name)
	}
}

func TestATurnDoesNotAllocate(t *testing.T) {
	var turn yield.Turn
	assert.Zero(t, testing.AllocsPerRun(1000, turn.Step))
}
