package certs

import "time"

const (
	maxNamed    = 10          // hosts per minute with log lines of their own
	tallyTime   = time.Minute // period of the count
	maxExamples = 5           // hosts that a summary names
)

// A tally limits the log lines about hosts in the same situation: a few per
// minute get their own, the others are summed up. If there were many in the
// last minute, all are summed up. The reporter's lock guards it.
type tally struct {
	minute   time.Time // when the count began
	named    int       // hosts since then
	many     bool      // more than maxNamed in the minute before
	silent   int       // hosts without a line
	examples []string  // names of some of them
}

// name counts a host, and reports whether it gets its own log line.
func (t *tally) name(host string) bool {
	if now := time.Now(); now.Sub(t.minute) >= tallyTime {
		t.many = t.named > maxNamed && now.Sub(t.minute) < 2*tallyTime
		t.minute, t.named = now, 0
	}
	if t.named++; t.named <= maxNamed && !t.many {
		return true
	}
	if t.silent++; len(t.examples) < maxExamples {
		t.examples = append(t.examples, host)
	}
	return false
}

// take returns the number of hosts without a line since the last call, and some
// of their names.
func (t *tally) take() (n int, examples []string) {
	n, examples = t.silent, t.examples
	t.silent, t.examples = 0, nil
	return n, examples
}

// due returns how long until the summary of the current minute.
func (t *tally) due() time.Duration { return tallyTime - time.Since(t.minute) }
