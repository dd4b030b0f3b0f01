package balance_test

import (
	"slices"
	"testing"
	"time"

	"github.com/hostproxy/hostproxy/internal/balance"
)

// Each candidate is two bytes: its weight and load, and its state.
func FuzzAPickIsEligible(f *testing.F) {
	f.Add(uint8(0), uint64(1), uint16(0), []byte{0x11, 0, 0x10, 1, 0x21, 2, 0x31, 3, 0x41, 4, 0x51, 5})
	f.Add(uint8(1), uint64(2), uint16(1), []byte{0xf1, 6, 0x11, 1, 0x11, 9, 0x11, 0})
	f.Add(uint8(3), uint64(3), uint16(4), []byte{0x11, 1, 0x12, 2, 0x13, 3, 0x03, 0})
	f.Add(uint8(5), uint64(4), uint16(3), []byte{0x1f, 0, 0x1e, 0, 0x10, 1, 0x10, 4})
	f.Fuzz(func(t *testing.T, policy uint8, key uint64, triedBits uint16, data []byte) {
		cs := candidates(min(len(data)/2, 16))
		limits := make([]int64, len(cs))
		var tried []int
		for i := range cs {
			c, b, state := &cs[i], data[2*i], data[2*i+1]
			c.Weight = int(b>>4) * int(b>>4) * int(b>>4)
			begin(c.Node, int(b&15))
			if limits[i] = int64(state >> 4); limits[i] > 0 {
				c.Node.SetLimit(limits[i])
			}
			switch state & 7 {
			case 1:
				c.Node.Suspend(time.Time{})
			case 2:
				c.Node.Suspend(noon.Add(time.Hour))
			case 3:
				c.Node.Suspend(noon)
			case 4:
				c.Node.Resume(noon, time.Hour)
			case 5:
				c.Node.Resume(noon.Add(-time.Minute), 2*time.Minute)
			case 6:
				c.Node.Suspend(time.Time{})
				c.Node.Resume(noon, 0)
			}
			if triedBits>>i&1 != 0 {
				tried = append(tried, i)
			}
		}
		eligible := func(i int) bool {
			n := cs[i].Node
			return cs[i].Weight > 0 && (limits[i] == 0 || n.InFlight() < limits[i]) && !slices.Contains(tried, i)
		}
		inService := func(i int) bool { return eligible(i) && !cs[i].Node.Suspended(noon) }

		s := balance.NewSet(balance.Policy(policy%7), cs)
		for range 8 {
			check(t, len(cs), s.Pick(noon, key, tried), inService)
			check(t, len(cs), s.PickAny(noon, key, tried), eligible)
		}
	})
}

// check fails unless the pick is eligible, or is -1 and none of n is eligible.
func check(t *testing.T, n, pick int, eligible func(int) bool) {
	t.Helper()
	if pick >= 0 {
		if !eligible(pick) {
			t.Fatalf("%d was picked", pick)
		}
		return
	}
	for i := range n {
		if eligible(i) {
			t.Fatalf("%d was not picked", i)
		}
	}
}
