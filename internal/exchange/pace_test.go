package exchange_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/exchange"
)

func TestAPaceForgetsAFastStart(t *testing.T) {
	type leg struct {
		rate int64 // bytes per second
		time time.Duration
	}
	for _, tt := range []struct {
		name string
		legs []leg
		from time.Duration // earliest and latest time at which it is too slow; 0 means never
		to   time.Duration
	}{
		{"fast", []leg{{1 << 20, time.Hour}}, 0, 0},
		{"just fast enough", []leg{{240, time.Hour}}, 0, 0},
		{"too slow from the start", []leg{{239, time.Hour}}, 10 * time.Second, 12 * time.Second},
		{"slow after a fast start", []leg{{1 << 20, time.Second}, {1, time.Hour}}, time.Minute, 3 * time.Minute},
		{"slow after hours", []leg{{1 << 20, 2 * time.Hour}, {100, time.Hour}}, 2 * time.Hour, 2*time.Hour + 3*time.Minute},
		{"a slow start", []leg{{100, 9 * time.Second}, {2000, time.Hour}}, 0, 0},
		{"now and then", []leg{{1000, time.Minute}, {20, 30 * time.Second}, {1000, time.Minute}, {20, 30 * time.Second}, {1000, time.Minute}}, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var p exchange.Pace
			waited, n, slow := time.Duration(0), int64(0), time.Duration(0)
			for _, l := range tt.legs {
				for end := waited + l.time; waited < end && slow == 0; {
					waited, n = waited+time.Second, n+l.rate
					if p.TooSlow(waited, n) {
						slow = waited
					}
				}
			}
			assert.GreaterOrEqual(t, slow, tt.from)
			assert.LessOrEqual(t, slow, tt.to)
		})
	}
}

// A fast client that has paused for almost the allowed time is not cut off
// because its first packets are few.
func TestAPaceToleratesASlowStartAfterAPause(t *testing.T) {
	var p exchange.Pace
	for s := time.Duration(1); s < 200; s++ {
		waited, n := s*time.Second, int64(s)<<20
		assert.False(t, p.TooSlow(waited, n))
		rested := p
		for i := range int64(100) {
			assert.False(t, rested.TooSlow(waited+exchange.BodyStall-time.Second+time.Duration(i)*time.Millisecond, n+i*1460), "%d after %v", i, waited)
		}
	}
}
