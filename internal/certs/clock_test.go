package certs_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

// ahead returns t as time.Now would have returned it at the same moment, if the
// wall clock were ahead. There is no other way to make a time whose two clocks
// differ.
func ahead(t *testing.T, at time.Time, by time.Duration) time.Time {
	t.Helper()
	moved := at
	// in package time, the first word holds the wall clock
	*(*uint64)(unsafe.Pointer(&moved)) += uint64(by/time.Second) << 30
	require.Equal(t, by, moved.Round(0).Sub(at.Round(0)))
	require.Zero(t, moved.Sub(at))
	return moved
}

func TestAStepOfTheClockIsNoticed(t *testing.T) {
	then := time.Now()
	now := then.Add(time.Minute)
	assert.Zero(t, certs.StepBack(then, now))
	assert.Equal(t, 3*time.Hour, certs.StepBack(ahead(t, then, 3*time.Hour), now), "set back")
	assert.Equal(t, -3*time.Hour, certs.StepBack(then, ahead(t, now, 3*time.Hour)), "set forward, or the machine slept")
}

func TestTheEndOfAPauseFollowsTheCurrentClock(t *testing.T) {
	next := ahead(t, time.Now().Add(time.Minute), 1000*time.Hour)
	assert.WithinDuration(t, time.Now().Add(time.Minute).Round(0), certs.InTime(next).Round(0), 10*time.Second)
	date := time.Now().Add(time.Hour).Round(0)
	assert.WithinDuration(t, date, certs.InTime(date), time.Second, "a date stays")
	assert.WithinDuration(t, time.Now().Add(time.Hour), certs.AtMost(date.Add(1000*time.Hour), time.Hour), 10*time.Second)
	assert.WithinDuration(t, date, certs.AtMost(date, 6*time.Hour), time.Second)
}

// The clock of a test cannot be set, so the test tells the Manager that it was:
// its pauses end earlier by that amount.
func TestAClockThatIsSetBackMakesNoPauseLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		ca.hook(func(_ context.Context, host string) error {
			if host == "bad.example.com" {
				return errors.New("dial tcp 192.0.2.1:443: connect: connection refused")
			}
			return nil
		})
		storage := newMemStorage()
		o := with(ca)
		o.Storage = storage
		m, _ := start(t, o, "good.example.com", "bad.example.com")
		time.Sleep(day(1))
		next := func() time.Duration { return time.Until(status(t, m, "bad.example.com").NextTry) }
		for next() < time.Minute { // by chance, a try is due
			time.Sleep(time.Minute)
		}
		orders, wait := ca.count("bad.example.com"), next()
		m.SetBack(wait - time.Second)
		synctest.Wait()
		require.Equal(t, orders, ca.count("bad.example.com"))
		time.Sleep(2 * time.Second)
		assert.Equal(t, orders+1, ca.count("bad.example.com"))

		var reads atomic.Int64
		storage.hook(func(verb, key string) error {
			if verb == "load" && strings.HasSuffix(key, "good.example.com.crt") {
				reads.Add(1)
			}
			return nil
		})
		m.SetBack(day(59)) // renewal is due on day 60 or a bit later
		time.Sleep(day(1))
		assert.Zero(t, reads.Load(), "dates of certificates are no pauses")
	})
}

// A CA reports the end of its limit by its own clock. If that was hours ago,
// one of the clocks is wrong, and the limit is treated like one without a known
// end.
func TestALimitThatEndedInThePastGetsALimitedNumberOfOrders(t *testing.T) {
	for what, c := range map[string]struct {
		ago  time.Duration
		most int
	}{
		"hours ago":   {3 * time.Hour, 4},
		"seconds ago": {10 * time.Second, 190}, // once a minute
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca := newLimitedCA(t, func(string) error {
					return limitOf("too many new orders (300) from this account in the last 3h0m0s", time.Now().Add(-c.ago))
				})
				start(t, with(ca), "a.example.com")
				time.Sleep(3 * time.Hour)
				assert.LessOrEqual(t, ca.refusals(), c.most)
				assert.GreaterOrEqual(t, ca.refusals(), c.most/2)
			})
		})
	}
}

// After the clock was set back, failed validations of the last hour are in the
// future. They still count, for an hour from now.
func TestFailedValidationsFromTheFutureCountForAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemStorage()
		future := time.Now().Add(5 * time.Hour)
		require.NoError(t, storage.Store(t.Context(), attemptsKey, must(json.Marshal(map[string]any{"failed": slices.Repeat([]time.Time{future}, 4)}))))
		ca := newIssuer(t, "ca", day(90))
		o := with(ca)
		o.Storage = storage
		m, _ := start(t, o, "a.example.com")
		time.Sleep(59 * time.Minute)
		assert.Empty(t, ca.issued())
		time.Sleep(20 * time.Minute)
		assert.Len(t, ca.issued(), 1)
		assert.Equal(t, certs.Valid, status(t, m, "a.example.com").State)
	})
}

func TestATicketKeyFromTheFutureIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct {
			Born   time.Time `json:"born"`
			Secret []byte    `json:"secret"`
		}
		storage := newMemStorage()
		// from a process whose clock is slightly wrong
		soon := key{time.Now().Add(time.Hour), make([]byte, 32)}
		require.NoError(t, storage.Store(t.Context(), "tickets/keys.json", must(json.Marshal([]key{{time.Now().Add(1000 * time.Hour), make([]byte, 32)}, soon}))))
		o := with(newIssuer(t, "ca", day(90)))
		o.Storage, o.ShareTickets = storage, true
		m, _ := start(t, o)
		m.TLSConfig()
		time.Sleep(time.Minute)
		var keys []key
		require.NoError(t, json.Unmarshal([]byte(storage.content("tickets/keys.json")), &keys))
		require.Len(t, keys, 2)
		assert.WithinDuration(t, time.Now(), keys[0].Born, time.Hour)
		assert.True(t, keys[1].Born.Equal(soon.Born))
	})
}

// The dates of a local CA's certificate come from our own clock. One that was
// signed while the clock was ahead is not valid for clients yet.
func TestACertificateOfTheLocalCAFromTheFutureIsReplaced(t *testing.T) {
	storage := newMemStorage()
	served := func(t *testing.T, after time.Duration) (notBefore time.Time) {
		synctest.Test(t, func(t *testing.T) { // each bubble begins at the same time
			time.Sleep(after)
			m, _ := start(t, certs.Options{Storage: storage}, "a.internal")
			require.NoError(t, m.Await(t.Context()))
			time.Sleep(2 * time.Second)
			synctest.Wait()
			cert, err := shake(t, m, "a.internal")
			require.NoError(t, err)
			notBefore = cert.NotBefore
			require.NoError(t, m.Close())
			assert.False(t, time.Now().Before(notBefore))
		})
		return notBefore
	}
	served(t, 0) // makes the root
	first := served(t, 9*time.Hour)
	second := served(t, time.Hour)
	assert.True(t, second.Before(first))
}
