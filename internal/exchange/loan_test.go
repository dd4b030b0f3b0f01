package exchange_test

import (
	"errors"
	"testing"

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
