package forward

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/hostproxy/hostproxy/internal/balance"
	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/limit"
)

// Attempts takes an exchange from target to target until one answers. Both
// lanes have one for each exchange, and call Take, then Begin, then make
// attempts at Target as long as Next says so, then End.
//
// Hot path: without limits and checks, an exchange costs one pick and two
// counters, and allocates nothing.
type Attempts struct {
	Target *Target   // target of the current or latest attempt
	Since  time.Time // when that attempt began

	Key    uint64     // hash key of the exchange, if the policy needs one; set by Place
	Client netip.Addr // client address; set before Begin, like the fields below
	Size   int64      // size of the request's body; negative if unknown
	// the proxy itself answers once the guards let the exchange pass: see
	// exchange.MaxForwards
	Here   bool
	Pooled bool    // the lane reaches only targets with a Pool: see ErrOtherLane
	Asked  Request // the request, in which limits find their keys

	Pick func(left []*Target) (*Target, error) // the user's hook; nil means the policy

	// Prepare reads the request's body ahead, once a Forwarder with
	// BufferRequests has let the exchange pass. Nil if the lane cannot do that.
	Prepare func(*Forwarder) *exchange.Failure

	f     *Forwarder // the Forwarder whose targets are tried
	set   *set
	rec   *exchange.Record
	party Party
	tried []int    // positions of the targets tried
	prior []string // keys of the targets that another lane has tried

	resumed bool // another lane has tried some

	earlier int       // attempts in the record that other Forwarders have begun
	first   time.Time // when the first attempt began; for a limit, so not exactly

	charged []*limit.Rule // the rules that have counted the exchange
	slots   limit.Slots   // its places in the limits of requests in flight
	kept    limit.Slots   // the places that another lane still needs

	fork   *Target   // target of the second attempt beside Target's; nil if there is none
	forked time.Time // when that one began

	full      bool // when no target was left: one would serve but for its limit
	searched  bool // it has waited for targets to be found
	preferred int  // position of the target that the client's cookie stands for
	known     bool // there is such a target

	visits   [2]visit // the Forwarders that count the exchange; the last one is f
	stops    int      // number of visits
	counted  bool     // Target counts the attempt
	stay     *Stay    // of the stream that the exchange became; nil without one, or without grace
	repeated bool     // f counts the exchange in repeats

	timeline timeline

	refusal exchange.Failure // memory for a refusal, and for its header lines
	lines   []byte
}

// A Retry says when an exchange that failed at one target may go to another
// one. An exchange of which nothing was written needs no Budget.
type Retry struct {
	Attempts int           // attempts of one exchange, at most
	Timeout  time.Duration // after it, counted from the first attempt, no attempt begins
	Statuses []int         // responses that count as failures while another target is left
	Budget   float64       // share of the exchanges in flight that may be sent a second time
}

func (r *Retry) check() error {
	var errs []error
	if r.Attempts < 1 || r.Attempts > maxAttempts {
		errs = append(errs, fmt.Errorf("Retry.Attempts is %d: want 1 to %d", r.Attempts, maxAttempts))
	}
	for _, s := range r.Statuses {
		if s < 400 || s > 599 {
			errs = append(errs, fmt.Errorf("Retry.Statuses has %d: want 400 to 599", s))
		}
	}
	if math.IsNaN(r.Budget) || r.Budget > 1 {
		errs = append(errs, fmt.Errorf("Retry.Budget is %v: want a share of at most 1, such as 0.2", r.Budget))
	}
	return errors.Join(errs...)
}

// maxAttempts limits the cost of one request.
const maxAttempts = 10

// freeRepeats exchanges may be sent again regardless of the budget, which
// allows none while few exchanges are in flight.
const freeRepeats = 3

// An Outcome is how an attempt ended: with an answer, or with a failure.
type Outcome struct {
	Failure *exchange.Failure
	Status  int // of the response

	Wrote      bool // a part of the request may have reached the target
	Whole      bool // the request can be sent again: all of it is still there
	Idempotent bool // it may be carried out twice (RFC 9110, 9.2.2)
	Begun      bool // a part of the response has gone to the client
}

