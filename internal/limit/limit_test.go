package limit_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/limit"
)

func newLimiter(t testing.TB, c limit.Config) *limit.Limiter {
	t.Helper()
	l, err := limit.New(c)
	require.NoError(t, err)
	return l
}

// network returns an address in the n-th /64.
func network(n uint32) netip.Addr {
	return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n), 15: 1})
}

func TestAClientGetsItsBurstAndThenItsRate(t *testing.T) {
	const ms = time.Millisecond
	steps := []struct {
		about string
		at    time.Duration
		want  limit.Decision
	}{
		{"the first finds a full bucket", 0, limit.Decision{OK: true, Remaining: 2, Retry: 500 * ms, Reset: 500 * ms}},
		{"the second may follow immediately", 0, limit.Decision{OK: true, Remaining: 1, Retry: 500 * ms, Reset: 1000 * ms}},
		{"the third ends the burst", 100 * ms, limit.Decision{OK: true, Remaining: 0, Retry: 400 * ms, Reset: 1400 * ms}},
		{"the fourth is one too many", 200 * ms, limit.Decision{Retry: 300 * ms, Reset: 1300 * ms}},
		{"a refusal costs nothing", 400 * ms, limit.Decision{Retry: 100 * ms, Reset: 1100 * ms}},
		{"a nanosecond early is too early", 500*ms - 1, limit.Decision{Retry: 1, Reset: 1000*ms + 1}},
		{"one more is allowed when Retry is over", 500 * ms, limit.Decision{OK: true, Retry: 500 * ms, Reset: 1500 * ms}},
		{"then the next request is refused", 500 * ms, limit.Decision{Retry: 500 * ms, Reset: 1500 * ms}},
		{"a long pause fills the bucket up to its burst", time.Hour, limit.Decision{OK: true, Remaining: 2, Retry: 500 * ms, Reset: 500 * ms}},
		{"a late clock finds what was left, and the wait is longer", time.Hour - 2000*ms, limit.Decision{Retry: 1500 * ms, Reset: 2500 * ms}},
	}
	l := newLimiter(t, limit.Config{Rate: 2, Burst: 3})
	start := time.Now()
	for _, s := range steps {
		assert.Equal(t, s.want, l.Allow(network(1), start.Add(s.at)), s.about)
	}
	assert.True(t, l.Allow(network(2), start).OK, "another client has another bucket")
}

func TestPeekPredictsAllowAndTakesNothing(t *testing.T) {
	for _, keys := range []int{8, 64, 0} {
		l := newLimiter(t, limit.Config{Rate: 2, Burst: 2, MaxKeys: keys})
		now := time.Now().Add(time.Second)
		for range 5_000 {
			client := network(rand.Uint32N(200))
			now = now.Add(time.Duration(rand.Int64N(int64(20 * time.Millisecond))))
			seen := l.Peek(client, now)
			require.Equal(t, seen, l.Peek(client, now), "Peek takes nothing")
			d := l.Allow(client, now)
			require.Equal(t, seen.OK, d.OK)
			if d.OK {
				require.Equal(t, seen.Remaining, d.Remaining+1)
			} else {
				require.Equal(t, seen, d)
			}
		}
	}
}

func TestATimeBeforeNewCountsAsThatOfNew(t *testing.T) {
	l := newLimiter(t, limit.Config{Rate: 1, Burst: 2})
	early := time.Now().Add(-time.Hour)
	assert.Equal(t, limit.Decision{OK: true, Remaining: 1, Retry: time.Second, Reset: time.Second}, l.Allow(network(1), early))
	assert.True(t, l.Allow(network(1), early).OK)
	assert.False(t, l.Allow(network(1), early).OK)
}

// A bucket is a naive token bucket. It holds nanoseconds worth of tokens, which
// are added as time passes.
type bucket struct {
	level time.Duration
	last  time.Time
}

