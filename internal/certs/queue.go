package certs

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// An urgency orders the jobs of a queue that are due; less goes first.
type urgency int

const (
	critical urgency = iota // a certificate in use is about to expire
	awaited                 // a handshake waits for the first certificate
	renewal                 // a certificate in use is due
	first                   // a new host, nobody has asked yet
	retry                   // it failed before
)

// A job is one host's place in a queue. The zero value is in none.
type job struct {
	run     func(context.Context)
	due     time.Time
	urgency urgency

	queue *queue // nil when in none
	seq   uint64 // order of arrival, among equals
	index int    // in its heap
	ripe  bool   // in the heap of jobs that are due
}

// A queue runs jobs: none before it is due, at most width at a time, at the
// pace allowed, and the most urgent first. A job is in a queue at most once,
// and leaves it when it starts.
type queue struct {
	width int
	pace  *pacer // nil means no limit

	mu      sync.Mutex
	seq     uint64
	running int
	waiting jobHeap // by time due
	ripe    jobHeap // by urgency, then arrival
	jobs    sync.WaitGroup
	wake    chan struct{}
}

func newQueue(width int, pace *pacer) *queue {
	return &queue{
		width:   width,
		pace:    pace,
		waiting: jobHeap{less: earlier},
		ripe:    jobHeap{less: moreUrgent},
		wake:    make(chan struct{}, 1),
	}
}

func earlier(a, b *job) bool {
	if !a.due.Equal(b.due) {
		return a.due.Before(b.due)
	}
	return a.seq < b.seq
}

func moreUrgent(a, b *job) bool {
	if a.urgency != b.urgency {
		return a.urgency < b.urgency
	}
	return a.seq < b.seq
}

// put adds j with what it is to run, or moves it if it is there already. It
// must not be in another queue.
func (q *queue) put(j *job, run func(context.Context), due time.Time, u urgency) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.remove(j)
	q.seq++
	j.run, j.due, j.urgency, j.seq, j.queue = run, due, u, q.seq, q
	heap.Push(&q.waiting, j)
	q.poke()
}

// hurry raises j's urgency to u, if it is due and u is more.
func (q *queue) hurry(j *job, u urgency) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if j.queue != q || u >= j.urgency || j.due.After(time.Now()) {
		return
	}
	j.urgency = u
	if j.ripe {
		heap.Fix(&q.ripe, j.index)
	}
	q.poke()
}

// drop takes j out, if it has not started.
func (q *queue) drop(j *job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.remove(j)
}

// remove takes j out. q.mu is held.
func (q *queue) remove(j *job) {
	if j.queue != q {
		return
	}
	if j.ripe {
		heap.Remove(&q.ripe, j.index)
	} else {
		heap.Remove(&q.waiting, j.index)
	}
	j.queue, j.ripe = nil, false
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

// start starts what may start, and returns how long nothing more will without
// being poked; false if there is nothing to wait for.
func (q *queue) start(ctx context.Context) (time.Duration, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	for len(q.waiting.jobs) > 0 && !q.waiting.jobs[0].due.After(now) {
		j := heap.Pop(&q.waiting).(*job)
		j.ripe = true
		heap.Push(&q.ripe, j)
	}
	wait, timed := time.Duration(0), false
	for len(q.ripe.jobs) > 0 && q.running < q.width && ctx.Err() == nil {
		if w := q.pace.take(now); w > 0 {
			wait, timed = w, true
			break
		}
		j := heap.Pop(&q.ripe).(*job)
		j.queue, j.ripe = nil, false
		q.running++
		q.jobs.Add(1)
		go q.run(ctx, j.run)
	}
	if len(q.waiting.jobs) > 0 {
		if w := q.waiting.jobs[0].due.Sub(now); !timed || w < wait {
			wait, timed = w, true
		}
	}
	return wait, timed
}

func (q *queue) run(ctx context.Context, run func(context.Context)) {
	defer q.jobs.Done()
	run(ctx)
	q.mu.Lock()
	q.running--
	q.mu.Unlock()
	q.poke()
}

// A jobHeap implements heap.Interface.
type jobHeap struct {
	jobs []*job
	less func(a, b *job) bool
}

func (h *jobHeap) Len() int           { return len(h.jobs) }
func (h *jobHeap) Less(i, k int) bool { return h.less(h.jobs[i], h.jobs[k]) }

func (h *jobHeap) Swap(i, k int) {
	h.jobs[i], h.jobs[k] = h.jobs[k], h.jobs[i]
	h.jobs[i].index, h.jobs[k].index = i, k
}

func (h *jobHeap) Push(x any) {
	j := x.(*job)
	j.index = len(h.jobs)
	h.jobs = append(h.jobs, j)
}

func (h *jobHeap) Pop() any {
	last := len(h.jobs) - 1
	j := h.jobs[last]
	h.jobs[last] = nil
	h.jobs = h.jobs[:last]
	return j
}
