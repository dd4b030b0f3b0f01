package certs

import (
	"context"
	"crypto/tls"
	"math/big"
	"sync/atomic"
	"time"
)

// A host is a name with a managed certificate, and its life cycle: load from
// storage, issue if there is no certificate or renewal is due, keep it, and
// load again at the next renewal. It has at most one job, so its steps never
// run concurrently.
//
// There may be a million hosts, most of them idle. So the fields that only an
// active host needs are in its motion, and the facts about its certificate are
// packed in a summary.
type host struct {
	manager *Manager
	name    string
	cert    atomic.Pointer[tls.Certificate] // served to handshakes; nil if not in memory
	marks   atomic.Uint32                   // set by handshakes: used and recent
	hash    uint32                          // of the name, in the table; under the manager's lock

	// The manager's lock guards the rest, except job, which the queue's lock
	// guards.
	behind  int32 // position of the next host in the table's chain, from 1; 0 for none
	state   state
	kind    kind
	gone    bool     // no longer wanted
	queue   *queue   // queue that job was put into last
	job     job      // next job
	summary *summary // of the certificate in use; nil if none
	motion  *motion  // nil when idle
}

// The marks of a host.
const (
	used   = 1 << iota // a handshake came since the last attempt to issue
	recent             // a handshake came since memory's hand passed
	dozing             // renewal is due, and waits for the next handshake; see doze
)

// A state is one of the states of Status.
type state uint8

const (
	pending state = iota
	valid
	failed
)

var stateNames = [...]string{pending: Pending, valid: Valid, failed: Failed} // read-only

// A kind says why a host exists, and how it is treated.
type kind uint8

const (
	ofRoute  kind = iota // a route names it
	lazy                 // a route names it; it waits for the first handshake
	onDemand             // a handshake asked for it, and the policy allowed it
	// a route names it, and a wildcard's certificate replaces its own when that
	// is due
	covered
)

// A motion is what a host needs while it is not idle: a job runs, a handshake
// waits, or something failed.
type motion struct {
	cancel context.CancelFunc // cancels the running job; nil if none runs
	then   plan               // the step after that job
	moved  chan struct{}      // closed at the next outcome; nil if nothing waits for it

	awaited bool // a handshake waits
	forced  bool // the program has requested a new certificate, due or not
	rushed  bool // the request came while a job ran

	spare     *stored   // served if the certificate in use expires; nil if there is none
	lapsed    bool      // the wildcard's certificate expired; hosts below were scheduled
	reloading bool      // its certificate was evicted from memory and is being read again
	unread    error     // error of the last such read; nil if it succeeded
	unreadAt  time.Time // when that read ended
	lost      bool      // the certificate is no longer in storage

	vouched   time.Time // when the policy allowed it, if this process asked
	undecided bool      // the program has not returned its TLS settings yet
	again     bool      // the running job is obsolete: load after it

	unusable int // consecutive damaged reads
	stalls   int // consecutive failures of storage
	unknown  int // consecutive times that the policy could not tell
	attempts int // consecutive failed attempts
	kept     int // consecutive preflights that held back its order
	err      error
	why      failure   // kind of err
	looked   time.Time // time of err
	told     uint8     // kinds of failure reported since the last success, a bit each
	next     time.Time // next try after err; zero if only a change of the program helps
}

// A failure is the source of a host's error.
type failure uint8

const (
	ofIssue   failure = iota // an issuer
	ofStorage                // storage failed: the state of the host is unknown
	// storage failed, perhaps after a CA was contacted: must not be repeated
	// every second
	ofOrder
	held        // nothing has failed, but the CA must not be contacted yet
	ofPolicy    // the policy cannot tell
	ofPreflight // the CA could not reach the host
	ofChoice    // the program has returned no TLS settings for it
	hopeless    // the program's settings cannot work
)

// A plan is a future step.
type plan struct {
	queue *queue
	step  step
	due   time.Time
}

// A summary holds the facts about a certificate in use, packed. Once in use,
// only its slot changes.
type summary struct {
	by                           *authority // the authority under which it is stored
	notBefore, notAfter, renewAt int64      // unix seconds
	slot                         int32      // in the manager's memory, while the host has cert
	// when this process ordered it, in unix seconds; 0 if it did not
	ordered   uint32
	serialLen uint8
	serial    [20]byte // RFC 5280, 4.1.2.2: at most 20 octets
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

// same reports whether two summaries are of the same certificate.
func (y *summary) same(z *summary) bool {
	return y != nil && z != nil && y.serialLen == z.serialLen && y.serial == z.serial && y.notAfter == z.notAfter
}

// expired reports whether the certificate has expired.
func (y *summary) expired(now time.Time) bool { return now.Unix() >= y.notAfter }

// move returns the host's motion, and makes one if needed. The manager's lock
// is held.
func (h *host) move() *motion {
	if h.motion == nil {
		h.motion = new(motion)
	}
	return h.motion
}

// dropMotion removes the motion if nothing needs it. The manager's lock is
// held.
func (h *host) dropMotion() {
	if m := h.motion; m != nil && m.cancel == nil && m.moved == nil && !m.forced && !m.reloading && m.unread == nil && m.spare == nil && !m.lapsed &&
		(h.state == valid || h.unasked() || m.blank()) {
		h.motion = nil
	}
}

// blank reports whether the motion has nothing to remember: nothing failed and
// nothing waits.
func (m *motion) blank() bool {
	return m.err == nil && !m.awaited && !m.undecided && !m.again && m.attempts+m.unusable+m.stalls+m.kept+m.unknown == 0 && m.told == 0
}

// unasked reports whether a lazy host has not been requested by a handshake
// yet. The manager's lock is held for reading.
func (h *host) unasked() bool {
	m := h.motion
	return h.kind == lazy && h.summary == nil && (m == nil || m.err == nil && !m.awaited)
}

// outcome returns a channel that is closed at the next outcome. The manager's
// lock is held.
func (h *host) outcome() <-chan struct{} {
	m := h.move()
	if m.moved == nil {
		m.moved = make(chan struct{})
	}
	return m.moved
}

// settle notifies everything that waits for an outcome of h. The manager's lock
// is held.
func (h *host) settle() {
	if m := h.motion; m != nil && m.moved != nil {
		close(m.moved)
		m.moved = nil
	}
	h.manager.settle()
}

// mark notes that a handshake wants h, and writes only if that is new. The
// first one wakes a dozing host. The manager's lock must not be held.
func (h *host) mark() {
	if h.marks.Load() != used|recent && h.marks.Swap(used|recent)&dozing != 0 {
		h.manager.mu.Lock()
		defer h.manager.mu.Unlock()
		h.wake()
	}
}

// chain returns the chain of issuers for h.
func (h *host) chain() *chain { return h.manager.routing.chainOf(h.name) }

// put puts the host's next job into q. A host that is gone gets none, so its
// certificate cannot come back. The manager's lock is held.
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

// urgency returns how urgent a job is that is due at a time. The manager's lock
// is held.
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
