package certs_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

// wipe empties the storage, and returns its previous content.
func (s *memStorage) wipe() map[string][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.files
	s.files = make(map[string][]byte)
	return old
}

func (s *memStorage) copied() map[string][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.files)
}

// same fails the test unless every certificate, key and root in want is in got.
func same(t testing.TB, want, got map[string][]byte) {
	t.Helper()
	n := 0
	for key, value := range want {
		if !strings.HasPrefix(key, "certificates/") && !strings.HasPrefix(key, "localca/") || strings.HasSuffix(key, ".json") {
			continue
		}
		n++
		if strings.HasSuffix(key, ".key") {
			assert.NotEmpty(t, got[key], key) // in another PEM encoding
			continue
		}
		assert.Equal(t, string(value), string(got[key]), key)
	}
	require.NotZero(t, n)
}

// cluster starts two members with different hosts over one storage.
func cluster(t testing.TB, o certs.Options, logs *logBuffer) (one, two *certs.Manager) {
	t.Helper()
	o.Logger = logs.logger(slog.LevelInfo)
	one, _ = start(t, o, "a.example.com", "one.example.com", "app.localhost", "*.localhost")
	two, _ = start(t, o, "a.example.com", "two.example.com", "app.localhost", "*.localhost")
	require.NoError(t, one.Await(t.Context()))
	require.NoError(t, two.Await(t.Context()))
	_, err := shake(t, one, "any.localhost")
	require.NoError(t, err)
	_, err = shake(t, two, "any.localhost")
	require.NoError(t, err)
	return one, two
}

const lost = "storage lost its contents"

func TestAStorageThatReturnsEmptyIsRefilledByItsMembers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		o := with(ca)
		storage := newMemStorage()
		o.Storage, o.ShareTickets = storage, true
		var logs logBuffer
		one, two := cluster(t, o, &logs)
		time.Sleep(11 * time.Minute) // all know everything, ticket keys included
		require.Len(t, ca.issued(), 3)
		sessions := tls.NewLRUClientSessionCache(1)
		config := one.TLSConfig()
		require.False(t, resumes(t, config, sessions))

		old := storage.wipe()
		time.Sleep(6 * time.Minute)
		same(t, old, storage.copied())
		assert.Empty(t, storage.locked())
		assert.Equal(t, 2, strings.Count(logs.String(), lost), "each member says so once: %s", logs.String())
		assert.Equal(t, 2, strings.Count(logs.String(), "level=ERROR"), logs.String())
		first, err := shake(t, one, "any.localhost")
		require.NoError(t, err)
		second, err := shake(t, two, "any.localhost")
		require.NoError(t, err)
		assert.Equal(t, first.Issuer.CommonName, second.Issuer.CommonName, "one root")

		time.Sleep(day(1))
		assert.Equal(t, 2, strings.Count(logs.String(), lost))
		third, _ := start(t, o, "a.example.com", "one.example.com", "two.example.com", "app.localhost")
		require.NoError(t, third.Await(t.Context()))
		assert.Len(t, ca.issued(), 3, "nothing is ordered anew")
		assert.True(t, resumes(t, config, sessions))
		time.Sleep(time.Second)
		assert.True(t, resumes(t, third.TLSConfig(), sessions), "sessions go on")

		time.Sleep(day(64))
		assert.Len(t, ca.issued(), 6, "what was written back can be renewed")
	})
}

// Storage is most likely to lose its content during an outage.
func TestALossOfContentIsNoticedWhenAnOutageEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		o := with(ca)
		storage := newMemStorage()
		o.Storage = storage
		var logs logBuffer
		one, _ := cluster(t, o, &logs)
		time.Sleep(time.Minute)
		storage.fails()
		one.Look(t.Context())
		old := storage.wipe()
		time.Sleep(20 * time.Second)
		storage.heal()
		time.Sleep(4 * time.Second)
		same(t, map[string][]byte{
			"localca/root.crt": old["localca/root.crt"],
			"certificates/ca/one.example.com/one.example.com.crt": old["certificates/ca/one.example.com/one.example.com.crt"],
		}, storage.copied())
	})
}

