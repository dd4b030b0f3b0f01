package prometheus

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	prom "github.com/prometheus/client_golang/prometheus"
)

// Bounds of Options.MaxPairs, and of a label.
const (
	defaultPairs = 1_000
	mostPairs    = 100_000
	maxLabel     = 200 // bytes
)

// Labels that no pattern can have.
const (
	none  = "(none)"  // no route matched
	other = "(other)" // shared by all that have no series of their own
)

// idle is how long a pair without a route and a target is kept after its last
// use.
const idle = 10 * time.Minute

// A pairKey is a pattern and a target, as the Router names them. The target is
// "" for responses of the proxy itself.
type pairKey struct{ pattern, target string }

// A pair has the series of a pattern and a target, made when they are first
// used.
type pair struct {
	pattern, target string // labels
	used            atomic.Bool
	// of the last scrape that found it used, or in use; guarded by
	// Metrics.scrape
	seen time.Time

	requests   [codes][protocols]lazy[prom.Counter]
	durations  [codes]lazy[*histogram]
	attempts   [codes]lazy[prom.Counter]
	firstBytes lazy[*histogram]
	received   lazy[prom.Counter]
	sent       lazy[prom.Counter]
}

// A lazy is a series that is made when it is first used.
type lazy[T any] struct{ made atomic.Pointer[T] }

func (l *lazy[T]) get(make func() T) T {
	if t := l.made.Load(); t != nil {
		return *t
	}
	t := make() // the same for concurrent calls: a vector has one series for the same labels
	l.made.Store(&t)
	return t
}

// pairs are all pairs, a bounded number. Observe reads most of them without a
// lock: all is copied on write. New pairs are in fresh, and are put into all
// when they have been asked for as often as there are pairs, so that making n
// pairs copies O(n) of them.
type pairs struct {
	exchanges *exchanges
	max       int
	rest      *pair

	mu     sync.Mutex // guards what follows; all and full are written under it
	fresh  map[pairKey]*pair
	misses int

	all  atomic.Pointer[map[pairKey]*pair]
	full atomic.Bool // and then fresh is empty
}

func (p *pairs) init(limit int, e *exchanges) {
	p.exchanges, p.max = e, limit
	p.rest = &pair{pattern: other}
	p.fresh = map[pairKey]*pair{}
	p.all.Store(&map[pairKey]*pair{})
}

// A recent is the pair that was found last, which is probably the next.
type recent struct {
	all  *map[pairKey]*pair // as they were then
	key  pairKey
	pair *pair
}

// find is of, which looks at the recent pair first.
func (p *pairs) find(r *recent, k pairKey) *pair {
	all := p.all.Load()
	if r.all != all || r.key != k {
		*r = recent{all, k, p.of(k)}
	} else {
		r.pair.use()
	}
	return r.pair
}

// of returns the pair of a key, or the one that is shared. Hot path: no lock
// and no allocation for a pair that exists, but for new ones, or when all pairs
// are taken.
func (p *pairs) of(k pairKey) *pair {
	found := (*p.all.Load())[k]
	if found == nil {
		if p.full.Load() {
			return p.rest
		}
		found = p.add(k)[0]
	}
	found.use()
	return found
}

func (x *pair) use() {
	if !x.used.Load() {
		x.used.Store(true)
	}
}

// add returns the pairs of keys, new ones as far as there is room.
func (p *pairs) add(keys ...pairKey) []*pair {
	p.mu.Lock()
	defer p.mu.Unlock()
	found := make([]*pair, len(keys))
	for i, k := range keys {
		found[i] = p.one(k)
	}
	return found
}

// one is add for one key. p.mu is held.
func (p *pairs) one(k pairKey) *pair {
	all := *p.all.Load()
	if x := all[k]; x != nil {
		return x
	}
	x := p.fresh[k]
	switch {
	case x != nil:
	case len(all)+len(p.fresh) >= p.max:
		p.merge()
		p.full.Store(true)
		return p.rest
	default:
		k = pairKey{strings.Clone(k.pattern), strings.Clone(k.target)}
		x = &pair{pattern: label(k.pattern), target: label(k.target), seen: time.Now()}
		if k.pattern == "" {
			x.pattern = none
		}
		p.fresh[k] = x
	}
	if p.misses++; p.misses >= len(all)+len(p.fresh) {
		p.merge()
	}
	return x
}

// merge puts the new pairs to the others. p.mu is held.
func (p *pairs) merge() {
	p.misses = 0
	if len(p.fresh) == 0 {
		return
	}
	all := maps.Clone(*p.all.Load())
	maps.Copy(all, p.fresh)
	p.all.Store(&all)
	clear(p.fresh)
}

// keep drops the pairs that are not current and have not been used for long,
// and their series. It is called by scrapes.
func (p *pairs) keep(current map[pairKey]bool, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.merge()
	kept := maps.Clone(*p.all.Load())
	var dropped []*pair
	for k, x := range kept {
		if x.used.Swap(false) || current[k] || k.pattern == "" {
			x.seen = now
		} else if now.Sub(x.seen) > idle {
			delete(kept, k)
			dropped = append(dropped, x)
		}
	}
	if len(dropped) == 0 {
		return
	}
	p.all.Store(&kept)
	p.full.Store(false)
	patterns, labels := map[string]bool{}, map[pairKey]bool{}
	for _, x := range kept {
		patterns[x.pattern], labels[pairKey{x.pattern, x.target}] = true, true
	}
	for _, x := range dropped {
		if !labels[pairKey{x.pattern, x.target}] {
			p.exchanges.forget(x, !patterns[x.pattern])
		}
	}
}

// label returns s as the value of a label: valid UTF-8 of bounded length.
func label(s string) string {
	cut := ""
	if len(s) > maxLabel {
		s, cut = s[:maxLabel], "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD") + cut
}
