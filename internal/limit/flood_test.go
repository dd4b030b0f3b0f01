package limit_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/limit"
)

const million = 1_000_000

// held returns the bytes of heap in use.
func held() int64 {
	runtime.GC()
	runtime.GC() // objects in a sync.Pool survive the first one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestALimiterWithFewClientsUsesLittleMemory(t *testing.T) {
	tests := []struct {
		about   string
		clients uint32
		most    int64
	}{
		{"no clients", 0, 8 << 10},
		{"ten clients", 10, 10 << 10},
		{"a thousand clients", 1000, 64 << 10},
	}
	for _, tt := range tests {
		t.Run(tt.about, func(t *testing.T) {
			var many [100]*limit.Limiter // so many that other allocations do not matter
			before := held()
			now := time.Now()
			for i := range many {
				many[i] = newLimiter(t, limit.Config{Rate: 1, Burst: 10})
				for n := range tt.clients {
					many[i].Allow(network(n), now)
				}
			}
			assert.LessOrEqual(t, (held()-before)/int64(len(many)), tt.most)
			runtime.KeepAlive(&many)
		})
	}
}

func TestClientsThatSendRarelyUseLittleMemory(t *testing.T) {
	before := held()
	l := newLimiter(t, limit.Config{Rate: 10, Burst: 10})
	now := time.Now()
	for n := range uint32(100_000) {
		now = now.Add(10 * time.Millisecond)
		l.Allow(network(n), now)
	}
	assert.LessOrEqual(t, held()-before, int64(256<<10))
	runtime.KeepAlive(l)
}

// One request comes from each of a million networks. Meanwhile one client stays
// below its limit, and another is far above it. The first must not notice the
// flood, and the second must not gain.
func TestAMillionClientsDoNotAffectAClientBelowItsLimit(t *testing.T) {
	const rate, burst = 10, 20
	tests := []struct {
		about   string
		maxKeys int
		lasts   time.Duration
		most    int64
	}{
		{"with room for all", 0, 10 * time.Second, 16<<20 + 256<<10},
		{"with room for one in 250", 4096, 100 * time.Second, 64<<10 + 256<<10},
	}
	for _, tt := range tests {
		t.Run(tt.about, func(t *testing.T) {
			before := held()
			l := newLimiter(t, limit.Config{Rate: rate, Burst: burst, MaxKeys: tt.maxKeys})
			start := time.Now()
			good, bad, refused, gained := network(1<<31), network(1<<31+1), 0, 0
			asked := time.Duration(0)
			for n := range uint32(million) {
				at := tt.lasts / million * time.Duration(n)
				now := start.Add(at)
				l.Allow(network(n), now)
				if n%100 == 0 && l.Allow(bad, now).OK {
					gained++
				}
				if at >= asked {
					asked += 200 * time.Millisecond
					if !l.Allow(good, now).OK {
						refused++
					}
				}
			}
			assert.Zero(t, refused, "requests of the good client")
			assert.LessOrEqual(t, gained, burst+int(rate*tt.lasts.Seconds()), "requests of the bad client")
			assert.GreaterOrEqual(t, gained, int(rate*tt.lasts.Seconds()), "requests of the bad client")
			assert.LessOrEqual(t, held()-before, tt.most)
			runtime.KeepAlive(l)
		})
	}
}

// The flood is ten times the requests that all buckets together allow. A new
// client then has the same chance as the flood, the total is limited, and all
// is normal when the flood ends.
func TestAFloodBeyondMaxKeysIsLimitedAndLeavesNewClientsAChance(t *testing.T) {
	const (
		maxKeys, rate, burst = 1024, 1, 5
		flood, lasts         = 100_000, 10 * time.Second
		good                 = 200
	)
	l := newLimiter(t, limit.Config{Rate: rate, Burst: burst, MaxKeys: maxKeys})
	start := time.Now()
	served, total := 0, 0
	for n := range uint32(flood) {
		now := start.Add(lasts / flood * time.Duration(n))
		if l.Allow(network(n), now).OK {
			total++
		}
		// each good client sends one request per second
		if n%50 == 0 && l.Allow(network(1<<31+n/50%good), now).OK {
			served++
		}
	}
	const asked = flood / 50
	assert.LessOrEqual(t, total+served, maxKeys*(burst+int(rate*lasts.Seconds())))
	assert.GreaterOrEqual(t, total+served, maxKeys*int(rate*lasts.Seconds()))
	assert.Greater(t, float64(served)/asked, 0.5*float64(total)/flood)

	after := start.Add(lasts + burst*time.Second/rate)
	for n := range uint32(good) {
		assert.True(t, l.Allow(network(1<<31+n), after).OK)
	}
}
