package certs

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

// What a host waits after a failure, doubling from the first to the last.
const (
	refusedFirst = 2 * time.Minute // by a CA; five in the first hour, which is what Let's Encrypt forgives
	refusedLast  = 6 * time.Hour
	brokenFirst  = 5 * time.Second // on the way there: network, storage, a CA that is down
	brokenLast   = 10 * time.Minute

	limitedUnknown = time.Hour // after a rate limit that does not say how long
	limitedLast    = 36 * time.Hour
)

// A limitedError says that a CA wants no more orders for a while.
type limitedError struct {
	until time.Time
	err   error
}

func (e *limitedError) Error() string { return e.err.Error() }
func (e *limitedError) Unwrap() error { return e.err }

// backoff returns how long a host waits after its nth failure in a row, n >= 1.
// left is what remains of the certificate it has, if any: a host must get its
// chances before that is over.
func backoff(n int, err error, left time.Duration) time.Duration {
	if wait, ok := limitedWait(err); ok {
		return wait + time.Duration(rand.Float64()*float64(min(wait, time.Hour))/10)
	}
	wait, last := brokenFirst, brokenLast
	if refused(err) {
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
	// A fifth more or less, so that hosts that failed together part.
	return time.Duration(float64(wait) * (0.8 + 0.4*rand.Float64()))
}

// refused reports whether a CA has answered and said no.
func refused(err error) bool {
	var p acme.Problem
	return errors.As(err, &p) && p.Status < http.StatusInternalServerError
}

// limitedWait is how long the authority that is free first wants to be left
// alone; false unless err is a rate limit of each that was asked.
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
	return min(max(time.Until(l.until), brokenFirst), limitedLast), true
}

// rateLimit reports whether a CA refused for the number of requests, and until
// when it is likely to.
func rateLimit(err error) (time.Time, bool) {
	var p acme.Problem
	if !errors.As(err, &p) || p.Status != http.StatusTooManyRequests && p.Type != acme.ProblemTypeRateLimited {
		return time.Time{}, false
	}
	if t, ok := retryAfter(p.Detail); ok {
		return t, true
	}
	return time.Now().Add(limitedUnknown), true
}

// retryAfter reads the time out of the text of a rate limit, "... retry after
// 2026-01-02 15:04:05 UTC: see ...": the ACME client does not keep the
// Retry-After field of a failed request, and Let's Encrypt repeats it there.
func retryAfter(detail string) (time.Time, bool) {
	const layout = "2006-01-02 15:04:05 MST"
	_, rest, ok := strings.Cut(detail, "retry after ")
	if !ok || len(rest) < len(layout) {
		return time.Time{}, false
	}
	t, err := time.Parse(layout, rest[:len(layout)])
	return t, err == nil
}
