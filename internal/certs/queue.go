package certs

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// An urgency groups the hosts of a queue that are due and equally urgent.
type urgency uint8

const (
	// less than a third of the certificate's life is left: always first, the
	// nearest expiry first
	renewing urgency = iota
	again            // a failed renewal: every second start, if there is one
	// a waiting handshake; an early renewal that the CA requests; a new host:
	// in this order
	wanted
	// a first certificate that has failed: every fourth start, if there is one
	retrying
	urgencies
)

// A rank orders the hosts in the urgency wanted; lower goes first.
type rank uint8

const (
	awaited rank = iota // a handshake waits
	early               // the CA requests an early renewal
	first               // a new host
)

// ripening limits how many hosts become due at once, so that a queue of a
// million is not locked for a second.
const ripening = 512

// A queue runs the jobs of hosts: none before it is due, at most width at a
// time, within the pace, and the most urgent first. A host is in a queue at
// most once, and leaves it when its job starts.
//
// No host can block another one forever: urgencies of failed hosts get a share
// of the starts, and no more.
type queue struct {
	width int
	pace  *pacer // nil means no limit

	mu      sync.Mutex
	running int
	turn    int                 // number of starts; gives the failed urgencies their share
	waiting hostHeap            // ordered by due time
	ripe    [urgencies]hostHeap // due
	jobs    sync.WaitGroup
	wake    chan struct{}
}

// A job is a host's entry in a queue. The queue's lock guards it.
type job struct {
	due     int64 // unix nanoseconds
	ends    int64 // when the certificate in use expires; unix nanoseconds
	index   int32 // in its heap, from 1; 0 if in none
	step    step
	urgency urgency
	rank    rank
	ripe    bool // in the heap of its urgency, not in waiting
}

func newQueue(width int, pace *pacer) *queue {
	q := &queue{
		width:   width,
		pace:    pace,
		waiting: hostHeap{less: dueEarlier},
		wake:    make(chan struct{}, 1),
	}
	for l := range q.ripe {
		q.ripe[l].less = dueEarlier
	}
	q.ripe[renewing].less = expiresEarlier
	q.ripe[wanted].less = moreWanted
	return q
}

func dueEarlier(a, b *host) bool { return a.job.due < b.job.due }

func expiresEarlier(a, b *host) bool { return a.job.ends < b.job.ends }

func moreWanted(a, b *host) bool {
	if a.job.rank != b.job.rank {
		return a.job.rank < b.job.rank
	}
	return dueEarlier(a, b)
}

// put adds h with its job, or moves it if it is already there. h must not be in
// another queue.
func (q *queue) put(h *host, j job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.move(h, j)
}

// move is put with q.mu held.
func (q *queue) move(h *host, j job) {
	q.remove(h)
	j.index = 0
	h.job = j
	if j.due > time.Now().UnixNano() {
		heap.Push(&q.waiting, h)
	} else {
		q.ripen(h)
	}
	q.poke()
}

// ripen puts h, which is in no heap, among the due hosts. q.mu is held.
func (q *queue) ripen(h *host) {
	h.job.ripe = true
	heap.Push(&q.ripe[h.job.urgency], h)
}

// expedite moves h to the front of the urgency wanted, if it is due and not in
// an urgency that goes first anyway.
func (q *queue) expedite(h *host) {
	q.mu.Lock()
	defer q.mu.Unlock()
	j := &h.job
	q.poke() // the clock may have jumped
	if j.index == 0 || j.urgency == renewing || j.urgency == wanted && j.rank == awaited || j.due > time.Now().UnixNano() {
		return
	}
	q.remove(h)
	j.urgency, j.rank = wanted, awaited
	q.ripen(h)
	q.poke()
}

// drop removes h, if its job has not started.
func (q *queue) drop(h *host) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.remove(h)
}

// remove removes h. q.mu is held.
func (q *queue) remove(h *host) {
	if h.job.index == 0 {
		return
	}
	from := &q.waiting
	if h.job.ripe {
		from = &q.ripe[h.job.urgency]
	}
	heap.Remove(from, int(h.job.index-1))
	h.job.ripe = false
}

func (q *queue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// loop runs the queue until ctx is done and the last job has ended. Jobs get
// ctx.
func (q *queue) loop(ctx context.Context) {
	defer q.jobs.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if wait, ok := q.start(ctx); ok {
			timer.Reset(wait)
		} else {
			timer.Stop()
		}
		select {
		case <-ctx.Done():
			return
		case <-q.wake:
		case <-timer.C:
		}
	}
}

// start starts all jobs that may start. It returns how long to wait before more
// may start without a poke; false if there is nothing to wait for.
func (q *queue) start(ctx context.Context) (time.Duration, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	wait, timed := q.ripenDue(now)
	for q.running < q.width && ctx.Err() == nil {
		l, ok := q.next()
		if !ok {
			break
		}
		if w := q.pace.take(now); w > 0 {
			if !timed || w < wait {
				wait, timed = w, true
			}
			break
		}
		h := heap.Pop(&q.ripe[l]).(*host)
		h.job.ripe = false
		q.turn++
		q.running++
		q.jobs.Add(1)
		go q.run(ctx, h, h.job.step)
	}
	return wait, timed
}

// ripenDue moves due hosts to their urgencies, and returns how long until the
// next one is due; false if none waits.
func (q *queue) ripenDue(now time.Time) (time.Duration, bool) {
	for range ripening {
		if q.waiting.Len() == 0 || q.waiting.first().job.due > now.UnixNano() {
			break
		}
		q.ripen(heap.Pop(&q.waiting).(*host))
	}
	if q.waiting.Len() == 0 {
		return 0, false
	}
	// At most a minute: timers do not notice when the machine sleeps or its
	// clock is set.
	return min(max(0, time.Duration(q.waiting.first().job.due-now.UnixNano())), time.Minute), true
}

// next returns the urgency to start from; false if nothing is due.
func (q *queue) next() (urgency, bool) {
	has := func(l urgency) bool { return q.ripe[l].Len() > 0 }
	switch {
	case has(renewing):
		return renewing, true
	case has(again) && q.turn%2 == 0:
		return again, true
	case has(retrying) && q.turn%4 == 1:
		return retrying, true
	}
	for _, l := range []urgency{wanted, again, retrying} {
		if has(l) {
			return l, true
		}
	}
	return 0, false
}

func (q *queue) run(ctx context.Context, h *host, s step) {
	defer q.jobs.Done()
	h.run(ctx, s)
	q.mu.Lock()
	q.running--
	q.mu.Unlock()
	q.poke()
}

// A hostHeap implements heap.Interface. It grows by a page at a time: copying a
// million hosts would block everything that waits for the queue.
type hostHeap struct {
	hosts pages[*host]
	less  func(a, b *host) bool
}

// first returns the first host. The heap must not be empty.
func (h *hostHeap) first() *host { return *h.hosts.at(0) }

func (h *hostHeap) Len() int           { return h.hosts.len }
func (h *hostHeap) Less(i, k int) bool { return h.less(*h.hosts.at(i), *h.hosts.at(k)) }

func (h *hostHeap) Swap(i, k int) {
	a, b := h.hosts.at(i), h.hosts.at(k)
	*a, *b = *b, *a
	(*a).job.index, (*b).job.index = int32(i+1), int32(k+1)
}

func (h *hostHeap) Push(x any) {
	j := x.(*host)
	h.hosts.push(j)
	j.job.index = int32(h.hosts.len)
}

func (h *hostHeap) Pop() any {
	j := *h.hosts.at(h.hosts.len - 1)
	h.hosts.pop()
	j.job.index = 0
	return j
}