func (b *bucket) allow(now time.Time, interval, depth time.Duration) limit.Decision {
	b.level = min(b.level+now.Sub(b.last), depth)
	b.last = now
	ok := b.level >= interval
	if ok {
		b.level -= interval
	}
	return limit.Decision{OK: ok, Remaining: int(b.level / interval), Retry: interval - b.level%interval, Reset: depth - b.level}
}

func TestEachClientHasATokenBucketOfItsOwn(t *testing.T) {
	tests := []struct {
		about           string
		config          limit.Config
		interval, depth time.Duration
	}{
		{"one at a time", limit.Config{Rate: 8, Burst: 1}, 125 * time.Millisecond, 125 * time.Millisecond},
		{"a burst", limit.Config{Rate: 8, Burst: 20}, 125 * time.Millisecond, 2500 * time.Millisecond},
		{"less than one per second", limit.Config{Rate: 0.5, Burst: 3}, 2 * time.Second, 6 * time.Second},
		{"a rate that needs rounding", limit.Config{Rate: 3, Burst: 6}, 333_333_334, 2_000_000_004},
		{"the highest rate", limit.Config{Rate: 1e6, Burst: 5}, time.Microsecond, 5 * time.Microsecond},
	}
	for _, tt := range tests {
		t.Run(tt.about, func(t *testing.T) {
			l := newLimiter(t, tt.config)
			now := time.Now()
			clients := [500]bucket{}
			for i := range clients {
				clients[i] = bucket{tt.depth, now}
			}
			for range 20_000 {
				now = now.Add(rand.N(tt.interval / time.Duration(len(clients)) * 2))
				// some clients exceed the limit, some do not
				n := int(float64(len(clients)) * rand.Float64() * rand.Float64())
				want, got := clients[n].allow(now, tt.interval, tt.depth), l.Allow(network(uint32(n)), now)
				if got != want { // not require, which uses reflection: this runs 100,000 times
					require.Equal(t, want, got)
				}
			}
		})
	}
}

// requireShares checks the limit of Allow for the times of a client's allowed
// requests, window by window.
func requireShares(t testing.TB, c limit.Config, allowed []time.Duration) {
	t.Helper()
	slices.Sort(allowed)
	for i, from := range allowed {
		for j, to := range allowed[i:] {
			if float64(j+1) > float64(c.Burst)+c.Rate*(to-from).Seconds() {
				t.Fatalf("%d requests in %v, with a burst of %d and a rate of %v", j+1, to-from, c.Burst, c.Rate)
			}
		}
	}
}

// TestNoClientExceedsItsRate calls small limiters for many clients, with
// times in any order, so that buckets are replaced, return, and move while
// limiters grow.
func TestNoClientExceedsItsRate(t *testing.T) {
	tests := []struct {
		about         string
		maxKeys, keys int
	}{
		{"one set for five times the keys", 8, 40},
		{"one set in each shard", 512, 2000},
		{"shards that grow to four sets", 2048, 4000},
		{"shards that grow to 64 sets", 1 << 15, 4000},
	}
	for _, tt := range tests {
		t.Run(tt.about, func(t *testing.T) {
			c := limit.Config{Rate: 100, Burst: 3, MaxKeys: tt.maxKeys}
			for range 5 {
				l := newLimiter(t, c)
				start := time.Now()
				allowed := make([][]time.Duration, tt.keys)
				for i := range 10 * tt.keys {
					n := rand.IntN(tt.keys)
					at := time.Duration(i)*200*time.Millisecond/time.Duration(10*tt.keys) + rand.N(60*time.Millisecond)
					if l.Allow(network(uint32(n)), start.Add(at)).OK {
						allowed[n] = append(allowed[n], at)
					}
				}
				total := 0
				for _, a := range allowed {
					requireShares(t, c, a)
					total += len(a)
				}
				assert.GreaterOrEqual(t, total, c.Burst*min(tt.maxKeys, tt.keys), "all clients together get at least their bursts")
			}
		})
	}
}

