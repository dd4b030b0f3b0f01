package cluster

import (
	"sync"
	"time"
)

const (
	maxFailures = 3           // in a row, which open a breaker
	openFor     = time.Second // before Redis is tried again
)

// An asking is what a request does about Redis.
type asking uint8

const (
	askRedis asking = iota // ask, and wait
	askLater               // do not wait, and have something else ask
	askNot
)

// A change is what an answer has changed.
type change uint8

const (
	unchanged change = iota
	opened
	closed
)

// A breaker decides whether requests ask Redis. It is closed at first, and
// opened by maxFailures in a row. Then one probe is let through every openFor,
// and the first that succeeds closes it.
type breaker struct {
	grace time.Duration // while an answer is overdue by that, nothing else waits

	mu sync.Mutex
	// when the first question since the last answer was asked; zero if nothing
	// is asked
	asked    time.Time
	waiting  int // questions without an answer
	failures int
	open     bool
	retry    time.Time // when to probe, while open
}

// ask decides about a request. After askRedis and askLater, left or answered
// must be called.
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

// left takes back a question.
func (b *breaker) left() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting--
}

// answered takes an answer.
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

// maxNodes limits the breakers: addresses of nodes may come and go for years.
const maxNodes = 1000

// breakers are one breaker for each node of a Redis Cluster, so that a node
// that is away costs the keys of others nothing, and is not hidden by their
// answers. Elsewhere there is one.
type breakers struct {
	grace time.Duration

	mu  sync.Mutex
	all map[string]*breaker // by address; "" while that is not known
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
