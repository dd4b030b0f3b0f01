package forward

import (
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
)

// A timeline fills in the Timeline of a record, if it is wanted. Its memory is
// taken for many attempts at once, and never used again: a record may be kept.
type timeline struct {
	wanted bool
	now    int           // position of the attempt that goes on, or went on last
	beside int           // position of the one beside it
	dialed time.Duration // what the record said of dials before it

	room []exchange.Attempt // for what is to come
	size int                // of the latest piece of room
}

// attemptsAtOnce is the size of the largest piece of room.
const attemptsAtOnce = 64

// Timed makes the record of the exchange to come list its attempts.
func (a *Attempts) Timed() { a.timeline.wanted = true }

// emptied is l without what it knows of an exchange.
func (l *timeline) emptied() timeline { return timeline{room: l.room, size: l.size} }

// begin notes that an attempt begins, and returns its position.
func (l *timeline) begin(rec *exchange.Record, t exchange.Attempt) int {
	if rec.Timeline == nil {
		if len(l.room) == 0 {
			l.size = min(2*l.size+1, attemptsAtOnce)
			l.room = make([]exchange.Attempt, l.size)
		}
		rec.Timeline, l.room = l.room[:0:1], l.room[1:]
	}
	rec.Timeline = append(rec.Timeline, t)
	return len(rec.Timeline) - 1
}

// next notes that the next attempt at the record's target begins; retry if
// another one has ended.
func (l *timeline) next(rec *exchange.Record, retry bool, now time.Time) {
	if !l.wanted {
		return
	}
	if !retry {
		rec.EndAttempts(now) // of another upstream, behind the same handler
	}
	l.now, l.dialed = l.begin(rec, exchange.Attempt{Target: rec.Target, Retry: retry, Start: now}), rec.Dial
}

// fork notes that an attempt at target begins beside the one that goes on.
func (l *timeline) fork(rec *exchange.Record, target string, now time.Time) {
	if l.wanted {
		l.connected(rec)
		l.beside = l.begin(rec, exchange.Attempt{Target: target, Hedge: true, Start: now})
	}
}

// connected notes how long the attempt that goes on took to connect.
func (l *timeline) connected(rec *exchange.Record) {
	rec.Timeline[l.now].Dial += rec.Dial - l.dialed
	l.dialed = rec.Dial
}

// answered notes what the attempt that goes on has heard.
func (l *timeline) answered(rec *exchange.Record, o *Outcome) {
	if !l.wanted {
		return
	}
	l.connected(rec)
	t := &rec.Timeline[l.now]
	if o.Failure == nil {
		t.FirstByte, t.Status = rec.FirstByte, o.Status
	} else {
		l.end(rec, l.now, o.Failure)
	}
}

// end notes why an attempt has ended now.
func (l *timeline) end(rec *exchange.Record, i int, why *exchange.Failure) {
	if l.wanted {
		t := &rec.Timeline[i]
		t.Duration, t.Err = time.Since(t.Start), why
	}
}

// Dialed notes how long the attempt that goes on took to connect, if that is
// not in the record yet.
func (a *Attempts) Dialed(d time.Duration) {
	a.rec.Dial += d
	if a.timeline.wanted {
		a.timeline.connected(a.rec)
	}
}

// ForkDialed notes how long the attempt beside the one that goes on took to
// connect.
func (a *Attempts) ForkDialed(d time.Duration) {
	if a.timeline.wanted {
		a.rec.Timeline[a.timeline.beside].Dial = d
	}
}
