package forward_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/forward"
	"github.com/hostproxy/hostproxy/internal/proxytest"
	"github.com/hostproxy/hostproxy/internal/status"
)

// A sleeper is an upstream with sleeping targets, and the calls of its hooks.
type sleeper struct {
	f             *forward.Forwarder
	starts, stops atomic.Int64
	logged        atomic.Int64
}

// newSleeper returns a sleeper with these hooks. change edits its Config; nil
// does not.
func newSleeper(t *testing.T, start, stop func(context.Context) error, change func(*forward.Config)) *sleeper {
	t.Helper()
	s := new(sleeper)
	c := forward.Config{Targets: []forward.Endpoint{{URL: &url.URL{Scheme: "http", Host: "a.test"}}}, Transport: http.DefaultTransport,
		Retry: forward.Retry{Attempts: 3},
		Wake: &forward.Wake{Timeout: 30 * time.Second, IdleAfter: time.Minute,
			Start:  func(ctx context.Context) error { s.starts.Add(1); return start(ctx) },
			Stop:   func(ctx context.Context) error { s.stops.Add(1); return stop(ctx) },
			Failed: func(string, error) { s.logged.Add(1) }}}
	if change != nil {
		change(&c)
	}
	var err error
	s.f, err = forward.New(c)
	require.NoError(t, err)
	return s
}

// none is a hook that does nothing.
func none(context.Context) error { return nil }

// takes returns a hook that takes this long.
func takes(d time.Duration) func(context.Context) error {
	return func(context.Context) error { <-time.NewTimer(d).C; return nil }
}

// A visitor is an exchange without a lane.
type visitor struct {
	forward.Attempts
	rec  exchange.Record
	gone chan struct{}
	slow time.Duration // how long the visitor takes to notice the end of a wait
}

// Await implements forward.Party.
func (v *visitor) Await(wait func(<-chan struct{}) error) error {
	err := wait(v.gone)
	if v.slow > 0 {
		<-time.NewTimer(v.slow).C
	}
	return err
}

// Place implements forward.Party.
func (v *visitor) Place(*forward.Forwarder) *exchange.Failure { return nil }

// visit begins an exchange at f, which reaches its target or fails.
func visit(f *forward.Forwarder) (*visitor, *exchange.Failure) {
	v := &visitor{gone: make(chan struct{}), rec: exchange.Record{Start: time.Now()}}
	v.Take(f)
	return v, v.Begin(&v.rec, v)
}

// visits begins n exchanges at once, and returns their failures when all of
// them have reached a target or failed.
func visits(f *forward.Forwarder, n int) []*exchange.Failure {
	all := make([]*exchange.Failure, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			v, fail := visit(f)
			all[i] = fail
			v.End()
		})
	}
	wg.Wait()
	return all
}

// state is the sleep state on the status page.
func (s *sleeper) state() string {
	var r status.Route
	s.f.Describe(&r)
	return r.Sleep
}

func TestOneStartWakesTheTargetsForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSleeper(t, takes(5*time.Second), none, nil)
		assert.Equal(t, "asleep", s.state())
		began := time.Now()
		go func() {
			time.Sleep(time.Second)
			assert.Equal(t, "waking", s.state())
		}()
		for _, fail := range visits(s.f, 1000) {
			assert.Nil(t, fail)
		}
		assert.Equal(t, 5*time.Second, time.Since(began))
		assert.Equal(t, "", s.state())
		for range 10 {
			v, fail := visit(s.f)
			require.Nil(t, fail)
			assert.Zero(t, v.rec.Queue)
			v.End()
		}
		assert.EqualValues(t, 1, s.starts.Load())
		time.Sleep(5 * time.Minute) // rest
		assert.EqualValues(t, 1, s.stops.Load())
	})
}

func TestIdleTargetsFallAsleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stopped := make(chan time.Time, 9)
		s := newSleeper(t, none, func(context.Context) error { stopped <- time.Now(); return nil }, nil)
		long, fail := visit(s.f) // a WebSocket, a stream or an upload is no different
		require.Nil(t, fail)
		time.Sleep(time.Hour)
		assert.Zero(t, s.stops.Load(), "an exchange is in flight")
		long.End()
		for range 5 { // each one restarts the minute
			time.Sleep(50 * time.Second)
			v, fail := visit(s.f)
			require.Nil(t, fail)
			v.End()
		}
		last := time.Now()
		assert.Zero(t, s.stops.Load())
		assert.Equal(t, time.Minute, (<-stopped).Sub(last))
		synctest.Wait()
		assert.Equal(t, "asleep", s.state())
		time.Sleep(time.Hour)
		assert.EqualValues(t, 1, s.stops.Load(), "once")
		v, fail := visit(s.f)
		require.Nil(t, fail)
		v.End()
		assert.EqualValues(t, 2, s.starts.Load())
		<-stopped
	})
}

func TestARequestDuringStopWaitsAndWakesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *sleeper
		alone := func(d time.Duration) func(context.Context) error {
			var in atomic.Int64
			return func(context.Context) error {
				assert.EqualValues(t, 1, in.Add(1))
				defer in.Add(-1)
				return takes(d)(nil)
			}
		}
		s = newSleeper(t, alone(time.Second), alone(10*time.Second), nil)
		assert.Nil(t, visits(s.f, 1)[0])
		time.Sleep(time.Minute + 4*time.Second)
		assert.Equal(t, "falling asleep", s.state())
		began := time.Now()
		for _, fail := range visits(s.f, 10) {
			assert.Nil(t, fail)
		}
		assert.Equal(t, 7*time.Second, time.Since(began), "it waits for the rest of Stop, then for Start")
		assert.EqualValues(t, 2, s.starts.Load())
		time.Sleep(5 * time.Minute)
	})
}

func TestAFailedStartFailsAllWaitingRequests(t *testing.T) {
	for name, tt := range map[string]struct {
		start  func(context.Context) error
		status int
		why    string
	}{
		"an error": {func(context.Context) error { _ = takes(time.Second)(nil); return errors.New("no machine") }, 503, "waking the targets failed: no machine"},
		"Goexit":   {func(context.Context) error { runtime.Goexit(); return nil }, 503, "has ended its goroutine"},
		"a panic":  {func(context.Context) error { panic("bug") }, 503, "panic in Wake.Start: bug"},
		"no time":  {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, 504, "longer than Wake.Timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSleeper(t, tt.start, none, nil)
				for round := range 2 {
					for _, fail := range visits(s.f, 100) {
						require.NotNil(t, fail)
						assert.Equal(t, tt.status, fail.Status)
						assert.ErrorContains(t, fail.Err, tt.why)
						assert.Equal(t, exchange.SideProxy, fail.Side)
						assert.Equal(t, time.Second, fail.RetryAfter)
					}
					synctest.Wait()
					fail := visits(s.f, 1)[0] // immediately, since Start has just failed
					require.NotNil(t, fail)
					assert.Equal(t, tt.status, fail.Status)
					assert.ErrorContains(t, fail.Err, tt.why)
					assert.EqualValues(t, round+1, s.starts.Load())
					assert.EqualValues(t, round+1, s.logged.Load())
					time.Sleep(2 * time.Second)
				}
			})
		})
	}
}

// A Start that ignores its context costs one goroutine, and prevents a second
// Start.
func TestAHangingStartHoldsRequestsNoLongerThanTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSleeper(t, takes(time.Hour), none, nil)
		began := time.Now()
		for _, fail := range visits(s.f, 100) {
			require.NotNil(t, fail)
			assert.Equal(t, 504, fail.Status)
		}
		assert.Equal(t, 30*time.Second, time.Since(began))
		time.Sleep(10 * time.Minute)
		began = time.Now()
		for _, fail := range visits(s.f, 100) {
			require.NotNil(t, fail)
			assert.Equal(t, 504, fail.Status)
		}
		assert.Zero(t, time.Since(began), "these fail immediately")
		assert.EqualValues(t, 1, s.starts.Load())
		time.Sleep(time.Hour) // Start has waked them in the end, and they have fallen asleep again
		assert.EqualValues(t, 1, s.stops.Load())
		assert.Equal(t, "asleep", s.state())
	})
}

func TestAHangingStopHoldsRequestsNoLongerThanTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSleeper(t, none, takes(time.Hour), nil)
		assert.Nil(t, visits(s.f, 1)[0])
		time.Sleep(time.Minute + time.Second)
		began := time.Now()
		fail := visits(s.f, 1)[0]
		require.NotNil(t, fail)
		assert.Equal(t, 504, fail.Status)
		assert.ErrorContains(t, fail.Err, "Wake.Stop has taken longer")
		assert.Equal(t, 29*time.Second, time.Since(began))
		time.Sleep(time.Hour)
		assert.Nil(t, visits(s.f, 1)[0])
		time.Sleep(2 * time.Hour)
	})
}

// A Stop that fails has been logged; the targets count as asleep.
func TestAStopThatPanicsIsContained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSleeper(t, none, func(context.Context) error { panic("bug") }, nil)
		for round := range int64(2) {
			assert.Nil(t, visits(s.f, 1)[0])
			assert.EqualValues(t, round+1, s.starts.Load())
			time.Sleep(2 * time.Minute)
			assert.EqualValues(t, round+1, s.logged.Load())
			assert.Equal(t, "asleep", s.state())
		}
	})
}

