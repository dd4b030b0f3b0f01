package certs

import "time"

const (
	maxNamed    = 10          // hosts a minute that have lines of their own
	tallyTime   = time.Minute // over which they are counted
	maxExamples = 5           // hosts that a summary names
)

// A tally bounds the log lines about hosts that fare alike: a few a minute have
// their own, the others are summed up. While there are many, all are. The
// reporter's lock guards it.
type tally struct {
	minute   time.Time // when the count began
	named    int       // since then
	many     bool      // there were more than maxNamed in the minute before
	silent   int       // of those without a line
	examples []string  // hosts of those
}

// name counts one more host, and reports whether it gets a line of its own.
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

// take returns the hosts that have had no line since the last call, and some of
// their names.
func (t *tally) take() (n int, examples []string) {
	n, examples = t.silent, t.examples
	t.silent, t.examples = 0, nil
	return n, examples
}

// due is how long until the summary of the current minute.
func (t *tally) due() time.Duration { return tallyTime - time.Since(t.minute) }
