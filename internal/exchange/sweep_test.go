package exchange_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/exchange"
)

// On a busy machine a sweep may take long by chance. A client that leaves must
// not stay unnoticed for seconds because of that.
func TestOneSlowSweepDoesNotDelayTheNext(t *testing.T) {
	var p exchange.SweepPace
	for _, tt := range []struct{ took, want time.Duration }{
		{time.Second, exchange.SweepInterval},
		{time.Millisecond, 100 * time.Millisecond},
		{200 * time.Millisecond, 100 * time.Millisecond},
		{100 * time.Microsecond, exchange.SweepInterval},
		{20 * time.Millisecond, exchange.SweepInterval},
		{20 * time.Millisecond, 2 * time.Second},
	} {
		assert.Equal(t, tt.want, p.Next(tt.took), tt.took)
	}
}
