package forward

import (
	"cmp"

	"github.com/hostproxy/hostproxy/internal/status"
)

// Describe adds what f and its canary are doing to the route.
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
		health, ms := t.Health(), make([]float64, 3)
		answers, took := t.Answers(0.5, 0.9, 0.99)
		for i, d := range took {
			ms[i] = float64(d.Microseconds()) / 1000
		}
		s.InFlight += t.InFlight()
		s.Targets = append(s.Targets, status.Target{Name: t.Name, State: string(health.State), Reason: health.Reason, Since: health.Since,
			InFlight: t.InFlight(), Streams: t.Streams(), Answers: answers, Failures: t.Failures(), P50: ms[0], P90: ms[1], P99: ms[2]})
	}
	if len(targets) == 0 {
		s.Error = "no target has been found yet"
	}
}