// TestALateClockDoesNotRefillAReplacedBucket replaces the full buckets of some
// clients. When the limiter has grown it calls Allow for them with an earlier
// time, at which their buckets were not full yet.
func TestALateClockDoesNotRefillAReplacedBucket(t *testing.T) {
	const clients = 2000
	c := limit.Config{Rate: 100, Burst: 3, MaxKeys: 1 << 15}
	l := newLimiter(t, c)
	start := time.Now().Add(time.Second)
	full := start.Add(30 * time.Millisecond)
	for n := range uint32(clients) {
		for range c.Burst {
			require.True(t, l.Allow(network(n), start).OK)
		}
	}
	for n := range uint32(clients) {
		l.Allow(network(1<<20+n), full) // replaces a bucket
	}
	for n := range uint32(4 * clients) {
		l.Allow(network(1<<21+n), start) // grows the limiter
	}
	for n := range uint32(clients) {
		require.False(t, l.Allow(network(n), start).OK, "client %d", n)
	}
}

// FuzzShares reads calls as pairs of bytes: a client, and a step in time, which
// goes back if it is odd.
func FuzzShares(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0})
	f.Add([]byte{1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0, 8, 0, 9, 0, 1, 0, 9, 0})
	f.Add([]byte("a\x00b\x00c\x00d\x00e\x00f\x00g\x00h\x00i\xf0a\x01b\xf1a\x03a\x05a\x07"))
	f.Fuzz(func(t *testing.T, calls []byte) {
		c := limit.Config{Rate: 10, Burst: 2, MaxKeys: 1}
		l := newLimiter(t, c)
		start := time.Now()
		allowed := map[byte][]time.Duration{}
		at := time.Duration(0)
		for i := 0; i+1 < min(len(calls), 1000); i += 2 {
			step := time.Duration(calls[i+1]) * time.Millisecond
			if calls[i+1]%2 == 1 {
				step = -step
			}
			at = max(at+step, 0)
			who := calls[i]
			if l.Allow(network(uint32(who)), start.Add(at)).OK {
				allowed[who] = append(allowed[who], at)
			}
		}
		for _, a := range allowed {
			requireShares(t, c, a)
		}
	})
}

func TestConcurrentCallsDoNotMultiplyTokens(t *testing.T) {
	const clients, callers, burst = 3000, 8, 5
	l := newLimiter(t, limit.Config{Rate: 1, Burst: burst})
	now := time.Now()
	var allowed [callers][clients]int
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for range burst {
				for n := range clients {
					if l.Allow(network(uint32(n)), now).OK {
						allowed[c][n]++
					}
				}
			}
		})
	}
	wg.Wait()
	for n := range clients {
		sum := 0
		for c := range callers {
			sum += allowed[c][n]
		}
		require.Equal(t, burst, sum, "client %d", n)
	}
}

func TestAllowAllocatesNothing(t *testing.T) {
	l := newLimiter(t, limit.Config{Rate: 1, Burst: 2, MaxKeys: 4096})
	now := time.Now()
	for n := range uint32(100_000) { // until it has its full size
		l.Allow(network(n), now)
	}
	n := uint32(1 << 20)
	assert.Zero(t, testing.AllocsPerRun(1000, func() { n++; l.Allow(network(n), now) }), "new clients with a full table")
	now = now.Add(time.Hour)
	assert.Zero(t, testing.AllocsPerRun(1000, func() { n++; l.Allow(network(n), now) }), "new clients with an expired table")
	assert.Zero(t, testing.AllocsPerRun(1000, func() { l.Allow(network(n), now) }), "one client, allowed and refused")
	assert.False(t, l.Allow(network(n), now).OK)
	assert.Zero(t, testing.AllocsPerRun(1000, func() { l.Allow(netip.AddrFrom4([4]byte{192, 0, 2, 1}), now) }), "IPv4")
}
