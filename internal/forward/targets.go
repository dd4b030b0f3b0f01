package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"

	"github.com/hostproxy/hostproxy/internal/balance"
)

// An Endpoint describes a target.
type Endpoint struct {
	URL    *url.URL // not to be changed
	Addr   string   // host:port to dial; "" means the URL's
	Weight int      // share of the exchanges; 0 means none, unless all are 0
}

// key returns a string that identifies the endpoint.
func (e *Endpoint) key() string { return e.URL.String() + " " + e.Addr }

// A set has the targets at one time, and how they are chosen. It is immutable.
// An exchange takes the current one, and looks for a newer one before each
// attempt.
type set struct {
	endpoints []Endpoint
	targets   []*Target // at the positions of their endpoints
	choice    *balance.Set
	tokens    map[string]int // positions by value of the sticky cookie
	weighted  bool           // some targets have a weight
	fast      bool           // every target is reached by the built-in HTTP/1.1 client
}

// newSet returns the set of es. It takes over old's targets for the same
// endpoints, with their health and counters. The error names all bad endpoints.
func (f *Forwarder) newSet(es []Endpoint, old *set) (*set, error) {
	known := make(map[string]*Target)
	if old != nil {
		for _, t := range old.targets {
			known[t.key] = t
		}
	}
	s := &set{endpoints: es, fast: len(es) > 0} // without targets, the handler lane waits for some
	var errs []error
	seen := make(map[string]int, len(es))
	for i := range es {
		if err := es[i].check(); err != nil {
			errs = append(errs, fmt.Errorf("target %d: %w", i, err))
			continue
		}
		key := es[i].key()
		if first, twice := seen[key]; twice {
			errs = append(errs, fmt.Errorf("target %d: %q repeats target %d: list each target once", i, es[i].URL, first))
			continue
		}
		seen[key] = i
		t := known[key]
		if t == nil {
			t = f.newTarget(&es[i])
		}
		if err := f.Probe.checkTarget(t); err != nil {
			errs = append(errs, fmt.Errorf("target %d: %w", i, err))
		}
		s.targets = append(s.targets, t)
		s.fast = s.fast && t.Pool != nil
	}
	if len(es) == 0 && f.Discover == nil {
		errs = append(errs, errors.New("upstream has no targets: add at least one, or set Discover"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	s.choice = balance.NewSet(f.Policy, s.candidates())
	s.stick(f.Sticky)
	return s, nil
}

func (e *Endpoint) check() error {
	if err := checkTarget(e.URL); err != nil {
		if e.URL == nil {
			return err
		}
		return fmt.Errorf("%q: %w", e.URL.Redacted(), err)
	}
	if e.Addr != "" {
		if _, port, err := net.SplitHostPort(e.Addr); err != nil || port == "" || port == "0" {
			return fmt.Errorf("address %q: want host:port, with a port above 0", e.Addr)
		}
	}
	if e.Weight < 0 {
		return fmt.Errorf("weight is %d: want 0 or more", e.Weight)
	}
	return nil
}

// candidates returns the targets in the form that the policy needs.
func (s *set) candidates() []balance.Candidate {
	s.weighted = slices.ContainsFunc(s.endpoints, func(e Endpoint) bool { return e.Weight > 0 })
	cs := make([]balance.Candidate, len(s.targets))
	for i, t := range s.targets {
		cs[i] = balance.Candidate{Node: t.node, Name: t.key, Weight: s.endpoints[i].Weight}
		if !s.weighted {
			cs[i].Weight = 1
		}
	}
	return cs
}

// Targets returns the targets in the order of their endpoints. The caller must
// not change the slice.
func (f *Forwarder) Targets() []*Target { return f.set.Load().targets }

// A Span is the time for which a Forwarder or a target carries exchanges.
// Streams end politely when its life is over, and all exchanges end once it is
// killed. It points to the Span around it, which does not point back: so a
// removed target can be freed.
type Span struct {
	within *Span // nil for the outermost
	life   context.Context
	drain  context.CancelFunc // ends life
	kill   context.Context
	die    context.CancelFunc // ends kill
}

func newSpan(within *Span) Span {
	s := Span{within: within}
	s.life, s.drain = context.WithCancel(context.Background())
	s.kill, s.die = context.WithCancel(context.Background())
	return s
}

// Ending reports whether streams must end politely now.
func (s *Span) Ending() bool { return s.life.Err() != nil || s.within != nil && s.within.Ending() }

// Killed reports whether exchanges in flight must end immediately.
func (s *Span) Killed() bool { return s.kill.Err() != nil || s.within != nil && s.within.Killed() }

// Bind calls end once the life of s or of a Span around it is over, and cut
// once one is killed. The returned function undoes that.
func (s *Span) Bind(end, cut func()) (unbind func()) {
	life, kill := context.AfterFunc(s.life, end), context.AfterFunc(s.kill, cut)
	outer := func() {}
	if s.within != nil {
		outer = s.within.Bind(end, cut)
	}
	return func() {
		life()
		kill()
		outer()
	}
}
