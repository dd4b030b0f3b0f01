package exchange

import (
	"sync"
	"time"
)

// Limits that sweeps enforce.
const (
	SweepInterval = 50 * time.Millisecond // how often exchanges in flight are checked
	// how long a response without a known end may continue after its server,
	// route or upstream began to end
	StreamGrace = 10 * time.Second
)

// A SweepPace limits how often sweeps run, so that they take at most a
// hundredth of one processor.
type SweepPace struct{ last time.Duration }

// Next returns the time until the next sweep, after one that took so long. It
// uses the shorter of the last two sweeps: a single long one may be due to a
// busy machine.
func (p *SweepPace) Next(took time.Duration) time.Duration {
	pause := 100 * min(took, p.last)
	p.last = took
	return max(SweepInterval, pause)
}

// A Sweeper checks what is in flight every SweepInterval, while there is
// anything. Its zero value is ready for use.
type Sweeper struct {
	mu       sync.Mutex
	first    *Swept
	timer    *time.Timer
	sweeping bool // timer will call sweep
	pace     SweepPace
}

// A Swept is an entry of a Sweeper.
type Swept struct {
	what       interface{ Inspect(now time.Time) }
	next, prev *Swept // guarded by the Sweeper's mu
}

// Add makes the sweeper call Inspect of what, until Remove is called with the
// same entry.
func (s *Sweeper) Add(e *Swept, what interface{ Inspect(now time.Time) }) {
	e.what = what
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.next = s.first; e.next != nil {
		e.next.prev = e
	}
	s.first = e
	if s.sweeping {
		return
	}
	s.sweeping = true
	if s.timer == nil {
		s.timer = time.AfterFunc(SweepInterval, s.sweep)
	} else {
		s.timer.Reset(SweepInterval)
	}
}

// Remove ends Add. The sweeper does not use the entry after Remove has
// returned.
func (s *Sweeper) Remove(e *Swept) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.prev != nil {
		e.prev.next = e.next
	} else {
		s.first = e.next
	}
	if e.next != nil {
		e.next.prev = e.prev
	}
}

// sweep inspects every entry, and runs again while there is one.
func (s *Sweeper) sweep() {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := s.first; e != nil; e = e.next {
		e.what.Inspect(now)
	}
	if s.sweeping = s.first != nil; s.sweeping {
		s.timer.Reset(s.pace.Next(time.Since(now)))
	}
}
