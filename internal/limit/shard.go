package limit

import (
	"sync"
	"time"
)

// ways is the number of buckets in a set: the keys fill one cache line, the
// times the next.
const ways = 8

// A set holds the buckets of keys that hash to it, each as the time when it
// will be full.
//
// The bucket of a key that is in no slot is full no later than any bucket in
// the set. That is true for a new set. It stays true because a new key replaces
// the bucket that is full first, and no time in a set ever decreases. Slots
// that were never used come last, and are full no later than the others, so
// that an unused slot may be taken for one of key 0.
type set struct {
	keys [ways]uint64
	full [ways]time.Duration
}

// slot returns the slot of key k, or the one that k replaces: the first to be
// full.
func (t *set) slot(k uint64) int {
	for i := range ways {
		if t.keys[i] == k {
			return i
		}
	}
	first := 0
	for i := 1; i < ways; i++ {
		if t.full[i] < t.full[first] {
			first = i
		}
	}
	return first
}

// A shard is a part of the sets, with its own lock.
type shard struct {
	mu   sync.Mutex
	last time.Duration // the latest time at which a bucket was replaced
	sets []set         // a power of two; nil before the first use
	_    [24]byte      // fills a cache line
}

// slot returns the set and the slot for key k with hash h. It grows the shard,
// if it may, rather than replace a bucket that is not full. The caller holds
// mu.
func (s *shard) slot(l *Limiter, k, h uint64, at time.Duration) (*set, int) {
	if s.sets == nil {
		s.sets = make([]set, 1)
	}
	for {
		t := s.set(h)
		i := t.slot(k)
		if t.keys[i] == k {
			return t, i
		}
		s.last = max(s.last, at)
		if t.full[i] <= at || len(s.sets) == l.maxSets {
			return t, i
		}
		s.grow(l)
	}
}

// owed returns the time until the bucket of key k with hash h is full, and
// changes nothing. The caller holds mu.
func (s *shard) owed(l *Limiter, k, h uint64, at time.Duration) time.Duration {
	if s.sets == nil {
		return 0
	}
	t := s.set(h)
	i := t.slot(k)
	if t.keys[i] != k && len(s.sets) < l.maxSets {
		return 0 // there is room for a new bucket, which is full
	}
	return max(t.full[i], at) - at
}

// set returns the only set in which a key with hash h may be.
func (s *shard) set(h uint64) *set {
	return &s.sets[h>>32&uint64(len(s.sets)-1)]
}

// grow doubles the number of sets. While a shard can grow, only full buckets
// are replaced. Unused slots get the latest time at which one was, so that the
// invariant of set holds even if the clocks of some callers are late.
func (s *shard) grow(l *Limiter) {
	old := s.sets
	s.sets = make([]set, 2*len(old))
	for i := range s.sets {
		for j := range ways {
			s.sets[i].full[j] = s.last
		}
	}
	for i := range old {
		for j, k := range old[i].keys {
			if full := old[i].full[j]; full > s.last {
				t := s.set(l.hash(k))
				free := t.slot(k)
				t.keys[free], t.full[free] = k, full
			}
		}
	}
}
