package health_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/balance"
	"github.com/hostproxy/hostproxy/internal/health"
)

// watch runs Watch for d in a bubble with its own time.
func watch(t *testing.T, c health.Config, d time.Duration, probe func(context.Context) error) health.Status {
	t.Helper()
	c.Defaults()
	m := health.New(&c, new(balance.Node), nil, time.Now())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		health.Watch(ctx, m, probe)
	}()
	over := time.NewTimer(d)
	<-over.C
	synctest.Wait()
	cancel()
	<-done
	return m.Status()
}

func TestChecksComeAtTheirInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Time
		watch(t, health.Config{Check: health.Check{Interval: 10 * time.Second}}, 1000*time.Second, func(context.Context) error {
			at = append(at, time.Now())
			return nil
		})
		assert.InDelta(t, 101, len(at), 5)
		different := map[time.Duration]bool{}
		for i, when := range at[1:] {
			gap := when.Sub(at[i])
			different[gap] = true
			assert.InDelta(t, 10, gap.Seconds(), 1)
		}
		assert.Greater(t, len(different), 50, "there is jitter")
	})
}

func TestACheckThatHangsHasFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		running, most := 0, 0
		s := watch(t, health.Config{Check: health.Check{Interval: time.Second, Timeout: 5 * time.Second, Fall: 2}}, 14*time.Second,
			func(ctx context.Context) error {
				running++
				defer func() { running-- }()
				most = max(most, running)
				<-ctx.Done()
				return ctx.Err()
			})
		assert.Equal(t, health.Down, s.State)
		assert.Equal(t, "no response within 5s", s.Reason)
		assert.Equal(t, 1, most, "checks do not overlap")
	})
}

func TestACheckThatPanicsHasFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := watch(t, health.Config{Check: health.Check{Interval: time.Second, Fall: 1}}, time.Second, func(context.Context) error { panic("oh") })
		assert.Equal(t, health.Down, s.State)
		assert.Contains(t, s.Reason, "panic in a check: oh")
	})
}

func TestAnInterruptedCheckChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := watch(t, health.Config{Check: health.Check{Interval: time.Second, Fall: 1}}, time.Second, func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		})
		assert.Equal(t, health.Up, s.State)
	})
}
