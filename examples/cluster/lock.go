package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	lockTTL      = 10 * time.Second       // see StorageOptions.LockTTL
	minLockTTL   = 100 * time.Millisecond // with less, a slow reply could end a lock
	commandLimit = 3 * time.Second        // see StorageOptions.Timeout
	// between two attempts to take a lock that another process holds
	lockPoll = 200 * time.Millisecond
)

// A lock is a lock that this process holds or tries to take.
//
// For each name, one caller at a time tries. So Unlock knows which lock it
// frees, and only one waiter per process asks Redis.
type lock struct {
	name, token string
	next        chan struct{} // closed when the next caller may try

	// While the lock is held:
	stop    context.CancelFunc // ends the renewal; guarded by Storage.mu
	stopped chan struct{}      // closed when the renewal has ended
}

// Lock waits until the lock is free, and takes it. It implements
// certmagic.Locker. The lock is renewed until Unlock, even after ctx is done.
func (s *Storage) Lock(ctx context.Context, name string) error {
	l, err := s.enter(ctx, name)
	if err != nil {
		return failure(ctx, "lock", name, err)
	}
	if err := s.acquire(ctx, l); err != nil {
		s.leave(l)
		return failure(ctx, "lock", name, err)
	}
	renewal, stop := context.WithCancel(context.WithoutCancel(ctx))
	l.stopped = make(chan struct{})
	go s.renew(renewal, l)
	s.mu.Lock()
	defer s.mu.Unlock()
	l.stop = stop
	return nil
}

// enter waits until no other caller in this process holds the lock or tries to
// take it.
func (s *Storage) enter(ctx context.Context, name string) (*lock, error) {
	for {
		s.mu.Lock()
		other, busy := s.locks[name]
		if !busy {
			l := &lock{name: name, token: rand.Text(), next: make(chan struct{})}
			s.locks[name] = l
			s.mu.Unlock()
			return l, nil
		}
		s.mu.Unlock()
		select {
		case <-other.next:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// leave lets the next caller try. It may be called repeatedly.
func (s *Storage) leave(l *lock) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.locks[l.name] == l {
		delete(s.locks, l.name)
		close(l.next)
	}
}

// acquire waits until no other process holds the lock. If a reply is lost, the
// lock that it leaves in Redis expires by itself.
func (s *Storage) acquire(ctx context.Context, l *lock) error {
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for {
		ours, err := s.take(ctx, l)
		if ours || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// takeScript takes a lock that is free or already has our token. So it can be
// sent again after a lost reply, and it takes the lock again if Redis has lost
// it. Read-only.
var takeScript = redis.NewScript(`
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])`)

// take reports whether the lock is ours for the next LockTTL.
func (s *Storage) take(ctx context.Context, l *lock) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, s.options.Timeout)
	defer cancel()
	return takeScript.Run(ctx, s.client, []string{s.key(lockName + l.name)}, l.token, s.options.LockTTL.Milliseconds()).Bool()
}

// renew keeps the lock until ctx is done. It survives an absence of Redis,
// unless another process takes the lock.
func (s *Storage) renew(ctx context.Context, l *lock) {
	defer close(l.stopped)
	tick := time.NewTicker(s.options.LockTTL / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if ours, err := s.take(ctx, l); err == nil && !ours {
			s.logger().Warn("lock lost to another process", "name", l.name)
			return
		}
	}
}

// freeScript deletes a lock if it has our token. Read-only.
var freeScript = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])`)

// Unlock frees a lock. It implements certmagic.Locker. It does nothing if this
// process does not hold the lock. After an error, the lock expires after
// LockTTL.
func (s *Storage) Unlock(ctx context.Context, name string) error {
	s.mu.Lock()
	l := s.locks[name]
	held := l != nil && l.stop != nil
	s.mu.Unlock()
	if !held {
		return nil
	}
	defer s.leave(l)
	l.stop()
	<-l.stopped // otherwise a renewal in progress could take the lock again
	ctx, cancel := context.WithTimeout(ctx, s.options.Timeout)
	defer cancel()
	err := freeScript.Run(ctx, s.client, []string{s.key(lockName + name)}, l.token).Err()
	return failure(ctx, "unlock", name, err)
}

// unlockAll frees the locks that are still held.
func (s *Storage) unlockAll() error {
	s.mu.Lock()
	names := slices.Sorted(maps.Keys(s.locks))
	s.mu.Unlock()
	var errs []error
	for _, name := range names {
		if err := s.Unlock(context.Background(), name); err != nil {
			errs = append(errs, fmt.Errorf("%w; it ends by itself", err))
		}
	}
	return errors.Join(errs...)
}
