package certs_test

import (
	"context"
	"errors"
	"io/fs"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

func TestBoundedStorageEndsEachOperationInItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := newMemStorage()
		hang := make(chan struct{})
		backend.hook(func(string, string) error { <-hang; return nil })
		s := certs.Bounded(backend, 3*time.Second)
		ops := map[string]func() error{
			"store":  func() error { return s.Store(t.Context(), "k", nil) },
			"load":   func() error { _, err := s.Load(t.Context(), "k"); return err },
			"delete": func() error { return s.Delete(t.Context(), "k") },
		}
		for verb, op := range ops {
			begin := time.Now()
			err := op()
			assert.ErrorContains(t, err, "storage: "+verb+` "k": no response in time`)
			assert.NotErrorIs(t, err, fs.ErrNotExist, "a storage that hangs has not said that there is nothing")
			assert.Equal(t, 3*time.Second, time.Since(begin))
		}
		assert.False(t, s.Exists(t.Context(), "k"))

		// Operations that hang keep their slots; when none is left, no more
		// begin.
		for range 200 {
			go func() { _, _ = s.Load(t.Context(), "k") }()
		}
		time.Sleep(10 * time.Second)
		assert.LessOrEqual(t, backend.now.Load(), int64(64))
		close(hang)
		synctest.Wait()
		assert.NoError(t, s.Store(t.Context(), "k", []byte("v")))
	})
}

// A program that removes its files after Close must not find a write in
// progress.
func TestCloseWaitsForStorageOperationsThatWereGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := newMemStorage()
		slow := time.Second
		backend.hook(func(string, string) error { time.Sleep(slow); return nil })
		s := certs.Bounded(backend, 3*time.Second)
		ctx, leave := context.WithCancel(t.Context())
		go func() { _ = s.Store(ctx, "k", []byte("v")) }()
		synctest.Wait()
		leave()
		synctest.Wait()
		begin := time.Now()
		bound, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		certs.Settle(bound, s)
		assert.Equal(t, time.Second, time.Since(begin))
		assert.Zero(t, backend.now.Load())

		slow = time.Minute
		ctx, leave = context.WithCancel(t.Context())
		go func() { _ = s.Store(ctx, "k", []byte("v")) }()
		synctest.Wait()
		leave()
		certs.Settle(bound, s)
		assert.Equal(t, 5*time.Second, time.Since(begin), "one that hangs is left")
		slow = 0
		assert.NoError(t, s.Store(t.Context(), "j", nil), "and storage can still be used")
		time.Sleep(time.Minute)
	})
}

func TestBoundedStorageForwardsEachOperation(t *testing.T) {
	s := certs.Bounded(newMemStorage(), time.Second)
	ctx := t.Context()
	_, err := s.Load(ctx, "a/b")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, s.Store(ctx, "a/b", []byte("v")))
	b, err := s.Load(ctx, "a/b")
	require.NoError(t, err)
	assert.Equal(t, "v", string(b))
	assert.True(t, s.Exists(ctx, "a"))
	list, err := s.List(ctx, "a", true)
	require.NoError(t, err)
	assert.Equal(t, []string{"a/b"}, list)
	info, err := s.Stat(ctx, "a/b")
	require.NoError(t, err)
	assert.Equal(t, int64(1), info.Size)
	require.NoError(t, s.Delete(ctx, "a"))
	assert.False(t, s.Exists(ctx, "a/b"))
}

func TestALockThatIsAcquiredTooLateIsFreed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := newMemStorage()
		slow := make(chan struct{})
		backend.hook(func(verb, _ string) error {
			if verb == "lock" {
				<-slow // ignores its context
			}
			return nil
		})
		s := certs.Bounded(backend, time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorIs(t, s.Lock(ctx, "l"), context.DeadlineExceeded)
		close(slow)
		synctest.Wait()
		assert.Empty(t, backend.locked())
	})
}

func TestOnlyOwnLocksAreFreed(t *testing.T) {
	backend := newMemStorage()
	one, two := certs.Bounded(backend, time.Second), certs.Bounded(backend, time.Second)
	require.NoError(t, one.Lock(t.Context(), "mine"))
	require.NoError(t, two.Lock(t.Context(), "other"))
	require.NoError(t, certs.UnlockAll(t.Context(), one))
	assert.Equal(t, []string{"other"}, backend.locked())
	require.NoError(t, two.Unlock(t.Context(), "other"))
	require.NoError(t, certs.UnlockAll(t.Context(), two))
}

func TestAPanicInStorageIsAnError(t *testing.T) {
	backend := newMemStorage()
	backend.hook(func(string, string) error { panic("oops") })
	s := certs.Bounded(backend, time.Second)
	_, err := s.Load(t.Context(), "k")
	assert.ErrorContains(t, err, "panic in storage: oops")
	assert.ErrorContains(t, s.Lock(t.Context(), "k"), "panic in storage: oops")
}

func TestBoundedStorageKeepsTheErrorOfTheStorage(t *testing.T) {
	backend := newMemStorage()
	broken := errors.New("no disk")
	backend.hook(func(string, string) error { return broken })
	assert.ErrorIs(t, certs.Bounded(backend, time.Second).Store(t.Context(), "k", nil), broken)
}

func TestKeysOfCertificatesAreThoseOfCertmagic(t *testing.T) {
	ca := newIssuer(t, "acme-v02.api.letsencrypt.org-directory", day(90))
	m, _ := start(t, with(ca))
	for _, name := range []string{"a.example.com", "*.example.com", "xn--bcher-kva.example.com", "10.0.0.1", "2001:db8::1",
		"_acme.example.com", "a..b", "A.example.com", "..", "a b", "a+b", "ä.example.com", "a/b", ".hidden", "localhost"} {
		assert.Equal(t, certmagic.StorageKeys.SiteCert(ca.key, name), m.SiteKey(name, ".crt"), name)
		assert.Equal(t, certmagic.StorageKeys.SitePrivateKey(ca.key, name), m.SiteKey(name, ".key"), name)
		assert.Equal(t, certmagic.StorageKeys.SiteMeta(ca.key, name), m.SiteKey(name, ".json"), name)
	}
}

// An order is in flight when storage begins to fail: neither can its
// certificate be stored nor its lock be freed.
func TestALockThatCouldNotBeFreedDoesNotBlockItsHostsCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := &failingUnlock{memStorage: newMemStorage()}
		fails := func(down bool) {
			storage.down.Store(down)
			storage.hook(func(verb, key string) error {
				if down {
					return errors.New("connection refused")
				}
				return nil
			})
		}
		ca := newIssuer(t, "ca", day(90))
		ca.hook(func(context.Context, string) error { fails(true); return nil })
		o := with(ca)
		o.Storage = storage
		m, _ := start(t, o, "a.example.com")
		time.Sleep(10 * time.Minute)
		left := storage.locked()
		require.Len(t, left, 1)
		ca.unhook()
		fails(false)
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
		defer cancel()
		require.NoError(t, m.Await(ctx))
		assert.NotContains(t, storage.locked(), left[0])
	})
}

// A failingUnlock is a storage that frees no locks while it is down.
type failingUnlock struct {
	*memStorage
	down atomic.Bool
}

func (s *failingUnlock) Unlock(ctx context.Context, name string) error {
	if s.down.Load() {
		return errors.New("connection refused")
	}
	return s.memStorage.Unlock(ctx, name)
}
