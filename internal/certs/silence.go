package certs

import (
	"log/slog"
	"sync"
	"time"
)

// silenceTime is how long a CA must have answered no orders before that is a
// warning. Shorter outages end by themselves.
const silenceTime = time.Minute

// silences log which CAs answer no orders: once per CA, however many hosts
// wait, and again when it answers. The lines about a host do not suffice: those
// about a host on demand are no warnings.
type silences struct {
	log *slog.Logger

	mu sync.Mutex
	of map[string]*silence // by the directory of the CA
}

// A silence is what is known of one CA.
type silence struct {
	heard time.Time // last answer
	since time.Time // start of the first order without an answer; zero while the CA answers
	said  bool      // it was logged
}

// note notes the result of an order that began at a time.
func (s *silences) note(ca string, began time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x, now := s.of[ca], time.Now()
	if x == nil {
		x = new(silence)
		s.of[ca] = x
	}
	switch {
	case noAnswer(err):
		if x.since.IsZero() {
			x.since = latest(began, x.heard)
		}
		if !x.said && now.Sub(x.since) >= silenceTime {
			x.said = true
			s.log.Warn("the CA answers no orders", "ca", ca, "since", x.since,
				"remedy", "check that this machine reaches the CA; orders are retried by themselves", "cause", err)
		}
	case err == nil || refused(err) || orderTaken(err):
		if x.said {
			s.log.Info("the CA answers orders again", "ca", ca, "after", now.Sub(x.since).Round(time.Second))
		}
		*x = silence{heard: now}
	}
}
