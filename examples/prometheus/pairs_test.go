package prometheus_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/prometheus"
)

// Adding a pair must not copy all earlier ones each time.
func TestAPairCostsTheSameHoweverManyThereAre(t *testing.T) {
	const n = 4000
	_, m := measured(t, &hostproxy.Router{}, prometheus.Options{MaxPairs: 2 * n})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range n {
		prometheus.AddPair(m, fmt.Sprint(i))
	}
	runtime.ReadMemStats(&after)
	assert.Less(t, (after.TotalAlloc-before.TotalAlloc)/n, uint64(2000), "bytes for each pair")
	assert.Equal(t, n, prometheus.Pairs(m))
	for i := range n {
		prometheus.AddPair(m, fmt.Sprint(i))
	}
	assert.Equal(t, n, prometheus.Pairs(m), "all pairs exist")
	assert.Zero(t, testing.AllocsPerRun(100, func() { prometheus.AddPair(m, "7") }))
}
