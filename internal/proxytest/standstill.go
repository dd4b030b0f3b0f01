package proxytest

import (
	"sync"
	"testing"
	"time"
)

// standstill is how late a goroutine that wakes regularly may be before the
// machine counts as standing still.
const standstill = 50 * time.Millisecond

// Standstills measures how long the machine, or the process, stands still, so
// that a test that measures time can allow for it.
type Standstills struct {
	mu    sync.Mutex
	last  time.Time
	total time.Duration
}

// WatchStandstills watches until the test ends.
func WatchStandstills(t testing.TB) *Standstills {
	t.Helper()
	s := &Standstills{last: time.Now()}
	done := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() { s.watch(done) })
	t.Cleanup(func() { close(done); watch.Wait() })
	return s
}

func (s *Standstills) watch(done <-chan struct{}) {
	tick := time.NewTicker(standstill / 5)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.Total()
		case <-done:
			return
		}
	}
}

// Total returns how long the machine has stood still since the watch began.
func (s *Standstills) Total() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if late := now.Sub(s.last); late > standstill {
		s.total += late
	}
	s.last = now
	return s.total
}
