package limit_test

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/hostproxy/hostproxy/internal/limit"
)

// A bucketMap is the usual simple limiter: a map of token buckets with a lock.
// It never forgets a client.
type bucketMap struct {
	mu sync.Mutex
	m  map[netip.Addr]*mapBucket
}

// A mapBucket gets ten tokens per second, and has at most twenty.
type mapBucket struct {
	tokens float64
	last   time.Time
}

func (b *mapBucket) take(now time.Time) bool {
	b.tokens, b.last = min(20, b.tokens+10*now.Sub(b.last).Seconds()), now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

func (r *bucketMap) allow(a netip.Addr, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.m[a]
	if l == nil {
		l = &mapBucket{20, now}
		r.m[a] = l
	}
	return l.take(now)
}

// BenchmarkAllow calls with a clock that advances a microsecond per call.
func BenchmarkAllow(b *testing.B) {
	type allow = func(netip.Addr, time.Time) bool
	impls := []struct {
		name string
		make func() allow
	}{
		{"hostproxy", func() allow {
			l := newLimiter(b, limit.Config{Rate: 10, Burst: 20})
			return func(a netip.Addr, now time.Time) bool { return l.Allow(a, now).OK }
		}},
		{"map", func() allow { return (&bucketMap{m: map[netip.Addr]*mapBucket{}}).allow }},
	}
	// Each goroutine has its own sequence of keys, from a full-period
	// generator.
	walk := func(f allow, seed, mask uint32) func() {
		now, x := time.Now(), seed
		return func() {
			now = now.Add(time.Microsecond)
			x = x*1664525 + 1013904223
			f(network(x>>8&mask), now)
		}
	}
	for _, keys := range []struct {
		name string
		mask uint32
	}{{"1", 0}, {"1048576", 1<<20 - 1}} {
		for _, impl := range impls {
			b.Run("keys="+keys.name+"/goroutines=1/impl="+impl.name, func(b *testing.B) {
				b.ReportAllocs()
				step := walk(impl.make(), 1, keys.mask)
				for b.Loop() {
					step()
				}
			})
			b.Run("keys="+keys.name+"/goroutines=2/impl="+impl.name, func(b *testing.B) {
				b.ReportAllocs()
				f := impl.make()
				b.RunParallel(func(pb *testing.PB) {
					step := walk(f, uint32(time.Now().UnixNano()), keys.mask)
					for pb.Next() {
						step()
					}
				})
			})
		}
	}
}
