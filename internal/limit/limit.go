// Package limit limits how often clients may make requests, and how many at
// once.
//
// Each client has a token bucket with at most Burst tokens and Rate new ones
// per second. Each request takes one token. A Limiter holds the buckets of a
// million clients in limited memory, and no hostile client gets more than its
// share.
//
//   - limit.go, shard.go, key.go: buckets in limited memory
//   - config.go, decision.go: the input and the output
//   - rule.go: a limit, with our own limiter or the program's
//   - subject.go: the key by which requests are counted
//   - inflight.go: limits of requests in flight
//   - queue.go: waiting for room
package limit

import (
	"hash/maphash"
	"math/bits"
	"net/netip"
	"time"
)

// Hot path: Allow takes one lock of many, touches the two cache lines of one
// set and allocates nothing.

// maxShards is how many calls can run in parallel. A power of two.
const maxShards = 64

// A Limiter allows each client its share of requests. It has no goroutine and
// no timer. Its memory grows with the number of buckets that are not full at
// the same time, up to 16 bytes times MaxKeys, and does not shrink.
//
// It keeps one time per client: when its bucket will be full. A bucket that is
// full again need not be kept, so a new client replaces it. If no bucket of
// eight is full, the new client takes over the fullest, with only the tokens
// that it has. So a client never gains by being forgotten. The price is that in
// such a crowd, all new clients together are served only as fast as tokens come
// back: MaxKeys × Rate; see [Config].
type Limiter struct {
	interval time.Duration // time for one new token
	depth    time.Duration // time in which an empty bucket fills
	start    time.Time     // times are counted from here
	seed     maphash.Seed  // secret, so that a client cannot choose whose bucket it replaces
	maxSets  int           // per shard
	shards   []shard       // a power of two
}

// New returns a Limiter with full buckets. The error is that of c.Validate.
func New(c Config) (*Limiter, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	sets := powerOfTwo((c.maxKeys() + ways - 1) / ways)
	shards := min(sets, maxShards)
	return &Limiter{
		interval: c.interval(),
		depth:    c.depth(),
		start:    time.Now(),
		seed:     maphash.MakeSeed(),
		maxSets:  sets / shards,
		shards:   make([]shard, shards),
	}, nil
}

// Allow takes a token from the bucket of a client, if there is one. A refused
// request costs nothing, so a client that does not stop is still served at
// Rate.
//
// Over any window a client gets at most Burst + Rate × window requests,
// regardless of the order of calls. now should have a monotonic clock reading,
// as from time.Now; a time before New counts as that of New. Allow may be
// called concurrently.
//
// A client is an IPv4 address, or the /64 of an IPv6 address, since one client
// can use all of a /64. The IPv4-mapped, NAT64 (64:ff9b::/96) and 6to4 forms of
// an IPv4 address count as that address. All clients without a valid address,
// as over a Unix socket, count as one client, together with ::/64.
func (l *Limiter) Allow(client netip.Addr, now time.Time) Decision { return l.allow(Key(client), now) }

// allow is Allow for the key k.
func (l *Limiter) allow(k uint64, now time.Time) Decision {
	at := max(now.Sub(l.start), 0)
	h := l.hash(k)
	s := &l.shards[h&uint64(len(l.shards)-1)]

	s.mu.Lock()
	t, i := s.slot(l, k, h, at)
	owed := max(t.full[i], at) - at
	ok := owed+l.interval <= l.depth
	if ok {
		owed += l.interval
		t.keys[i], t.full[i] = k, at+owed
	}
	s.mu.Unlock()

	return l.decision(ok, owed)
}

// Peek returns what Allow would decide, but takes no token: Remaining includes
// the one that Allow would take. It may be called concurrently.
func (l *Limiter) Peek(client netip.Addr, now time.Time) Decision { return l.peek(Key(client), now) }

// peek is Peek for the key k.
func (l *Limiter) peek(k uint64, now time.Time) Decision {
	at := max(now.Sub(l.start), 0)
	h := l.hash(k)
	s := &l.shards[h&uint64(len(l.shards)-1)]

	s.mu.Lock()
	owed := s.owed(l, k, h, at)
	s.mu.Unlock()

	return l.decision(owed+l.interval <= l.depth, owed)
}

// hash returns a hash of k. Its low bits choose the shard, and its high bits
// the set.
func (l *Limiter) hash(k uint64) uint64 {
	return maphash.Comparable(l.seed, k)
}

// decision returns the Decision for a bucket that will be full in the time
// owed. owed may exceed depth after calls with times that run backwards.
func (l *Limiter) decision(ok bool, owed time.Duration) Decision {
	spare := l.depth - owed
	remaining := max(spare, 0) / l.interval
	return Decision{ok, int(remaining), (remaining+1)*l.interval - spare, owed}
}

// powerOfTwo returns the least power of two that is at least n. n is positive.
func powerOfTwo(n int) int {
	return 1 << bits.Len(uint(n-1))
}
