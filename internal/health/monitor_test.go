package health_test

import (
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/balance"
	"github.com/hostproxy/hostproxy/internal/health"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestMain(m *testing.M) { proxytest.Main(m) }

// noon is the time at which stories begin.
var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// errBad is the error of failed exchanges and checks.
var errBad = errors.New("bad")

// A rig is a monitor with its node, and a clock that only play moves.
type rig struct {
	*health.Monitor
	t      testing.TB
	node   *balance.Node
	now    time.Time
	events []health.Status
}

func newRig(t testing.TB, c health.Config) *rig {
	t.Helper()
	c.Defaults()
	require.NoError(t, c.Validate())
	r := &rig{t: t, node: new(balance.Node), now: noon}
	c.Changed = func(target any, s health.Status) {
		assert.Equal(t, "target", target)
		r.events = append(r.events, s)
	}
	r.Monitor = health.New(&c, r.node, "target", r.now)
	return r
}

// play plays a story. f is an exchange that fails, s one that succeeds, l one
// whose client disconnects, and a one that stays in flight. F and S are checks
// that fail and succeed, R is a restart, and a digit moves the clock by so many
// seconds. It returns how many exchanges were refused.
func (r *rig) play(story string) (refused int) {
	for _, c := range story {
		switch c {
		case 'f', 's', 'l', 'a':
			foreseen, state := r.Admits(r.now), r.Status()
			assert.Equal(r.t, state, r.Status(), "Admits changes nothing")
			admitted := r.Admit(r.now)
			assert.Equal(r.t, admitted, foreseen)
			if !admitted {
				refused++
				continue
			}
			switch c {
			case 'f':
				r.Report(r.now, errBad, 0)
			case 's':
				r.Report(r.now, nil, time.Millisecond)
			case 'l':
				r.Release(r.now, 0)
			}
		case 'F':
			r.Probed(r.now, errBad)
		case 'S':
			r.Probed(r.now, nil)
		case 'R':
			r.Restarted(r.now)
		default:
			r.now = r.now.Add(time.Duration(c-'0') * time.Second)
		}
	}
	return refused
}

func TestTheStateFollowsChecksAndExchanges(t *testing.T) {
	checks := health.Check{Interval: time.Second, Rise: 2, Fall: 3}
	late := checks
	late.StartDown = true
	breaker := health.Breaker{Failures: 3, OpenFor: 5 * time.Second}
	for _, tt := range []struct {
		name    string
		c       health.Config
		story   string
		want    health.State
		served  bool
		refused int
	}{
		{"nothing is watched", health.Config{}, "ffffffff", health.Up, true, 0},

		{"checks fail", health.Config{Check: checks}, "FFF", health.Down, false, 0},
		{"checks fail too seldom", health.Config{Check: checks}, "FFSFFSFF", health.Up, true, 0},
		{"one check succeeds", health.Config{Check: checks}, "FFFS", health.Down, false, 0},
		{"not in a row", health.Config{Check: checks}, "FFFSFS", health.Down, false, 0},
		{"checks succeed again", health.Config{Check: checks}, "FFFSS", health.Up, true, 0},
		{"not checked yet", health.Config{Check: late}, "S", health.Down, false, 0},
		{"checked", health.Config{Check: late}, "SS", health.Up, true, 0},
		{"exchanges say nothing to checks", health.Config{Check: checks}, "fffffffff", health.Up, true, 0},

		{"exchanges fail", health.Config{Breaker: breaker}, "fff", health.Open, false, 0},
		{"not in a row", health.Config{Breaker: breaker}, "ffsffsff", health.Up, true, 0},
		{"clients that leave are no failures", health.Config{Breaker: breaker}, "fflllll", health.Up, true, 0},
		{"no exchange is admitted", health.Config{Breaker: breaker}, "fff4sss", health.Open, false, 3},
		// until the next exchange
		{"its time is over", health.Config{Breaker: breaker}, "fff5", health.Open, true, 0},
		{"one exchange is admitted", health.Config{Breaker: breaker}, "fff5aaa", health.HalfOpen, true, 2},
		{"another one after it left", health.Config{Breaker: breaker}, "fff5la", health.HalfOpen, true, 0},
		{"the trial succeeds", health.Config{Breaker: breaker}, "fff5sss", health.Up, true, 0},
		{"the trial fails", health.Config{Breaker: breaker}, "fff5f9", health.Open, false, 0},
		{"twice as long", health.Config{Breaker: breaker}, "fff5f91a", health.HalfOpen, true, 0},
		{"as long as before", health.Config{Breaker: breaker}, "fff5f91sfff5a", health.HalfOpen, true, 0},
		{"a trial takes its time", health.Config{Breaker: breaker}, "fff5a4a", health.HalfOpen, true, 1},
		{"a trial is lost", health.Config{Breaker: breaker}, "fff5a5aa", health.HalfOpen, true, 1},
		{"the next trial succeeds", health.Config{Breaker: breaker}, "fff5a5ss", health.Up, true, 0},
		{"as many as are wanted", health.Config{Breaker: health.Breaker{Failures: 1, OpenFor: 5 * time.Second, Trials: 2}}, "f5aaaa", health.HalfOpen, true, 2},

		{"a share fails", health.Config{Breaker: health.Breaker{FailureRatio: 0.5, MinRequests: 6}}, "sssfff", health.Open, false, 0},
		{"less than a share", health.Config{Breaker: health.Breaker{FailureRatio: 0.5, MinRequests: 6}}, "ssssfffs", health.Up, true, 0},
		{"too few to tell", health.Config{Breaker: health.Breaker{FailureRatio: 0.5, MinRequests: 6}}, "fffff", health.Up, true, 0},
		{"long ago", health.Config{Breaker: health.Breaker{FailureRatio: 0.5, MinRequests: 6}}, "sfff92fs", health.Up, true, 0},

		{"checks and exchanges fail", health.Config{Check: checks, Breaker: breaker}, "fffFFF", health.Down, false, 0},
		{"checks succeed, exchanges do not", health.Config{Check: checks, Breaker: breaker}, "fffFFFSS", health.Open, false, 0},
		{"exchanges succeed, checks do not", health.Config{Check: checks, Breaker: breaker}, "FFFfff5s", health.Down, false, 0},

		{"restarted after checks failed", health.Config{Check: checks}, "FFFR", health.Up, true, 0},
		{"it fails again", health.Config{Check: checks}, "FFFRFFF", health.Down, false, 0},
		{"restarted after exchanges failed", health.Config{Breaker: breaker}, "fffRs", health.Up, true, 0},
		{"restarted during a trial", health.Config{Breaker: breaker}, "fff5aRaaaa", health.Up, true, 0},
		{"restarted, and not checked yet", health.Config{Check: late, Breaker: breaker}, "fffRS", health.Down, false, 0},
		{"restarted, and checked", health.Config{Check: late, Breaker: breaker}, "SSfffR", health.Up, true, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, tt.c)
			assert.Equal(t, tt.refused, r.play(tt.story))
			assert.Equal(t, tt.want, r.Status().State)
			assert.Equal(t, tt.served, !r.node.Suspended(r.now), "in service")
		})
	}
}

