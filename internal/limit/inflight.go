package limit

import (
	"hash/maphash"
	"sync"
	"time"
)

// An inFlight counts how many requests of each key are in flight, up to a
// limit. A key without requests takes no memory.
//
// Hot path: take and free each hold one lock of many for an access to a small
// map, and allocate nothing while that does not grow.
type inFlight struct {
	most   int
	counts [flightShards]flightShard
}

const (
	flightShards = 64   // a power of two
	keptKeys     = 1024 // a map that has held more is dropped once empty: maps do not shrink
)

// A flightShard has the counts of some of the keys.
type flightShard struct {
	mu    sync.Mutex
	n     map[uint64]int
	large bool     // n has held more than keptKeys
	_     [40]byte // fills a cache line
}

func newInFlight(most int) *inFlight { return &inFlight{most: most} }

// shard returns the shard of a key. It mixes all bits of the key, since keys of
// clients may differ in any.
func (f *inFlight) shard(key uint64) *flightShard {
	return &f.counts[key*0x9e37_79b9_7f4a_7c15>>58&(flightShards-1)]
}

// take counts a request in, unless the limit is reached.
func (f *inFlight) take(key uint64) bool {
	s := f.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.n[key]
	if n >= f.most {
		return false
	}
	if s.n == nil {
		s.n = make(map[uint64]int)
	}
	s.n[key] = n + 1
	s.large = s.large || len(s.n) > keptKeys
	return true
}

// Pauses of takeSoon, which doubles them: 6 ms in total.
const (
	firstPause = 50 * time.Microsecond
	lastPause  = 64 * firstPause
)

// takeSoon is take that waits a little for room. A place is given back after
// the client got its response, so its next request may arrive too early. Over
// HTTP/2, one in ten did.
func (f *inFlight) takeSoon(key uint64) bool {
	for pause := firstPause; !f.take(key); pause *= 2 {
		if pause > lastPause {
			return false
		}
		time.Sleep(pause)
	}
	return true
}

// free counts a request out.
func (f *inFlight) free(key uint64) {
	s := f.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.n[key]; n > 1 {
		s.n[key] = n - 1
		return
	}
	delete(s.n, key)
	if s.large && len(s.n) == 0 {
		s.n, s.large = nil, false
	}
}

// of returns how many requests of key are in flight.
func (f *inFlight) of(key uint64) int {
	s := f.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n[key]
}

// A Slot is the place of one request in flight. The zero Slot is no place.
type Slot struct {
	of  *inFlight
	key uint64
}

// Held reports whether s is a place.
func (s Slot) Held() bool { return s.of != nil }

// Free gives the place back. It must be called once.
func (s Slot) Free() {
	if s.of != nil {
		s.of.free(s.key)
	}
}

// textKey hashes text.
func textKey(seed maphash.Seed, text string) uint64 { return maphash.String(seed, text) }

// Slots are the places of one exchange, each from another rule.
type Slots []Slot

// Free gives the places back.
func (s Slots) Free() {
	for _, slot := range s {
		slot.Free()
	}
}
