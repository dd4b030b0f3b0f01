package exchange_test

import (
	"errors"
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
	assert.Equal(t, []any{"of Begin", 1, "dial: refused"}, []any{beside.Value, beside.Attempts, beside.Err.Error()})
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
