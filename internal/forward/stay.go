package forward

import (
	"context"
	"strings"
	"time"

	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
)

// A Stay lets a stream go on after its route or its target was removed, for the
// StreamGrace of its Forwarder. A stream is an upgraded connection or an event
// stream. Killing the target does not end it. The methods of a nil Stay do
// nothing.
type Stay struct {
	route  context.Context // ends with the route; nil if there is none
	target *Target
	grace  time.Duration // negative means no limit
	since  time.Time     // when the route or the target was first found to be removed
}

// Stay returns the Stay of the stream that the exchange has become, or nil if
// streams have no grace. route ends with the exchange's route; it may be nil.
// Before it calls Count, the caller must let the end of the exchange depend on
// the Stay and on the Forwarder, no longer on the target.
func (a *Attempts) Stay(route context.Context) *Stay {
	if a.f.StreamGrace == 0 {
		return nil
	}
	a.stay = &Stay{route: route, target: a.Target, grace: a.f.StreamGrace}
	return a.stay
}

// Span returns the Span that ends the stream, instead of its target's.
func (s *Stay) Span() *Span { return s.target.within }

// Count makes Replace no longer wait for the stream. The end of the exchange
// undoes it.
func (s *Stay) Count() {
	if s != nil {
		s.target.staying.Add(1)
	}
}

func (s *Stay) uncount() {
	if s != nil {
		s.target.staying.Add(-1)
	}
}

// Over reports whether the grace is over. It must not be called concurrently.
func (s *Stay) Over(now time.Time) bool {
	if s == nil || s.grace < 0 || !s.left() {
		return false
	}
	if s.since.IsZero() {
		s.since = now
	}
	return now.Sub(s.since) >= s.grace
}

// left reports whether the route or the target was removed.
func (s *Stay) left() bool {
	return s.route != nil && s.route.Err() != nil || s.target.life.Err() != nil
}

// Killed reports whether the exchange must end immediately: its target, or with
// a Stay its Forwarder, was killed.
func (a *Attempts) Killed() bool {
	if a.stay != nil {
		return a.f.Killed()
	}
	return a.Target.Killed()
}

// IsEventStream reports whether res is a stream of server-sent events.
func IsEventStream(res *h1.Response) bool {
	for _, f := range res.Fields {
		if header.EqualFold(f.Name, "content-type") {
			return EventStream(string(f.Value))
		}
	}
	return false
}

// EventStream reports whether contentType is that of server-sent events.
func EventStream(contentType string) bool {
	kind, _, _ := strings.Cut(contentType, ";")
	return strings.EqualFold(strings.TrimSpace(kind), "text/event-stream")
}

// NotFlushed notes that a stream for the route with that pattern is delayed,
// because its ResponseWriter cannot flush.
func (f *Forwarder) NotFlushed(pattern string) {
	if f.Unflushed != nil && !f.deaf.Load() && !f.deaf.Swap(true) {
		f.Unflushed(pattern)
	}
}
