package balance

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// cacheLine is the unit, in bytes, that processors fetch and invalidate.
const cacheLine = 64

// A Node has the state of one target that policies read. The zero value is in
// service, idle and unlimited. It may be part of any number of sets. Its
// methods may be called concurrently; it must not be copied.
type Node struct {
	// Every exchange writes count. Only the fields that a pick reads with it
	// share its cache line, and nothing else does, whatever struct the node is
	// embedded in.
	_     [cacheLine]byte
	count atomic.Int64  // exchanges in flight, plus closed while suspended until Resume
	limit atomic.Int64  // 0 means none
	ready atomic.Uint64 // the instant from which the node has its whole share
	// the share grows during this time before ready; 0 means no share until
	// ready
	rise atomic.Int64
	mu   sync.Mutex // serialises writers of ready and rise
	_    [cacheLine + 24]byte
}

// closed is added to the count of a node that is suspended until Resume, so
// that a search for the lowest count does not find it.
const (
	closedBit = 26 // no machine has that many exchanges in flight
	closed    = 1 << closedBit
)

// Begin counts an exchange in.
func (n *Node) Begin() { n.count.Add(1) }

// TryBegin counts an exchange in unless the node is at its limit.
func (n *Node) TryBegin() bool {
	n.Begin()
	if limit := n.limit.Load(); limit == 0 || n.InFlight() <= limit {
		return true
	}
	n.End()
	return false
}

// End counts an exchange out.
func (n *Node) End() { n.count.Add(-1) }

// InFlight returns how many exchanges were counted in and not yet out.
func (n *Node) InFlight() int64 { return n.count.Load() << (64 - closedBit) >> (64 - closedBit) }

// SetLimit sets how many exchanges the node may have in flight; zero or less
// means no limit. A node at its limit is not picked. Exchanges in flight are
// not affected.
func (n *Node) SetLimit(limit int64) { n.limit.Store(max(0, limit)) }

// Suspend takes the node out of service until the given time; the zero time
// means until [Node.Resume]. After that time it is in service again with its
// whole share. A time in the past ends a suspension and a slow start.
func (n *Node) Suspend(until time.Time) {
	if until.IsZero() {
		n.set(never, 0)
	} else {
		n.set(at(until), 0)
	}
}

// Resume puts the node in service at now. Over the duration slow its share
// grows evenly from a tenth to the whole; zero or less means the whole share
// immediately. Another call restarts the growth.
func (n *Node) Resume(now time.Time, slow time.Duration) {
	if slow <= 0 {
		n.set(0, 0)
		return
	}
	ready := at(now)
	n.set(ready+min(instant(slow), never-ready), slow)
}

// set stores rise first. So a pick between the two stores sees a suspended node
// rising or a rising node suspended, and no third state.
func (n *Node) set(ready instant, rise time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	was, is := n.count.Load() > closed/2, ready == never && rise == 0
	n.rise.Store(int64(rise))
	n.ready.Store(uint64(ready))
	switch {
	case is && !was:
		n.count.Add(closed)
	case was && !is:
		n.count.Add(-closed)
	}
}

// Suspended reports whether the node is out of service at now.
func (n *Node) Suspended(now time.Time) bool { return !n.inService(at(now)) }

// Full reports whether the node is at its limit.
func (n *Node) Full() bool { return n.full() }

// full reports whether the node is at its limit.
func (n *Node) full() bool {
	limit := n.limit.Load()
	return limit != 0 && n.InFlight() >= limit
}

// inService reports whether the node has a share at now.
func (n *Node) inService(now instant) bool {
	return now >= instant(n.ready.Load()) || n.rise.Load() != 0
}

// whole is the share of a node in service that is not rising, and tenth the
// least share of one that is.
const (
	whole = 1000
	tenth = whole / 10
)

// share returns the part of its weight that the node has at now: whole, or less
// while it rises, or 0 while it is suspended.
func (n *Node) share(now instant) uint64 {
	if now >= instant(n.ready.Load()) {
		return whole
	}
	return n.rising(now)
}

// rising is share for a node that rises or is suspended. It is not inlined, to
// keep the loops small in which share is.
//
//go:noinline
func (n *Node) rising(now instant) uint64 {
	ready, rise := instant(n.ready.Load()), float64(n.rise.Load())
	switch {
	case now >= ready:
		return whole
	case rise == 0:
		return 0
	}
	return tenth + uint64((whole-tenth)*(1-min(1, float64(ready-now)/rise)))
}

// An instant is a time as one number, which can be compared, and stored
// atomically. The zero instant is before all others, so that the zero Node is
// in service.
type instant uint64

// never is after all other instants.
const never instant = math.MaxUint64

// epoch has a monotonic reading, which makes instants immune to changes of the
// wall clock. Read-only.
var epoch = time.Now()

func at(t time.Time) instant { return instant(t.Sub(epoch)) ^ 1<<63 }
