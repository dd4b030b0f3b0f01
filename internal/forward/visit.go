package forward

import (
	"errors"
	"net/http"
	"time"
)

// A Party is the client's side of an exchange, as its lane knows it.
type Party interface {
	// Await calls wait with a channel that closes when the client has left or
	// the exchange is to end at once, and returns what wait returns.
	Await(wait func(gone <-chan struct{}) error) error

	// Place notes what f, which serves the exchange, chooses a target by. It is
	// called before the first attempt, and again when f's targets have changed.
	Place(f *Forwarder)
}

// ErrOtherLane is the cause of the failure of an exchange whose targets cannot be
// asked from the fast lane: they have changed while it waited. The other lane
// carries it on from its [Attempts.Handover].
var ErrOtherLane = errors.New("the targets are for the other lane")

// What an exchange has to wait for that was about to begin its first attempt.
var (
	errHeld    = errors.New("held")
	errUnfound = errors.New("no targets found yet")
)

// Begin counts the exchange in, and begins its first attempt, after a wait if
// there has to be one: the targets are those of its end. rec is its record.
func (a *Attempts) Begin(rec *Record, party Party) *Failure {
	a.rec, a.party = rec, party
	if !a.f.Enter() {
		return &Failure{Op: "pick", Side: SideDrain, Status: http.StatusServiceUnavailable, Reason: "destination_unavailable",
			Err: ErrDraining}
	}
	a.entered = true
	if a.f.watched && a.f.lookout.Load() == nil {
		a.f.watch()
	}
	if a.f.guarded {
		if fail := a.guard(); fail != nil {
			return fail
		}
	}
	for {
		fail := a.seize()
		switch {
		case fail == nil:
			return nil
		case fail.Err == errHeld:
			fail = a.pass()
		case fail.Err == errUnfound:
			fail = a.search()
		}
		if fail != nil {
			return fail
		}
	}
}

// seize begins the first attempt once there is room for the exchange, at the
// upstream and at a target.
func (a *Attempts) seize() *Failure {
	if !a.f.limited || a.f.queue.Len() == 0 || a.f.held.Load() != nil {
		if fail, done := a.fit(); done {
			return fail
		}
	}
	return a.queueUp()
}

// queueUp is seize for those that have to wait.
func (a *Attempts) queueUp() (fail *Failure) {
	err := a.await(func(gone <-chan struct{}) error {
		return a.f.queue.Do(gone, func() (done bool) {
			fail, done = a.fit()
			return done
		})
	})
	if err != nil {
		return a.unserved(err)
	}
	return fail
}

// fit begins the first attempt, or reports that there is no room now. Whatever
// else keeps it from beginning is the failure.
func (a *Attempts) fit() (fail *Failure, done bool) {
	if a.f.held.Load() != nil {
		return &Failure{Op: "pick", Side: SideProxy, Err: errHeld}, true
	}
	if !a.f.limited {
		return a.next(a.rec.Start.Add(a.rec.Queue)), true
	}
	if !a.gate() {
		return nil, false
	}
	now := time.Now()
	if fail = a.next(now); fail == nil {
		return nil, true
	}
	a.ungate()
	return fail, fail.Err != errNoTarget || !a.set.choice.Saturated(now, a.tried)
}

// gate counts the exchange in at MaxInFlight, or reports that there is no room.
func (a *Attempts) gate() bool {
	if most := int64(a.f.MaxInFlight); most > 0 {
		if a.f.busy.Add(1) > most {
			a.f.busy.Add(-1)
			return false
		}
		a.gated = true
	}
	return true
}

// ungate undoes gate.
func (a *Attempts) ungate() {
	if a.gated {
		a.gated = false
		a.f.busy.Add(-1)
	}
}

// await waits on the party's terms, and notes for how long.
func (a *Attempts) await(wait func(gone <-chan struct{}) error) error {
	start := time.Now()
	err := a.party.Await(wait)
	a.rec.Queue += time.Since(start)
	return err
}

// End counts the exchange out. It may be called when Begin failed, and again.
func (a *Attempts) End() {
	a.leave(true)
	a.refund()
	a.ungate()
	if a.entered {
		a.entered = false
		a.f.queue.Wake()
		a.f.Leave()
	}
}