// A member that starts on the empty storage may be faster than the ones that
// still hold the content.
func TestNewerCertificatesInStorageAreNotOverwritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		o := with(ca)
		storage := newMemStorage()
		o.Storage = storage
		var logs logBuffer
		one, two := cluster(t, o, &logs)
		time.Sleep(11 * time.Minute) // all know everything, ticket keys included

		old := storage.wipe()
		third, _ := start(t, o, "a.example.com", "app.localhost", "*.localhost")
		require.NoError(t, third.Await(t.Context()))
		const both = "certificates/ca/a.example.com/a.example.com.crt"
		newer, root := storage.content(both), string(old["localca/root.crt"])
		require.NotEqual(t, string(old[both]), newer)
		require.NotEqual(t, root, storage.content("localca/root.crt"))
		minted, err := shake(t, third, "any.localhost")
		require.NoError(t, err)
		time.Sleep(11 * time.Minute)
		assert.Equal(t, newer, storage.content(both))
		assert.Equal(t, root, storage.content("localca/root.crt"))
		const mine = "certificates/ca/one.example.com/one.example.com.crt"
		assert.Equal(t, string(old[mine]), storage.content(mine))
		for _, m := range []*certs.Manager{one, two, third} {
			pem, err := m.RootPEM(t.Context())
			require.NoError(t, err)
			assert.Equal(t, root, string(pem), "all sign by the root that clients trust")
		}
		for _, host := range []string{"app.localhost", "any.localhost"} {
			leaf, err := shake(t, third, host)
			require.NoError(t, err)
			assert.NotEqual(t, minted.Issuer.CommonName, leaf.Issuer.CommonName, host)
		}
		assert.Contains(t, logs.String(), "restoring the older one")
	})
}

// A host reads its certificate between the loss and the next check.
func TestAHostWhoseCertificateWasLostWaitsForTheWriteBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := &adviser{fakeIssuer: newIssuer(t, "ca", day(90))}
		o := with(ca)
		storage := newMemStorage()
		o.Storage = storage
		m, _ := start(t, o, names("h%d.example.com", 20)...)
		require.NoError(t, m.Await(t.Context()))
		for range 10 { // at various moments between two checks
			time.Sleep(6*time.Hour + 7*time.Second)
			storage.wipe()
		}
		time.Sleep(day(1))
		assert.Len(t, ca.issued(), 20)
	})
}

// The operator has deleted it to get another one. That is not a loss.
func TestACertificateThatIsDeletedOnPurposeStaysDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		o := with(ca)
		storage := newMemStorage()
		o.Storage = storage
		var logs logBuffer
		cluster(t, o, &logs)
		time.Sleep(time.Minute)
		require.NoError(t, storage.Delete(t.Context(), "certificates/ca/one.example.com"))
		time.Sleep(day(1))
		assert.False(t, storage.Exists(t.Context(), "certificates/ca/one.example.com"))
		assert.NotContains(t, logs.String(), lost)
	})
}

func TestAMemberWithoutCertificatesLogsNothingAboutALoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := with(newIssuer(t, "ca", day(90)))
		storage := newMemStorage()
		var logs logBuffer
		o.Storage, o.Logger = storage, logs.logger(slog.LevelInfo)
		start(t, o)
		time.Sleep(time.Minute)
		require.True(t, storage.Exists(t.Context(), "hostproxy/id"))
		storage.wipe()
		time.Sleep(time.Hour)
		assert.Empty(t, logs.String())
		assert.True(t, storage.Exists(t.Context(), "hostproxy/id"))
	})
}

// Storage may fail again while it is refilled.
func TestAWriteBackThatFailsIsFinishedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		o := with(ca)
		storage := newMemStorage()
		var logs logBuffer
		o.Storage, o.Logger = storage, logs.logger(slog.LevelInfo)
		m, _ := start(t, o, names("h%d.example.com", 50)...)
		require.NoError(t, m.Await(t.Context()))
		time.Sleep(time.Minute)
		old := storage.wipe()
		var writes atomic.Int64
		storage.hook(func(verb, _ string) error {
			if verb == "store" && writes.Add(1) > 70 {
				return errors.New("full")
			}
			return nil
		})
		time.Sleep(time.Hour)
		storage.heal()
		time.Sleep(6 * time.Minute)
		same(t, old, storage.copied())
		assert.Len(t, ca.issued(), 50)
		assert.Equal(t, 1, strings.Count(logs.String(), lost), logs.String())
		assert.Empty(t, storage.locked())
	})
}

