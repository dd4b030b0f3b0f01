package certs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
)

// maxStorageOps limits the storage operations in flight, including those that
// hang in the backend after their caller has given up.
const maxStorageOps = 64

// maxListTime is the limit of a List, unless other operations have a higher
// one: no handshake waits for a List.
const maxListTime = time.Minute

// errStorageHangs means that an operation took too long.
var errStorageHangs = errors.New("no response in time")

// A boundedStorage is a certmagic.Storage whose operations end: each within its
// limit, even if the backend ignores its context, and with at most
// maxStorageOps in flight. Only Lock may wait as long as its context allows.
//
// It tracks the locks that it holds, so that closing one Router frees only its
// own locks; certmagic.CleanUpOwnLocks frees those of the whole process.
type boundedStorage struct {
	backend certmagic.Storage
	kind    string // type of the program's storage
	limit   time.Duration
	slots   chan struct{}
	// called with what Store gets; may be nil
	storing func(ctx context.Context, key string, value []byte)
	outage  outage

	accounts keepsakes

	mu      sync.Mutex
	held    map[string]int
	strays  map[string]bool // locks that could not be freed
	locking int             // running calls of the backend's Lock
	// closed when locking drops to zero; nil while nothing waits
	quiet chan struct{}
}

func newBoundedStorage(backend certmagic.Storage, limit time.Duration) *boundedStorage {
	return &boundedStorage{
		backend: withFileNames(backend),
		kind:    fmt.Sprintf("%T", backend),
		limit:   limit,
		slots:   make(chan struct{}, maxStorageOps),
		held:    make(map[string]int),
		strays:  make(map[string]bool),
	}
}

// Store implements certmagic.Storage.
func (s *boundedStorage) Store(ctx context.Context, key string, value []byte) error {
	if s.storing != nil {
		s.storing(ctx, key, value)
	}
	return s.put(ctx, key, value)
}

// put is Store for values that do not come from an issuer.
func (s *boundedStorage) put(ctx context.Context, key string, value []byte) error {
	s.accounts.keep(key, value)
	_, err := within(ctx, s, "store", key, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.backend.Store(ctx, key, value)
	})
	return err
}

// Load implements certmagic.Storage.
func (s *boundedStorage) Load(ctx context.Context, key string) ([]byte, error) {
	value, err := within(ctx, s, "load", key, func(ctx context.Context) ([]byte, error) {
		return s.backend.Load(ctx, key)
	})
	if err == nil {
		s.accounts.keep(key, value)
	}
	return value, err
}

// Delete implements certmagic.Storage.
func (s *boundedStorage) Delete(ctx context.Context, key string) error {
	s.accounts.drop(key)
	_, err := within(ctx, s, "delete", key, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.backend.Delete(ctx, key)
	})
	return err
}

// Exists implements certmagic.Storage. It returns false if the backend hangs.
func (s *boundedStorage) Exists(ctx context.Context, key string) bool {
	found, err := within(ctx, s, "look up", key, func(ctx context.Context) (bool, error) {
		return s.backend.Exists(ctx, key), nil
	})
	return err == nil && found
}

// List implements certmagic.Storage.
func (s *boundedStorage) List(ctx context.Context, path string, recursive bool) ([]string, error) {
	return within(ctx, s, "list", path, func(ctx context.Context) ([]string, error) {
		return s.backend.List(ctx, path, recursive)
	})
}

// Stat implements certmagic.Storage.
func (s *boundedStorage) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	return within(ctx, s, "stat", key, func(ctx context.Context) (certmagic.KeyInfo, error) {
		return s.backend.Stat(ctx, key)
	})
}

