package certs

import (
	"context"
	"sync"
	"time"
)

// A pacer allows a number of starts per window of time. Its methods may be
// called concurrently. A nil pacer has no limit.
type pacer struct {
	window time.Duration

	mu     sync.Mutex
	starts []time.Time // ring of the last starts
	next   int
}

func newPacer(n int, window time.Duration) *pacer {
	return &pacer{window: window, starts: make([]time.Time, n)}
}

// take takes a start now and returns 0, or returns how long until one is free.
func (p *pacer) take(now time.Time) time.Duration {
	if p == nil {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if wait := p.wait(now); wait > 0 {
		return wait
	}
	p.book(now)
	return 0
}

// await reserves the next free start and waits for it.
func (p *pacer) await(ctx context.Context) error {
	if p == nil {
		return ctx.Err()
	}
	p.mu.Lock()
	now := time.Now()
	wait := p.wait(now)
	p.book(now.Add(wait))
	p.mu.Unlock()
	if wait == 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// back returns the last start, which was not needed.
func (p *pacer) back() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = (p.next + len(p.starts) - 1) % len(p.starts)
	p.starts[p.next] = time.Time{}
}

// wait returns how long until a start is free. p.mu is held.
func (p *pacer) wait(now time.Time) time.Duration {
	oldest := p.starts[p.next]
	if oldest.IsZero() {
		return 0
	}
	return max(0, oldest.Add(p.window).Sub(now))
}

// book notes a start. p.mu is held.
func (p *pacer) book(at time.Time) {
	p.starts[p.next] = at
	p.next = (p.next + 1) % len(p.starts)
}
