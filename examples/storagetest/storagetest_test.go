package storagetest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/examples/storagetest"
)

// There is no leak check: certmagic.FileStorage watches a lock's file for up to
// 5 s after the lock was freed.
func TestMain(m *testing.M) {
	_ = flag.Set("test.parallel", "64") // parallel tests mostly wait; -parallel overrides it
	os.Exit(m.Run())
}

func TestFileStorageHasEveryProperty(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	storagetest.Run(t, func(*testing.T) certmagic.Storage { return &certmagic.FileStorage{Path: dir} })
}

func TestAKilledHolderLosesItsLock(t *testing.T) {
	t.Parallel()
	start := func(t *testing.T) string { return t.TempDir() }
	open := func(_ *testing.T, dir string) certmagic.Storage {
		s := &certmagic.FileStorage{Path: dir}
		if os.Getenv(storagetest.LockEnv) != "" {
			return &neglectful{s}
		}
		return s
	}
	storagetest.RunKilled(t, 10*time.Second, start, open)

	dir := start(t)
	problems := record(t, func(t testing.TB) { storagetest.Killed(t, time.Millisecond, dir, open(nil, dir)) })
	require.Len(t, problems, 1)
	assert.Contains(t, problems[0], "after its holder was killed")
}

// neglectful is a FileStorage whose locks always look as if their last sign of
// life was 8 s ago. Others wait for 10 s without one: 2 s after it is killed.
type neglectful struct{ *certmagic.FileStorage }

func (s *neglectful) Lock(ctx context.Context, name string) error {
	if err := s.FileStorage.Lock(ctx, name); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(s.Path, "locks", "*.lock"))
	if err != nil || len(files) != 1 {
		return fmt.Errorf("%d files of locks, %w", len(files), err)
	}
	set := func() error {
		sign, err := json.Marshal(map[string]time.Time{"updated": time.Now().Add(-8 * time.Second)})
		if err == nil {
			err = os.WriteFile(files[0]+".new", sign, 0o600)
		}
		if err == nil {
			err = os.Rename(files[0]+".new", files[0]) // nobody reads half of it
		}
		return err
	}
	go func() {
		for range time.Tick(50 * time.Millisecond) {
			_ = set()
		}
	}()
	return set()
}

// record returns the problems that check reports.
func record(t *testing.T, check func(testing.TB)) []string {
	t.Helper()
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() { // Fatalf ends this goroutine
		defer close(done)
		check(r)
	}()
	<-done
	return r.problems
}

// A recorder is a testing.TB that records what is reported.
type recorder struct {
	testing.TB
	mu       sync.Mutex
	problems []string
}

func (r *recorder) Helper()        {}
func (r *recorder) Cleanup(func()) {}

func (r *recorder) Errorf(format string, _ ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.problems = append(r.problems, format)
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

// A broken storage is a good one, except for the methods that it replaces.
type broken struct {
	*certmagic.FileStorage
	store   func(key string, value []byte) error
	load    func(key string) ([]byte, error)
	remove  func(key string) error
	list    func(dir string, recursive bool) ([]string, error)
	stat    func(key string) (certmagic.KeyInfo, error)
	lock    func(ctx context.Context, name string) error
	tryLock func() (bool, error)
	unlock  func(name string) error
}

func (s *broken) Store(ctx context.Context, key string, value []byte) error {
	if s.store != nil {
		return s.store(key, value)
	}
	return s.FileStorage.Store(ctx, key, value)
}

func (s *broken) Load(ctx context.Context, key string) ([]byte, error) {
	if s.load != nil {
		return s.load(key)
	}
	return s.FileStorage.Load(ctx, key)
}

func (s *broken) Delete(ctx context.Context, key string) error {
	if s.remove != nil {
		return s.remove(key)
	}
	return s.FileStorage.Delete(ctx, key)
}

func (s *broken) List(ctx context.Context, dir string, recursive bool) ([]string, error) {
	if s.list != nil {
		return s.list(dir, recursive)
	}
	return s.FileStorage.List(ctx, dir, recursive)
}

func (s *broken) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	if s.stat != nil {
		return s.stat(key)
	}
	return s.FileStorage.Stat(ctx, key)
}

func (s *broken) Lock(ctx context.Context, name string) error {
	if s.lock != nil {
		return s.lock(ctx, name)
	}
	return s.FileStorage.Lock(ctx, name)
}

func (s *broken) TryLock(ctx context.Context, name string) (bool, error) {
	if s.tryLock != nil {
		return s.tryLock()
	}
	return s.FileStorage.TryLock(ctx, name)
}

func (s *broken) Unlock(ctx context.Context, name string) error {
	if s.unlock != nil {
		return s.unlock(name)
	}
	return s.FileStorage.Unlock(ctx, name)
}

