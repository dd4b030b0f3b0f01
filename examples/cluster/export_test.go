package cluster

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

// What external tests need from inside the package.
const (
	LockTTL      = lockTTL
	LockPoll     = lockPoll
	CommandLimit = commandLimit
	PageSize     = pageSize
	MaxBuckets   = maxBuckets
)

// Client returns the client of s.
func (s *Storage) Client() redis.UniversalClient { return s.client }

// LockKey returns the name of a lock in Redis.
func (s *Storage) LockKey(name string) string { return s.key(lockName + name) }

// Locks returns how many locks are held or being waited for.
func (s *Storage) Locks() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.locks)
}

// Lost returns a channel that is closed when a lock is no longer renewed.
func (s *Storage) Lost(name string) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.locks[name].stopped
}

// Take takes a lock with a token.
func (s *Storage) Take(ctx context.Context, name, token string) (bool, error) {
	return s.take(ctx, &lock{name: name, token: token})
}

// BucketKey returns the name of a bucket in Redis.
func (l *Limiter) BucketKey(client string) string { return l.key(client) }

// LocalBuckets returns how many buckets are in memory.
func (l *Limiter) LocalBuckets() int {
	l.local.mu.Lock()
	defer l.local.mu.Unlock()
	return len(l.local.full)
}

// Open reports whether requests do not ask Redis, or one of its nodes, at the
// moment.
func (l *Limiter) Open() bool {
	l.breakers.mu.Lock()
	defer l.breakers.mu.Unlock()
	for _, b := range l.breakers.all {
		b.mu.Lock()
		open := b.open
		b.mu.Unlock()
		if open {
			return true
		}
	}
	return false
}

// The decisions of a breaker.
var (
	AskRedis, AskLater, AskNot = askRedis, askLater, askNot // Read-only.
)

// A Breaker exports breaker.
type Breaker struct{ breaker }

// NewBreaker returns a breaker.
func NewBreaker(grace time.Duration) *Breaker { return &Breaker{breaker{grace: grace}} }

// Ask asks b at a time.
func (b *Breaker) Ask(at time.Time) any { return b.ask(at) }

// Fail reports a failure at a time.
func (b *Breaker) Fail(at time.Time) { b.answered(at, errors.New("failure")) }

// Succeed reports an answer at a time.
func (b *Breaker) Succeed(at time.Time) { b.answered(at, nil) }

// Key exports key.
func (s *Storage) Key(name string) string { return s.key(name) }