// certmagic reads its accounts for each order. They are few, so they are kept.
func TestAccountsAreWrittenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := with(newIssuer(t, "ca", day(90)))
		storage := newMemStorage()
		o.Storage = storage
		users := func(n int) string { return fmt.Sprintf("acme/ca.example/users/u%d@example.com/u%d.json", n, n) }
		for n := range 100 {
			require.NoError(t, storage.Store(t.Context(), users(n), []byte("account")))
		}
		m, _ := start(t, o, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		for n := range 100 {
			require.NoError(t, m.Read(t.Context(), users(n)))
		}
		time.Sleep(time.Minute)
		storage.wipe()
		time.Sleep(6 * time.Minute)
		n := 0
		for key := range storage.copied() {
			if strings.HasPrefix(key, "acme/") {
				n++
			}
		}
		assert.Equal(t, 64, n, "a bounded number of them")
	})
}

// Otherwise the shape of the issuer's chains would be lost, and each odd
// certificate would be ordered once more.
func TestTheKnownShapesOfIssuersChainsAreWrittenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newChainIssuer(t)
		ca.edit = func(b []byte) []byte { return append(b, "by hand"...) }
		o := with(ca)
		storage := newMemStorage()
		o.Storage = storage
		m, _ := start(t, o, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		time.Sleep(time.Minute)
		old := storage.wipe()
		time.Sleep(6 * time.Minute)
		assert.JSONEq(t, string(old["hostproxy/chains/ca.json"]), storage.content("hostproxy/chains/ca.json"))
	})
}

// A LocalCA may have its own storage, and only that one may lose its content.
func TestALossOfOnlyTheLocalCAsStorageIsRefilledToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := with(newIssuer(t, "ca", day(90)))
		own := newMemStorage()
		var logs logBuffer
		o.Storage, o.Internal, o.Logger = newMemStorage(), &certs.LocalCA{Storage: own}, logs.logger(slog.LevelError)
		m, _ := start(t, o, "app.localhost")
		require.NoError(t, m.Await(t.Context()))
		time.Sleep(time.Minute)
		old := own.wipe()
		time.Sleep(6 * time.Minute)
		same(t, old, own.copied())
		assert.Equal(t, 1, strings.Count(logs.String(), lost), logs.String())
	})
}

// A root is two files, and the process that restores it may die between them.
func TestARootThatIsHalfWrittenBackIsNotTakenForDamaged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := with(newIssuer(t, "ca", day(90)))
		storage := newMemStorage()
		o.Storage = storage
		one, _ := startOnce(t, o, "one.localhost")
		require.NoError(t, one.Await(t.Context()))
		time.Sleep(11 * time.Minute)
		root := string(storage.wipe()["localca/root.crt"])
		two, _ := startOnce(t, o, "two.localhost")
		require.NoError(t, two.Await(t.Context()))
		require.NoError(t, two.Close())
		var dead atomic.Bool
		storage.hook(func(verb, key string) error {
			if dead.Load() || verb == "store" && key == "localca/root.crt" {
				dead.Store(true)
				return errors.New("the process has died")
			}
			return nil
		})
		time.Sleep(6 * time.Minute)
		require.True(t, dead.Load())
		copied := newMemStorage()
		for key, value := range storage.copied() {
			require.NoError(t, copied.Store(t.Context(), key, value))
		}
		_, err := (&certs.LocalCA{Storage: copied}).RootPEM(t.Context())
		require.NoError(t, err)

		storage.heal()
		time.Sleep(11 * time.Minute)
		assert.Equal(t, root, storage.content("localca/root.crt"), "what still runs goes on")
		require.NoError(t, one.Close())
	})
}
