package limit_test

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/hostproxy/hostproxy/internal/limit"
)

// A rateMap is what people write: a map of golang.org/x/time/rate behind a lock. It never forgets.
type rateMap struct {
	mu sync.Mutex
	m  map[netip.Addr]*rate.Limiter
}

func (r *rateMap) allow(a netip.Addr, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.m[a]
	if l == nil {
		l = rate.NewLimiter(10, 20)
		r.m[a] = l
	}
	return l.AllowN(now, 1)
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
		{"map", func() allow { return (&rateMap{m: map[netip.Addr]*rate.Limiter{}}).allow }},
	}
	// Each goroutine walks its own way through the keys, by a full-period generator.
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
