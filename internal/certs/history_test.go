package certs_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

const attemptsKey = "hostproxy/attempts/ca/a.example.com.json"

// invalid is the answer of a CA that has not found the proof of control of a
// host.
func invalid(host string) error {
	return acme.Problem{Status: 403, Type: acme.ProblemTypeUnauthorized, Detail: "no answer at " + host,
		Resource: acme.Authorization{Identifier: acme.Identifier{Type: "dns", Value: host}}}
}

// An attemptLog records when a CA validated.
type attemptLog struct {
	mu    sync.Mutex
	times []time.Time
}

func (l *attemptLog) add() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.times = append(l.times, time.Now())
}

// most returns the highest number of times within any window.
func (l *attemptLog) most(window time.Duration) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	most := 0
	for i, from := range l.times {
		n := 0
		for _, t := range l.times[i:] {
			if t.Sub(from) < window {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

// A crash loop with a host that cannot be validated does not reach the CA's
// limit of five an hour.
func TestFailedValidationsAreLimitedToFourAnHourOverRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage, log := newMemStorage(), new(attemptLog)
		ca := newIssuer(t, "ca", day(90))
		ca.hook(func(_ context.Context, host string) error {
			log.add()
			return invalid(host)
		})
		for range 100 {
			m, _ := startOnce(t, certs.Options{Public: []certmagic.Issuer{ca}, Storage: storage}, "a.example.com")
			time.Sleep(3 * time.Minute)
			require.NoError(t, m.Close())
		}
		assert.Equal(t, 4, log.most(time.Hour))
		assert.GreaterOrEqual(t, len(log.times), 18, "and is tried all the while")
	})
}

// The same without a restart.
func TestFailedValidationsAreLimitedToFourAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(attemptLog)
		ca := newIssuer(t, "ca", day(6))
		failing := false
		ca.hook(func(_ context.Context, host string) error {
			if !failing {
				return nil
			}
			log.add()
			return invalid(host)
		})
		m, _ := start(t, certs.Options{Public: []certmagic.Issuer{ca}}, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		failing = true
		time.Sleep(day(6) - 10*time.Second) // until the last second, when time is short
		assert.LessOrEqual(t, log.most(time.Hour), 4)
		assert.Greater(t, len(log.times), 20)
	})
}

// A process that dies during an attempt has made one.
func TestAnAttemptIsWrittenBeforeTheOrder(t *testing.T) {
	storage := newMemStorage()
	ca := newIssuer(t, "ca", day(90))
	var meanwhile []byte
	ca.hook(func(ctx context.Context, _ string) error {
		meanwhile, _ = storage.Load(ctx, attemptsKey)
		return nil
	})
	m, _ := start(t, certs.Options{Public: []certmagic.Issuer{ca}, Storage: storage}, "a.example.com")
	require.NoError(t, m.Await(t.Context()))
	assert.Contains(t, string(meanwhile), "failed")
	_, err := storage.Load(t.Context(), attemptsKey)
	assert.Error(t, err, "a success leaves nothing")
}

func TestAttemptsThatFailBeforeValidationAreNotCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemStorage()
		ca := newIssuer(t, "ca", day(90))
		ca.hook(failing("connection refused"))
		m, _ := start(t, certs.Options{Public: []certmagic.Issuer{ca}, Storage: storage}, "a.example.com")
		time.Sleep(2 * time.Hour)
		assert.Greater(t, len(ca.issued()), 10)
		_, err := storage.Load(t.Context(), attemptsKey)
		assert.Error(t, err)

		// An attempt that may be a failed validation counts.
		ca.hook(failing("solving challenges: [a.example.com] authorization took too long"))
		before := len(ca.issued())
		time.Sleep(3 * time.Hour)
		assert.LessOrEqual(t, len(ca.issued())-before, 13)
		ca.unhook()
		time.Sleep(time.Hour)
		require.NoError(t, m.Await(t.Context()))
	})
}

func TestDamagedHistoriesAreIgnored(t *testing.T) {
	future := time.Now().Add(1000 * time.Hour)
	for what, b := range map[string][]byte{
		"no JSON":       []byte("\x00{"),
		"another shape": []byte(`{"failed":"x","failures":{}}`),
		"too long":      []byte(`{"failed":[` + strings.TrimSuffix(strings.Repeat(`"2026-01-01T00:00:00Z",`, 10_000), ",") + `]}`),
		"the future":    must(json.Marshal(map[string]any{"failed": slices.Repeat([]time.Time{future}, 4)})),
		"odd numbers":   []byte(`{"failures":-3,"worked":"telepathy-01"}`),
	} {
		t.Run(what, func(t *testing.T) {
			storage := newMemStorage()
			require.NoError(t, storage.Store(t.Context(), attemptsKey, b))
			m, _ := start(t, certs.Options{Public: []certmagic.Issuer{newIssuer(t, "ca", day(90))}, Storage: storage}, "a.example.com")
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			require.NoError(t, m.Await(ctx))
		})
	}
}

// The history is optional: if storage fails or hangs, certificates are obtained
// without it.
func TestAHistoryThatCannotBeStoredDelaysNoCertificateForLong(t *testing.T) {
	for what, op := range map[string]func() error{
		"fails": func() error { return errors.New("disk full") },
		"hangs": func() error { <-time.After(time.Hour); return nil },
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				storage := newMemStorage()
				storage.hook(func(_, key string) error {
					if strings.HasPrefix(key, "hostproxy/attempts/") {
						return op()
					}
					return nil
				})
				begin := time.Now()
				m, _ := start(t, certs.Options{Public: []certmagic.Issuer{newIssuer(t, "ca", day(90))}, Storage: storage}, "a.example.com")
				require.NoError(t, m.Await(t.Context()))
				assert.Less(t, time.Since(begin), 15*time.Second)
				time.Sleep(2 * time.Hour) // until calls that hang end
			})
		})
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}
