package cluster

import (
	"sync"
	"time"
)

const (
	maxFailures = 3           // failures in a row that open a breaker
	openFor     = time.Second // before Redis is tried again
)

// An asking decides whether a request asks Redis.
type asking uint8

const (
	askRedis asking = iota // ask, and wait
	askLater               // do not wait, and ask beside the request
	askNot
)

// A change is the effect of an answer on a breaker.
type change uint8

const (
	unchanged change = iota
	opened
	closed
)

// A breaker decides whether requests ask Redis. It is closed at first.
// maxFailures in a row open it. While it is open, one probe per openFor is
// sent, and the first probe that succeeds closes it.
type breaker struct {
	grace time.Duration // once an answer is overdue by this, further requests do not wait

	mu sync.Mutex
	// time of the first question since the last answer, if one is waiting
	asked    time.Time
	waiting  int // questions without an answer
	failures int
	open     bool
	retry    time.Time // when to probe, while open
}

// ask decides for one request. After askRedis and askLater, call left or
// answered.
func (b *breaker) ask(now time.Time) asking {
	b.mu.Lock()
	defer b.mu.Unlock()
	decision := askRedis
	switch {
	case b.open && (now.Before(b.retry) || b.waiting > 0):
		return askNot
	case b.open:
		decision = askLater
	case b.waiting > 0 && now.Sub(b.asked) > b.grace:
		return askNot
	}
	if b.waiting == 0 {
		b.asked = now
	}
	b.waiting++
	return decision
}

// left cancels a question that gets no answer.
func (b *breaker) left() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting--
}

// answered counts an answer or a failure.
func (b *breaker) answered(now time.Time, err error) change {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting--
	b.asked = now
	if err == nil {
		b.failures = 0
		if b.open {
			b.open = false
			return closed
		}
		return unchanged
	}
	b.failures++
	b.retry = now.Add(openFor)
	if b.failures >= maxFailures && !b.open {
		b.open = true
		return opened
	}
	return unchanged
}

// maxNodes limits the breakers, since addresses of nodes may come and go for
// years.
const maxNodes = 1000

// breakers has one breaker for each node of a Redis Cluster. So a dead node
// does not delay the keys of other nodes, and their answers do not hide it.
// Without a Redis Cluster there is one breaker.
type breakers struct {
	grace time.Duration

	mu  sync.Mutex
	all map[string]*breaker // by address; "" while the address is unknown
}

// of returns the breaker of a node.
func (b *breakers) of(node string) *breaker {
	b.mu.Lock()
	defer b.mu.Unlock()
	if one := b.all[node]; one != nil {
		return one
	}
	if b.all == nil || len(b.all) >= maxNodes {
		b.all = map[string]*breaker{}
	}
	one := &breaker{grace: b.grace}
	b.all[node] = one
	return one
}
