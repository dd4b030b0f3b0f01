package exchange_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/exchange"
)

// A late context has passed its deadline, but its timer has not run yet.
type late struct{ context.Context }

func (late) Deadline() (time.Time, bool) { return time.Now(), true }

func TestADeadlineThatHasPassedEndsARequestBeforeItsTimerRuns(t *testing.T) {
	assert.Equal(t, exchange.ErrDeadline, exchange.Ended(late{t.Context()}))
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	assert.NoError(t, exchange.Ended(ctx))
	cancel()
	assert.Equal(t, exchange.ErrClientGone, exchange.Ended(ctx))
}
