package exchange_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/exchange"
)

func TestAnAbandonedBorrowerHidesNoEarlierFailure(t *testing.T) {
	x := new(exchange.Exchange)
	x.Err = errors.New("before the loan")
	l := exchange.Lend(t.Context(), x)
	one, two := exchange.Borrow(l), exchange.Borrow(l)
	two.Attempts = 1
	two.Tell(nil)
	l.End()
	assert.Equal(t, 1, x.Attempts)
	assert.EqualError(t, x.Err, "before the loan")
	two.Return()
	one.Return()
}

// Another handler of ours was called before, or is called at the same time, and
// has not begun an attempt yet.
func TestABorrowerThatHasBegunNothingHidesNothing(t *testing.T) {
	x := new(exchange.Exchange)
	x.Value = "of Begin"
	l := exchange.Lend(t.Context(), x)
	failed := exchange.Borrow(l)
	failed.Attempts, failed.RequestBytes = 1, 5
	failed.Fail(&exchange.Failure{Op: "dial", Err: errors.New("refused")})
	failed.Return()
	waits, beside := exchange.Borrow(l), exchange.Borrow(l)
	assert.Equal(t, []any{"of Begin", 1}, []any{beside.Value, beside.Attempts})
	l.End()
	assert.Equal(t, []any{1, int64(5), "dial: refused"}, []any{x.Attempts, x.RequestBytes, x.Err.Error()})
	assert.Equal(t, "of Begin", exchange.Borrow(l).Value, "also later")
	waits.Return()
	beside.Return()
}

func TestTheFirstBorrowersAtTheSameTimeHaveTheValueOfBegin(t *testing.T) {
	x := new(exchange.Exchange)
	x.Value = "of Begin"
	l := exchange.Lend(t.Context(), x)
	one, two := exchange.Borrow(l), exchange.Borrow(l)
	assert.Equal(t, []any{"of Begin", "of Begin"}, []any{one.Value, two.Value})
	two.Return()
	one.Return()
	l.End()
	assert.Equal(t, "of Begin", x.Value)
}

// try notes an attempt of x that begins with second s.
func try(x *exchange.Exchange, target string, s int64) {
	x.Target = target
	x.Attempts++
	x.Timeline = append(x.Timeline, exchange.Attempt{Target: target, Start: time.Unix(s, 0)})
	x.Tell(nil)
}

func targets(x *exchange.Exchange) (all []string) {
	for _, a := range x.Timeline {
		all = append(all, a.Target)
	}
	return all
}

func TestAttemptsOfBorrowersAtTheSameTimeAreAllListed(t *testing.T) {
	for about, ends := range map[string][]int{
		"in order": {0, 1, 2}, "the last one first": {2, 1, 0}, "the last one is late": {0, 1}, "the first one is late": {1, 2}, "none ends": {},
	} {
		t.Run(about, func(t *testing.T) {
			x := new(exchange.Exchange)
			try(x, "before the loan", 1)
			l := exchange.Lend(t.Context(), x)
			alone := exchange.Borrow(l)
			try(alone, "alone", 2)
			alone.Return()
			all := []*exchange.Exchange{exchange.Borrow(l)}
			try(all[0], "first", 3)
			all[0].Retried = append(all[0].Retried, errors.New("one"))
			all[0].Queue += time.Second
			all = append(all, exchange.Borrow(l), exchange.Borrow(l))
			try(all[2], "third", 4)
			try(all[1], "second", 5)
			try(all[0], "first again", 6)
			assert.Equal(t, []string{"before the loan", "alone", "third"}, targets(all[2]), "it knows of what had returned")
			for _, i := range ends {
				all[i].Return()
			}
			l.End()
			assert.Equal(t, []string{"before the loan", "alone", "first", "third", "second", "first again"}, targets(x))
			assert.Equal(t, []any{6, "third", time.Second}, []any{x.Attempts, x.Target, x.Queue})
			assert.Len(t, x.Retried, 1)
			for _, late := range all {
				late.Return()
			}
			assert.Len(t, x.Timeline, 6)
		})
	}
}

func TestBorrowersAfterOnesAtTheSameTimeHideNothing(t *testing.T) {
	x := new(exchange.Exchange)
	l := exchange.Lend(t.Context(), x)
	one, two := exchange.Borrow(l), exchange.Borrow(l)
	try(one, "one", 1)
	try(two, "two", 2)
	one.Return()
	two.Return()
	three := exchange.Borrow(l)
	try(three, "three", 3)
	three.Return()
	l.End()
	assert.Equal(t, []string{"one", "two", "three"}, targets(x))
	assert.Equal(t, []any{3, "three"}, []any{x.Attempts, x.Target})
}

