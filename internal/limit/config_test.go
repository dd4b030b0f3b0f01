package limit_test

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/limit"
)

func TestAValidConfigAllowsItsBurst(t *testing.T) {
	tests := []struct {
		about  string
		config limit.Config
		burst  int // requests that it allows at once
	}{
		{"only a rate: the burst is a second's worth", limit.Config{Rate: 25}, 25},
		{"a fraction, rounded up for the burst", limit.Config{Rate: 2.5}, 3},
		{"less than one per second: the burst is one", limit.Config{Rate: 0.001}, 1},
		{"one per year", limit.Config{Rate: 1.0 / (365 * 24 * 3600)}, 1},
		{"the highest rate", limit.Config{Rate: 1e6, Burst: 7}, 7},
		{"a burst above a second's worth", limit.Config{Rate: 1, Burst: 60}, 60},
		{"the fewest keys", limit.Config{Rate: 1, Burst: 2, MaxKeys: 1}, 2},
		{"the most keys", limit.Config{Rate: 1, Burst: 2, MaxKeys: 1 << 26}, 2},
		{"a name", limit.Config{Rate: 1, Name: "per client (login)"}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.about, func(t *testing.T) {
			l := newLimiter(t, tt.config)
			now := time.Now()
			for n := range tt.burst {
				require.Equal(t, tt.burst-n-1, l.Allow(addr("192.0.2.1"), now).Remaining)
			}
			assert.False(t, l.Allow(addr("192.0.2.1"), now).OK)
		})
	}
}

func TestAFaultInAConfigNamesTheField(t *testing.T) {
	tests := []struct {
		about  string
		config limit.Config
		want   []string
	}{
		{"no rate", limit.Config{}, []string{"Rate is 0, want requests per second, above 0 and up to 1000000, or 0 with MaxInFlight"}},
		{"a negative rate", limit.Config{Rate: -1}, []string{"Rate is -1,"}},
		{"a rate that is no number", limit.Config{Rate: math.NaN()}, []string{"Rate is NaN,"}},
		{"an infinite rate", limit.Config{Rate: math.Inf(1)}, []string{"Rate is +Inf,"}},
		{"a rate above a million", limit.Config{Rate: 1e6 + 1}, []string{"Rate is 1.000001e+06,"}},
		{"a negative burst", limit.Config{Rate: 1, Burst: -1}, []string{"Burst is -1,"}},
		{"a burst that takes years to refill", limit.Config{Rate: 1e-3, Burst: 1 << 20}, []string{"Burst is 1048576 and Rate is 0.001, want Burst / Rate, the time to fill a bucket, of at most 8784h0m0s"}},
		{"a rate at which one token takes years", limit.Config{Rate: 1e-9}, []string{"Rate is 1e-09"}},
		{"the largest burst", limit.Config{Rate: 1, Burst: math.MaxInt}, []string{"of at most 8784h0m0s"}},
		{"the smallest rate", limit.Config{Rate: math.SmallestNonzeroFloat64}, []string{"Rate is 5e-324"}},
		{"negative keys", limit.Config{Rate: 1, MaxKeys: -1}, []string{"MaxKeys is -1,"}},
		{"more keys than memory", limit.Config{Rate: 1, MaxKeys: 1<<26 + 1}, []string{"MaxKeys is 67108865, want 0 (the default) to 67108864"}},
		{"a quote in the name", limit.Config{Rate: 1, Name: `a"b`}, []string{`Name is "a\"b",`}},
		{"a backslash in the name", limit.Config{Rate: 1, Name: `a\b`}, []string{`Name is "a\\b",`}},
		{"a line end in the name", limit.Config{Rate: 1, Name: "a\r\nb"}, []string{`Name is "a\r\nb",`}},
		{"a name beyond ASCII", limit.Config{Rate: 1, Name: "café"}, []string{`Name is "café",`}},
		{"all faults are reported at once", limit.Config{Rate: -1, Burst: -2, MaxKeys: -3, Name: "\x7f"}, []string{"Rate is", "Burst is", "MaxKeys is", "Name is"}},
	}
	for _, tt := range tests {
		t.Run(tt.about, func(t *testing.T) {
			l, err := limit.New(tt.config)
			require.Error(t, err)
			assert.Nil(t, l)
			for _, want := range tt.want {
				assert.ErrorContains(t, err, want)
			}
		})
	}
}
