package certs

import (
	"errors"
	"maps"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/mholt/acmez/v3/acme"
	"golang.org/x/net/publicsuffix"
)

const (
	// pause after a rate limit whose end is unknown or long past
	limitedUnknown = time.Hour
	// a limit may still apply this long after its end; later than that, one of
	// the clocks is wrong
	limitedLate = 5 * time.Minute
	// longest wait for a limit, whatever the CA said; the limit's own window,
	// if known, may shorten it
	limitedLast = 6 * time.Hour
	// least time between two orders of a due renewal that a limit refuses,
	// unless the limit ends sooner
	limitedProbe = 30 * time.Minute
	heldPause    = time.Minute      // until others are let through, while one tries
	maxHolds     = 10_000           // remembered, per account
	tryTime      = 2 * maxIssueTime // after which an order that tries is forgotten
)

// A scope is what a rate limit counts by.
type scope int

const (
	// one name: failed validations, certificates for the exact set, paused
	// names, and unknown limits
	hostScope    scope = iota
	domainScope        // a registered domain
	accountScope       // new orders of the account
	addressScope       // new accounts from our address
)

// A limit is a rate limit that a CA has reported.
type limit struct {
	subject
	until time.Time
}

// A subject is what a limit applies to.
type subject struct {
	scope scope
	name  string // of the host or domain; otherwise ""
}

// A limitedError says that a CA accepts no more orders for a while.
type limitedError struct {
	until time.Time
	err   error
}

func (e *limitedError) Error() string { return e.err.Error() }
func (e *limitedError) Unwrap() error { return e.err }

// A heldError says that the CA was not contacted, because it must not be before
// a given time. It is not a failed attempt.
type heldError struct {
	until time.Time
	err   error
}

func (e *heldError) Error() string { return e.err.Error() }
func (e *heldError) Unwrap() error { return e.err }

// readLimit extracts a rate limit from the error of an order for name. Only its
// text tells what it applies to; the texts are Boulder's
// (ratelimits/transaction.go, wfe2/wfe.go). Any other limit is assumed to apply
// to the host.
func readLimit(err error, name string) (limit, bool) {
	var p acme.Problem
	if !errors.As(err, &p) || !limited(p) {
		return limit{}, false
	}
	until, ok := retryAfter(p.Detail)
	switch late := time.Since(until); {
	case !ok || late > limitedLate:
		until = time.Now().Add(limitedUnknown)
	case late >= 0:
		until = time.Now().Add(heldPause)
	}
	if whole, ok := windowOf(p.Detail); ok {
		until = earliest(until, time.Now().Add(whole))
	}
	return limit{subject: about(p.Detail, name), until: until}, true
}

// limited reports whether a problem is a rate limit. A CA that is overloaded
// uses the same type.
func limited(p acme.Problem) bool {
	if busy(p) {
		return false
	}
	return p.Status == http.StatusTooManyRequests || p.Type == acme.ProblemTypeRateLimited
}

func busy(p acme.Problem) bool {
	return p.Status >= http.StatusInternalServerError || strings.Contains(strings.ToLower(p.Detail), "service busy")
}

// about returns what a limit applies to, according to the CA's text.
func about(detail, name string) subject {
	text := strings.ToLower(detail)
	switch {
	case strings.Contains(text, "new orders"), strings.Contains(text, "pending authorizations"):
		return subject{scope: accountScope}
	case strings.Contains(text, "new registrations"), strings.Contains(text, "registrations for this ip"):
		return subject{scope: addressScope}
	case strings.Contains(text, "exact set of"):
		return subject{hostScope, name}
	case strings.Contains(text, "already issued for"):
		return subject{domainScope, domainIn(text, name)}
	}
	return subject{hostScope, name}
}

// domainIn returns the domain that a text quotes, if name is in it, and
// otherwise the registered domain of name.
func domainIn(text, name string) string {
	name = strings.TrimPrefix(name, "*.")
	_, rest, _ := strings.Cut(text, "already issued for")
	if _, rest, ok := strings.Cut(rest, `"`); ok {
		if quoted, _, ok := strings.Cut(rest, `"`); ok && below(name, quoted) {
			return quoted
		}
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return name
	}
	if domain, err := publicsuffix.EffectiveTLDPlusOne(name); err == nil {
		return domain
	}
	return name
}

// below reports whether name is domain or below it.
func below(name, domain string) bool {
	return domain != "" && (name == domain || strings.HasSuffix(name, "."+domain))
}

// retryAfter extracts the time from the text of a rate limit, "... retry after
// 2026-01-02 15:04:05 UTC: see ...". The ACME client does not keep the
// Retry-After field of a failed request; Let's Encrypt repeats it in the text.
func retryAfter(detail string) (time.Time, bool) {
	_, rest, ok := strings.Cut(detail, "retry after ")
	if !ok {
		return time.Time{}, false
	}
	for _, layout := range []string{"2006-01-02 15:04:05 MST", "2006-01-02T15:04:05Z"} {
		if len(rest) >= len(layout) {
			if t, err := time.Parse(layout, rest[:len(layout)]); err == nil {
				return t, true
			}
		}
	}
	return time.Time{}, false
}

