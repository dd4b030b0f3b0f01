package forward

import (
	"context"
	"errors"
	"fmt"
	"net/url"

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
	fast      bool // every target is reached by the built-in HTTP/1.1 client
}

// newSet returns the set of es. Targets that old has are taken over, with what
// is known of them. The error names every bad endpoint.
func (f *Forwarder) newSet(es []Endpoint, old *set) (*set, error) {
	known := make(map[string]*Target)
	if old != nil {
		for i, t := range old.targets {
			known[old.endpoints[i].key()] = t
		}
	}
	s := &set{endpoints: es, fast: true}
	var errs []error
	seen := make(map[string]int, len(es))
	for i := range es {
		if err := es[i].check(); err != nil {
			errs = append(errs, fmt.Errorf("target %d: %w", i, err))
			continue
		}
		key := es[i].key()
		if first, twice := seen[key]; twice {
			errs = append(errs, fmt.Errorf("target %d: %s is target %d already", i, es[i].URL, first))
			continue
		}
		seen[key] = i
		t := known[key]
		if t == nil {
			t = f.newTarget(&es[i])
		}
		s.targets = append(s.targets, t)
		s.fast = s.fast && t.Pool != nil
	}
	if len(es) == 0 {
		errs = append(errs, errors.New("upstream has no targets"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	s.choice = balance.NewSet(f.Policy, s.candidates())
	return s, nil
}

func (e *Endpoint) check() error {
	if err := CheckTarget(e.URL); err != nil {
		return err
	}
	if e.Weight < 0 {
		return fmt.Errorf("weight %d is negative", e.Weight)
	}
	return nil
}

// candidates are the targets as the policy sees them.
func (s *set) candidates() []balance.Candidate {
	same := true // no weight at all
	for i := range s.endpoints {
		same = same && s.endpoints[i].Weight == 0
	}
	cs := make([]balance.Candidate, len(s.targets))
	for i, t := range s.targets {
		cs[i] = balance.Candidate{Node: t.node, Name: s.endpoints[i].key(), Weight: s.endpoints[i].Weight}
		if same {
			cs[i].Weight = 1
		}
	}
	return cs
}

// Targets returns the targets in the order of their endpoints. It is not to be
// changed.
func (f *Forwarder) Targets() []*Target { return f.set.Load().targets }

// Swap makes es the endpoints of exchanges to come. Targets that stay keep what
// is known of them; those that go carry what they have begun to its end, but
// their streams end politely. It returns those. When an endpoint is bad,
// everything stays as it was and the error names it.
func (f *Forwarder) Swap(es []Endpoint) (gone []*Target, err error) {
	f.swap.Lock()
	defer f.swap.Unlock()
	old := f.set.Load()
	s, err := f.newSet(es, old)
	if err != nil {
		return nil, err
	}
	f.set.Store(s)
	stay := make(map[*Target]bool, len(s.targets))
	for _, t := range s.targets {
		stay[t] = true
	}
	for _, t := range old.targets {
		if !stay[t] {
			t.retire()
			gone = append(gone, t)
		}
	}
	return gone, nil
}

// A span is how long something carries exchanges: streams end politely when its
// life is over, and everything else once it is killed.
type span struct {
	life  context.Context
	drain context.CancelFunc // ends life
	kill  context.Context
	die   context.CancelFunc // ends kill
}

// newSpan returns a span within another one, or of its own if that is nil.
func newSpan(within *span) (s span) {
	life, kill := context.Background(), context.Background()
	if within != nil {
		life, kill = within.life, within.kill
	}
	s.life, s.drain = context.WithCancel(life)
	s.kill, s.die = context.WithCancel(kill)
	return s
}

// Life is done when streams must end politely.
func (s *span) Life() context.Context { return s.life }

// Killed reports whether what is in flight must end at once.
func (s *span) Killed() bool { return s.kill.Err() != nil }

// end ends both, and what is bound to them.
func (s *span) end() {
	s.drain()
	s.die()
}