// Take makes f the Forwarder at which the next exchange begins.
func (a *Attempts) Take(f *Forwarder) {
	a.Reset()
	a.f = f
}

// Fast reports whether all targets can be reached from the fast lane now.
func (f *Forwarder) Fast() bool { return f.plain && f.set.Load().fast && !f.refused.Load() }

// Plain reports whether no hook of f's needs the handler lane.
func (f *Forwarder) Plain() bool { return f.plain }

// Keyed reports whether the exchange needs a Key.
func (f *Forwarder) Keyed() bool { return f.Policy == balance.Hash }

// Sticks reports whether an exchange may have a preferred target.
func (f *Forwarder) Sticks() bool { return f.Sticky != nil }

// Reset forgets the last exchange, but keeps its memory.
func (a *Attempts) Reset() {
	if a.f == nil { // there was no exchange: each begins with Take
		return
	}
	*a = Attempts{tried: a.tried[:0], charged: a.charged[:0], slots: a.slots, kept: a.kept, lines: a.lines[:0],
		timeline: a.timeline.emptied()}
}

// next begins an attempt at the next target.
func (a *Attempts) next(now time.Time) *exchange.Failure {
	i, fail := a.choose(now)
	if fail != nil {
		return fail
	}
	if i < 0 {
		return &exchange.Failure{Op: "pick", Side: exchange.SideUpstream, Status: http.StatusServiceUnavailable, Reason: "destination_unavailable",
			Err: errNoTarget}
	}
	if a.tried = append(a.tried, i); a.first.IsZero() {
		a.first = now
	}
	retry := a.resumed || a.Target != nil // not len(a.tried): it lacks targets that left the set
	a.Target, a.Since, a.counted = a.set.targets[i], now, true
	a.rec.Target = a.Target.Name
	a.rec.Attempts++
	a.timeline.next(a.rec, retry, now)
	return nil
}

// renew takes the current set, which may have changed while the exchange
// waited.
func (a *Attempts) renew() *exchange.Failure {
	if s := a.f.set.Load(); s != a.set {
		asked := a.triedKeys()
		a.set, a.tried, a.known = s, a.tried[:0], false
		for _, key := range asked {
			if i := slices.IndexFunc(s.targets, func(t *Target) bool { return t.key == key }); i >= 0 {
				a.tried = append(a.tried, i)
			}
		}
		if fail := a.party.Place(a.f); fail != nil {
			return fail
		}
	}
	switch {
	case a.Pooled && !(a.f.plain && a.set.fast):
		return &exchange.Failure{Op: "pick", Side: exchange.SideProxy, Err: ErrOtherLane}
	case len(a.set.targets) == 0 && !a.searched:
		return &exchange.Failure{Op: "pick", Side: exchange.SideProxy, Err: errUnfound}
	}
	return nil
}

// TakeOver continues x, which another lane may have begun.
func (a *Attempts) TakeOver(x *exchange.Exchange) {
	a.charged, a.prior, a.resumed, a.earlier = x.Charged, x.Tried, x.Attempts > x.Earlier, x.Earlier
	if a.resumed {
		a.first = x.Start.Add(x.Queue)
	}
}

// Handover returns what the exchange's other lane has to know. The caller must
// End the attempts, and free what is Kept after that lane.
func (a *Attempts) Handover() *exchange.Handover {
	a.kept, a.slots = a.slots, nil
	return &exchange.Handover{Record: *a.rec, Charged: slices.Clone(a.charged), Tried: a.triedKeys()}
}

// triedKeys returns the keys of the targets tried.
func (a *Attempts) triedKeys() []string {
	all := a.prior
	for _, i := range a.tried {
		all = append(all, a.set.targets[i].key)
	}
	a.prior = nil
	return all
}

// choose counts the attempt in at the next target and returns its position, or
// -1 when none is left. It skips a target that has retired meanwhile, whose
// drain may have ended before the attempt was counted.
func (a *Attempts) choose(now time.Time) (int, *exchange.Failure) {
	for {
		if fail := a.renew(); fail != nil {
			return -1, fail
		}
		i, err := a.chooseOne(now)
		switch {
		case err != nil:
			return -1, &exchange.Failure{Op: "pick", Side: exchange.SideProxy, Status: http.StatusInternalServerError, Reason: "proxy_internal_error", Err: err}
		case i < 0 || !a.set.targets[i].retired.Load():
			return i, nil
		}
		a.set.targets[i].monitor.Release(now, 0)
		a.set.targets[i].node.End()
	}
}

