package forward

import (
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
)

// A timeline fills in the Timeline of a record, if that is wanted. It allocates
// memory for many attempts at once, and never reuses it, since a record may be
// kept.
type timeline struct {
	wanted bool
	now    int           // position of the current or latest attempt
	beside int           // position of the attempt beside it
	dialed time.Duration // the record's Dial before that attempt

	room []exchange.Attempt // for the Timelines of next records
	size int                // size of the latest allocation
}

// attemptsAtOnce is the size of the largest allocation.
const attemptsAtOnce = 64

// Timed makes the record of the next exchange list its attempts.
func (a *Attempts) Timed() { a.timeline.wanted = true }

// emptied returns l without its data about an exchange.
func (l *timeline) emptied() timeline { return timeline{room: l.room, size: l.size} }

// begin adds the attempt t, and returns its position.
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

// next adds an attempt at the record's target. retry says that it follows a
// failed one.
func (l *timeline) next(rec *exchange.Record, retry bool, now time.Time) {
	if !l.wanted {
		return
	}
	if !retry {
		rec.EndAttempts(now) // of another upstream, called by the same handler
	}
	l.now, l.dialed = l.begin(rec, exchange.Attempt{Target: rec.Target, Retry: retry, Start: now}), rec.Dial
}

// fork adds an attempt at target beside the current one.
func (l *timeline) fork(rec *exchange.Record, target string, now time.Time) {
	if l.wanted {
		l.connected(rec)
		l.beside = l.begin(rec, exchange.Attempt{Target: target, Hedge: true, Start: now})
	}
}

// connected notes how long the current attempt took to connect.
func (l *timeline) connected(rec *exchange.Record) {
	rec.Timeline[l.now].Dial += rec.Dial - l.dialed
	l.dialed = rec.Dial
}

// answered notes the outcome of the current attempt.
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

// end notes that attempt i ends now, and why.
func (l *timeline) end(rec *exchange.Record, i int, why *exchange.Failure) {
	if l.wanted {
		t := &rec.Timeline[i]
		t.Duration, t.Err = time.Since(t.Start), why
	}
}

// Dialed notes how long the current attempt took to connect. The record must
// not contain that yet.
func (a *Attempts) Dialed(d time.Duration) {
	a.rec.Dial += d
	if a.timeline.wanted {
		a.timeline.connected(a.rec)
	}
}

// ForkDialed notes how long the attempt beside the current one took to connect.
func (a *Attempts) ForkDialed(d time.Duration) {
	if a.timeline.wanted {
		a.rec.Timeline[a.timeline.beside].Dial = d
	}
}
