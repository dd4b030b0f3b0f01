// Package reach knows where routes lead: which handler is behind a handler, and
// which routes still need something with background work.
package reach

import (
	"slices"
	"sync"
	"sync/atomic"
)

// A Map counts how many routes lead to each T. Its zero value is ready to use.
// Its methods, and those of its Routes, may be called concurrently.
type Map[T comparable] struct {
	mu    sync.Mutex
	count map[T]int
}

// Add notes one more route that leads to t.
func (m *Map[T]) Add(t T) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.add(t)
}

func (m *Map[T]) add(t T) {
	if m.count == nil {
		m.count = make(map[T]int)
	}
	m.count[t]++
}

// Remove notes one route less that leads to t, and reports whether it was the
// last one.
func (m *Map[T]) Remove(t T) (last bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.count[t]--; m.count[t] > 0 {
		return false
	}
	delete(m.count, t)
	return true
}

// Has reports whether a route leads to t.
func (m *Map[T]) Has(t T) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.count[t] > 0
}

// All returns everything that a route leads to, in no particular order.
func (m *Map[T]) All() []T {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]T, 0, len(m.count))
	for t := range m.count {
		all = append(all, t)
	}
	return all
}

// A Route is what one route leads to through other handlers, as far as it is
// known: handlers may tell it in advance, or show it with the first request.
type Route[T comparable] struct {
	m     *Map[T]
	known atomic.Pointer[[]T] // replaced with m.mu held
	gone  bool                // guarded by m.mu
}

// NewRoute returns a Route that leads to nothing yet, and is counted in m.
func (m *Map[T]) NewRoute() *Route[T] { return &Route[T]{m: m} }

// Meet notes that the route leads to t, and reports whether t is counted from
// now on: it is new, and the route has not left. It is called for each request:
// if t is not new, it takes no lock and does not allocate.
func (r *Route[T]) Meet(t T) bool {
	if slices.Contains(r.All(), t) {
		return false
	}
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	known := r.All()
	if slices.Contains(known, t) {
		return false
	}
	known = append(slices.Clip(known), t)
	r.known.Store(&known)
	if r.gone {
		return false
	}
	r.m.add(t)
	return true
}

// All returns what the route is known to lead to. Do not change the result.
func (r *Route[T]) All() []T {
	if known := r.known.Load(); known != nil {
		return *known
	}
	return nil
}

// Leave ends the route: its destinations are forgotten, and no longer counted.
// It returns those to which no other route leads.
func (r *Route[T]) Leave() (last []T) {
	r.m.mu.Lock()
	known := r.All()
	r.gone = true
	r.m.mu.Unlock()
	for _, t := range known {
		if r.m.Remove(t) {
			last = append(last, t)
		}
	}
	return last
}
