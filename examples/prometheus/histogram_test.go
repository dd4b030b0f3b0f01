package prometheus_test

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	prom "github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/prometheus"
)

// written returns the histogram of request durations as a scrape gets it.
func written(t *testing.T, g prom.Gatherer) *dto.Histogram {
	t.Helper()
	families, err := g.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() == "hostproxy_request_duration_seconds" {
			require.Len(t, f.Metric, 1)
			return f.Metric[0].Histogram
		}
	}
	require.Fail(t, "there is no histogram")
	return nil
}

// client_golang's own histogram serves as the reference.
func TestAHistogramHasTheBucketsOfClientGolang(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for name, duration := range map[string]func(i int) time.Duration{
		"around a millisecond": func(int) time.Duration { return time.Duration(1e6 * math.Exp(random.NormFloat64()/2)) },
		"powers of two":        func(i int) time.Duration { return time.Second / (1 << (i % 9)) },
		"nothing":              func(int) time.Duration { return 0 },
		"a nanosecond, and more than a month, in turn": func(i int) time.Duration { return 1 + time.Duration(i%2)*1000*time.Hour },
	} {
		for _, bounds := range [][]float64{nil, {0.001, 0.0011, 1, 10}, {1, math.Inf(1)}} {
			registry, m := measured(t, &hostproxy.Router{}, prometheus.Options{Buckets: bounds})
			theirs := prom.NewHistogram(prom.HistogramOpts{Name: "x", Buckets: bounds, NativeHistogramBucketFactor: 1.1})
			for i := range 1000 {
				d := duration(i)
				theirs.Observe(d.Seconds())
				x := exchange("a.test")
				x.Duration = d
				m.Observe(x)
			}
			var want dto.Metric
			require.NoError(t, theirs.Write(&want))
			got := written(t, registry)
			assert.InDelta(t, want.Histogram.GetSampleSum(), got.GetSampleSum(), 1e-6*want.Histogram.GetSampleSum())
			for _, h := range []*dto.Histogram{got, want.Histogram} {
				h.SampleSum, h.CreatedTimestamp = nil, nil
			}
			assert.True(t, proto.Equal(want.Histogram, got), "%s %v\n%v\n%v", name, bounds, want.Histogram, got)
		}
	}
}

// Above a hundred buckets, pairs of them are merged.
func TestTheBucketsOfAHistogramAreLimited(t *testing.T) {
	registry, m := measured(t, &hostproxy.Router{}, prometheus.Options{})
	n := 0
	for d := time.Nanosecond; d > 0 && d < math.MaxInt64/2; d += d/20 + 1 {
		x := exchange("a.test")
		x.Duration = d
		m.Observe(x)
		n++
	}
	h := written(t, registry)
	assert.EqualValues(t, n, h.GetSampleCount())
	filled, sum, last := 0, int64(0), int64(0)
	for _, delta := range h.PositiveDelta {
		if last += delta; last > 0 {
			filled++
		}
		sum += last
	}
	assert.LessOrEqual(t, filled, 100)
	assert.Greater(t, filled, 50)
	assert.EqualValues(t, n, sum)
	assert.Less(t, h.GetSchema(), int32(3))
}
