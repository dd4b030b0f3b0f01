package forward_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Running targets have to be stopped even after the end of the upstream: Stop
// has its full time.
func TestADrainDoesNotShortenStop(t *testing.T) {
	for name, before := range map[string]time.Duration{"drained before Stop": time.Second, "drained during Stop": 61 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ends := make(chan error, 1)
				s := newSleeper(t, none, func(ctx context.Context) error {
					_ = takes(10 * time.Second)(ctx)
					ends <- ctx.Err()
					return nil
				}, nil)
				v, fail := visit(s.f)
				require.Nil(t, fail)
				v.End()
				time.Sleep(before)
				require.NoError(t, s.f.Drain(t.Context()))
				assert.NoError(t, <-ends)
				synctest.Wait()
				assert.EqualValues(t, 1, s.stops.Load())
				assert.Zero(t, s.logged.Load())
			})
		})
	}
}