// Lock implements certmagic.Storage. A lock that is acquired after ctx is done
// is freed immediately.
func (s *boundedStorage) Lock(ctx context.Context, name string) error {
	got := make(chan error)
	s.countLocking(1)
	go s.lock(ctx, name, got)
	select {
	case err := <-got:
		if err == nil {
			s.hold(name, 1)
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *boundedStorage) lock(ctx context.Context, name string, got chan<- error) {
	defer s.countLocking(-1)
	err := s.freshLock(ctx, name)
	select {
	case got <- err:
	case <-ctx.Done():
		if err != nil {
			return
		}
		whole := context.WithoutCancel(ctx)
		if err := s.unlock(whole, name); err != nil {
			s.hold(name, 1)
			s.setStray(name, refusedUnlock(whole, err))
		}
	}
}

// freshLock is tryLock, but first frees a lock of that name that could not be
// freed before: otherwise this process would wait for itself.
func (s *boundedStorage) freshLock(ctx context.Context, name string) error {
	stray := s.setStray(name, false)
	if stray && s.unlock(ctx, name) == nil {
		stray = false
		s.hold(name, -1)
	}
	err := s.tryLock(ctx, name)
	switch {
	case stray && err == nil: // the old lock has expired
		s.hold(name, -1)
	case stray:
		s.setStray(name, true)
	}
	return err
}

func (s *boundedStorage) tryLock(ctx context.Context, name string) (err error) {
	defer func() {
		if s.outage.note(ctx, "lock", err); err != nil && ctx.Err() == nil {
			err = noteFailure(ctx, "lock", name, err)
		}
	}()
	defer rescue("storage", &err)
	return s.backend.Lock(ctx, name)
}

// Unlock implements certmagic.Storage. If a lock cannot be freed, that is
// retried before its next use, and by unlockAll.
func (s *boundedStorage) Unlock(ctx context.Context, name string) error {
	err := s.unlock(ctx, name)
	if err == nil {
		s.hold(name, -1)
	} else {
		s.setStray(name, refusedUnlock(ctx, err))
	}
	return err
}

// refusedUnlock reports whether the backend refused to free a lock, so that it
// is still held. If a call took too long or was canceled, the result is
// unknown: the backend may still free the lock, and a second call could then
// free the lock of another process.
func refusedUnlock(ctx context.Context, err error) bool {
	return ctx.Err() == nil && !errors.Is(err, errStorageHangs) && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
}

// setStray notes whether a lock could not be freed, and returns the previous
// value.
func (s *boundedStorage) setStray(name string, is bool) (was bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was = s.strays[name]
	if is {
		s.strays[name] = true
	} else {
		delete(s.strays, name)
	}
	return was
}

func (s *boundedStorage) unlock(ctx context.Context, name string) error {
	_, err := within(ctx, s, "unlock", name, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.backend.Unlock(ctx, name)
	})
	return err
}

// RenewLockLease implements certmagic.LockLeaseRenewer, for backends that
// support it.
func (s *boundedStorage) RenewLockLease(ctx context.Context, name string, lease time.Duration) error {
	r, ok := s.backend.(certmagic.LockLeaseRenewer)
	if !ok {
		return nil
	}
	_, err := within(ctx, s, "renew the lock", name, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, r.RenewLockLease(ctx, name, lease)
	})
	return err
}

// String returns only the backend's type: a backend's fields may contain
// secrets, and certmagic logs its storage.
func (s *boundedStorage) String() string { return s.kind }

// unlockAll frees all locks that are still held; Close calls it.
func (s *boundedStorage) unlockAll(ctx context.Context) error {
	s.mu.Lock()
	names := slices.Sorted(maps.Keys(s.held))
	s.mu.Unlock()
	var errs []error
	for _, name := range names {
		if err := s.Unlock(ctx, name); err != nil {
			errs = append(errs, fmt.Errorf("lock %q not released: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// settle waits until ctx is done or no operation is in flight. An operation
// whose caller has given up counts too. settle returns false if one is left.
func (s *boundedStorage) settle(ctx context.Context) bool {
	select {
	case <-s.unlocking(): // first: a lock that comes too late is freed by an operation
	case <-ctx.Done():
		return false
	}
	for range maxStorageOps {
		select {
		case s.slots <- struct{}{}:
			defer func() { <-s.slots }()
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// unlocking returns a channel that is closed once no call of the backend's Lock
// is running.
func (s *boundedStorage) unlocking() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	quiet := make(chan struct{})
	if s.locking == 0 {
		close(quiet)
	} else if s.quiet != nil {
		quiet = s.quiet
	} else {
		s.quiet = quiet
	}
	return quiet
}

func (s *boundedStorage) countLocking(by int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.locking += by; s.locking == 0 && s.quiet != nil {
		close(s.quiet)
		s.quiet = nil
	}
}

func (s *boundedStorage) hold(name string, by int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[name] += by; s.held[name] <= 0 {
		delete(s.held, name)
	}
}

// within runs op in its own goroutine and waits for it at most s.limit, or
// maxListTime. An operation that hangs keeps its slot until the backend
// returns. Failures, except fs.ErrNotExist, are returned as errors for
// storageFailed.
func within[T any](caller context.Context, s *boundedStorage, verb, key string, op func(context.Context) (T, error)) (T, error) {
	limit := s.limit
	if verb == "list" {
		limit = max(limit, maxListTime)
	}
	ctx, cancel := context.WithTimeoutCause(caller, limit, errStorageHangs)
	defer cancel()
	value, err := run(ctx, s, op)
	s.outage.note(caller, verb, err)
	switch {
	case err == nil || errors.Is(err, fs.ErrNotExist):
		return value, err
	case caller.Err() != nil:
		return value, fmt.Errorf("%s %q: %w", verb, key, err)
	}
	return value, noteFailure(caller, verb, key, err)
}

// run runs op if a slot becomes free before ctx is done, and returns its
// outcome if that comes before ctx is done.
func run[T any](ctx context.Context, s *boundedStorage, op func(context.Context) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
	done := make(chan result, 1)
	go func() {
		defer func() { <-s.slots }()
		var r result
		defer func() { done <- r }()
		defer rescue("storage", &r.err)
		r.value, r.err = op(ctx)
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
}

// rescue turns a panic in code of the program, such as a Storage or an Issuer,
// into the error of the operation.
func rescue(what string, err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("panic in %s: %v", what, p)
	}
}