func TestAClientDisconnectEndsItsWaitForAStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSleeper(t, takes(10*time.Second), none, nil)
		v := &visitor{gone: make(chan struct{}), rec: exchange.Record{Start: time.Now()}}
		v.Take(s.f)
		time.AfterFunc(time.Second, func() { close(v.gone) })
		fail := v.Begin(&v.rec, v)
		v.End()
		require.NotNil(t, fail)
		assert.Equal(t, exchange.StatusClientClosed, fail.Status)
		assert.Equal(t, exchange.SideClient, fail.Side)
		assert.Equal(t, time.Second, v.rec.Queue)
		time.Sleep(10 * time.Second) // the others find the targets awake
		assert.Equal(t, "", s.state())
		time.Sleep(5 * time.Minute)
		assert.EqualValues(t, 1, s.stops.Load())
	})
}

func TestTheQueueLimitsRequestsThatWaitForAStart(t *testing.T) {
	for _, most := range []int{0, 7} {
		synctest.Test(t, func(t *testing.T) {
			s := newSleeper(t, takes(time.Second), none, func(c *forward.Config) { c.MaxQueue = most })
			refused := 0
			for _, fail := range visits(s.f, 5000) {
				if fail != nil {
					refused++
					assert.Equal(t, 503, fail.Status)
					assert.ErrorContains(t, fail.Err, "queue is full")
				}
			}
			want := 4096
			if most > 0 {
				want = most
			}
			assert.Equal(t, 5000-want, refused)
			time.Sleep(5 * time.Minute)
		})
	}
	synctest.Test(t, func(t *testing.T) {
		s := newSleeper(t, takes(10*time.Second), none, func(c *forward.Config) { c.MaxQueue, c.QueueWait = 10, 3*time.Second })
		began := time.Now()
		fail := visits(s.f, 1)[0]
		require.NotNil(t, fail)
		assert.ErrorContains(t, fail.Err, "waited too long in the queue")
		assert.Equal(t, 3*time.Second, time.Since(began))
		time.Sleep(5 * time.Minute)
	})
}

// Pause holds exchanges before they wake the targets, and Maintain answers
// waiting ones.
func TestPauseAndMaintainHoldWhileTheTargetsSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSleeper(t, takes(10*time.Second), none, nil)
		s.f.Pause(time.Minute)
		time.AfterFunc(5*time.Second, func() { assert.Zero(t, s.starts.Load()); s.f.Resume() })
		time.AfterFunc(8*time.Second, func() {
			assert.EqualValues(t, 1, s.starts.Load())
			assert.NoError(t, s.f.Answer(&exchange.Page{Status: 418}))
		})
		began := time.Now()
		for _, fail := range visits(s.f, 10) {
			require.NotNil(t, fail)
			assert.Equal(t, 418, fail.Status)
		}
		assert.Equal(t, 8*time.Second, time.Since(began))
		s.f.Pause(time.Minute)
		time.AfterFunc(30*time.Second, s.f.Resume)
		assert.Nil(t, visits(s.f, 1)[0])
		assert.EqualValues(t, 1, s.starts.Load())
		time.Sleep(5 * time.Minute)
	})
}

func TestADrainWaitsForRequestsThatWaitForAStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSleeper(t, takes(10*time.Second), none, nil)
		time.AfterFunc(time.Second, func() {
			assert.NoError(t, s.f.Drain(t.Context()))
		})
		assert.Nil(t, visits(s.f, 1)[0])
		assert.ErrorIs(t, visits(s.f, 1)[0].Err, forward.ErrDraining)
		time.Sleep(5 * time.Minute)
		assert.EqualValues(t, 1, s.stops.Load(), "Start is followed by Stop")
	})
	synctest.Test(t, func(t *testing.T) {
		s := newSleeper(t, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, none, nil)
		time.AfterFunc(time.Second, func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			assert.ErrorContains(t, s.f.Drain(ctx), "cut off 1 request")
		})
		began := time.Now()
		fail := visits(s.f, 1)[0]
		require.NotNil(t, fail)
		assert.Equal(t, exchange.SideDrain, fail.Side)
		assert.Equal(t, 503, fail.Status)
		assert.Equal(t, 2*time.Second, time.Since(began))
		synctest.Wait()
	})
}

// A deploy keeps awake targets awake, and works with sleeping ones too.
func TestADeployKeepsTheTargetsAwake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSleeper(t, takes(5*time.Second), none, nil)
		next := []forward.Endpoint{{URL: &url.URL{Scheme: "http", Host: "b.test"}}}
		time.AfterFunc(time.Second, func() { assert.NoError(t, s.f.Replace(t.Context(), next)) })
		v, fail := visit(s.f)
		require.Nil(t, fail)
		assert.Equal(t, "b.test", v.rec.Target, "the replaced targets are used")
		time.Sleep(time.Minute)
		done := make(chan error, 1)
		go func() {
			done <- s.f.Replace(t.Context(), []forward.Endpoint{{URL: &url.URL{Scheme: "http", Host: "c.test"}}})
		}()
		synctest.Wait()
		v.End()
		assert.NoError(t, <-done)
		time.Sleep(5 * time.Minute)
		assert.EqualValues(t, 1, s.stops.Load())
	})
}

func TestReadyWakesTheTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSleeper(t, takes(5*time.Second), none, nil)
		assert.NoError(t, s.f.Ready(t.Context()))
		assert.EqualValues(t, 1, s.starts.Load())
		time.Sleep(5 * time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		assert.ErrorContains(t, s.f.Ready(ctx), "the targets are waking")
		time.Sleep(5 * time.Minute)
	})
}

// After targets have stopped by themselves, the next exchange wakes them, and
// those in flight still count.
func TestTargetsThatStopByThemselvesAreWokenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSleeper(t, takes(time.Second), none, nil)
		require.NoError(t, s.f.Asleep())
		long, fail := visit(s.f)
		require.Nil(t, fail)
		require.NoError(t, s.f.Asleep())
		assert.Equal(t, "asleep", s.state())
		time.Sleep(time.Hour)
		assert.Zero(t, s.stops.Load(), "the targets have stopped by themselves")
		assert.Nil(t, visits(s.f, 10)[9])
		assert.EqualValues(t, 2, s.starts.Load())
		time.Sleep(time.Hour)
		assert.Zero(t, s.stops.Load(), "one exchange is still in flight")
		long.End()
		time.Sleep(2 * time.Minute)
		assert.EqualValues(t, 1, s.stops.Load())
	})
	f, err := forward.New(forward.Config{Targets: []forward.Endpoint{{URL: &url.URL{Scheme: "http", Host: "a.test"}}}, Retry: forward.Retry{Attempts: 1}})
	require.NoError(t, err)
	assert.ErrorContains(t, f.Asleep(), "Upstream.Asleep requires Upstream.Wake")
}

// The hooks may change their own upstream: no lock is held while they run.
func TestWakeHooksMayUseTheirUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *sleeper
		s = newSleeper(t, func(ctx context.Context) error {
			return s.f.Replace(ctx, []forward.Endpoint{{URL: &url.URL{Scheme: "http", Host: "new.test"}}})
		}, func(context.Context) error {
			s.f.Pause(time.Minute)
			s.f.Resume()
			return s.f.Asleep()
		}, nil)
		v, fail := visit(s.f)
		require.Nil(t, fail)
		assert.Equal(t, "new.test", v.rec.Target)
		v.End()
		time.Sleep(2 * time.Minute)
		assert.EqualValues(t, 1, s.stops.Load())
		assert.Zero(t, s.logged.Load())
	})
}

// Exchanges come and go while the targets fall asleep all the time: no exchange
// reaches a sleeping target.
func TestNoExchangeReachesASleepingTarget(t *testing.T) {
	var awake atomic.Bool
	s := newSleeper(t, func(context.Context) error {
		assert.False(t, awake.Swap(true))
		return nil
	}, func(context.Context) error {
		assert.True(t, awake.Swap(false))
		return nil
	}, func(c *forward.Config) { c.Wake.IdleAfter, c.MaxInFlight, c.MaxQueue = 50*time.Microsecond, 3, 100 })
	for round := range 1000 {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				v, fail := visit(s.f)
				if assert.Nil(t, fail) {
					assert.True(t, awake.Load())
				}
				v.End()
			})
		}
		wg.Wait()
		if round%100 == 0 {
			proxytest.Eventually(t, "sleep", func() bool { return s.state() == "asleep" })
		}
	}
	require.NoError(t, s.f.Drain(t.Context()))
	assert.Greater(t, s.starts.Load(), int64(1))
}

// An exchange that waited for Start is in flight from its end on, however long
// it takes to reach the targets.
func TestTargetsStayAwakeUntilTheRequestThatWokeThemEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSleeper(t, takes(time.Second), none, nil)
		v := &visitor{gone: make(chan struct{}), rec: exchange.Record{Start: time.Now()}, slow: time.Hour}
		v.Take(s.f)
		assert.Nil(t, v.Begin(&v.rec, v))
		assert.Zero(t, s.stops.Load())
		time.Sleep(time.Hour)
		assert.Zero(t, s.stops.Load())
		v.End()
		late := &visitor{gone: make(chan struct{}), rec: exchange.Record{Start: time.Now()}, slow: time.Minute - time.Second}
		late.Take(s.f)
		time.Sleep(time.Minute + time.Second)
		time.AfterFunc(500*time.Millisecond, func() { close(late.gone) }) // while it waits
		assert.NotNil(t, late.Begin(&late.rec, late))
		late.End()
		time.Sleep(2 * time.Minute)
		assert.EqualValues(t, 2, s.stops.Load())
		assert.EqualValues(t, 2, s.starts.Load())
	})
}
