package limit

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// Why a caller did not get through a [Queue].
var (
	ErrQueueFull    = errors.New("queue is full")
	ErrQueueTimeout = errors.New("waited too long in the queue")
	ErrQueueLeft    = errors.New("client disconnected while queued")
)

// A Queue lets callers wait for something that is used up, in the order of
// their arrival. The fields must not change after first use; the methods may be
// called concurrently.
//
// Hot path: while the queue is empty, Do is one load and the caller's try, and
// Wake is one load.
type Queue struct {
	Max  int           // callers that may wait; further ones fail
	Wait time.Duration // longest wait of a caller

	waiting atomic.Int64
	mu      sync.Mutex // guards the queue
	head    *waiter
	tail    *waiter
}

// A waiter is a caller in the queue.
type waiter struct {
	turn       chan struct{} // has room for one; gets a value when the waiter is first and may try
	prev, next *waiter
}

// Len returns how many callers wait.
func (q *Queue) Len() int { return int(q.waiting.Load()) }

// Do calls try until it returns true: immediately if the queue is empty,
// otherwise when the caller is first, and then at each Wake. It returns nil
// after try has returned true, or one of the errors above. It stops waiting
// when gone is closed.
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

// Wake lets the first waiter try again. It must be called whenever something
// has become free.
func (q *Queue) Wake() {
	if q.waiting.Load() == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.call()
}

// call tells the first waiter to try. q.mu is held.
func (q *Queue) call() {
	if q.head == nil {
		return
	}
	select {
	case q.head.turn <- struct{}{}:
	default: // it is told already
	}
}

// join puts w at the end of the queue, if there is room. In any case the first
// waiter, w or another, tries once more: something may have become free before
// w was counted, when Wake told no waiter; and w's own try may have held for a
// moment what the first waiter then did not get.
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

// remove takes w out of the queue. If w was first, the next waiter tries, since
// more than one thing may have become free.
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