func TestSlowResponsesAreFailures(t *testing.T) {
	r := newRig(t, health.Config{Breaker: health.Breaker{Failures: 2, Slow: time.Second}})
	for range 2 {
		r.Report(r.now, nil, 1500*time.Millisecond)
	}
	assert.Equal(t, health.Open, r.Status().State)
	assert.Contains(t, r.Status().Reason, "response after 1.5s, slower than 1s")
}

func TestABreakerStaysOpenForFiveMinutesAtMost(t *testing.T) {
	r := newRig(t, health.Config{Breaker: health.Breaker{Failures: 1, OpenFor: time.Minute}})
	for range 80 {
		r.Report(r.now, errBad, 0)
		r.now = r.now.Add(health.MaxFor)
		require.True(t, r.Admit(r.now))
	}
}

func TestATargetThatComesBackStartsSlowly(t *testing.T) {
	r := newRig(t, health.Config{Check: health.Check{Interval: time.Second}, SlowStart: 10 * time.Second})
	whole := new(balance.Node)
	share := func() (n int) {
		s := balance.NewSet(balance.Random, []balance.Candidate{{Node: r.node, Name: "a", Weight: 1}, {Node: whole, Name: "b", Weight: 1}})
		for range 10_000 {
			if s.Pick(r.now, 0, nil) == 0 {
				n++
			}
		}
		return n
	}
	assert.InDelta(t, 5000, share(), 500)
	r.play("FFFS")
	assert.InDelta(t, 10_000*0.1/1.1, share(), 300)
	r.play("5")
	assert.InDelta(t, 10_000*0.55/1.55, share(), 400)
	r.play("5")
	assert.InDelta(t, 5000, share(), 500)
}

