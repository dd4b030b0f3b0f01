package certs

import (
	"context"
	"crypto/tls"
	"math/big"
	"sync/atomic"
	"time"
)

// A host is a name with a managed certificate, and its way through life: load
// from storage, issue if there is none or it is due, keep, and load again when
// the next renewal is. It has at most one job, so its steps never run twice at
// a time.
//
// There may be a million of them, most of them at rest: what only a host in
// motion needs is in its motion, and what is known of its certificate is packed
// in a summary.
type host struct {
	manager *Manager
	name    string
	cert    atomic.Pointer[tls.Certificate] // what handshakes get; nil if not in memory
	marks   atomic.Uint32                   // what handshakes note: used and recent
	hash    uint32                          // of the name, in the table; under the manager's lock

	// The manager's lock guards the rest, but for job, which its queue's
	// guards.
	behind  int32 // the place of the next host in its chain, from 1; 0 for none; likewise
	state   state
	kind    kind
	gone    bool     // no longer wanted
	queue   *queue   // where job was put last
	job     job      // what comes next
	summary *summary // of the certificate in use; nil if none
	motion  *motion  // nil at rest
}

// The marks of a host.
const (
	used   = 1 << iota // by a handshake, since the last attempt to issue
	recent             // by a handshake, since the memory's hand went by
	dozing             // due, and the next handshake is to say so; see doze
)

// A state is one of those that Status names.
type state uint8

const (
	pending state = iota
	valid
	failed
)

var stateNames = [...]string{pending: Pending, valid: Valid, failed: Failed} // read-only

// A kind says how a host came to be, and what becomes of it.
type kind uint8

const (
	ofRoute  kind = iota // a route names it
	lazy                 // a route names it, and a handshake has yet to ask for it
	onDemand             // a handshake asked for it, and the policy allowed it
	// a route names it, and a wildcard's certificate will do when its own is
	// due
	covered
)

// A motion is what a host needs while it has none of its ease: a job runs, a
// handshake waits, or something failed.
type motion struct {
	cancel context.CancelFunc // ends the job under way; nil if none is
	then   plan               // after that
	moved  chan struct{}      // closed at the next outcome; nil if nothing waits for it

	awaited bool // a handshake waits
	forced  bool // the program wants another certificate, due or not
	rushed  bool // and has said so while a job ran

	spare     *stored   // what is served if the certificate in use expires; nil if there is nothing
	lapsed    bool      // that of a wildcard has expired, and the hosts below were looked at
	reloading bool      // its certificate, which had to leave the memory, is being read
	unread    error     // why it could not be; nil if it could
	unreadAt  time.Time // when that was known
	lost      bool      // it is not in storage any more

	vouched   time.Time // when the policy has allowed it, if this process asked
	undecided bool      // the program has not said yet how its TLS is done
	again     bool      // the job under way is of no use any more: load after it

	unusable int // damaged reads in a row
	stalls   int // failures of storage in a row
	unknown  int // answers of a policy that does not know, in a row
	attempts int // that failed, in a row
	kept     int // preflights in a row that kept its order back
	err      error
	why      failure   // of what kind err is
	looked   time.Time // when err came
	told     uint8     // kinds of failure that were reported, a bit each, since the last success
	next     time.Time // the next try after err; zero if only a change of the program helps
}

// A failure is what a host's error came from.
type failure uint8

const (
	ofIssue   failure = iota // an issuer
	ofStorage                // storage failed: nothing is known of the host
	// storage failed, when a CA may have been asked already: not to be repeated
	// every second
	ofOrder
	held        // nothing has failed, but a CA may not be asked yet
	ofPolicy    // the policy does not know
	ofPreflight // a CA would not reach the host
	ofChoice    // the program does not say how TLS is done for it
	hopeless    // what the program has set cannot work
)

// A plan is a step to come.
type plan struct {
	queue *queue
	step  step
	due   time.Time
}

// A summary is what is known of a certificate in use, packed. It never changes
// once it is in use, but for its slot.
type summary struct {
	by                           *authority // whose place in storage it came from
	notBefore, notAfter, renewAt int64      // unix seconds
	slot                         int32      // in the manager's memory, while the host has cert
	// when it was ordered here, in unix seconds; 0 if it was not
	ordered   uint32
	serialLen uint8
	serial    [20]byte // RFC 5280, 4.1.2.2: no more than that
}

func newSummary(s *stored) *summary {
	leaf := s.cert.Leaf
	y := &summary{by: s.by, notBefore: leaf.NotBefore.Unix(), notAfter: leaf.NotAfter.Unix(), renewAt: s.renewAt().Unix()}
	serial := leaf.SerialNumber.Bytes()
	y.serialLen = uint8(copy(y.serial[:], serial))
	if s.ordered {
		y.ordered = uint32(time.Now().Unix())
	}
	return y
}

