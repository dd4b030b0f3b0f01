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
	// after a rate limit that does not say how long, or says a time that is
	// long over
	limitedUnknown = time.Hour
	// after its time a limit may still be met; later one of the clocks is wrong
	limitedLate = 5 * time.Minute
	// a CA is asked again after that, or after the time that its limit counts,
	// whatever it said
	limitedLast = 6 * time.Hour
	// between two orders of a due renewal that a limit refuses, at least,
	// unless the limit ends sooner
	limitedProbe = 30 * time.Minute
	heldPause    = time.Minute      // until others are let through, while one tries
	maxHolds     = 10_000           // remembered, per account
	tryTime      = 2 * maxIssueTime // after which one that tries is forgotten
)

// A scope is what a rate limit counts.
type scope int

const (
	// one name: failed validations, certificates for the exact set, paused
	// names, and what is not known
	hostScope    scope = iota
	domainScope        // a registered domain
	accountScope       // new orders of the account
	addressScope       // new accounts from our address
)

// A limit is what a CA said about the number of requests.
type limit struct {
	subject
	until time.Time
}

// A subject is what a limit is about.
type subject struct {
	scope scope
	name  string // of the host or domain; "" for the others
}

// A limitedError says that a CA wants no more orders for a while.
type limitedError struct {
	until time.Time
	err   error
}

func (e *limitedError) Error() string { return e.err.Error() }
func (e *limitedError) Unwrap() error { return e.err }

// A heldError says that nothing was asked of a CA, because it may not be asked
// before a time. It is no failed attempt.
type heldError struct {
	until time.Time
	err   error
}

func (e *heldError) Error() string { return e.err.Error() }
func (e *heldError) Unwrap() error { return e.err }

// readLimit reads a rate limit out of the error of an order for name. What it
// is about is known by its text only, which is Boulder's
// (ratelimits/transaction.go, wfe2/wfe.go); other limits are taken to be about
// the host.
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

// limited reports whether a problem is a rate limit. A CA that is too busy for
// anybody uses the same type.
func limited(p acme.Problem) bool {
	if busy(p) {
		return false
	}
	return p.Status == http.StatusTooManyRequests || p.Type == acme.ProblemTypeRateLimited
}

func busy(p acme.Problem) bool {
	return p.Status >= http.StatusInternalServerError || strings.Contains(strings.ToLower(p.Detail), "service busy")
}

// about returns what a limit is about, by the CA's text.
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

// domainIn returns the domain that a text quotes, if name is in it, or else the
// registered domain of name.
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

// retryAfter reads the time out of the text of a rate limit, "... retry after
// 2026-01-02 15:04:05 UTC: see ...": the ACME client does not keep the
// Retry-After field of a failed request, and Let's Encrypt repeats it there.
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

// windowOf reads out of the text of a rate limit in how much time so many
// requests are allowed, "too many new orders (300) from this account in the
// last 3h0m0s": after that time without any the limit is whole again, whatever
// else the CA says.
func windowOf(detail string) (time.Duration, bool) {
	_, rest, _ := strings.Cut(detail, " in the last ")
	text, _, _ := strings.Cut(rest, ",")
	whole, err := time.ParseDuration(strings.TrimSpace(text))
	return whole, err == nil && whole > 0
}

// holds are the limits of an account that are in force. A hold ends with one
// order that is let through: when the CA takes it, the others follow.
//
// Renewals that are due pass by them. One that a limit has refused has its own
// time for the next order.
type holds struct {
	mu  sync.Mutex
	by  map[subject]*hold
	due map[string]time.Time // by host
}

type hold struct {
	subject
	until time.Time
	tried time.Time // when one was let through; zero if none is under way
}

func newHolds() *holds { return &holds{by: make(map[subject]*hold), due: make(map[string]time.Time)} }

// enter lets an order for name through, or returns until when it is held.
// registered says that the account exists, which limits of new accounts then do
// not concern. leave is to be called with what was entered.
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

// until returns how long the limits of any of the subjects are in force; zero
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

// counting reports whether a limit of a scope without a name is in force.
func (h *holds) counting(s scope) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.by[subject{scope: s}] != nil
}

// subjects are what limits may be about that concern an order for name.
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

// errNotAsked is the outcome of an order that the CA has not seen: it shows
// nothing about a limit.
var errNotAsked = errors.New("another process has the certificate")

// release ends what enter began, with the error of the order. A hold that has
// been set anew meanwhile is none of its.
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
			held.tried = time.Time{} // the next order asks
		case orderTaken(err):
			delete(h.by, held.subject)
		default:
			held.tried = time.Time{}
			held.until = latest(held.until, time.Now().Add(heldPause))
		}
	}
}

// refuse notes that a limit until then has refused the renewal of name, which
// is due, and returns when the next order may follow. left is what remains of
// the certificate, 0 if nothing: a limit that outlasts it is probed before, as
// often as halves of the rest have half an hour.
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

// resumes returns when the renewal of name, which is due, may be ordered again;
// zero if it may now.
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

// set puts a limit in force, for 6 h at most.
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

// clampLimit is how long a limit until then is waited for.
func clampLimit(until time.Time) time.Duration {
	return min(max(time.Until(until), brokenFirst), limitedLast)
}
