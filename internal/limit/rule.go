package limit

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"time"
)

// A Spec describes a Rule. Its Config may be zero if MaxInFlight is not.
type Spec struct {
	Config
	By          By
	MaxInFlight int // requests in flight of each subject; 0 means no limit
}

// rated reports whether s limits requests over time.
func (s *Spec) rated() bool { return s.Rate != 0 || s.MaxInFlight <= 0 }

func (s *Spec) check() error {
	var errs []error
	switch {
	case s.rated():
		errs = append(errs, s.Config.Validate())
	case s.Burst != 0:
		errs = append(errs, fmt.Errorf("field Burst is %d without Rate, want Rate above 0, or Burst of 0", s.Burst))
	}
	if s.MaxInFlight < 0 {
		errs = append(errs, fmt.Errorf("MaxInFlight is %d, want 0 (no limit) or more", s.MaxInFlight))
	}
	return errors.Join(errs...)
}

// A Rule is a limit with the limiter that decides.
type Rule struct {
	Spec
	seed  maphash.Seed
	own   *Limiter  // nil if a foreign limiter decides, or if there is no limit over time
	ask   *foreign  // nil without a foreign limiter
	slots *inFlight // nil without MaxInFlight
}

// NewRule returns the rule of s, with its own Limiter.
func NewRule(s Spec) (*Rule, error) {
	r, err := s.rule()
	if err == nil && s.rated() {
		r.own, err = New(s.Config)
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// rule returns the rule of s without a limiter.
func (s Spec) rule() (*Rule, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	r := &Rule{Spec: s, seed: maphash.MakeSeed()}
	if s.MaxInFlight > 0 {
		r.slots = newInFlight(s.MaxInFlight)
	}
	return r, nil
}

// foreignPatience is how long a foreign limiter may take.
const foreignPatience = time.Second

// An AskFunc asks a foreign limiter about a subject. That is a client's
// address: IPv4, or the first address of an IPv6 address's /64. If digest is
// not empty, it is the digest of a text instead.
type AskFunc func(ctx context.Context, client netip.Addr, digest string) (Decision, error)

// A foreign limiter is the program's; it may be on another machine.
type foreign struct {
	ask    AskFunc
	failed func(error)
	once   *Limiter // limits the calls of failed
}

// NewForeignRule returns the rule of s, on which ask decides. The context of
// ask is done after a second, but requests wait until ask returns. If ask fails
// the request is allowed, and failed is called with the error, at most once a
// second.
func NewForeignRule(s Spec, ask AskFunc, failed func(error)) (*Rule, error) {
	r, err := s.rule()
	if err == nil && !s.rated() {
		err = errors.New("field Limiter requires Rate, which is announced to clients: set it above 0")
	}
	if err != nil {
		return nil, err
	}
	once, err := New(Config{Rate: 1, Burst: 1})
	if err != nil {
		return nil, err
	}
	r.ask = &foreign{ask, failed, once}
	return r, nil
}

// allow consults f. If f fails, the request is allowed. If f ends the
// goroutine, held is freed.
func (f *foreign) allow(s Subject, now time.Time, held Slot) Decision {
	returned := false
	defer func() {
		if !returned {
			held.Free()
		}
	}()
	d, err := f.consult(s)
	if err != nil {
		if f.once.Allow(netip.Addr{}, now).OK {
			f.failed(err)
		}
		d = Decision{OK: true}
	}
	returned = true
	return d
}

// consult asks the foreign limiter. A panic in it becomes an error.
func (f *foreign) consult(s Subject) (d Decision, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), foreignPatience)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in the limiter: %v", p)
		}
	}()
	if s.Text != "" {
		return f.ask(ctx, netip.Addr{}, Digest(s.Text))
	}
	return f.ask(ctx, standIn(s.Client), "")
}

// A Verdict is the decision of a Rule on a request.
type Verdict struct {
	Decision
	Full bool // refused by MaxInFlight; then the Decision is empty
	Slot Slot // of an allowed request; the caller frees it at the end
}

// Take counts a request of s: in flight and, if there is room, over time.
// Without room it waits a few milliseconds before it refuses. It may be called
// concurrently.
func (r *Rule) Take(s Subject, now time.Time) Verdict {
	key := r.key(s)
	v := Verdict{Decision: Decision{OK: true}}
	if r.slots != nil {
		if !r.slots.takeSoon(key) {
			return Verdict{Full: true}
		}
		v.Slot = Slot{r.slots, key}
	}
	switch {
	case r.own != nil:
		v.Decision = r.own.allow(key, now)
	case r.ask != nil:
		v.Decision = r.ask.allow(s, now, v.Slot)
	}
	if !v.OK {
		v.Slot.Free()
		v.Slot = Slot{}
	}
	return v
}

// Peek is [Limiter.Peek]. It returns false if r has no Limiter of its own: a
// foreign limiter decides, which is not asked, or none.
func (r *Rule) Peek(s Subject, now time.Time) (Decision, bool) {
	if r.own == nil {
		return Decision{}, false
	}
	return r.own.peek(r.key(s), now), true
}

// Foreign reports whether a foreign limiter decides.
func (r *Rule) Foreign() bool { return r.ask != nil }

// InFlight returns how many requests of s are in flight, or 0 if r does not
// limit them.
func (r *Rule) InFlight(s Subject) int {
	if r.slots == nil {
		return 0
	}
	return r.slots.of(r.key(s))
}

// AppendFields appends the header lines of a refusal with v, each with its
// CRLF. For v.Full, Retry-After is 1, since the end of other requests is not
// known.
func (r *Rule) AppendFields(b []byte, v Verdict) []byte {
	if v.Full {
		return append(b, "Retry-After: 1\r\n"...)
	}
	b = append(v.AppendRetryAfter(append(b, "Retry-After: "...)), "\r\nRateLimit: "...)
	b = append(r.AppendRateLimit(b, v.Decision), "\r\nRateLimit-Policy: "...)
	return append(r.AppendPolicy(b), "\r\n"...)
}