// chooseOne is choose without a look at changes of the set.
func (a *Attempts) chooseOne(now time.Time) (int, error) {
	if a.Pick != nil {
		return a.chooseByPick(now)
	}
	asked := len(a.tried)
	if asked == 0 && a.known {
		if i := a.back(now); i >= 0 {
			return i, nil
		}
	}
	for {
		i := a.set.choice.Pick(now, a.Key, a.tried)
		if i < 0 {
			break
		}
		if a.set.targets[i].tryAcquire(now) {
			a.tried = a.tried[:asked]
			return i, nil
		}
		a.tried = append(a.tried, i) // for now
	}
	a.full = a.set.choice.Serves(now, a.tried) // without those refused by a breaker
	a.tried = a.tried[:asked]
	if asked == 0 && !a.f.FailClosed {
		if i := a.set.choice.PickAny(now, a.Key, nil); i >= 0 && a.set.targets[i].node.TryBegin() {
			return i, nil
		}
	}
	return -1, nil
}

// tryAcquire counts an attempt in, unless t is at its limit or its breaker
// refuses it.
func (t *Target) tryAcquire(now time.Time) bool {
	if !t.node.TryBegin() {
		return false
	}
	if t.monitor.Admit(now) {
		return true
	}
	t.node.End()
	return false
}

// chooseByPick is chooseOne by the user's Pick, which gets the targets that are
// left. It asks again if another exchange has become the trial of the chosen
// target's breaker meanwhile.
func (a *Attempts) chooseByPick(now time.Time) (int, error) {
	for range maxAsks {
		left, all := a.offer(now)
		var t *Target
		var err error
		if len(left) > 0 { // a Pick may rely on a first one
			t, err = a.Pick(left)
		}
		i := slices.Index(a.set.targets, t)
		a.full = i >= 0 || a.set.choice.Saturated(now, a.tried)
		if i < 0 || !t.node.TryBegin() {
			return -1, err
		}
		if t.monitor.Admit(now) || all || !slices.Contains(left, t) {
			return i, err
		}
		t.node.End()
	}
	a.full = false
	return -1, nil
}

// maxAsks limits the calls of Pick for one attempt.
const maxAsks = 3

var errNoTarget = errors.New("no target is available: all are down, full or already tried")

// offer returns the targets that the user's Pick gets: those that are up and
// not tried yet. If there is none before the first attempt, and FailClosed is
// false, all is true, and it returns all targets.
func (a *Attempts) offer(now time.Time) (left []*Target, all bool) {
	left = make([]*Target, 0, len(a.set.targets))
	for i, t := range a.set.targets {
		if !slices.Contains(a.tried, i) && !t.node.Suspended(now) && t.monitor.Admits(now) {
			left = append(left, t)
		}
	}
	if len(left) == 0 && len(a.tried) == 0 && !a.f.FailClosed {
		return append(left, a.set.targets...), true
	}
	return left, false
}

// A Next is what comes after an attempt.
type Next uint8

// What may come after an attempt.
const (
	NextAnswer Next = iota // the exchange ends with the answer; its target stays counted until End
	// another attempt has begun; discard what the ended one holds
	NextAttempt
	NextFailure // the exchange ends with the failure
	NextLane    // the other lane continues the exchange; the failure says why
)

