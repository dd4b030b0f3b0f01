package forward

import (
	"cmp"
	"slices"
	"time"

	"github.com/hostproxy/hostproxy/internal/latency"
	"github.com/hostproxy/hostproxy/internal/status"
)

// Describe adds the state of f and of its canary to the route.
func (f *Forwarder) Describe(s *status.Route) {
	f.describe(s)
	if d := f.diverted.Load(); d != nil {
		d.to.describe(s)
	}
}

func (f *Forwarder) describe(s *status.Route) {
	queued, paused := f.Waiting()
	s.Queued, s.Paused = s.Queued+queued, s.Paused || paused
	s.Sleep = cmp.Or(s.Sleep, f.waker.state())
	targets := f.Targets()
	for _, t := range targets {
		s.InFlight += t.InFlight()
		s.Targets = append(s.Targets, t.describe())
	}
	if len(targets) == 0 {
		s.Error = "no target has been found yet"
	}
}

func (t *Target) describe() status.Target {
	health, now := t.Health(), time.Now()
	answers, ms := t.latency.Recent(now, 0.5, 0.9, 0.99), make([]float64, 3)
	for i, d := range answers.Quantiles {
		ms[i] = float64(d.Microseconds()) / 1000
	}
	s := status.Target{Of: t, Name: t.Name, State: string(health.State), Reason: health.Reason, Since: health.Since,
		InFlight: t.InFlight(), Streams: t.Streams(), Answers: answers.Ever, Failures: t.Failures(), P50: ms[0], P90: ms[1], P99: ms[2]}
	for _, c := range t.monitor.Changes() {
		s.Changes = append(s.Changes, status.Change{Time: c.Since, State: string(c.State), Reason: c.Reason})
	}
	s.Recent = t.recent(now, &answers)
	return s
}

// recent returns the outcomes of the attempts in the last one to two minutes.
func (t *Target) recent(now time.Time, answers *latency.Recent) status.Recent {
	failures := t.failures.Recent(now)
	r := status.Recent{
		Seconds:  max(min(latency.Span(now), now.Sub(t.born)).Seconds(), 1),
		Attempts: answers.Count + failures, Errors: failures + t.faults.Recent(now),
	}
	if answers.Count > 0 {
		r.Spread = slices.Clone(answers.Spread[:])
	}
	return r
}

// answered counts a response with that status, whose head came after took.
func (t *Target) answered(now time.Time, took time.Duration, status int) {
	t.latency.Record(now, took)
	if status >= 500 {
		t.faults.Add(now)
	}
}
