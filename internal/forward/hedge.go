package forward

import (
	"errors"
	"slices"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
)

// A hedge is a second attempt beside one that has not been answered for a
// while: the first of the two that answers is the exchange's, the other is
// given up. Both lanes do it with Fork and Join; only GET and HEAD without a
// body are hedged.

// ErrGivenUp is how the slower of two attempts ends.
var ErrGivenUp = errors.New("another target was faster")

// Fork begins a second attempt beside the one that goes on, and returns whom it
// is at, or nil if there is to be none. Join must follow. An error is a panic
// of the user's Pick.
func (a *Attempts) Fork(now time.Time) (*Target, error) {
	paid := a.repeated
	if a.rec.Attempts >= a.f.Retry.Attempts || a.killed() || !a.affords() {
		return nil, nil
	}
	i, fail := a.choose(now)
	if i < 0 {
		if !paid {
			a.refund() // nobody is left, so nothing is sent twice
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

// Join ends the attempt that did not win. lost is how it failed, or nil if it
// was given up. The other one is the exchange's from now on.
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
		// It has not failed: should the winner fail yet, it may be asked again.
		a.tried = slices.DeleteFunc(a.tried, func(i int) bool { return a.set.targets[i] == loser })
		lost = &exchange.Failure{Op: "read", Side: exchange.SideProxy, Err: ErrGivenUp}
	case lost.Side == exchange.SideUpstream:
		loser.failures.Add(now)
		loser.monitor.Report(now, lost.Err, 0)
	default:
		loser.monitor.Release()
	}
	lost.Target = loser.Name
	a.timeline.end(a.rec, lostAt, lost)
	loser.node.End()
	a.f.queue.Wake()
	a.rec.Retried = append(a.rec.Retried, lost)
}