// Those of the lender are of the same Upstream: another lane has made them.
func TestABorrowerKnowsHowManyAttemptsWereOfOthers(t *testing.T) {
	x := new(exchange.Exchange)
	try(x, "in another lane", 1)
	l := exchange.Lend(t.Context(), x)
	one := exchange.Borrow(l)
	assert.Equal(t, 0, one.Earlier)
	try(one, "one", 2)
	try(one, "one", 3)
	one.Return()
	two := exchange.Borrow(l)
	assert.Equal(t, []int{3, 2}, []int{two.Attempts, two.Earlier})
	inner := exchange.Lend(t.Context(), two) // of a Router behind the handler
	three := exchange.Borrow(inner)
	assert.Equal(t, []int{3, 2}, []int{three.Attempts, three.Earlier})
	three.Return()
	inner.End()
	two.Return()
	l.End()
}

func TestTheWaitOfABorrowerThatIsAbandonedInItIsNoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := new(exchange.Exchange)
		l := exchange.Lend(t.Context(), x)
		b := exchange.Borrow(l)
		b.Queue, b.Waits = time.Minute, time.Now()
		b.Tell(nil)
		time.Sleep(time.Second)
		l.End()
		assert.Equal(t, time.Minute+time.Second, x.Queue)
		b.Return()
	})
}

// That of the loan is the first one.
func TestABorrowerEndsItsAttemptsByItsOwnFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := new(exchange.Exchange)
		l := exchange.Lend(t.Context(), x)
		attempt := func(name string) *exchange.Exchange {
			b := exchange.Borrow(l)
			b.Timeline = append(b.Timeline, exchange.Attempt{Target: name, Start: time.Now()})
			b.Tell(nil)
			time.Sleep(time.Second)
			return b
		}
		fail := func(b *exchange.Exchange, why string) {
			b.Fail(&exchange.Failure{Op: "copy", Err: errors.New(why)})
			b.Return()
		}
		fail(attempt("first"), "cut")
		runs := attempt("runs")
		good := attempt("good")
		bad := attempt("bad")
		last := attempt("last")
		good.Return()
		fail(bad, "reset")
		last.Return()
		l.End()
		time.Sleep(time.Second)
		x.Conclude(time.Now())
		got := make(map[string]any)
		for _, a := range x.Timeline {
			got[a.Target] = []any{a.Duration, fmt.Sprint(a.Err)}
		}
		assert.Equal(t, map[string]any{"first": []any{time.Second, "copy: cut"}, "runs": []any{4 * time.Second, "<nil>"}, "good": []any{3 * time.Second, "<nil>"},
			"bad": []any{2 * time.Second, "copy: reset"}, "last": []any{time.Second, "<nil>"}}, got)
		assert.EqualError(t, x.Err, "copy: cut")
		runs.Return()
	})
}

// The exchange still has the failure of the one before it.
func TestABorrowerThatIsAbandonedHasNoFailureOfTheOneBefore(t *testing.T) {
	x := new(exchange.Exchange)
	l := exchange.Lend(t.Context(), x)
	before := exchange.Borrow(l)
	before.Fail(&exchange.Failure{Op: "dial", Err: errors.New("refused")})
	before.Return()
	runs := exchange.Borrow(l)
	try(runs, "runs", 1)
	x.Status = 503 // which the handler has sent
	l.End()
	x.Conclude(time.Now())
	assert.EqualError(t, x.Err, "dial: refused")
	assert.ErrorIs(t, x.Timeline[0].Err, exchange.ErrAbandoned)
	runs.Return()
}

func TestAttemptsAtOnceThatAreAbandonedNameTheirOwnTargets(t *testing.T) {
	x := new(exchange.Exchange)
	l := exchange.Lend(t.Context(), x)
	runs := exchange.Borrow(l)
	try(runs, "hedge", 2)
	try(runs, "current", 1)
	x.Status = 503 // which the handler has sent
	l.End()
	for _, a := range x.Timeline {
		var fail *exchange.Failure
		if assert.ErrorAs(t, a.Err, &fail) {
			assert.Equal(t, a.Target, fail.Target)
		}
	}
	runs.Return()
}
