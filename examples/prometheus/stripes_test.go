package prometheus_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/prometheus"
)

// Exchanges are counted in batches, but each scrape counts all of them.
func TestAScrapeCountsAllEndedExchanges(t *testing.T) {
	registry, m := measured(t, &hostproxy.Router{}, prometheus.Options{})
	for n := 1; n <= 200; n++ {
		m.Begin(nil)
		x := exchange(fmt.Sprintf("h%d.test", n%3))
		x.RequestBytes = 10
		if n%2 == 0 { // a further attempt, at another target
			x.Timeline = append(x.Timeline, hostproxy.Attempt{Target: "t:2", Status: 500, Retry: true, FirstByte: time.Millisecond})
		}
		if n%5 == 0 {
			x.Timeline = nil
		}
		m.Observe(x)
		m.Begin(nil) // an exchange that does not end
		if n%7 != 0 && n != 200 {
			continue
		}
		all := gather(t, registry)
		even, fifth, tenth := n/2, n/5, n/10
		for name, want := range map[string]int{
			"hostproxy_requests_total":             n,
			"hostproxy_request_bytes_total":        10 * n,
			"hostproxy_response_bytes_total":       100 * n,
			"hostproxy_attempts_total":             n - fifth + even - tenth,
			"hostproxy_retries_total":              even - tenth,
			"hostproxy_requests_in_flight":         n,
			"hostproxy_request_duration_seconds":   n,
			"hostproxy_attempt_first_byte_seconds": n - fifth + even - tenth,
		} {
			assert.EqualValues(t, want, sum(all, name), "%s of %d", name, n)
		}
	}
}

func TestNoExchangeIsLostBetweenGoroutinesAndScrapes(t *testing.T) {
	registry, m := measured(t, &hostproxy.Router{}, prometheus.Options{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				m.Begin(nil)
				m.Observe(exchange("a.test"))
			}
		})
	}
	last := 0.0
	for range 20 {
		now := sum(gather(t, registry), "hostproxy_requests_total")
		assert.GreaterOrEqual(t, now, last)
		last = now
	}
	wg.Wait()
	all := gather(t, registry)
	assert.Equal(t, 8000.0, sum(all, "hostproxy_requests_total"))
	assert.Zero(t, sum(all, "hostproxy_requests_in_flight"))
}
