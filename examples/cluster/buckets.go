package cluster

import (
	"sync"
	"time"

	"github.com/hostproxy/hostproxy"
)

// maxBuckets limits the buckets of one process, of about 100 bytes each.
const maxBuckets = 1 << 16

// buckets are token buckets in memory, used while Redis is away. For each
// bucket, the time at which it is full again is stored.
type buckets struct {
	interval time.Duration // time until one token is added
	empty    time.Duration // time until an empty bucket is full

	mu   sync.Mutex
	full map[string]time.Time
}

// newBuckets returns buckets that get a token every interval microseconds.
func newBuckets(interval float64, burst int) *buckets {
	one := time.Duration(interval * 1000)
	return &buckets{interval: one, empty: one * time.Duration(burst), full: map[string]time.Time{}}
}

// take takes a token from the bucket of key.
func (b *buckets) take(key string, now time.Time) hostproxy.Quota {
	b.mu.Lock()
	defer b.mu.Unlock()
	full := b.full[key]
	if full.Before(now) {
		full = now
	}
	next := full.Add(b.interval)
	if wait := next.Sub(now) - b.empty; wait > 0 {
		return hostproxy.Quota{Retry: wait, Reset: full.Sub(now)}
	}
	if _, known := b.full[key]; !known && len(b.full) >= maxBuckets {
		b.makeRoom(now)
	}
	b.full[key] = next
	return hostproxy.Quota{OK: true, Remaining: int((b.empty - next.Sub(now)) / b.interval), Reset: next.Sub(now)}
}

// makeRoom looks at some buckets and drops the full ones, and at least one. mu
// is held.
func (b *buckets) makeRoom(now time.Time) {
	const some = 100
	seen, last := 0, ""
	for key, full := range b.full {
		if seen++; seen > some {
			break
		}
		last = key
		if !full.After(now) {
			delete(b.full, key)
		}
	}
	delete(b.full, last)
}
