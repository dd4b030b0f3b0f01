package guard_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/examples/deploy/guard"
)

// known describes targets that never fail and whose p99 is 100 ms.
func known() guard.Baseline {
	return guard.Baseline{Requests: 500, Tail: 100 * time.Millisecond, Beyond: 0.01, Whole: 100 * time.Millisecond}
}

const (
	good = '.'
	bad  = 'x'
	late = 's' // 300 ms
)

// judge returns the verdict, and the number of outcomes that led to it.
func judge(b guard.Baseline, outcomes string) (guard.Verdict, int, error) {
	j := guard.NewJudge(guard.Limits{}, b)
	for i, o := range outcomes {
		wait := 10 * time.Millisecond
		if o == late {
			wait = 300 * time.Millisecond
		}
		if v := j.Add(guard.Outcome{Failed: o == bad, Wait: wait}); v != guard.Undecided {
			return v, i + 1, j.Err()
		}
	}
	return guard.Undecided, j.Requests(), j.Err()
}

func repeated(pattern string, n int) string {
	text := ""
	for len(text) < n {
		text += pattern
	}
	return text[:n]
}

func TestAJudgeNeedsAFewRequests(t *testing.T) {
	failing := guard.Baseline{Requests: 400, Failures: 200, Tail: 100 * time.Millisecond, Beyond: 0.01}
	tests := []struct {
		about    string
		base     guard.Baseline
		outcomes string
		verdict  guard.Verdict
		after    int
	}{
		{"all good", known(), repeated(".", 50), guard.Keep, 50},
		{"all fail", known(), repeated("x", 50), guard.GoBack, 3},
		{"all fail, and nothing is known of the old targets", guard.Baseline{}, repeated("x", 50), guard.GoBack, 5},
		{"one failure at the start", known(), "x" + repeated(".", 49), guard.Keep, 50},
		{"two failures at the start", known(), "xx" + repeated(".", 48), guard.Keep, 50},
		{"every fourth fails", known(), repeated("...x", 50), guard.GoBack, 16},
		{"fails after 30 good ones", known(), repeated(".", 30) + repeated("x", 20), guard.GoBack, 35},
		{"all slow", known(), repeated("s", 50), guard.GoBack, 3},
		{"one slow in ten", known(), repeated(".........s", 50), guard.Keep, 50},
		{"every third slow", known(), repeated("..s", 50), guard.GoBack, 9},
		{"300 ms are not slow if nothing is known", guard.Baseline{}, repeated("s", 50), guard.Keep, 50},
		{"as bad as the old targets", failing, repeated("x.", 50), guard.Keep, 50},
		{"worse than bad", failing, repeated("x", 50), guard.GoBack, 22},
		{"not enough requests", known(), repeated(".", 49), guard.Undecided, 49},
	}
	for _, tt := range tests {
		t.Run(tt.about, func(t *testing.T) {
			v, after, err := judge(tt.base, tt.outcomes)
			assert.Equal(t, tt.verdict, v)
			assert.Equal(t, tt.after, after)
			assert.Equal(t, v == guard.GoBack, err != nil)
		})
	}
}

func TestTheErrorHasTheFigures(t *testing.T) {
	_, _, err := judge(known(), "xxx")
	assert.EqualError(t, err, "the new targets are worse: 3 of 3 requests failed (0 of 500 at the old targets)")
	_, _, err = judge(known(), "sss")
	assert.EqualError(t, err, "the new targets are worse: 3 of 3 requests took longer than 200ms (1 % of 500 at the old targets took longer than 100ms)")
}

func TestAVerdictIsFinal(t *testing.T) {
	j := guard.NewJudge(guard.Limits{Requests: 2}, known())
	j.Add(guard.Outcome{})
	require.Equal(t, guard.Keep, j.Add(guard.Outcome{}))
	for range 10 {
		assert.Equal(t, guard.Keep, j.Add(guard.Outcome{Failed: true}))
	}
	assert.Equal(t, 2, j.Requests())
}

// share returns the share of deploys that the guard takes back if the new
// target fails at this rate.
func share(r *rand.Rand, b guard.Baseline, rate float64) float64 {
	const deploys = 20_000
	back := 0
	for range deploys {
		j := guard.NewJudge(guard.Limits{}, b)
		v := guard.Undecided
		for v == guard.Undecided {
			v = j.Add(guard.Outcome{Failed: r.Float64() < rate})
		}
		if v == guard.GoBack {
			back++
		}
	}
	return float64(back) / deploys
}

func TestFiftyRequestsTellGoodFromBad(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	few := guard.Baseline{Requests: 100, Failures: 5}
	many := guard.Baseline{Requests: 500, Failures: 50}
	for _, tt := range []struct {
		base        guard.Baseline
		rate        float64
		least, most float64
	}{
		{known(), 0, 0, 0},
		{known(), 0.01, 0, 0.001},
		{few, 0.05, 0, 0.001},
		{many, 0.1, 0, 0.001},
		{known(), 0.21, 0.94, 1},
		{known(), 0.3, 0.995, 1},
		{few, 0.5, 0.999, 1},
		{many, 0.5, 0.99, 1},
		{known(), 1, 1, 1},
	} {
		got := share(r, tt.base, tt.rate)
		t.Logf("old %d/%d, new %v: %.4f taken back", tt.base.Failures, tt.base.Requests, tt.rate, got)
		assert.GreaterOrEqual(t, got, tt.least, "%+v", tt)
		assert.LessOrEqual(t, got, tt.most, "%+v", tt)
	}
}
