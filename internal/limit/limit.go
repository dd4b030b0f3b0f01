// Package limit says which clients have asked enough for now.
//
// Each client has a token bucket: Burst tokens at most, Rate new ones per
// second, one for each request. A Limiter holds the buckets of a million
// clients in bounded memory, and whatever hostile clients do, none gets more
// than its share.
//
//   - limit.go, shard.go, key.go: buckets in bounded memory
//   - config.go, decision.go: what goes in and comes out
//   - rule.go: a limit, and the limiter of a program
//   - subject.go: what requests are counted by
//   - inflight.go: how many requests of each are in flight
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

// maxShards is how many calls can be under way at once. A power of two.
const maxShards = 64

// A Limiter allows each client its share of requests. It has no goroutine and
// no timer. Its memory grows with the number of clients that are short of
// tokens at once, to 16 bytes for each of MaxKeys at most, and does not shrink.
//
// It keeps one time per client: when its bucket will be full. A bucket that is
// full again need not be kept, so it gives way to a newcomer's. Where all that
// are kept are short of tokens, the newcomer takes over the fullest of eight,
// with no more tokens than it has. So a client never gains by being forgotten.
// The price of such a crowd is that newcomers are served only as fast as tokens
// come back, all together at MaxKeys × Rate; see [Config].
type Limiter struct {
	interval time.Duration // in which one token comes
	depth    time.Duration // in which an empty bucket fills
	start    time.Time     // times are counted from here
	seed     maphash.Seed  // secret, so that nobody can choose whom to crowd out
	maxSets  int           // per shard
	shards   []shard       // a power of two
}

// New returns a Limiter with all buckets full. The error is that of c.Validate.
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

// Allow takes a token from the bucket of a client, if it has one. A refused
// request costs nothing, so that who keeps asking is still served at Rate.
//
// Over any window a client gets at most Burst + Rate × window requests, in
// whatever order calls come. now should have a monotonic clock reading, as
// time.Now's result does; a time before New counts as that of New. Allow may be
// called concurrently.
//
// One client is an IPv4 address, or the /64 of an IPv6 address, whose holder
// can use all of it. An IPv4 address counts as itself in its IPv4-mapped, NAT64
// (64:ff9b::/96) and 6to4 forms too. All clients without a valid address, as
// over a Unix socket, are one, together with ::/64: nobody is exempt for having
// no address.
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

// Peek returns what Allow would decide, and takes no token: Remaining counts
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

// hash spreads keys over shards, by its low bits, and over the sets of a shard,
// by its high ones.
func (l *Limiter) hash(k uint64) uint64 {
	return maphash.Comparable(l.seed, k)
}

// decision puts in tokens what a bucket that will be full in the time owed can
// give. After calls with times that run backwards it may owe more than it
// holds.
func (l *Limiter) decision(ok bool, owed time.Duration) Decision {
	spare := l.depth - owed
	remaining := max(spare, 0) / l.interval
	return Decision{ok, int(remaining), (remaining+1)*l.interval - spare, owed}
}

// powerOfTwo returns the least power of two that is not below n, which is
// positive.
func powerOfTwo(n int) int {
	return 1 << bits.Len(uint(n-1))
}
