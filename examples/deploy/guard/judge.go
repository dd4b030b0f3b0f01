package guard

import (
	"fmt"
	"math"
	"time"
)

// A Verdict is the decision of a Judge.
type Verdict int

// The verdicts.
const (
	Undecided Verdict = iota // more requests are needed
	Keep                     // enough requests, and the new targets are not worse
	GoBack                   // the new targets are worse
)

// An Outcome is the result of one request at a new target.
type Outcome struct {
	Failed bool          // no response, or a status of 500 or above
	Wait   time.Duration // time until the response began, or until now

	// Untimed means that Wait does not count. A Watch sets it if another
	// request began just before: concurrent requests are slow for the same
	// reason, such as a garbage collection, and prove no more than one of them.
	Untimed bool
}

// A Judge decides from the outcomes of a few requests whether new targets are
// worse than old ones. It has no clock and no lock.
//
// Fifty requests have no p99: it would be the slowest one of them. Nor do they
// show a small rise of the error share. The Judge therefore asks two questions
// that fifty requests can answer. Is the share of failures higher than that of
// the old targets? Are more responses slower than the p99 of the old targets,
// for which one in a hundred is normal? Wald's sequential probability ratio
// test is used for both: each outcome adds the logarithm of how much more
// likely it is if the new targets are worse by Limits.Worse. The Judge goes
// back when the sum exceeds log(1/p). For a target that is not worse, the
// probability that this ever happens is at most p (Ville's inequality), however
// often the sum is checked. So the Judge can check after each request and needs
// no minimum of requests: a target that always fails takes three, and one
// failure among good responses is never enough.
type Judge struct {
	limits   Limits
	base     Baseline
	slow     time.Duration
	failed   test
	late     test
	requests int
	timed    int // outcomes whose Wait counts
	verdict  Verdict
	err      error
}

// NewJudge returns a Judge that compares new targets with b.
func NewJudge(l Limits, b Baseline) *Judge {
	slow, beyond := b.slowAfter(l)
	return &Judge{limits: l, base: b, slow: slow, failed: newTest(b.failing(), l), late: newTest(beyond, l)}
}

// Add counts one outcome and returns the verdict. A verdict other than
// Undecided is final.
func (j *Judge) Add(o Outcome) Verdict {
	if j.verdict != Undecided {
		return j.verdict
	}
	j.requests++
	if j.failed.add(o.Failed) {
		return j.goBack("failed", j.failed, fmt.Sprintf("%d of %d at the old targets", j.base.Failures, j.base.Requests))
	}
	if !o.Untimed {
		j.timed++
		if !o.Failed && j.late.add(o.Wait > j.slow) {
			return j.goBack(fmt.Sprintf("took longer than %v", j.slow), j.late, j.usual())
		}
	}
	if j.timed >= j.limits.requests() {
		j.verdict = Keep
	}
	return j.verdict
}

// usual describes the usual times of the old targets.
func (j *Judge) usual() string {
	if !j.base.timed() {
		return "too few requests at the old targets to compare with"
	}
	return fmt.Sprintf("%.2g %% of %d at the old targets took longer than %v", 100*j.base.Beyond, j.base.Requests, j.base.Tail.Round(time.Microsecond))
}

func (j *Judge) goBack(what string, t test, usual string) Verdict {
	j.verdict = GoBack
	j.err = &WorseError{What: what, Hits: t.hits, Requests: t.n, Usual: usual}
	return GoBack
}

// Requests returns the number of counted outcomes.
func (j *Judge) Requests() int { return j.requests }

// Err returns a *WorseError if the verdict is GoBack, and otherwise nil.
func (j *Judge) Err() error { return j.err }

// A WorseError says how new targets were worse.
type WorseError struct {
	What     string // "failed" or "took longer than 200ms"
	Hits     int    // number of such requests
	Requests int    // number of all requests
	Usual    string // the same for the old targets
}

// Error describes e in one line.
func (e *WorseError) Error() string {
	return fmt.Sprintf("the new targets are worse: %d of %d requests %s (%s)", e.Hits, e.Requests, e.What, e.Usual)
}

// A test decides whether a share is higher than usual.
type test struct {
	hit, miss float64 // what a hit or a miss adds to sum
	bound     float64 // the share is too high once sum reaches it
	sum       float64
	n, hits   int
}

// newTest returns a test for a share that is usually p0. Its alternative is
// Worse above p0, but at most half way to 1. The Judge has two tests, which
// share FalseAlarms.
func newTest(p0 float64, l Limits) test {
	p0 = min(p0, 0.99)
	p1 := p0 + min(l.worse(), (1-p0)/2)
	return test{hit: math.Log(p1 / p0), miss: math.Log((1 - p1) / (1 - p0)), bound: math.Log(2 / l.falseAlarms())}
}

// add counts an outcome, and reports whether the share is too high.
func (t *test) add(hit bool) bool {
	t.n++
	if !hit {
		t.sum = max(t.sum+t.miss, -t.bound)
		return false
	}
	t.hits++
	t.sum += t.hit
	return t.sum >= t.bound
}
