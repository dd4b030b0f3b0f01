package limit

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"time"
)

// A Spec is what a Rule is made of. Its Config may be zero if MaxInFlight is
// not.
type Spec struct {
	Config
	By          By
	MaxInFlight int // requests of each subject; 0 means no bound
}

// rated reports whether requests are counted over time.
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

// A Rule is a limit and who decides on it.
type Rule struct {
	Spec
	seed  maphash.Seed
	own   *Limiter  // nil if somebody else decides, or if nothing is counted over time
	ask   *foreign  // nil if nobody else decides
	slots *inFlight // nil without a bound
}

// NewRule returns the rule of s with a Limiter of its own.
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

// rule returns the rule of s without what decides.
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

// foreignPatience is how long a foreign limiter may think.
const foreignPatience = time.Second

// An AskFunc asks a foreign limiter about a subject: about the address that
// stands for the client, an IPv4 address or the first of an IPv6 address's /64,
// or about the digest of a text if that is not empty.
type AskFunc func(ctx context.Context, client netip.Addr, digest string) (Decision, error)

// A foreign limiter may be on another machine.
type foreign struct {
	ask    AskFunc
	failed func(error)
	once   *Limiter // of what failed is told
}

// NewForeignRule returns the rule of s with ask to decide. Its context is done
// after a second, and it is waited for. Whom it fails for is let through:
// failed is told why, at most once a second.
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

// allow consults f. If f fails, the request is allowed. A limiter that ends its
// goroutine frees held.
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

// consult asks a foreign limiter. A panic in it is an error.
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

// A Verdict is what becomes of a request.
type Verdict struct {
	Decision
	Full bool // refused because of what is in flight; the Decision is empty then
	Slot Slot // of a request that is let through, to be freed at its end
}

// Take counts a request of s in: in flight and, if there is room, over time.
// Where there is none, it takes a few milliseconds to say so. It may be called
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

// Peek is [Limiter.Peek]. False means that no limiter of ours decides: a
// foreign one, which is not asked, or none.
func (r *Rule) Peek(s Subject, now time.Time) (Decision, bool) {
	if r.own == nil {
		return Decision{}, false
	}
	return r.own.peek(r.key(s), now), true
}

// Foreign reports whether a foreign limiter decides.
func (r *Rule) Foreign() bool { return r.ask != nil }

// InFlight returns how many requests of s are in flight, if r has a bound for
// them.
func (r *Rule) InFlight(s Subject) int {
	if r.slots == nil {
		return 0
	}
	return r.slots.of(r.key(s))
}

// AppendFields appends the header lines that tell a refused client of v, each
// with its CRLF. When another request will end is not known.
func (r *Rule) AppendFields(b []byte, v Verdict) []byte {
	if v.Full {
		return append(b, "Retry-After: 1\r\n"...)
	}
	b = append(v.AppendRetryAfter(append(b, "Retry-After: "...)), "\r\nRateLimit: "...)
	b = append(r.AppendRateLimit(b, v.Decision), "\r\nRateLimit-Policy: "...)
	return append(r.AppendPolicy(b), "\r\n"...)
}
