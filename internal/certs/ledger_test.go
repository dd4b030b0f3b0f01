package certs_test

import (
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

// crowdLimit returns a CA whose limit for crowd.org is used up until then.
func crowdLimit(t *testing.T, until time.Time) *limitedCA {
	return newLimitedCA(t, func(host string) error {
		if strings.HasSuffix(host, ".crowd.org") && time.Now().Before(until) {
			return limitOf(`too many certificates (50) already issued for "crowd.org" in the last 168h0m0s`, until)
		}
		return nil
	})
}

// limitsKey returns the storage key of the only ledger.
func limitsKey(t *testing.T, storage *memStorage) string {
	t.Helper()
	keys, err := storage.List(t.Context(), "hostproxy/limits", true)
	require.NoError(t, err)
	require.Len(t, keys, 1)
	return keys[0]
}

func TestALimitIsReachedOnlyOnceOverRestarts(t *testing.T) {
	for what, text := range map[string]string{
		"a domain": `too many certificates (50) already issued for "crowd.org"`,
		"account":  "too many new orders (300) from this account in the last 3h0m0s",
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				until := time.Now().Add(150 * time.Minute) // within the windows of both limits
				ca := newLimitedCA(t, func(string) error {
					if time.Now().Before(until) {
						return limitOf(text, until)
					}
					return nil
				})
				o := with(ca)
				o.Storage = newMemStorage()
				m, _ := startOnce(t, o, "h0.crowd.org")
				time.Sleep(time.Minute)
				require.NoError(t, m.Close())
				require.Equal(t, 1, ca.refusals())
				for range 10 {
					m, _ := startOnce(t, o, names("h%d.crowd.org", 50)...)
					time.Sleep(10 * time.Minute)
					s, _ := m.Status("h7.crowd.org")
					assert.WithinDuration(t, until, s.NextTry, time.Minute)
					require.NoError(t, m.Close())
				}
				assert.Equal(t, 1, ca.refusals())
				m, _ = start(t, o, names("h%d.crowd.org", 50)...)
				time.Sleep(time.Until(until) + time.Hour)
				require.NoError(t, m.Await(t.Context()))
			})
		})
	}
}

func TestALimitThatAnotherProcessHasReachedIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := crowdLimit(t, time.Now().Add(5*time.Hour))
		o := with(ca)
		o.Storage = newMemStorage()
		_, one := start(t, o, "a.example.com")
		m, two := start(t, o, "b.example.com")
		require.NoError(t, m.Await(t.Context()))
		time.Sleep(time.Hour)
		one.add("h1.crowd.org")
		time.Sleep(2 * time.Minute)
		two.add("h2.crowd.org", "c.example.com")
		time.Sleep(time.Minute)
		assert.Equal(t, 1, ca.refusals())
		s, _ := m.Status("h2.crowd.org")
		assert.ErrorContains(t, s.Err, "rate limit")
		require.NoError(t, m.Await(t.Context(), "c.example.com"))
	})
}

func TestDamagedLedgersAreIgnored(t *testing.T) {
	limit := func(scope, name string, in time.Duration) []byte {
		return must(json.Marshal(map[string]any{"limits": []map[string]any{{"scope": scope, "name": name, "until": time.Now().Add(in)}}}))
	}
	for what, b := range map[string]func() []byte{
		"no JSON":               func() []byte { return []byte("\x00{") },
		"another shape":         func() []byte { return []byte(`{"limits":{"scope":1}}`) },
		"an unknown scope":      func() []byte { return limit("galaxy", "", time.Hour) },
		"an account's name":     func() []byte { return limit("account", "x", time.Hour) },
		"no domain":             func() []byte { return limit("domain", "", time.Hour) },
		"another form":          func() []byte { return limit("host", "A.Example.com", time.Hour) },
		"longer than any limit": func() []byte { return limit("account", "", 144*time.Hour) },
		"over":                  func() []byte { return limit("account", "", -time.Hour) },
		"too long":              func() []byte { return append(limit("account", "", time.Hour), make([]byte, 1<<20)...) },
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca := crowdLimit(t, time.Now().Add(time.Minute))
				storage := newMemStorage()
				o := with(ca)
				o.Storage, o.Logger = storage, slog.New(slog.DiscardHandler)
				m, _ := startOnce(t, o, "h.crowd.org")
				time.Sleep(time.Second)
				require.NoError(t, m.Close())
				key := limitsKey(t, storage)
				require.Contains(t, storage.content(key), "crowd.org")
				require.NoError(t, storage.Store(t.Context(), key, b()))
				begin := time.Now()
				m, _ = start(t, o, "a.example.com")
				require.NoError(t, m.Await(t.Context()))
				assert.Less(t, time.Since(begin), 10*time.Second)
			})
		})
	}
}

// No limit is accepted for more than six hours, in storage as in memory.
func TestALimitInStorageIsClamped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := crowdLimit(t, time.Now().Add(144*time.Hour))
		storage := newMemStorage()
		o := with(ca)
		o.Storage = storage
		m, _ := start(t, o, "h.crowd.org")
		time.Sleep(time.Minute)
		var got struct {
			Limits []struct{ Until time.Time }
		}
		require.NoError(t, json.Unmarshal([]byte(storage.content(limitsKey(t, storage))), &got))
		require.Len(t, got.Limits, 1)
		assert.WithinDuration(t, time.Now().Add(6*time.Hour), got.Limits[0].Until, 2*time.Minute)
		s, _ := m.Status("h.crowd.org")
		assert.Equal(t, certs.Failed, s.State)
	})
}