// windowOf extracts the window from the text of a rate limit, such as "too many
// new orders (300) from this account in the last 3h0m0s". After that time
// without requests, the limit is fully available again, whatever else the CA
// says.
func windowOf(detail string) (time.Duration, bool) {
	_, rest, _ := strings.Cut(detail, " in the last ")
	text, _, _ := strings.Cut(rest, ",")
	whole, err := time.ParseDuration(strings.TrimSpace(text))
	return whole, err == nil && whole > 0
}

// holds are the limits of an account that are in force. When a hold's time is
// over, one order is let through; once the CA accepts it, the others follow.
//
// Due renewals are not held. A renewal that a limit has refused has its own
// time for the next order.
type holds struct {
	mu  sync.Mutex
	by  map[subject]*hold
	due map[string]time.Time // by host
}

type hold struct {
	subject
	until time.Time
	tried time.Time // when one was let through; zero if none is in flight
}

func newHolds() *holds { return &holds{by: make(map[subject]*hold), due: make(map[string]time.Time)} }

// enter lets an order for name through, or returns until when it is held.
// registered means that the account exists, so limits of new accounts do not
// apply. Call release with what was entered.
func (h *holds) enter(name string, registered bool) (entered []*hold, until time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.by) == 0 {
		return nil, time.Time{}
	}
	now := time.Now()
	for _, s := range subjects(name) {
		switch held := h.by[s]; {
		case held == nil, s.scope == addressScope && registered:
		case now.Before(held.until):
			until = latest(until, held.until)
		case now.Sub(held.tried) < tryTime:
			until = latest(until, now.Add(heldPause))
		default:
			entered = append(entered, held)
		}
	}
	if !until.IsZero() {
		return nil, until
	}
	for _, held := range entered {
		held.tried = now
	}
	return entered, time.Time{}
}

// until returns until when the limits of any of the subjects are in force; zero
// if none is.
func (h *holds) until(about ...subject) (until time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range about {
		if held := h.by[s]; held != nil && time.Now().Before(held.until) {
			until = latest(until, held.until)
		}
	}
	return until
}

// counting reports whether the account has a limit of a scope without a name.
func (h *holds) counting(s scope) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.by[subject{scope: s}] != nil
}

// subjects returns what limits that hold an order for name can apply to.
func subjects(name string) []subject {
	all := []subject{{scope: accountScope}, {scope: addressScope}, {hostScope, name}}
	domain := strings.TrimPrefix(name, "*.")
	for {
		all = append(all, subject{domainScope, domain})
		_, parent, ok := strings.Cut(domain, ".")
		if !ok {
			return all
		}
		domain = parent
	}
}

// errNotAsked is the outcome of an order that was not sent to the CA: it says
// nothing about limits.
var errNotAsked = errors.New("another process has the certificate")

// release ends what enter began; err is the error of the order. Holds that were
// replaced meanwhile are left alone.
func (h *holds) release(entered []*hold, err error) {
	if len(entered) == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, held := range entered {
		switch {
		case h.by[held.subject] != held:
		case err == errNotAsked:
			held.tried = time.Time{} // the next order tries
		case orderTaken(err):
			delete(h.by, held.subject)
		default:
			held.tried = time.Time{}
			held.until = latest(held.until, time.Now().Add(heldPause))
		}
	}
}

// refuse notes that a limit has refused the due renewal of name, and returns
// when the next order may follow. left is the remaining life of the
// certificate, 0 if there is none. The wait ends with the limit, and lasts at
// most half of left, or half an hour if that is longer; if left is 0, only the
// limit counts.
func (h *holds) refuse(name string, until time.Time, left time.Duration) time.Time {
	wait := clampLimit(until)
	if left > 0 {
		wait = min(wait, max(left/2, limitedProbe))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if len(h.due) >= maxHolds {
		maps.DeleteFunc(h.due, func(_ string, next time.Time) bool { return !now.Before(next) })
	}
	if len(h.due) < maxHolds {
		h.due[name] = now.Add(wait)
	}
	return now.Add(wait)
}

// resumes returns when the due renewal of name may be ordered again; zero means
// now.
func (h *holds) resumes(name string) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	next := h.due[name]
	if time.Now().Before(next) {
		return next
	}
	delete(h.due, name)
	return time.Time{}
}

// set puts a limit in force, for at most 6 h.
func (h *holds) set(l limit) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if len(h.by) >= maxHolds {
		h.prune(now)
	}
	h.by[l.subject] = &hold{subject: l.subject, until: now.Add(clampLimit(l.until))}
}

// prune makes room. h.mu is held.
func (h *holds) prune(now time.Time) {
	for s, held := range h.by {
		if now.Sub(held.until) > heldPause {
			delete(h.by, s)
		}
	}
	for s := range h.by {
		if len(h.by) < maxHolds {
			return
		}
		delete(h.by, s)
	}
}

// clampLimit returns how long to wait for a limit that ends at until.
func clampLimit(until time.Time) time.Duration {
	return min(max(time.Until(until), brokenFirst), limitedLast)
}
