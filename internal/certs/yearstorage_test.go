package certs_test

import (
	"context"
	"errors"
	"sync"
	"time"

	"path"
	"strings"

	"github.com/caddyserver/certmagic"
)

// lockLease is how long a lock stays held after its client was killed.
const lockLease = 10 * time.Second

// A fault is what is wrong with a part of the world for a time. The zero value
// means that all is well.
type fault struct {
	mu     sync.Mutex
	kind   string // "" if all is well
	over   chan struct{}
	change time.Time // of kind
}

// begin begins a fault of the given kind.
func (f *fault) begin(kind string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kind, f.over, f.change = kind, make(chan struct{}), time.Now()
}

func (f *fault) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kind, f.change = "", time.Now()
	close(f.over)
}

// now returns the current fault, and a channel that is closed when it is over.
func (f *fault) now() (string, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.kind, f.over
}

// since returns for how long the part has worked; 0 if it does not.
func (f *fault) since() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.kind != "" {
		return 0
	}
	return time.Since(f.change)
}

// A modelStorage is the storage of a cluster: in memory, with faults, and with
// locks that expire after their client ends.
type modelStorage struct {
	world *world
	files *memStorage
	fault fault

	mu    sync.Mutex
	locks map[string]*modelLock
}

// A modelLock is held by one client.
type modelLock struct {
	owner *modelClient
	free  chan struct{}
}

func newModelStorage(w *world) *modelStorage {
	return &modelStorage{world: w, files: newMemStorage(), locks: make(map[string]*modelLock)}
}

// wipe empties the storage, like a cache that loses its content or a new disk.
func (s *modelStorage) wipe() {
	s.files.mu.Lock()
	clear(s.files.files)
	s.files.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, l := range s.locks {
		close(l.free)
		delete(s.locks, name)
	}
}

// A modelClient is the storage as one instance sees it. It implements
// certmagic.Storage.
type modelClient struct {
	storage *modelStorage

	mu     sync.Mutex
	dead   time.Time // when it was killed; otherwise zero
	failed []time.Time
}

func (c *modelClient) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = time.Now()
}

func (c *modelClient) killed() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dead
}

// enter fails, hangs regardless of the caller's context, or is slow.
func (c *modelClient) enter() error {
	if !c.killed().IsZero() {
		return errors.New("the process was killed")
	}
	kind, over := c.storage.fault.now()
	switch kind {
	case "errors":
		c.refuse()
		return errors.New("dial tcp 192.0.2.2:6379: connect: connection refused")
	case "hangs":
		<-over
		return errors.New("read tcp 192.0.2.2:6379: connection reset by peer")
	case "slow":
		return pause(context.Background(), c.storage.world.between(100*time.Millisecond, 2*time.Second))
	}
	return pause(context.Background(), time.Millisecond)
}

// refuse takes the time of a refused connection, and notices a client that
// retries too often. Such a client must wait, or the test would never end.
func (c *modelClient) refuse() {
	_ = pause(context.Background(), time.Millisecond)
	c.mu.Lock()
	c.failed = append(c.failed, time.Now())
	for time.Since(c.failed[0]) > time.Minute {
		c.failed = c.failed[1:]
	}
	n := len(c.failed)
	c.mu.Unlock()
	if n > refusals*c.storage.world.hosts {
		c.storage.world.fail("storage", "", "%d operations in a minute, while it is down", n)
		_ = pause(context.Background(), time.Minute)
	}
}

// Store implements certmagic.Storage.
func (c *modelClient) Store(ctx context.Context, key string, value []byte) error {
	if err := c.enter(); err != nil {
		return err
	}
	if issuer, host, ok := hostOfKey(key); ok && path.Ext(key) == ".json" {
		defer c.storage.world.stored(c, issuer, host)
	}
	return c.storage.files.Store(ctx, key, value)
}

// Load implements certmagic.Storage.
func (c *modelClient) Load(ctx context.Context, key string) ([]byte, error) {
	if err := c.enter(); err != nil {
		return nil, err
	}
	return c.storage.files.Load(ctx, key)
}

// Delete implements certmagic.Storage.
func (c *modelClient) Delete(ctx context.Context, key string) error {
	if err := c.enter(); err != nil {
		return err
	}
	if _, host, ok := hostOfKey(key); ok {
		c.storage.world.deleted(host)
	}
	return c.storage.files.Delete(ctx, key)
}

// Exists implements certmagic.Storage.
func (c *modelClient) Exists(ctx context.Context, key string) bool {
	if c.enter() != nil {
		return false
	}
	// certmagic never looks up directories, and checking for them takes a
	// quarter of the test's time
	_, err := c.storage.files.Load(ctx, key)
	return err == nil
}

// List implements certmagic.Storage.
func (c *modelClient) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	if err := c.enter(); err != nil {
		return nil, err
	}
	return c.storage.files.List(ctx, prefix, recursive)
}

// Stat implements certmagic.Storage.
func (c *modelClient) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	if err := c.enter(); err != nil {
		return certmagic.KeyInfo{}, err
	}
	return c.storage.files.Stat(ctx, key)
}

// Lock implements certmagic.Storage.
func (c *modelClient) Lock(ctx context.Context, name string) error {
	for {
		if err := c.enter(); err != nil {
			return err
		}
		held := c.tryLock(name)
		if held == nil {
			return nil
		}
		timer := time.NewTimer(lockLease)
		select {
		case <-held.free:
		case <-timer.C: // its owner may be dead
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		timer.Stop()
	}
}

// tryLock takes a lock and returns nil, or returns the lock that is held.
func (c *modelClient) tryLock(name string) *modelLock {
	s := c.storage
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.locks[name]; l != nil {
		dead := l.owner.killed()
		if dead.IsZero() || time.Since(dead) < lockLease {
			return l
		}
		close(l.free)
	}
	s.locks[name] = &modelLock{owner: c, free: make(chan struct{})}
	return nil
}

// Unlock implements certmagic.Storage.
func (c *modelClient) Unlock(_ context.Context, name string) error {
	if err := c.enter(); err != nil {
		return err
	}
	s := c.storage
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.locks[name]
	if l == nil || l.owner != c {
		return errors.New("not locked")
	}
	close(l.free)
	delete(s.locks, name)
	return nil
}

// hostOfKey extracts the issuer and the host from the storage key of a
// certificate's file.
func hostOfKey(key string) (issuer, host string, ok bool) {
	parts := strings.Split(key, "/")
	if len(parts) != 4 || parts[0] != "certificates" {
		return "", "", false
	}
	return parts[1], strings.Replace(parts[2], "wildcard_", "*", 1), true
}