func TestChangesAreReportedInOrderWithTheirReasons(t *testing.T) {
	r := newRig(t, health.Config{Check: health.Check{Interval: time.Second, Fall: 1}, Breaker: health.Breaker{Failures: 2, OpenFor: 5 * time.Second}})
	r.play("ff5s1F1FS")
	assert.Equal(t, []health.Status{
		{State: health.Open, Reason: "2 failures in a row, the last: bad", Since: noon},
		{State: health.HalfOpen, Reason: "2 failures in a row, the last: bad", Since: noon.Add(5 * time.Second)},
		{State: health.Up, Reason: "answers again", Since: noon.Add(5 * time.Second)},
		{State: health.Down, Reason: "bad", Since: noon.Add(6 * time.Second)},
		{State: health.Up, Reason: "answers checks again", Since: noon.Add(7 * time.Second)},
	}, r.events)
}

func TestAHookThatPanicsChangesNothing(t *testing.T) {
	c := health.Config{Check: health.Check{Interval: time.Second, Fall: 1}, Changed: func(any, health.Status) { panic("oh") }}
	c.Defaults()
	m := health.New(&c, new(balance.Node), nil, noon)
	m.Probed(noon, errBad)
	m.Probed(noon, nil)
	m.Probed(noon, errBad)
	assert.Equal(t, health.Down, m.Status().State)
}

func TestATargetWithoutAMonitorIsUp(t *testing.T) {
	var m *health.Monitor
	assert.True(t, m.Admit(noon))
	m.Report(noon, errBad, 0)
	m.Release(noon, 0)
	m.Probed(noon, errBad)
	m.Restarted(noon)
	assert.Equal(t, health.Status{State: health.Up}, m.Status())
}

func TestAnInvalidConfigNamesItsFields(t *testing.T) {
	bad := health.Config{SlowStart: -1, Check: health.Check{Interval: -1, Timeout: -1, Rise: -1, Fall: -1},
		Breaker: health.Breaker{Failures: 1, FailureRatio: 2, Window: -1, MinRequests: -1, Slow: -1, OpenFor: time.Hour, Trials: -1}}
	err := bad.Validate()
	for _, field := range []string{"SlowStart", "Health.Interval", "Health.Timeout", "Health.Rise", "Health.Fall", "Breaker.FailureRatio",
		"Breaker.Window", "Breaker.MinRequests", "Breaker.Slow", "Breaker.OpenFor", "Breaker.Trials"} {
		assert.ErrorContains(t, err, field)
	}
	slow := health.Config{Breaker: health.Breaker{Slow: 1}}
	assert.ErrorContains(t, slow.Validate(), "Breaker.Slow requires Failures or FailureRatio")
	assert.ErrorContains(t, (&health.Config{SlowStart: 1}).Validate(), "SlowStart requires Health or Breaker")
	assert.NoError(t, new(health.Config).Validate())
}

