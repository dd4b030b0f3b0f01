package forward_test

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/forward"
	"github.com/hostproxy/hostproxy/internal/health"
)

// A process answers while it runs.
type process struct{ runs atomic.Bool }

// RoundTrip implements http.RoundTripper.
func (p *process) RoundTrip(*http.Request) (*http.Response, error) {
	if !p.runs.Load() {
		return nil, errors.New("it does not run")
	}
	return &http.Response{StatusCode: 200, Header: make(http.Header), Body: http.NoBody}, nil
}

// Health from before a start does not count after it, no matter how the targets
// fell asleep.
func TestTargetsThatWereDownAreWoken(t *testing.T) {
	for name, fails := range map[string]bool{"found down by checks": false, "ignored by the breaker": true} {
		for how, stops := range map[string]bool{"which stop by themselves": false, "which are stopped": true} {
			t.Run(name+", "+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := new(process)
					h := health.Config{Check: health.Check{Interval: 10 * time.Second}, Breaker: health.Breaker{Failures: 1, OpenFor: health.MaxFor}}
					h.Defaults()
					s := newSleeper(t, func(context.Context) error { p.runs.Store(true); return nil }, none, func(c *forward.Config) {
						c.Transport, c.Probe, c.Health, c.FailClosed = p, forward.Probe{Path: "/"}, &h, true
						c.Retry.Attempts = 1
					})
					v, fail := visit(s.f)
					require.Nil(t, fail)
					p.runs.Store(false)
					if fails {
						v.Next(forward.Outcome{Failure: &exchange.Failure{Op: "dial", Side: exchange.SideUpstream, Err: errors.New("refused")}})
					} else {
						time.Sleep(time.Minute)
					}
					v.End()
					require.NotEqual(t, health.Up, s.f.Targets()[0].Health().State)
					if stops {
						time.Sleep(2 * time.Minute)
					} else {
						require.NoError(t, s.f.Asleep())
					}
					require.Equal(t, "asleep", s.state())
					v, fail = visit(s.f)
					require.Nil(t, fail)
					assert.Less(t, v.rec.Queue, time.Second)
					v.End()
					s.f.CloseIdle()
				})
			})
		}
	}
}

// A hook that is called since a target is down may call Asleep: that does not
// deadlock.
func TestAHealthHookMayCallAsleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := new(process)
		var s *sleeper
		var took atomic.Int64
		h := health.Config{Check: health.Check{Interval: 10 * time.Second}, Changed: func(_ any, now health.Status) {
			if now.State == health.Down {
				start := time.Now()
				assert.NoError(t, s.f.Asleep())
				took.Store(int64(time.Since(start)))
			}
		}}
		h.Defaults()
		s = newSleeper(t, func(context.Context) error { p.runs.Store(true); return nil }, none, func(c *forward.Config) {
			c.Transport, c.Probe, c.Health = p, forward.Probe{Path: "/"}, &h
		})
		v, fail := visit(s.f)
		require.Nil(t, fail)
		v.End()
		p.runs.Store(false)
		time.Sleep(50 * time.Second)
		assert.Equal(t, "asleep", s.state())
		assert.Zero(t, took.Load())
		v, fail = visit(s.f)
		require.Nil(t, fail)
		v.End()
		s.f.CloseIdle()
	})
}
