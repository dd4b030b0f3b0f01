package forward

import (
	"cmp"
	"errors"
	"net/http"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
)

// A Party is the client's side of an exchange, as its lane knows it.
type Party interface {
	// Await calls wait and returns its result. The channel for wait is closed
	// when the client disconnects, or when the exchange must end immediately.
	Await(wait func(gone <-chan struct{}) error) error

	// Place notes that f serves the exchange, and sets what f chooses a target
	// by. It is called before the first attempt, and again when f's targets
	// have changed. It returns a failure if f does not serve the request.
	Place(f *Forwarder) *exchange.Failure
}

// ErrOtherLane is the cause of a failure in the fast lane: the targets changed
// while the exchange waited, and the fast lane cannot reach them. The other
// lane continues the exchange from its [Attempts.Handover].
var ErrOtherLane = errors.New("the targets require the handler lane")

// Why an exchange has to wait before its first attempt.
var (
	errHeld    = errors.New("held")
	errUnfound = errors.New("no targets found yet")
)

// A visit is the time for which a Forwarder counts an exchange: the Forwarder
// of its route, and the one that this diverts it to.
type visit struct {
	f     *Forwarder
	gated bool // counted by MaxInFlight too
	awake bool // counted by f's waker too
}

// Begin counts the exchange in, waits if it has to, and begins the first
// attempt, at one of the targets that exist after the wait. rec is the
// exchange's record. Whether the exchange is diverted is decided when the first
// Forwarder lets it through.
func (a *Attempts) Begin(rec *exchange.Record, party Party) *exchange.Failure {
	a.rec, a.party = rec, party
	if !a.enter(a.f) {
		return a.late()
	}
	for {
		if fail := a.visit(); fail != nil || a.counted {
			return fail
		}
	}
}

// enter counts the exchange in at f, or reports that f is draining.
func (a *Attempts) enter(f *Forwarder) bool {
	if !f.Enter() {
		return false
	}
	a.visits[a.stops] = visit{f: f}
	a.stops++
	return true
}

// late returns the failure of an exchange that begins while a Forwarder drains.
func (a *Attempts) late() *exchange.Failure {
	return &exchange.Failure{Op: "pick", Side: exchange.SideDrain, Status: http.StatusServiceUnavailable, Reason: "destination_unavailable",
		Err: ErrDraining}
}

// visit lets the exchange through a.f, and begins its first attempt there. If
// the exchange is diverted it begins none, and a.f becomes the next Forwarder
// to visit.
func (a *Attempts) visit() *exchange.Failure {
	a.f.mayStart()
	if a.f.guarded {
		if fail := a.guard(); fail != nil {
			return fail
		}
	}
	if a.Here {
		return a.answerHere()
	}
	if a.f.BufferRequests > 0 && a.Prepare != nil && !a.f.maintained() {
		if fail := a.Prepare(a.f); fail != nil {
			return fail
		}
	}
	for {
		fail := a.acquire()
		switch {
		case fail == nil:
			return nil
		case fail.Err == errHeld:
			fail = a.waitWhilePaused()
		case fail.Err == errUnfound:
			fail = a.search()
		case fail.Err == errAsleep:
			fail = a.rouse()
		}
		if fail != nil {
			return fail
		}
	}
}

// divert counts the exchange in at the Forwarder that a.f diverts its client
// to, and reports whether there is one. If that Forwarder drains because it is
// no longer the canary, divert looks again.
func (a *Attempts) divert() (moved bool, fail *exchange.Failure) {
	for a.stops == 1 {
		to := a.f.For(a.Client)
		switch {
		case to == a.f:
			return false, nil
		case a.enter(to):
			a.f, a.set = to, nil
			return true, nil
		case a.f.For(a.Client) == to:
			return false, a.late()
		}
	}
	return false, nil
}

// Forwarder returns the Forwarder whose targets serve the exchange.
func (a *Attempts) Forwarder() *Forwarder { return a.f }

// Around returns the Forwarder that has diverted the exchange, or nil.
func (a *Attempts) Around() *Forwarder {
	if a.stops < 2 {
		return nil
	}
	return a.visits[0].f
}

