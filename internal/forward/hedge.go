package forward

import (
	"errors"
	"slices"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
)

// A hedge is a second attempt beside one that has had no response for a while.
// The first response of the two is the exchange's; the other attempt is given
// up. Both lanes use Fork and Join; only GET and HEAD without a body are
// hedged.

// ErrGivenUp is the error of the slower of two attempts.
var ErrGivenUp = errors.New("another target was faster")

// Fork begins a second attempt beside the current one, and returns its target,
// or nil if no second attempt is possible. If it returns a target, Join must
// follow. An error means that the user's Pick has panicked.
func (a *Attempts) Fork(now time.Time) (*Target, error) {
	paid := a.repeated
	if a.spent() || a.killed() || !a.affords() {
		return nil, nil
	}
	i, fail := a.choose(now)
	if i < 0 {
		if !paid {
			a.refund() // no target is left, so nothing is sent twice
		}
		if fail == nil || fail.Err == ErrOtherLane || fail.Err == errUnfound {
			return nil, nil
		}
		return nil, fail.Err
	}
	a.tried = append(a.tried, i)
	a.fork, a.forked = a.set.targets[i], now
	a.rec.Attempts++
	a.timeline.fork(a.rec, a.fork.Name, now)
	return a.fork, nil
}

// Join ends the attempt that did not win. lost is its failure, or nil if it was
// given up. The one at won becomes the exchange's only attempt.
func (a *Attempts) Join(won *Target, lost *exchange.Failure) {
	loser, since, now := a.fork, a.forked, time.Now()
	lostAt := a.timeline.beside
	if won == a.fork {
		lostAt, a.timeline.now = a.timeline.now, lostAt
		loser, since = a.Target, a.Since
		a.Target, a.Since = a.fork, a.forked
		a.rec.Target = won.Name
	}
	a.fork = nil
	switch {
	case lost == nil:
		loser.monitor.Abandon(now, now.Sub(since))
		// It has not failed: if the winner fails later, its target may be tried
		// again.
		a.tried = slices.DeleteFunc(a.tried, func(i int) bool { return a.set.targets[i] == loser })
		lost = &exchange.Failure{Op: "read", Side: exchange.SideProxy, Err: ErrGivenUp}
	case lost.Side == exchange.SideUpstream:
		loser.failures.Add(now)
		loser.monitor.Report(now, lost.Err, now.Sub(since))
	default:
		loser.monitor.Release(now, now.Sub(since))
	}
	lost.Target = loser.Name
	a.timeline.end(a.rec, lostAt, lost)
	loser.node.End()
	a.f.queue.Wake()
	a.rec.Retried = append(a.rec.Retried, lost)
}
