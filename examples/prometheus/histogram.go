package prometheus

import (
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	prom "github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

const (
	finest     = 3   // schema of native histograms: eight buckets per power of two
	mostFilled = 100 // above this many filled buckets, a scrape gets a coarser schema
)

// eighths are the upper bounds of the buckets between 0.5 and 1, except the
// last one. Read-only.
var eighths = [8]float64{0.5, 0.5452538663326288, 0.5946035575013605, 0.6484197773255048,
	0.7071067811865475, 0.7711054127039704, 0.8408964152537144, 0.9170040432046711}

// bucketOf returns the index of the native bucket for v, which must be above 0.
func bucketOf(v float64) int {
	part, power := math.Frexp(v)
	i := 0
	for step := 4; step > 0; step /= 2 {
		if eighths[i+step-1] < part {
			i += step
		}
	}
	if eighths[i] < part {
		i++
	}
	return i + (power-1)*len(eighths)
}

// A histogram counts durations of one series. client_golang's histograms cost a
// dozen atomic operations for each duration. This one costs a lock, and many
// durations can be added under one lock.
type histogram struct {
	labels  []string
	bounds  []float64 // upper bounds of classic buckets
	created time.Time

	mu      sync.Mutex // guards the fields below
	count   uint64
	sum     float64
	zero    uint64
	lowest  int      // index of the first bucket in native
	native  []uint64 // at most about a thousand, over the range of time.Duration
	classic []uint64 // each duration counts in one bucket only
}

// Observe adds a duration.
func (h *histogram) Observe(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.add(d)
}

// add adds a duration. h.mu is held.
func (h *histogram) add(d time.Duration) {
	v := max(0, d.Seconds())
	h.count++
	h.sum += v
	if len(h.bounds) > 0 {
		if i, _ := slices.BinarySearch(h.bounds, v); i < len(h.bounds) {
			h.classic[i]++
		}
	}
	if v == 0 {
		h.zero++
		return
	}
	i := bucketOf(v) - h.lowest
	if uint(i) >= uint(len(h.native)) {
		i = h.grow(i)
	}
	h.native[i]++
}

// grow makes room for a bucket at index i, counted from lowest, and returns its
// index in native.
func (h *histogram) grow(i int) int {
	switch {
	case len(h.native) == 0:
		h.lowest, h.native = h.lowest+i, make([]uint64, 1)
		return 0
	case i < 0:
		h.lowest, h.native = h.lowest+i, append(make([]uint64, -i), h.native...)
		return 0
	}
	h.native = append(h.native, make([]uint64, i+1-len(h.native))...)
	return i
}

// metric returns the histogram for a scrape.
func (h *histogram) metric(desc *prom.Desc) prom.Metric {
	h.mu.Lock()
	defer h.mu.Unlock()
	buckets, schema := map[int]int64{}, int32(finest)
	for i, n := range h.native {
		if n > 0 {
			buckets[h.lowest+i] = int64(n)
		}
	}
	for ; len(buckets) > mostFilled; schema-- {
		buckets = halved(buckets)
	}
	m, err := prom.NewConstNativeHistogram(desc, h.count, h.sum, buckets, nil, h.zero, schema, prom.DefNativeHistogramZeroThreshold, h.created, h.labels...)
	switch {
	case err != nil:
		return prom.NewInvalidMetric(desc, err)
	case len(h.bounds) > 0:
		return classic{m, h.bounds, slices.Clone(h.classic)}
	}
	return m
}

// halved merges pairs of buckets into buckets of twice the width.
func halved(buckets map[int]int64) map[int]int64 {
	half := map[int]int64{}
	for i, n := range buckets {
		if i > 0 {
			i++
		}
		half[i/2] += n
	}
	return half
}

// A classic is a histogram that also has classic buckets.
type classic struct {
	prom.Metric
	bounds []float64
	counts []uint64
}

// Write implements prometheus.Metric.
func (c classic) Write(out *dto.Metric) error {
	err := c.Metric.Write(out)
	sum := uint64(0)
	for i := range c.bounds {
		sum += c.counts[i]
		below := sum
		out.Histogram.Bucket = append(out.Histogram.Bucket, &dto.Bucket{UpperBound: &c.bounds[i], CumulativeCount: &below})
	}
	return err
}

// histograms are the histograms of one metric, by their labels. They are a
// prometheus.Collector.
type histograms struct {
	desc   *prom.Desc
	names  []string // names of the labels
	bounds []float64

	mu  sync.Mutex
	all map[string]*histogram
}

func newHistograms(name, help string, bounds []float64, labels ...string) *histograms {
	bounds = slices.Clone(bounds)
	if n := len(bounds); n > 0 && math.IsInf(bounds[n-1], 1) {
		bounds = bounds[:n-1] // the count serves as the bucket +Inf
	}
	return &histograms{desc: prom.NewDesc("hostproxy_"+name, help, labels, nil), names: labels, bounds: bounds, all: map[string]*histogram{}}
}

// with returns the histogram with these label values.
func (v *histograms) with(labels ...string) *histogram {
	// label values are valid UTF-8, which never contains this byte
	key := strings.Join(labels, "\xff")
	v.mu.Lock()
	defer v.mu.Unlock()
	h := v.all[key]
	if h == nil {
		h = &histogram{labels: slices.Clone(labels), bounds: v.bounds, classic: make([]uint64, len(v.bounds)), created: time.Now()}
		v.all[key] = h
	}
	return h
}

// forget drops the histograms with these labels.
func (v *histograms) forget(labels prom.Labels) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for key, h := range v.all {
		same := 0
		for i, name := range v.names {
			if value, ok := labels[name]; ok && h.labels[i] == value {
				same++
			}
		}
		if same == len(labels) {
			delete(v.all, key)
		}
	}
}

// Describe implements prometheus.Collector.
func (v *histograms) Describe(ch chan<- *prom.Desc) { ch <- v.desc }

// Collect implements prometheus.Collector.
func (v *histograms) Collect(ch chan<- prom.Metric) {
	v.mu.Lock()
	var all []*histogram
	for _, h := range v.all {
		all = append(all, h)
	}
	v.mu.Unlock()
	for _, h := range all {
		ch <- h.metric(v.desc)
	}
}
