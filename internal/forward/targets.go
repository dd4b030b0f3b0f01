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

// An Endpoint is what a target is made of.
type Endpoint struct {
	URL    *url.URL // not to be changed
	Addr   string   // host:port to dial instead of the URL's; "" means that
	Weight int      // share of the exchanges; 0 means none, unless all are 0
}

// key tells endpoints apart.
func (e *Endpoint) key() string { return e.URL.String() + " " + e.Addr }

// A set is who serves at one time, and how they are chosen. It is immutable: an
// exchange takes one when it begins, and stays with it.
type set struct {
	endpoints []Endpoint
	targets   []*Target // of the same positions
	choice    *balance.Set
	tokens    map[string]int // positions by the value of the sticky cookie
	weighted  bool           // some targets have a weight
	fast      bool           // every target is reached by the built-in HTTP/1.1 client
}

// newSet returns the set of es. Targets that old has are taken over, with what
// is known of them. The error names every bad endpoint.
func (f *Forwarder) newSet(es []Endpoint, old *set) (*set, error) {
	known := make(map[string]*Target)
	if old != nil {
		for _, t := range old.targets {
			known[t.key] = t
		}
	}
	s := &set{endpoints: es, fast: len(es) > 0} // without targets the handler lane waits for some
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

// candidates are the targets as the policy sees them.
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

// Targets returns the targets in the order of their endpoints. It is not to be
// changed.
func (f *Forwarder) Targets() []*Target { return f.set.Load().targets }

// A Span is how long something carries exchanges: streams end politely when its
// life is over, and everything else once it is killed. It knows the one that it
// lies within, and is not known by it: nothing is left of a target that went.
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

// Ending reports whether streams must end politely.
func (s *Span) Ending() bool { return s.life.Err() != nil || s.within != nil && s.within.Ending() }

// Killed reports whether what is in flight must end at once.
func (s *Span) Killed() bool { return s.kill.Err() != nil || s.within != nil && s.within.Killed() }

// Bind calls end once the span or one around it ends, and cut once it is
// killed. The returned function undoes it.
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
