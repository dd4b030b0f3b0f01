package limit_test

import (
	"context"
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/limit"
)

// named is the subject of a client's request with a text.
func named(text string) limit.Subject {
	return limit.Subject{Client: netip.MustParseAddr("192.0.2.1"), Text: text}
}

func newRule(t *testing.T, s limit.Spec) *limit.Rule {
	t.Helper()
	r, err := limit.NewRule(s)
	require.NoError(t, err)
	return r
}

func TestARuleCountsRequestsByTheirKey(t *testing.T) {
	r := newRule(t, limit.Spec{Config: limit.Config{Rate: 0.001, Burst: 2}})
	now := time.Now()
	long := strings.Repeat("x", 1<<20)
	for _, tt := range []struct {
		who limit.Subject
		ok  bool
	}{
		{named("a"), true}, {named("a"), true}, {named("a"), false},
		{named("b"), true},
		{named(long), true}, {named(long), true}, {named(long), false}, {named(long + "y"), true},
		{named(""), true}, {named(""), true}, {named(""), false},
		{limit.Subject{Client: netip.MustParseAddr("192.0.2.2")}, true},
		{limit.Subject{Client: netip.MustParseAddr("192.0.2.2"), Text: "a"}, false},
		{named("b"), true}, {named("b"), false},
	} {
		assert.Equal(t, tt.ok, r.Take(tt.who, now).OK, "%.9q", tt.who.Text)
	}
}

func TestARuleLimitsRequestsInFlightPerKey(t *testing.T) {
	r := newRule(t, limit.Spec{MaxInFlight: 2})
	now := time.Now()
	first, second := r.Take(named("a"), now), r.Take(named("a"), now)
	assert.True(t, first.OK && second.OK)
	third := r.Take(named("a"), now)
	assert.False(t, third.OK)
	assert.False(t, third.Slot.Held())
	assert.Equal(t, "Retry-After: 1\r\n", string(r.AppendFields(nil, third)))
	assert.True(t, r.Take(named("b"), now).OK)
	assert.True(t, r.Take(named(""), now).OK)
	first.Slot.Free()
	assert.Equal(t, 1, r.InFlight(named("a")))
	assert.True(t, r.Take(named("a"), now).OK)
	assert.Equal(t, 2, r.InFlight(named("a")))
}

// A request that one of the two limits refuses counts in neither.
func TestARefusedRequestIsNotInFlight(t *testing.T) {
	r := newRule(t, limit.Spec{Config: limit.Config{Rate: 0.001, Burst: 2}, MaxInFlight: 1})
	now := time.Now()
	v := r.Take(named("a"), now)
	assert.True(t, v.OK)
	assert.True(t, r.Take(named("a"), now).Full, "a refused request takes no token")
	v.Slot.Free()
	v = r.Take(named("a"), now)
	assert.True(t, v.OK)
	v.Slot.Free()
	v = r.Take(named("a"), now)
	assert.False(t, v.OK || v.Full, "no token is left")
	assert.Zero(t, r.InFlight(named("a")))
	assert.Contains(t, string(r.AppendFields(nil, v)), `RateLimit: "default";r=0`)
}

func TestConcurrentRequestsDoNotExceedMaxInFlight(t *testing.T) {
	const most = 3
	r := newRule(t, limit.Spec{MaxInFlight: most})
	var now, highest, served atomic.Int64
	var work sync.WaitGroup
	for range 16 {
		work.Go(func() {
			for range 2_000 {
				v := r.Take(named("a"), time.Time{})
				if !v.OK {
					continue
				}
				n := now.Add(1)
				for old := highest.Load(); n > old && !highest.CompareAndSwap(old, n); old = highest.Load() {
				}
				served.Add(1)
				now.Add(-1)
				v.Slot.Free()
			}
		})
	}
	work.Wait()
	assert.LessOrEqual(t, highest.Load(), int64(most))
	assert.Positive(t, served.Load())
	assert.Zero(t, r.InFlight(named("a")))
}

func TestKeysWithoutRequestsTakeNoMemory(t *testing.T) {
	const keys = 200_000
	r := newRule(t, limit.Spec{MaxInFlight: 1})
	before := held()
	var slots limit.Slots
	for n := range keys {
		slots = append(slots, r.Take(named(strconv.Itoa(n)), time.Time{}).Slot)
	}
	assert.Zero(t, r.InFlight(named("x")))
	slots.Free()
	slots = nil
	assert.Less(t, held()-before, int64(64<<10))
	assert.True(t, r.Take(named("1"), time.Time{}).OK)
}

// Keys that an attacker invents have limited buckets, as clients have, and the
// attacker's own key gains nothing by them.
func TestInventedKeysNeitherFillTheMemoryNorRefillABucket(t *testing.T) {
	r := newRule(t, limit.Spec{Config: limit.Config{Rate: 0.001, Burst: 2, MaxKeys: 1024}})
	now := time.Now()
	before := held()
	served := 0
	for n := range 1_000_000 {
		r.Take(named(strconv.Itoa(n)), now)
		if n%1000 == 0 && r.Take(named("mine"), now).OK {
			served++
		}
	}
	assert.LessOrEqual(t, served, 2)
	assert.Less(t, held()-before, int64(64<<10))
}

func TestAForeignLimiterGetsADigestOfTheKey(t *testing.T) {
	var asked []string
	fails := false
	r, err := limit.NewForeignRule(limit.Spec{Config: limit.Config{Rate: 1}, MaxInFlight: 1}, func(_ context.Context, client netip.Addr, digest string) (limit.Decision, error) {
		asked = append(asked, client.String()+" "+digest)
		if fails {
			return limit.Decision{}, errors.New("gone")
		}
		return limit.Decision{OK: true}, nil
	}, func(error) {})
	require.NoError(t, err)
	v := r.Take(named("abc"), time.Now())
	assert.True(t, v.OK)
	assert.True(t, r.Take(named("abc"), time.Now()).Full, "in flight here, without a call of the limiter")
	v.Slot.Free()
	fails = true
	v = r.Take(named(""), time.Now())
	assert.True(t, v.OK && v.Slot.Held(), "allowed, and in flight")
	assert.Equal(t, []string{"invalid IP ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "192.0.2.1 "}, asked)
}

func TestAnInvalidSpecNamesItsFault(t *testing.T) {
	for want, s := range map[string]limit.Spec{
		"Rate is 0, want":          {},
		"Rate is -1":               {Config: limit.Config{Rate: -1}, MaxInFlight: 1},
		"field Burst is 3 without": {Config: limit.Config{Burst: 3}, MaxInFlight: 1},
		"MaxInFlight is -1":        {Config: limit.Config{Rate: 1}, MaxInFlight: -1},
	} {
		_, err := limit.NewRule(s)
		assert.ErrorContains(t, err, want)
	}
	_, err := limit.NewForeignRule(limit.Spec{MaxInFlight: 1}, nil, nil)
	assert.ErrorContains(t, err, "field Limiter requires Rate")
}

func TestARuleAllocatesNothing(t *testing.T) {
	r := newRule(t, limit.Spec{Config: limit.Config{Rate: 1e6}, MaxInFlight: 10})
	now := time.Now()
	assert.Zero(t, testing.AllocsPerRun(1000, func() {
		now = now.Add(time.Millisecond)
		v := r.Take(named("abc"), now)
		v.Slot.Free()
	}))
}