// MaxBody returns how many bytes a request's body may have; 0 means no limit.
func (a *Attempts) MaxBody() int64 {
	least := int64(0)
	for i := range a.stops {
		if n := a.visits[i].f.Guard.MaxBody; n > 0 && (least == 0 || n < least) {
			least = n
		}
	}
	return least
}

// AddStreams adds n, which may be negative, to the counts of upgraded
// connections.
func (a *Attempts) AddStreams(n int64) {
	a.Target.streams.Add(n)
	for i := range a.stops {
		a.visits[i].f.streams.Add(n)
	}
}

// killed reports whether the exchange must end immediately.
func (a *Attempts) killed() bool {
	around := a.Around()
	return a.f.Killed() || around != nil && around.Killed()
}

// acquire begins the first attempt once there is room for the exchange, at the
// upstream and at a target.
func (a *Attempts) acquire() *exchange.Failure {
	if !a.f.limited || a.f.queue.Len() == 0 || a.f.held.Load() != nil {
		if fail, done := a.tryAcquire(); done {
			return fail
		}
	}
	return a.queueUp()
}

// queueUp is acquire for an exchange that has to wait.
func (a *Attempts) queueUp() (fail *exchange.Failure) {
	err := a.await(func(gone <-chan struct{}) error {
		return a.f.queue.Do(gone, func() (done bool) {
			fail, done = a.tryAcquire()
			return done
		})
	})
	if err != nil {
		return a.unserved(err)
	}
	return fail
}

// tryAcquire begins the first attempt, or reports that there is no room now.
// The failure is any other reason not to begin it.
func (a *Attempts) tryAcquire() (fail *exchange.Failure, done bool) {
	if a.f.held.Load() != nil {
		return &exchange.Failure{Op: "pick", Side: exchange.SideProxy, Err: errHeld}, true
	}
	if a.f.limited && !a.gate() {
		return nil, false
	}
	if moved, fail := a.divert(); moved || fail != nil {
		return fail, true
	}
	if a.f.waker != nil && !a.finds() {
		return &exchange.Failure{Op: "pick", Side: exchange.SideProxy, Err: errAsleep}, true
	}
	if !a.f.limited {
		return a.next(a.now()), true
	}
	if fail = a.next(time.Now()); fail == nil {
		return nil, true
	}
	a.visits[a.stops-1].ungate()
	return fail, fail.Err != errNoTarget || !a.full
}

// now returns the time. Before the first attempt in the fast lane, no clock is
// read: only waits took time. Handlers and earlier targets may have taken any.
func (a *Attempts) now() time.Time {
	if a.Pooled && a.rec.Attempts == 0 {
		return a.rec.Start.Add(a.rec.Queue)
	}
	return time.Now()
}

// finds reports whether the exchange finds the targets awake: then they stay
// awake until End.
func (a *Attempts) finds() bool {
	v := &a.visits[a.stops-1]
	if !v.awake && !a.f.waker.enter() {
		v.ungate()
		return false
	}
	v.awake = true
	return true
}

// gate counts the exchange in at MaxInFlight, or reports that there is no room.
func (a *Attempts) gate() bool {
	most := int64(a.f.MaxInFlight)
	if most > 0 && a.f.busy.Add(1) > most {
		a.f.busy.Add(-1)
		return false
	}
	a.visits[a.stops-1].gated = most > 0
	return true
}

// ungate undoes gate.
func (v *visit) ungate() {
	if v.gated {
		v.gated = false
		v.f.busy.Add(-1)
	}
}

// await calls wait through the party, and adds the time to the record. If a
// handler of the program has ended the wait, it returns how.
func (a *Attempts) await(wait func(gone <-chan struct{}) error) error {
	start := time.Now()
	err := a.party.Await(wait)
	a.rec.Queue += time.Since(start)
	if q := a.Asked.HTTP; left(err) && q != nil {
		return cmp.Or(exchange.Revoked(q.Context()), err)
	}
	return err
}

// End counts the exchange out. It may be called when Begin failed, and again.
func (a *Attempts) End() {
	a.release(true)
	a.refund()
	a.Free()
	for ; a.stops > 0; a.stops-- {
		v := &a.visits[a.stops-1]
		v.ungate()
		if v.awake {
			v.awake = false
			v.f.waker.leave()
		}
		v.f.queue.Wake()
		v.f.Leave()
	}
}
