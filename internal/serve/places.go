package serve

import (
	"container/list"
	"sync"
	"time"
)

// places limits the number of handshakes in flight. Waiting handshakes get
// their places in the order of arrival. Methods may be called concurrently.
type places struct {
	mu      sync.Mutex
	most    int // 0 means no limit
	taken   int
	waiting list.List // of channels; each is closed when its place is taken
}

// bound sets the number of places.
func (p *places) bound(most int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.most = most
	p.give()
}

// take waits for a place until late, or until done is closed. It returns
// errNoSlot or errDraining if it gets none. The zero time means no time limit.
func (p *places) take(late time.Time, done <-chan struct{}) error {
	p.mu.Lock()
	if p.free() && p.waiting.Len() == 0 {
		p.taken++
		p.mu.Unlock()
		return nil
	}
	mine := make(chan struct{})
	at := p.waiting.PushBack(mine)
	p.mu.Unlock()
	var expired <-chan time.Time
	if !late.IsZero() {
		timer := time.NewTimer(time.Until(late))
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case <-mine:
		return nil
	case <-expired:
		return p.giveUp(at, errNoSlot)
	case <-done:
		return p.giveUp(at, errDraining)
	}
}

// giveUp ends the wait of at with err, unless it has just got a place.
func (p *places) giveUp(at *list.Element, err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-at.Value.(chan struct{}):
		return nil
	default:
	}
	p.waiting.Remove(at)
	return err
}

// leave gives a place back.
func (p *places) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken--
	p.give()
}

// give gives free places to waiting handshakes. p.mu is held.
func (p *places) give() {
	for p.waiting.Len() > 0 && p.free() {
		p.taken++
		close(p.waiting.Remove(p.waiting.Front()).(chan struct{}))
	}
}

// free reports whether there is a place. p.mu is held.
func (p *places) free() bool { return p.most == 0 || p.taken < p.most }
