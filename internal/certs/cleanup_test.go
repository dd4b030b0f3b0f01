package certs_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

// stored returns the hosts for which storage has anything of an issuer.
func (s *memStorage) stored(issuer string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := make(map[string]bool)
	var hosts []string
	for key := range s.files {
		if parts := strings.Split(key, "/"); len(parts) == 4 && parts[1] == issuer && !seen[parts[2]] {
			seen[parts[2]] = true
			hosts = append(hosts, parts[2])
		}
	}
	return hosts
}

func TestCertificatesOfRemovedHostsAreDeletedAMonthAfterTheirEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(6))
		o := with(ca)
		storage := newMemStorage()
		o.Storage = storage
		m, r := start(t, o, "kept.example.com", "gone.example.com", "*.gone.example.com")
		require.NoError(t, m.Await(t.Context()))
		require.NoError(t, storage.Store(t.Context(), "hostproxy/attempts/ca/gone.example.com.json", []byte("{}")))
		// Another program's certificate in the same storage.
		for _, ext := range []string{".crt", ".key", ".json"} {
			b := storage.content("certificates/ca/gone.example.com/gone.example.com" + ext)
			require.NoError(t, storage.Store(t.Context(), "certificates/other/gone.example.com/gone.example.com"+ext, []byte(b)))
		}
		r.set("kept.example.com")
		time.Sleep(day(35))
		assert.Len(t, storage.stored("ca"), 3, "they are kept for a month: the host may return")
		time.Sleep(day(3))
		assert.Equal(t, []string{"kept.example.com"}, storage.stored("ca"))
		assert.Equal(t, []string{"gone.example.com"}, storage.stored("other"))
		assert.False(t, storage.Exists(t.Context(), "hostproxy/attempts/ca/gone.example.com.json"))
		assert.Empty(t, storage.locked())

		r.set("kept.example.com", "gone.example.com")
		require.NoError(t, m.Await(t.Context()))
	})
}

// Members may have different routes.
func TestCertificatesOfHostsOfAnotherMemberAreNotDeleted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(6))
		o := with(ca)
		storage := newMemStorage()
		o.Storage = storage
		one, _ := start(t, o, "one.example.com")
		two, _ := start(t, o, "two.example.com")
		require.NoError(t, one.Await(t.Context()))
		require.NoError(t, two.Await(t.Context()))
		time.Sleep(day(100))
		assert.ElementsMatch(t, []string{"one.example.com", "two.example.com"}, storage.stored("ca"))
	})
}

func TestStorageIsCleanedOnceADayByOneMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := with(newIssuer(t, "ca", day(90)))
		storage := newMemStorage()
		var runs atomic.Int64
		storage.hook(func(verb, key string) error {
			if verb == "store" && key == "hostproxy/cleaned" {
				runs.Add(1)
			}
			return nil
		})
		o.Storage = storage
		start(t, o, "one.example.com")
		two, _ := start(t, o, "two.example.com")
		for range 10 { // restarts do not clean more
			time.Sleep(day(1))
			require.NoError(t, two.Close())
			two, _ = start(t, o, "two.example.com")
		}
		assert.GreaterOrEqual(t, runs.Load(), int64(7))
		assert.LessOrEqual(t, runs.Load(), int64(10))
	})
}

// The host may come back on another member at that moment.
func TestACertificateThatIsRenewedMeanwhileIsNotDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(6))
		o := with(ca)
		storage := newMemStorage()
		o.Storage = storage
		m, r := start(t, o, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		r.set()
		time.Sleep(day(35))
		fresh := newMemStorage()
		o.Storage = fresh
		other, _ := start(t, o, "a.example.com")
		require.NoError(t, other.Await(t.Context()))
		storage.hook(func(verb, key string) error {
			if verb == "lock" && key == "issue_cert_a.example.com" {
				for _, key := range []string{siteKey, siteCert, siteMeta} {
					storage.change(t, key, func([]byte) []byte { return []byte(fresh.content(key)) })
				}
			}
			return nil
		})
		time.Sleep(day(3))
		for _, key := range []string{siteKey, siteCert, siteMeta} {
			assert.Equal(t, fresh.content(key), storage.content(key), key)
		}
	})
}

func TestFilesOfRemovedHostsAreDeletedFromDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := &certmagic.FileStorage{Path: t.TempDir()}
		o := with(newIssuer(t, "ca", time.Hour))
		o.Storage = files
		m, r := start(t, o, "a.example.com", "b.example.com")
		require.NoError(t, m.Await(t.Context()))
		r.set("b.example.com")
		require.NoError(t, m.Close())
		time.Sleep(day(31)) // no process runs
		r.set("b.example.com")
		again, _ := start(t, o, "b.example.com")
		time.Sleep(day(1))
		assert.False(t, files.Exists(t.Context(), "certificates/ca/a.example.com"))
		assert.True(t, files.Exists(t.Context(), "certificates/ca/b.example.com"))
		assert.Equal(t, certs.Valid, again.Statuses()[0].State)
	})
}
