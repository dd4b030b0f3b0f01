package certs

import (
	"errors"
	"math/rand/v2"
	"time"
)

// The pauses of a host after failures, doubling from the first to the last.
const (
	refusedFirst = 2 * time.Minute // after a refusal by a CA; four in the first hour
	refusedLast  = 6 * time.Hour
	brokenFirst  = 5 * time.Second // after any other failure: network, storage, a CA that is down
	brokenLast   = 10 * time.Minute
	probeFirst   = 30 * time.Second // after a refusal by the staging directory of a CA
	probeLast    = time.Hour
)

// A paceError is a failure with a pace of its own for the next attempts.
type paceError struct {
	first, last time.Duration
	err         error
}

func (e *paceError) Error() string { return e.err.Error() }
func (e *paceError) Unwrap() error { return e.err }

// backoff returns how long a host waits after its nth failure in a row, n >= 1.
// left is the remaining life of its certificate, if any: a host gets several
// attempts before that ends.
func backoff(n int, err error, left time.Duration) time.Duration {
	if wait, ok := limitedWait(err); ok { // already considers left
		return wait + time.Duration(rand.Float64()*float64(min(wait, time.Hour))/10)
	}
	wait, last := brokenFirst, brokenLast
	var own *paceError
	switch {
	case errors.As(err, &own):
		wait, last = own.first, own.last
	case refused(err):
		wait, last = refusedFirst, refusedLast
	}
	for range n - 1 {
		if wait *= 2; wait >= last {
			wait = last
			break
		}
	}
	if left > 0 {
		wait = min(wait, max(left/8, brokenFirst))
	}
	// Up to a fifth more or less, so that hosts that failed together spread
	// out.
	return time.Duration(float64(wait) * (0.8 + 0.4*rand.Float64()))
}

// limitedWait returns how long to wait for the first authority to be free
// again; false unless err is a rate limit of every authority that was tried.
func limitedWait(err error) (time.Duration, bool) {
	var l *limitedError
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		errs := joined.Unwrap()
		wait := limitedLast
		for _, e := range errs {
			w, ok := limitedWait(e)
			if !ok {
				return 0, false
			}
			wait = min(wait, w)
		}
		return wait, len(errs) > 0
	}
	if !errors.As(err, &l) {
		return 0, false
	}
	return clampLimit(l.until), true
}
