package certs_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

var errNoDisk = errors.New("no disk")

// fails makes all operations fail or, if verbs are given, the operations with
// these verbs.
func (s *memStorage) fails(only ...string) {
	s.hook(func(verb, key string) error {
		if len(only) == 0 {
			return errNoDisk
		}
		for _, o := range only {
			if o == verb || strings.HasSuffix(key, o) {
				return errNoDisk
			}
		}
		return nil
	})
}

func (s *memStorage) heal() { s.before.Store(nil) }

// withStorage starts a Manager. The returned counter counts the returns of its
// storage.
func withStorage(t testing.TB, o certs.Options, hosts ...string) (*certs.Manager, *memStorage, *atomic.Int64) {
	t.Helper()
	storage := newMemStorage()
	o.Storage = storage
	m, _ := start(t, o, hosts...)
	returns := new(atomic.Int64)
	m.OnReturn(func() { returns.Add(1) })
	return m, storage, returns
}

// There may be no request for hours: the return is noticed anyway.
func TestTheReturnOfStorageIsNoticedInSeconds(t *testing.T) {
	for name, broken := range map[string]func(hang chan struct{}) error{
		"failing": func(chan struct{}) error { return errNoDisk },
		"hanging": func(hang chan struct{}) error { <-hang; return nil },
		"panics":  func(chan struct{}) error { panic("oops") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var logs logBuffer
				o := with(newIssuer(t, "ca", day(90)))
				o.Logger = logs.logger(slog.LevelInfo)
				m, storage, returns := withStorage(t, o, "a.example.com")
				require.NoError(t, m.Await(t.Context()))
				hang := make(chan struct{})
				storage.hook(func(string, string) error { return broken(hang) })
				m.Look(t.Context())
				time.Sleep(time.Hour + 1300*time.Millisecond) // between two tests
				assert.Zero(t, returns.Load())
				storage.heal()
				close(hang)
				time.Sleep(4 * time.Second)
				assert.Equal(t, int64(1), returns.Load())
				time.Sleep(time.Hour)
				assert.Equal(t, int64(1), returns.Load())
				synctest.Wait()
				stacks := make([]byte, 1<<20)
				assert.NotContains(t, string(stacks[:runtime.Stack(stacks, true)]), "outage).look", "the look-out is for outages only")
				assert.Equal(t, 1, strings.Count(logs.String(), `msg="storage is failing"`), logs.String())
				assert.Equal(t, 1, strings.Count(logs.String(), `msg="storage works again"`), logs.String())
			})
		})
	}
}

func TestAnOutageThatNeverEndsDoesNotOutliveClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, storage, returns := withStorage(t, with(newIssuer(t, "ca", day(90))), "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		storage.fails()
		m.Look(t.Context())
		time.Sleep(time.Minute)
		require.NoError(t, m.Close())
		synctest.Wait()
		storage.heal()
		time.Sleep(time.Minute)
		assert.Zero(t, returns.Load())
	})
}

// A full disk can still be read. The operation that failed must work again.
func TestAStorageThatCannotBeWrittenHasNotReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, storage, returns := withStorage(t, with(newIssuer(t, "ca", day(90))), "a.example.com")
		storage.fails("store")
		time.Sleep(time.Hour)
		assert.True(t, certs.StorageFailed(m.Statuses()[0].Err))
		assert.Zero(t, returns.Load())
		storage.heal()
		time.Sleep(4 * time.Second)
		assert.Equal(t, int64(1), returns.Load())
		assert.False(t, storage.Exists(t.Context(), "hostproxy/probe"), "the look leaves nothing behind")
	})
}

// One file that cannot be read must not cause a retry of all hosts every few
// seconds.
func TestOneBrokenKeyIsNotAnOutageAgainAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logs logBuffer
		o := with(newIssuer(t, "ca", day(90)))
		o.Logger = logs.logger(slog.LevelInfo)
		m, storage, returns := withStorage(t, o, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		storage.fails("broken")
		for range 24 * 60 * 60 {
			m.Read(t.Context(), "broken")
			time.Sleep(time.Second)
		}
		assert.LessOrEqual(t, returns.Load(), int64(24*60+10))
		assert.LessOrEqual(t, strings.Count(logs.String(), "storage is failing"), 24*6+1)
	})
}

func TestMissingKeysAndCallersThatGiveUpAreNoOutages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, storage, returns := withStorage(t, with(newIssuer(t, "ca", day(90))), "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		assert.ErrorIs(t, m.Read(t.Context(), "nothing"), fs.ErrNotExist)
		storage.hook(func(string, string) error { time.Sleep(5 * time.Second); return nil })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		assert.False(t, certs.StorageFailed(m.Read(ctx, "k")), "the caller left")
		storage.heal()
		time.Sleep(time.Hour)
		assert.Zero(t, returns.Load())
	})
}

// certmagic returns some errors of storage only as text.
func TestErrorsOfStorageAreDistinguishedFromThoseOfTheCA(t *testing.T) {
	for name, c := range map[string]struct {
		broken string
		ca     error
		want   bool
	}{
		"the lock cannot be had":       {broken: "lock", want: true},
		"the certificate is not saved": {broken: ".crt", want: true},
		"nothing can be read":          {broken: "load", want: true},
		"the CA refuses":               {ca: acme.Problem{Status: 403, Detail: "storage: no disk"}},
		"the CA fails, and the unlock": {broken: "unlock", ca: errors.New("no route")},
		"the CA's words are storage's": {ca: errors.New(`storage: store "certificates/ca/x": no disk`)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca := newIssuer(t, "ca", day(90))
				if c.ca != nil {
					ca.hook(func(context.Context, string) error { return c.ca })
				}
				o := with(ca)
				storage := newMemStorage()
				if c.broken != "" {
					storage.fails(c.broken)
				}
				o.Storage = storage
				m, _ := start(t, o, "a.example.com")
				time.Sleep(3 * time.Second)
				err := m.Statuses()[0].Err
				require.Error(t, err)
				assert.Equal(t, c.want, certs.StorageFailed(err), "%v", err)
			})
		})
	}
}

// A CA that was contacted before storage failed must not be contacted every few
// seconds.
func TestAFailureOfBothACAAndStorageCountsAsOneOfTheCA(t *testing.T) {
	first, second := newIssuer(t, "first", day(90)), newIssuer(t, "second", day(90))
	first.hook(failing("not today"))
	synctest.Test(t, func(t *testing.T) {
		storage := newMemStorage()
		storage.hook(func(verb, key string) error {
			if verb == "store" && strings.HasSuffix(key, ".crt") {
				return errNoDisk
			}
			return nil
		})
		m, _ := start(t, certs.Options{Public: []certmagic.Issuer{first, second}, Storage: storage}, "a.example.com")
		time.Sleep(time.Second)
		err := m.Statuses()[0].Err
		require.ErrorIs(t, err, errNoDisk)
		assert.False(t, certs.StorageFailed(err), "%v", err)
	})
	assert.False(t, certs.StorageFailed(nil))
	assert.False(t, certs.StorageFailed(fmt.Errorf("a: %w", fs.ErrNotExist)))
}