// number returns the serial number. y may be nil.
func (y *summary) number() *big.Int {
	if y == nil {
		return nil
	}
	return new(big.Int).SetBytes(y.serial[:y.serialLen])
}

// same reports whether two summaries are of one certificate.
func (y *summary) same(z *summary) bool {
	return y != nil && z != nil && y.serialLen == z.serialLen && y.serial == z.serial && y.notAfter == z.notAfter
}

// expired reports whether the certificate's life is over.
func (y *summary) expired(now time.Time) bool { return now.Unix() >= y.notAfter }

// move returns the host's motion, and begins one at need. The manager's lock is
// held.
func (h *host) move() *motion {
	if h.motion == nil {
		h.motion = new(motion)
	}
	return h.motion
}

// dropMotion ends the motion if nothing needs it. The manager's lock is held.
func (h *host) dropMotion() {
	if m := h.motion; m != nil && m.cancel == nil && m.moved == nil && !m.forced && !m.reloading && m.unread == nil && m.spare == nil && !m.lapsed &&
		(h.state == valid || h.unasked() || m.blank()) {
		h.motion = nil
	}
}

// blank reports whether nothing is to be remembered: nothing has failed, and
// nothing waits.
func (m *motion) blank() bool {
	return m.err == nil && !m.awaited && !m.undecided && !m.again && m.attempts+m.unusable+m.stalls+m.kept+m.unknown == 0 && m.told == 0
}

// unasked reports whether no handshake has asked yet for a host that wants no
// certificate before. The manager's lock is held for reading.
func (h *host) unasked() bool {
	m := h.motion
	return h.kind == lazy && h.summary == nil && (m == nil || m.err == nil && !m.awaited)
}

// outcome returns what is closed at the next outcome. The manager's lock is
// held.
func (h *host) outcome() <-chan struct{} {
	m := h.move()
	if m.moved == nil {
		m.moved = make(chan struct{})
	}
	return m.moved
}

// settle tells what waits for h that there is an outcome. The manager's lock is
// held.
func (h *host) settle() {
	if m := h.motion; m != nil && m.moved != nil {
		close(m.moved)
		m.moved = nil
	}
	h.manager.settle()
}

// mark notes that a handshake wants h, and writes only if that is new. The
// first one wakes a host that dozes. The manager's lock must not be held.
func (h *host) mark() {
	if h.marks.Load() != used|recent && h.marks.Swap(used|recent)&dozing != 0 {
		h.manager.mu.Lock()
		defer h.manager.mu.Unlock()
		h.wake()
	}
}

// chain returns the chain of issuers for h.
func (h *host) chain() *chain { return h.manager.routing.chainOf(h.name) }

// put puts the host's next job into q. A host that has gone gets none: that is
// the tombstone which keeps a certificate from coming back. The manager's lock
// is held.
func (h *host) put(q *queue, s step, due time.Time) {
	if h.gone {
		return
	}
	if h.queue != nil && h.queue != q {
		h.queue.drop(h)
	}
	h.queue = q
	j := job{due: inTime(due).UnixNano(), step: s}
	j.urgency, j.rank = h.urgency(due)
	if h.summary != nil {
		j.ends = h.summary.notAfter * int64(time.Second)
	}
	q.put(h, j)
}

// urgency says how urgent a job is that will be due at a time. The manager's
// lock is held.
func (h *host) urgency(due time.Time) (urgency, rank) {
	y, m := h.summary, h.motion
	failed := m != nil && (m.attempts > 0 || m.err != nil)
	switch {
	case y != nil && due.Unix() >= y.notAfter-int64(float64(y.notAfter-y.notBefore)*renewalRatio):
		if failed {
			return again, 0
		}
		return renewing, 0
	case failed:
		return retrying, 0
	case m != nil && m.awaited:
		return wanted, awaited
	case y != nil:
		return wanted, early
	}
	return wanted, first
}

// status describes h. The manager's lock is held.
func (h *host) status() Status {
	s := Status{Host: h.name, State: stateNames[h.state], OnDemand: h.kind == onDemand}
	if y := h.summary; y != nil {
		s.Issuer, s.Serial = y.by.key, y.number()
		s.NotBefore, s.NotAfter = time.Unix(y.notBefore, 0), time.Unix(y.notAfter, 0)
		s.RenewAt = time.Unix(y.renewAt, 0)
	}
	if m := h.motion; m != nil {
		s.Attempts, s.Err, s.NextTry = m.attempts, m.err, m.next
	}
	return s
}
