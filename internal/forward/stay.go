package forward

import (
	"context"
	"strings"
	"time"

	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
)

// A Stay lets a stream, which is an upgraded connection or an event stream, go
// on after its route or its target has gone: for the StreamGrace of its
// Forwarder. What kills the target does not end it. The methods of a nil Stay
// do nothing.
type Stay struct {
	route  context.Context // nil without one
	target *Target
	grace  time.Duration // negative means no limit
	since  time.Time     // when one of the two was first seen to have gone
}

// Stay returns the Stay of the stream that the exchange has become, or nil if
// streams have no grace. route ends with its route; it may be nil. Whoever ends
// the exchange has to look at the Stay, and at the Forwarder in place of the
// target, before Count is called.
func (a *Attempts) Stay(route context.Context) *Stay {
	if a.f.StreamGrace == 0 {
		return nil
	}
	a.stay = &Stay{route: route, target: a.Target, grace: a.f.StreamGrace}
	return a.stay
}

// Span is what the stream ends with, in place of its target's.
func (s *Stay) Span() *Span { return s.target.within }

// Count makes Replace wait for the stream no longer. The end of the exchange
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

// Over reports whether the grace is over. Calls are not concurrent.
func (s *Stay) Over(now time.Time) bool {
	if s == nil || s.grace < 0 || !s.left() {
		return false
	}
	if s.since.IsZero() {
		s.since = now
	}
	return now.Sub(s.since) >= s.grace
}

// left reports whether the route or the target has gone.
func (s *Stay) left() bool {
	return s.route != nil && s.route.Err() != nil || s.target.life.Err() != nil
}

// Killed reports whether what kills the exchange's target has ended the
// exchange too.
func (a *Attempts) Killed() bool {
	if a.stay != nil {
		return a.f.Killed()
	}
	return a.Target.Killed()
}

// IsEventStream reports whether res is of server-sent events.
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