func TestEachCheckFindsABrokenStorage(t *testing.T) {
	t.Parallel()
	ctx := t.Context() // outlives the subtests
	free := func(context.Context, string) error { return nil }
	tests := []struct {
		about, check string
		spoil        func(good *certmagic.FileStorage, s *broken)
	}{
		{"cuts a value at a zero byte", "what was stored is loaded", func(good *certmagic.FileStorage, s *broken) {
			s.store = func(key string, value []byte) error {
				head, _, _ := bytes.Cut(value, []byte{0})
				return good.Store(ctx, key, head)
			}
		}},
		{"keeps the first value", "a value can be replaced", func(good *certmagic.FileStorage, s *broken) {
			s.store = func(key string, value []byte) error {
				if good.Exists(ctx, key) {
					return nil
				}
				return good.Store(ctx, key, value)
			}
		}},
		{"keeps the caller's bytes", "values are not shared with the caller", func(good *certmagic.FileStorage, s *broken) {
			var kept []byte
			s.store = func(key string, value []byte) error { kept = value; return good.Store(ctx, key, nil) }
			s.load = func(string) ([]byte, error) { return slices.Clone(kept), nil }
		}},
		{"lends its own bytes", "values are not shared with the caller", func(good *certmagic.FileStorage, s *broken) {
			var kept []byte
			s.store = func(key string, value []byte) error { kept = slices.Clone(value); return good.Store(ctx, key, nil) }
			s.load = func(string) ([]byte, error) { return kept, nil }
		}},
		{"loads nothing from nowhere", "what is missing does not exist", func(good *certmagic.FileStorage, s *broken) {
			s.load = func(key string) ([]byte, error) {
				value, err := good.Load(ctx, key)
				if errors.Is(err, fs.ErrNotExist) {
					return nil, nil
				}
				return value, err
			}
		}},
		{"has an error of its own for what is missing", "what is missing does not exist", func(good *certmagic.FileStorage, s *broken) {
			s.stat = func(string) (certmagic.KeyInfo, error) { return certmagic.KeyInfo{}, errors.New("nil reply") }
		}},
		{"lists nothing in no directory", "what is missing does not exist", func(good *certmagic.FileStorage, s *broken) {
			s.list = func(string, bool) ([]string, error) { return nil, nil }
		}},
		{"cannot delete what is missing", "what is missing does not exist", func(good *certmagic.FileStorage, s *broken) {
			s.remove = func(key string) error {
				if !good.Exists(ctx, key) {
					return fs.ErrNotExist
				}
				return good.Delete(ctx, key)
			}
		}},
		{"loads a directory", "what is missing does not exist", func(good *certmagic.FileStorage, s *broken) {
			s.load = func(key string) ([]byte, error) {
				if info, err := good.Stat(ctx, key); err == nil && !info.IsTerminal {
					return nil, nil
				}
				return good.Load(ctx, key)
			}
		}},
		{"deletes nothing", "a deleted key is gone", func(_ *certmagic.FileStorage, s *broken) {
			s.remove = func(string) error { return nil }
		}},
		{"deletes files only", "a deleted directory is gone, its neighbours are not", func(good *certmagic.FileStorage, s *broken) {
			s.remove = func(key string) error {
				if info, err := good.Stat(ctx, key); err != nil || !info.IsTerminal {
					return nil
				}
				return good.Delete(ctx, key)
			}
		}},
		{"deletes whatever begins so", "a deleted directory is gone, its neighbours are not", func(good *certmagic.FileStorage, s *broken) {
			s.remove = func(key string) error {
				neighbours, err := good.List(ctx, path.Dir(key), false)
				for _, n := range neighbours {
					if strings.HasPrefix(n, key) {
						err = errors.Join(err, good.Delete(ctx, n))
					}
				}
				return err
			}
		}},
		{"takes directories for files", "stat describes files and directories", spoilInfo(func(i *certmagic.KeyInfo) { i.IsTerminal = true })},
		{"takes files for directories", "stat describes files and directories", spoilInfo(func(i *certmagic.KeyInfo) { i.IsTerminal = false })},
		{"miscounts", "stat describes files and directories", spoilInfo(func(i *certmagic.KeyInfo) { i.Size++ })},
		{"is late", "stat describes files and directories", spoilInfo(func(i *certmagic.KeyInfo) { i.Modified = i.Modified.Add(-time.Hour) })},
		{"forgets the key", "stat describes files and directories", spoilInfo(func(i *certmagic.KeyInfo) { i.Key = "" })},
		{"lists what is below children", "a list names the children of a directory", func(good *certmagic.FileStorage, s *broken) {
			s.list = func(dir string, _ bool) ([]string, error) { return good.List(ctx, dir, true) }
		}},
		{"lists names instead of keys", "a list names the children of a directory", spoilList(func(keys []string) []string {
			for i := range keys {
				keys[i] = path.Base(keys[i])
			}
			return keys
		})},
		{"does not walk", "a recursive list names every file below", func(good *certmagic.FileStorage, s *broken) {
			s.list = func(dir string, _ bool) ([]string, error) { return good.List(ctx, dir, false) }
		}},
		{"repeats itself", "a recursive list names every file below", spoilList(func(keys []string) []string { return append(keys, keys[0]) })},
		{"lists the neighbours", "a recursive list names every file below", func(good *certmagic.FileStorage, s *broken) {
			s.list = func(dir string, _ bool) ([]string, error) { return good.List(ctx, path.Dir(dir), true) }
		}},
		{"knows no mail addresses", "the keys of certmagic are good", func(good *certmagic.FileStorage, s *broken) {
			s.store = func(key string, value []byte) error {
				if strings.Contains(key, "@") {
					return errors.New("bad key")
				}
				return good.Store(ctx, key, value)
			}
		}},
		{"writes one half after the other", "concurrent use tears no value", func(good *certmagic.FileStorage, s *broken) {
			s.store = func(key string, value []byte) error {
				err := good.Store(ctx, key, value[:len(value)/2])
				<-time.After(time.Millisecond)
				return errors.Join(err, good.Store(ctx, key, value))
			}
		}},
		{"has no locks", "a lock excludes", func(_ *certmagic.FileStorage, s *broken) { s.lock = free }},
		{"does not wait for a lock", "a lock excludes", func(good *certmagic.FileStorage, s *broken) { s.lock = impatient(good) }},
		{"calls a cancelled wait a success", "a waiter leaves when its context ends", func(good *certmagic.FileStorage, s *broken) {
			s.lock = func(ctx context.Context, name string) error { _ = good.Lock(ctx, name); return nil }
		}},
		{"waits for ever", "a waiter leaves when its context ends", func(_ *certmagic.FileStorage, s *broken) {
			var taken atomic.Bool
			s.lock = func(context.Context, string) error {
				if taken.Swap(true) {
					<-ctx.Done()
				}
				return nil
			}
		}},
		{"does not wait for a lock", "a freed lock goes to a waiter", func(good *certmagic.FileStorage, s *broken) { s.lock = impatient(good) }},
		{"frees no lock", "a freed lock goes to a waiter", func(_ *certmagic.FileStorage, s *broken) {
			s.unlock = func(string) error { return nil }
		}},
		{"has one lock for all", "locks of different names are independent", func(good *certmagic.FileStorage, s *broken) {
			s.lock = func(ctx context.Context, _ string) error { return good.Lock(ctx, "one") }
		}},
		{"locks by storing", "a lock and a key of one name are independent", func(good *certmagic.FileStorage, s *broken) {
			s.lock = func(ctx context.Context, name string) error { return good.Store(ctx, name, nil) }
		}},
		{"frees the locks it deletes", "a lock and a key of one name are independent", func(good *certmagic.FileStorage, s *broken) {
			var names []string
			s.lock = func(ctx context.Context, name string) error { names = append(names, name); return good.Lock(ctx, name) }
			s.remove = func(key string) error { return errors.Join(good.Delete(ctx, key), good.Unlock(ctx, names[0])) }
		}},
		{"has no locks", "many holders take turns", func(_ *certmagic.FileStorage, s *broken) {
			s.lock, s.unlock = free, func(string) error { return nil }
		}},
		{"always gets a lock", "an attempt at a lock does not wait", func(_ *certmagic.FileStorage, s *broken) {
			s.tryLock = func() (bool, error) { return true, nil }
		}},
		{"never gets a lock", "an attempt at a lock does not wait", func(_ *certmagic.FileStorage, s *broken) {
			s.tryLock = func() (bool, error) { return false, nil }
		}},
	}
	bitten := map[string]bool{}
	for _, tt := range tests {
		bitten[tt.check] = true
		t.Run("a storage that "+tt.about, func(t *testing.T) {
			t.Parallel()
			good := &certmagic.FileStorage{Path: t.TempDir()}
			s := &broken{FileStorage: good}
			tt.spoil(good, s)
			assert.NotEmpty(t, record(t, func(t testing.TB) { storagetest.Check(t, tt.check, s) }), "not found by: %s", tt.check)
		})
	}
	for _, name := range storagetest.Checks() {
		assert.True(t, bitten[name], "no broken storage shows that this is checked: %s", name)
	}
}

// spoilInfo returns a function that spoils the results of Stat.
func spoilInfo(spoil func(*certmagic.KeyInfo)) func(*certmagic.FileStorage, *broken) {
	return func(good *certmagic.FileStorage, s *broken) {
		s.stat = func(key string) (certmagic.KeyInfo, error) {
			info, err := good.Stat(context.Background(), key)
			spoil(&info)
			return info, err
		}
	}
}

// spoilList returns a function that spoils the results of List.
func spoilList(spoil func([]string) []string) func(*certmagic.FileStorage, *broken) {
	return func(good *certmagic.FileStorage, s *broken) {
		s.list = func(dir string, recursive bool) ([]string, error) {
			keys, err := good.List(context.Background(), dir, recursive)
			return spoil(keys), err
		}
	}
}

// impatient returns a Lock that fails if the lock is held.
func impatient(good *certmagic.FileStorage) func(context.Context, string) error {
	return func(ctx context.Context, name string) error {
		ctx, cancel := context.WithCancel(ctx)
		cancel() // FileStorage still takes a free lock
		if good.Lock(ctx, name) != nil {
			return errors.New("held")
		}
		return nil
	}
}
