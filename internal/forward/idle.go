package forward

import (
	"context"
	"math"
	"sync/atomic"
	"time"
)

// An idleTimer cancels an exchange on which no byte moves. Touching it is one
// atomic store; the timer checks and re-arms itself.
type idleTimer struct {
	limit  time.Duration
	last   atomic.Int64 // nanoseconds since start
	start  time.Time
	timer  *time.Timer
	fired  atomic.Bool
	cancel context.CancelFunc
}

// watchIdle starts a timer for the upstream's IdleTimeout.
func (a *attempt) watchIdle(cancel context.CancelFunc) *idleTimer {
	t := &idleTimer{limit: a.f.IdleTimeout, start: a.x.Start, cancel: cancel}
	if t.limit > 0 {
		t.touch()
		t.timer = time.AfterFunc(math.MaxInt64, t.check)
		t.timer.Reset(t.limit) // only now may check run: it reads t.timer
	}
	return t
}

func (t *idleTimer) touch() {
	if t.limit > 0 {
		t.last.Store(int64(time.Since(t.start)))
	}
}

func (t *idleTimer) check() {
	idle := time.Since(t.start) - time.Duration(t.last.Load())
	if idle < t.limit {
		t.timer.Reset(t.limit - idle)
		return
	}
	t.fired.Store(true)
	t.cancel()
}

func (t *idleTimer) expired() bool { return t.fired.Load() }

func (t *idleTimer) stop() {
	if t.timer != nil {
		t.timer.Stop()
	}
}
