package limit

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// Why somebody did not get through a [Queue].
var (
	ErrQueueFull    = errors.New("queue is full")
	ErrQueueTimeout = errors.New("waited too long in the queue")
	ErrQueueLeft    = errors.New("client disconnected while queued")
)

// A Queue is where those wait, in the order of their arrival, who want
// something that is used up. The fields must not change after first use; the
// methods may be called concurrently.
//
// Hot path: while nobody waits, Do is one load and the caller's try, and Wake
// one load.
type Queue struct {
	Max  int           // who comes when so many wait is sent away
	Wait time.Duration // for at most so long

	waiting atomic.Int64
	mu      sync.Mutex // guards the line
	head    *waiter
	tail    *waiter
}

// A waiter stands in the line.
type waiter struct {
	turn       chan struct{} // room for one: it is the first, and something may have become free
	prev, next *waiter
}

// Len returns how many wait.
func (q *Queue) Len() int { return int(q.waiting.Load()) }

// Do calls try until it returns true: at once if nobody waits, else when it is
// the caller's turn, and then at each Wake. It returns nil after try has
// returned true, or one of the errors above; gone closes when the caller is to
// leave.
func (q *Queue) Do(gone <-chan struct{}, try func() bool) error {
	if q.waiting.Load() == 0 && try() {
		return nil
	}
	w := &waiter{turn: make(chan struct{}, 1)}
	if !q.join(w) {
		return ErrQueueFull
	}
	defer q.remove(w)
	late := time.NewTimer(q.Wait)
	defer late.Stop()
	for {
		select {
		case <-w.turn:
			if try() {
				return nil
			}
		case <-late.C:
			return ErrQueueTimeout
		case <-gone:
			return ErrQueueLeft
		}
	}
}

// Wake lets the first that waits try again. It is to be called whenever
// something has become free.
func (q *Queue) Wake() {
	if q.waiting.Load() == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.call()
}

// call tells the first that it is its turn. q.mu is held.
func (q *Queue) call() {
	if q.head == nil {
		return
	}
	select {
	case q.head.turn <- struct{}{}:
	default: // it knows
	}
}

// join puts w at the end of the line, if there is room. Who is the first then
// tries once more, w or another: whatever became free before it was counted was
// told to nobody, and w may for a moment have held what the first then did not
// get.
func (q *Queue) join(w *waiter) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.call()
	if q.Len() >= q.Max {
		return false
	}
	q.waiting.Add(1)
	if w.prev = q.tail; w.prev != nil {
		w.prev.next = w
	} else {
		q.head = w
	}
	q.tail = w
	return true
}

// remove takes w out of the line. The next one tries in any case: it may be
// that more than one thing has become free.
func (q *Queue) remove(w *waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	first := q.head == w
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		q.head = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		q.tail = w.prev
	}
	q.waiting.Add(-1)
	if first {
		q.call()
	}
}
