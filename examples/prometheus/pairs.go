package prometheus

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	prom "github.com/prometheus/client_golang/prometheus"
)

// Limits of Options.MaxPairs, and of a label's length.
const (
	defaultPairs = 1_000
	mostPairs    = 100_000
	maxLabel     = 200 // bytes
)

// Label values that no pattern can have.
const (
	none  = "(none)"  // no route matched
	other = "(other)" // shared by all pairs that have no series of their own
)

// idle is how long a pair is kept after its last use once its route or target
// is gone.
const idle = 10 * time.Minute

// A pairKey is a pattern and a target, as the Router names them. The target is
// "" for responses by the proxy itself.
type pairKey struct{ pattern, target string }

// A pair has the series of a pattern and a target. Each series is made when it
// is first used.
type pair struct {
	pattern, target string // as label values
	used            atomic.Bool
	// time of the last scrape that found the pair used or still routed; guarded
	// by Metrics.scrape
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
	// concurrent calls get the same series: a vector has one for each set of
	// label values
	t := make()
	l.made.Store(&t)
	return t
}

// pairs has all pairs; their number is limited. all is copied on write, so
// Observe finds most pairs without a lock. New pairs go to fresh. They move to
// all after as many look-ups under the lock as there are pairs, so that making
// n pairs copies O(n) of them.
type pairs struct {
	exchanges *exchanges
	max       int
	rest      *pair

	mu     sync.Mutex // guards the fields below, and writes of all and full
	fresh  map[pairKey]*pair
	misses int

	all  atomic.Pointer[map[pairKey]*pair]
	full atomic.Bool // no pair is free, and fresh is empty
}

func (p *pairs) init(limit int, e *exchanges) {
	p.exchanges, p.max = e, limit
	p.rest = &pair{pattern: other}
	p.fresh = map[pairKey]*pair{}
	p.all.Store(&map[pairKey]*pair{})
}

// A recent is the last pair found, which is probably the next one too.
type recent struct {
	all  *map[pairKey]*pair // the map in which it was found
	key  pairKey
	pair *pair
}

// find is of, but looks at the recent pair first.
func (p *pairs) find(r *recent, k pairKey) *pair {
	all := p.all.Load()
	if r.all != all || r.key != k {
		*r = recent{all, k, p.of(k)}
	} else {
		r.pair.use()
	}
	return r.pair
}

// of returns the pair of a key, or the shared pair if no pair is free. Hot
// path: no lock and no allocation for an existing pair, nor if no pair is free.
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

// add returns the pairs of keys. It makes new ones as long as there is room.
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

// merge moves the new pairs to the others. p.mu is held.
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

// keep drops the pairs that are not current and were not used for a long time,
// with their series. Scrapes call it.
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

// label returns s as a label value: valid UTF-8 of limited length.
func label(s string) string {
	cut := ""
	if len(s) > maxLabel {
		s, cut = s[:maxLabel], "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD") + cut
}