// After many concurrent reports in any order, the node is in service if neither
// checks nor the breaker object, and no event is lost.
func TestConcurrentReportsLoseNoEvent(t *testing.T) {
	r := newRig(t, health.Config{Check: health.Check{Interval: time.Second, Fall: 1}, Breaker: health.Breaker{Failures: 3, OpenFor: time.Second, FailureRatio: 0.9}})
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(w)))
			for i := range 2000 {
				now := noon.Add(time.Duration(i) * 10 * time.Millisecond)
				switch rng.IntN(6) {
				case 0:
					r.Probed(now, errBad)
				case 1:
					r.Probed(now, nil)
				default:
					if !r.Admit(now) {
						continue
					}
					switch rng.IntN(3) {
					case 0:
						r.Report(now, errBad, 0)
					case 1:
						r.Report(now, nil, 0)
					default:
						r.Release(r.now, 0)
					}
				}
			}
		})
	}
	all.Wait()
	r.now = noon.Add(time.Hour)
	r.play("S1s") // checks succeed; the breaker's time is over, and its trial succeeds
	assert.Equal(t, health.Up, r.Status().State)
	assert.False(t, r.node.Suspended(r.now))
	for i, e := range r.events[1:] {
		assert.NotEqual(t, r.events[i].State, e.State, "two events in a row must differ")
	}
}

func BenchmarkAllIsWell(b *testing.B) {
	for _, tt := range []struct {
		name string
		c    health.Config
	}{
		{"streak", health.Config{Breaker: health.Breaker{Failures: 5}}},
		{"share", health.Config{Breaker: health.Breaker{Failures: 5, FailureRatio: 0.5}}},
	} {
		b.Run(tt.name, func(b *testing.B) {
			r := newRig(b, tt.c)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if r.Admit(noon) {
						r.Report(noon, nil, time.Millisecond)
					}
				}
			})
		})
	}
}

func TestTheLatestChangesAreRemembered(t *testing.T) {
	r := newRig(t, health.Config{Check: health.Check{Interval: time.Second, Rise: 1, Fall: 1}})
	assert.Empty(t, r.Changes())
	assert.Empty(t, (*health.Monitor)(nil).Changes())
	r.play("F1F1S1")
	got := r.Changes()
	require.Len(t, got, 2, "an unchanged result is not an event")
	assert.Equal(t, []health.State{health.Down, health.Up}, []health.State{got[0].State, got[1].State})
	assert.Equal(t, "bad", got[0].Reason)
	assert.Equal(t, noon, got[0].Since)
	r.Probed(r.now, errors.New(strings.Repeat("é", 10_000)))
	r.play("S1F1S1F1")
	got = r.Changes()
	require.Len(t, got, 5, "the oldest changes are dropped")
	assert.Equal(t, health.Down, got[4].State)
	assert.Less(t, len(got[0].Reason), 310)
	assert.True(t, utf8.ValidString(got[0].Reason))
}

// An exchange that began before the breaker opened tests nothing: it neither
// opens a half-open breaker nor closes it, and takes no trial's place. After
// the target has recovered, it does not open the breaker again.
func TestExchangesFromBeforeTheBreakerOpenedDoNotCount(t *testing.T) {
	for name, end := range map[string]func(*rig){
		"fails":    func(r *rig) { r.Report(r.now, errBad, 9*time.Second) },
		"succeeds": func(r *rig) { r.Report(r.now, nil, 9*time.Second) },
		"is left":  func(r *rig) { r.Release(r.now, 9*time.Second) },
		"is slow":  func(r *rig) { r.Abandon(r.now, 9*time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, health.Config{Breaker: health.Breaker{Failures: 1, OpenFor: 5 * time.Second, Slow: time.Second}})
			require.Equal(t, 0, r.play("f5a"))
			end(r)
			assert.Equal(t, health.HalfOpen, r.Status().State)
			assert.Equal(t, 1, r.play("a"), "the trial is still in flight")
			r.Report(r.now, nil, 0)
			end(r)
			assert.Equal(t, health.Up, r.Status().State)
		})
	}
}
