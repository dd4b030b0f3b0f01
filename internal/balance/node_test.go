package balance_test

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/balance"
)

func TestANodeCountsWhatIsInFlight(t *testing.T) {
	var n balance.Node
	assert.Zero(t, n.InFlight())
	begin(&n, 3)
	n.End()
	assert.EqualValues(t, 2, n.InFlight())
	n.Suspend(time.Time{})
	assert.EqualValues(t, 2, n.InFlight(), "also while it is suspended")
	n.Suspend(time.Time{})
	n.End()
	assert.EqualValues(t, 1, n.InFlight())
	n.Resume(noon, time.Second)
	n.Resume(noon, time.Second)
	assert.EqualValues(t, 1, n.InFlight())
}

func TestASuspensionEnds(t *testing.T) {
	tests := []struct {
		name string
		act  func(n *balance.Node)
		now  time.Time
		want bool
	}{
		{"the zero node is in service", func(*balance.Node) {}, noon, false},
		{"and at any time", func(*balance.Node) {}, time.Time{}, false},
		{"before its end it lasts", func(n *balance.Node) { n.Suspend(noon) }, noon.Add(-1), true},
		{"at its end it is over", func(n *balance.Node) { n.Suspend(noon) }, noon, false},
		{"one without end lasts", func(n *balance.Node) { n.Suspend(time.Time{}) }, noon.AddDate(100, 0, 0), true},
		{"a suspension until a past time has no effect", func(n *balance.Node) { n.Suspend(noon.AddDate(-1, 0, 0)) }, noon, false},
		{"one in the past ends another", func(n *balance.Node) { n.Suspend(time.Time{}); n.Suspend(noon.Add(-1)) }, noon, false},
		{"a later one replaces it", func(n *balance.Node) { n.Suspend(noon.Add(-1)); n.Suspend(noon.Add(1)) }, noon, true},
		{"Resume ends it immediately", func(n *balance.Node) { n.Suspend(noon.Add(1)); n.Resume(noon, 0) }, noon, false},
		{"Resume ends one without end", func(n *balance.Node) { n.Suspend(time.Time{}); n.Resume(noon, 0) }, noon, false},
		{"Resume with a slow start, too", func(n *balance.Node) { n.Suspend(time.Time{}); n.Resume(noon, time.Hour) }, noon, false},
		{"Resume with the slowest start, too", func(n *balance.Node) { n.Suspend(time.Time{}); n.Resume(noon, math.MaxInt64) }, noon, false},
		{"a negative slow start is disabled", func(n *balance.Node) { n.Suspend(time.Time{}); n.Resume(noon, -1) }, noon, false},
		{"a suspension ends a slow start", func(n *balance.Node) { n.Resume(noon, time.Hour); n.Suspend(noon.Add(1)) }, noon, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cs := candidates(1)
			tt.act(cs[0].Node)
			assert.Equal(t, tt.want, cs[0].Node.Suspended(tt.now))
			assert.Equal(t, tt.want, balance.NewSet(balance.LessBusy, cs).Pick(tt.now, 0, nil) < 0)
		})
	}
}

func TestASuspensionEndsOnTimeUnderSynctest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cs := candidates(2)
		s := balance.NewSet(balance.First, cs)
		cs[0].Node.Suspend(time.Now().Add(time.Minute))
		time.Sleep(time.Minute - 1)
		assert.Equal(t, 1, s.Pick(time.Now(), 0, nil))
		time.Sleep(time.Nanosecond)
		assert.Equal(t, 0, s.Pick(time.Now(), 0, nil))
	})
}

func TestALimitCanChange(t *testing.T) {
	cs := candidates(1)
	s := balance.NewSet(balance.LessBusy, cs)
	n := cs[0].Node
	begin(n, 2)
	for _, tt := range []struct {
		limit int64
		want  int
	}{{0, 0}, {-1, 0}, {1, -1}, {2, -1}, {3, 0}, {math.MaxInt64, 0}, {math.MinInt64, 0}} {
		n.SetLimit(tt.limit)
		assert.Equal(t, tt.want, s.Pick(noon, 0, nil), "limit %d", tt.limit)
	}
	n.SetLimit(2)
	n.End()
	assert.Equal(t, 0, s.Pick(noon, 0, nil), "one exchange has ended")
}

func TestTheShareOfANodeThatComesBackGrows(t *testing.T) {
	tests := []struct {
		name  string
		after time.Duration
		share float64
	}{
		{"before the start, by a clock that differs", -time.Second, 0.1},
		{"at the start", 0, 0.1},
		{"in the middle", 5 * time.Second, 0.55},
		{"near the end", 9 * time.Second, 0.91},
		{"at the end", 10 * time.Second, 1},
		{"later", time.Hour, 1},
	}
	for _, p := range policies[:balance.Least] { // the policies that draw, or take turns
		for _, tt := range tests {
			t.Run(p.name+"/"+tt.name, func(t *testing.T) {
				cs := weighted(1, 1, 2)
				cs[1].Node.Suspend(time.Time{})
				cs[1].Node.Resume(noon.Add(-tt.after), 10*time.Second)
				counts := tally(t, balance.NewSet(p.policy, cs), picks)
				assertShares(t, []float64{1, tt.share, 2}, counts)
			})
		}
	}
	t.Run("all are in a slow start", func(t *testing.T) {
		cs := candidates(4)
		for _, c := range cs {
			c.Node.Resume(noon, time.Hour)
		}
		for _, p := range policies[:balance.Least] {
			assertShares(t, []float64{1, 1, 1, 1}, tally(t, balance.NewSet(p.policy, cs), picks))
		}
	})
	t.Run("those with the lowest load count it for more", func(t *testing.T) {
		cs := candidates(2)
		cs[0].Node.Resume(noon, time.Second)
		s := balance.NewSet(balance.Least, cs)
		for range 1100 {
			cs[s.Pick(noon, 0, nil)].Node.Begin()
		}
		assert.InDelta(t, 100, cs[0].Node.InFlight(), 1)
	})
	t.Run("PickAny gives the whole share", func(t *testing.T) {
		cs := candidates(2)
		cs[0].Node.Resume(noon, time.Hour)
		s := balance.NewSet(balance.Random, cs)
		counts := make([]int, 2)
		for range picks {
			counts[s.PickAny(noon, 0, nil)]++
		}
		assertShares(t, []float64{1, 1}, counts)
	})
	t.Run("the first is whole at once", func(t *testing.T) {
		cs := candidates(2)
		cs[0].Node.Resume(noon, time.Hour)
		assert.Equal(t, []int{1000, 0}, tally(t, balance.NewSet(balance.First, cs), 1000))
	})
}