// Next notes how the attempt ended, and begins another one if that is allowed.
// It returns the failure that the exchange ends with, if any.
func (a *Attempts) Next(o Outcome) (Next, *exchange.Failure) {
	now := time.Now()
	a.rec.FirstByte = now.Sub(a.Since)
	a.timeline.answered(a.rec, &o)
	switch {
	case o.Failure == nil:
		a.Target.answered(now, a.rec.FirstByte, o.Status)
	case o.Failure.Side == exchange.SideUpstream:
		a.Target.failures.Add(now)
	}
	if a.Target.monitor != nil {
		a.report(&o, now)
	}
	if o.Failure == nil && !a.Retries(o.Status) {
		return NextAnswer, nil
	}
	if !a.may(&o, now) {
		return a.last(&o)
	}
	ended, was := a.Target, a.timeline.now
	fail := a.next(now)
	// no target is left
	if fail != nil && (fail.Side != exchange.SideProxy || len(a.set.targets) == 0) {
		return a.last(&o)
	}
	why := o.failure(ended)
	a.rec.Retried = append(a.rec.Retried, why)
	a.timeline.end(a.rec, was, why)
	switch {
	case fail == nil:
		ended.node.End()
		a.f.queue.Wake()
		return NextAttempt, nil
	case fail.Err == ErrOtherLane:
		a.release(true)
		return NextLane, fail
	}
	a.release(true) // Pick has panicked
	return NextFailure, fail
}

// last ends the exchange with the outcome of its last attempt.
func (a *Attempts) last(o *Outcome) (Next, *exchange.Failure) {
	a.release(o.Failure != nil)
	if o.Failure == nil {
		return NextAnswer, nil
	}
	return NextFailure, o.Failure
}

// report tells the target's monitor how the attempt ended.
func (a *Attempts) report(o *Outcome, now time.Time) {
	m := a.Target.monitor
	switch {
	case o.Failure == nil && slices.Contains(a.f.Failures, o.Status):
		m.Report(now, fmt.Errorf("answered with status %d", o.Status), a.rec.FirstByte)
	case o.Failure == nil:
		m.Report(now, nil, a.rec.FirstByte)
	case o.Failure.Side == exchange.SideUpstream:
		m.Report(now, o.Failure.Err, a.rec.FirstByte)
	default:
		m.Release(now, a.rec.FirstByte)
	}
}

// release counts the attempt out if over is true and it is still counted.
func (a *Attempts) release(over bool) {
	if over && a.counted {
		a.counted = false
		a.stay.uncount() // first: drained must not see a stay without its attempt
		a.stay = nil
		a.Target.node.End()
	}
}

// CountOut counts the attempt out before End, since its target has done its
// part.
func (a *Attempts) CountOut() {
	a.release(true)
	a.f.queue.Wake()
}

// failure returns why the attempt at t is not the last one.
func (o *Outcome) failure(t *Target) *exchange.Failure {
	if o.Failure != nil {
		return o.Failure
	}
	return &exchange.Failure{Op: "read", Target: t.Name, Side: exchange.SideUpstream, Status: o.Status, Err: fmt.Errorf("answered with status %d", o.Status)}
}

// Retries reports whether an answer of that status counts as a failure.
func (a *Attempts) Retries(status int) bool {
	return len(a.f.Retry.Statuses) > 0 && slices.Contains(a.f.Retry.Statuses, status)
}

// may reports whether another attempt is allowed after one with outcome o.
func (a *Attempts) may(o *Outcome, now time.Time) bool {
	r := &a.f.Retry
	if o.Begun || !o.Whole || o.Failure != nil && o.Failure.Side != exchange.SideUpstream || o.Wrote && !o.Idempotent ||
		a.spent() || a.killed() {
		return false
	}
	if r.Timeout > 0 && now.Sub(a.first) >= r.Timeout {
		return false
	}
	return !o.Wrote || a.affords()
}

// spent reports whether the attempts have reached their limit. Those of an
// Upstream that a handler called before count for that one.
func (a *Attempts) spent() bool { return a.rec.Attempts-a.earlier >= a.f.Retry.Attempts }

// affords takes a place in the budget for requests that are sent more than
// once, unless the exchange has one.
func (a *Attempts) affords() bool {
	if a.repeated {
		return true
	}
	budget := a.f.Retry.Budget
	if n := a.f.repeats.Add(1); n > freeRepeats && budget >= 0 && float64(n) > budget*float64(a.f.inFlight.Load()&(draining-1)) {
		a.f.repeats.Add(-1)
		return false
	}
	a.repeated = true
	return true
}

// refund gives back what affords took.
func (a *Attempts) refund() {
	if a.repeated {
		a.repeated = false
		a.f.repeats.Add(-1)
	}
}
