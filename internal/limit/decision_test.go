package limit_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/limit"
)

func TestThePolicyHeaderStatesTheQuotaAndItsWindow(t *testing.T) {
	tests := []struct {
		about  string
		config limit.Config
		want   string
	}{
		{"a second's worth", limit.Config{Rate: 100}, `"default";q=100;w=1`},
		{"a burst that fills in a minute", limit.Config{Rate: 10, Burst: 600, Name: "login"}, `"login";q=600;w=60`},
		{"a burst that fills in less than a second", limit.Config{Rate: 1000, Burst: 10}, `"default";q=10;w=1`},
		{"a window is rounded up to a whole second", limit.Config{Rate: 4, Burst: 5}, `"default";q=5;w=2`},
		{"a window that only rounding makes longer", limit.Config{Rate: 3, Burst: 6}, `"default";q=6;w=2`},
		{"the highest rate and a long burst", limit.Config{Rate: 1e6, Burst: 60_000_000}, `"default";q=60000000;w=60`},
		{"one per hour", limit.Config{Rate: 1.0 / 3600}, `"default";q=1;w=3600`},
	}
	for _, tt := range tests {
		t.Run(tt.about, func(t *testing.T) {
			assert.NoError(t, tt.config.Validate())
			assert.Equal(t, "before "+tt.want, string(tt.config.AppendPolicy([]byte("before "))))
		})
	}
}

func TestTheHeadersOfADecisionAreRoundedUpToWholeSeconds(t *testing.T) {
	tests := []struct {
		about                 string
		decision              limit.Decision
		rateLimit, retryAfter string
	}{
		{"allowed", limit.Decision{OK: true, Remaining: 42, Retry: 3 * time.Second, Reset: 99 * time.Second}, `"x";r=42;t=3`, "3"},
		{"refused", limit.Decision{Retry: 30 * time.Second, Reset: time.Minute}, `"x";r=0;t=30`, "30"},
		{"a nanosecond is a second", limit.Decision{Retry: 1}, `"x";r=0;t=1`, "1"},
		{"a nanosecond more is a second more", limit.Decision{Retry: time.Second + 1}, `"x";r=0;t=2`, "2"},
	}
	c := limit.Config{Name: "x", Rate: 1}
	for _, tt := range tests {
		t.Run(tt.about, func(t *testing.T) {
			assert.Equal(t, "before "+tt.rateLimit, string(c.AppendRateLimit([]byte("before "), tt.decision)))
			assert.Equal(t, "before "+tt.retryAfter, string(tt.decision.AppendRetryAfter([]byte("before "))))
		})
	}
}

// A client that waits as long as Retry-After says is then served.
func TestAClientThatWaitsForRetryAfterIsServed(t *testing.T) {
	for _, rate := range []float64{0.01, 0.3, 1, 3, 7, 1000} {
		l := newLimiter(t, limit.Config{Rate: rate, Burst: 1})
		now := time.Now()
		assert.True(t, l.Allow(network(1), now).OK)
		d := l.Allow(network(1), now)
		assert.False(t, d.OK)
		wait, err := time.ParseDuration(string(d.AppendRetryAfter(nil)) + "s")
		assert.NoError(t, err)
		assert.True(t, l.Allow(network(1), now.Add(wait)).OK, "at a rate of %v", rate)
	}
}

func TestFieldsAllocateNothing(t *testing.T) {
	c := limit.Config{Rate: 12, Burst: 3456}
	d := limit.Decision{Remaining: 1234, Retry: time.Hour}
	buf := make([]byte, 0, 256)
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		b := c.AppendPolicy(buf)
		b = c.AppendRateLimit(b, d)
		d.AppendRetryAfter(b)
	}))
}
