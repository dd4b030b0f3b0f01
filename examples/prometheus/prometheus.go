// Package prometheus has Prometheus metrics of a hostproxy.Router: requests,
// native histograms of durations, attempts, retries, failures by step and side,
// targets, queues, certificates, and what the listeners refused.
//
// The number of series is limited. Label values are patterns, targets, classes
// of status codes, and words from fixed lists. They never contain a host, path,
// method, user or address that a client has sent.
//
//   - prometheus.go: New, and the hooks of the Router
//   - exchanges.go: metrics of exchanges and attempts
//   - histogram.go: native histograms that take many durations at once
//   - stripes.go: buffers of ended exchanges that are not counted yet
//   - pairs.go: one entry for each pattern and target
//   - state.go: metrics that are read during a scrape
package prometheus

import (
	"errors"
	"fmt"
	"net/http"
	"sync"

	prom "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/hostproxy/hostproxy"
)

// Options are the settings of New. The zero value is ready to use.
type Options struct {
	// MaxPairs limits the pairs of a pattern and a target with series of their
	// own, and also the certificates. Further ones share the series of the
	// pattern "(other)" and of the certificate "(other)": they are counted, but
	// not told apart. A pair whose route or target is gone is dropped by a
	// scrape when it was not used for ten minutes. Zero means 1,000; at most
	// 100,000.
	MaxPairs int

	// Buckets are upper bounds, in seconds, of classic buckets. They are added
	// to the native histograms for a Prometheus that does not scrape these.
	// They must increase. Nil means none.
	Buckets []float64

	// Observe is called by Metrics.Observe with each exchange that it has
	// counted, such as a hostproxy.AccessLog. Nil calls nothing.
	Observe func(*hostproxy.Exchange)
}

// Metrics are the metrics of one Router. Handler serves them. They are a
// prometheus.Collector: register them with a prometheus.Registry to serve them
// with others. The methods may be called concurrently.
type Metrics struct {
	router *hostproxy.Router
	status http.Handler
	next   func(*hostproxy.Exchange) // nil for none

	exchanges exchanges
	pairs     pairs
	stripes   stripes

	scrape sync.Mutex // serializes scrapes
	state  state
}

// New returns metrics of r. Before r is used, set r.Begin and r.Observe to
// their methods, or call these from your own hooks. New returns an error for
// invalid options.
func New(r *hostproxy.Router, o Options) (*Metrics, error) {
	var errs []error
	if r == nil {
		errs = append(errs, errors.New("nil Router: want the one to be measured"))
	}
	switch {
	case o.MaxPairs == 0:
		o.MaxPairs = defaultPairs
	case o.MaxPairs < 0 || o.MaxPairs > mostPairs:
		errs = append(errs, fmt.Errorf("%d pairs in MaxPairs: want 0 to %d", o.MaxPairs, mostPairs))
	}
	for i := 1; i < len(o.Buckets); i++ {
		if !(o.Buckets[i-1] < o.Buckets[i]) {
			errs = append(errs, fmt.Errorf("%v before %v in Buckets: want increasing bounds", o.Buckets[i-1], o.Buckets[i]))
			break
		}
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("hostproxy: prometheus: %w", errors.Join(errs...))
	}
	m := &Metrics{router: r, status: hostproxy.StatusHandler(r), next: o.Observe, exchanges: newExchanges(o.Buckets), state: newState()}
	m.pairs.init(o.MaxPairs, &m.exchanges)
	m.stripes.init()
	return m, nil
}

// Begin is for Router.Begin. It counts the exchange as in flight. In a hook of
// your own, call it first: Observe counts the end of every exchange, also after
// a panic of the hook.
func (m *Metrics) Begin(*hostproxy.Beginning) { m.stripes.begin() }

// Observe is for Router.Observe: it counts the exchange and its attempts, and
// then calls Options.Observe.
func (m *Metrics) Observe(x *hostproxy.Exchange) {
	m.stripes.keep(m, x)
	if m.next != nil {
		m.next(x)
	}
}

// Handler returns a handler that serves these metrics alone, such as for
// /metrics of a listener with hostproxy.RoleInternal. To serve others beside
// them, register m with a prometheus.Registry of your own instead.
func (m *Metrics) Handler() http.Handler {
	registry := prom.NewRegistry()
	registry.MustRegister(m)
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prom.Desc) {
	for _, c := range m.collectors() {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector. It reads the Router's state by
// hostproxy.StatusHandler.
func (m *Metrics) Collect(ch chan<- prom.Metric) {
	m.scrape.Lock()
	defer m.scrape.Unlock()
	if err := m.read(); err != nil {
		ch <- prom.NewInvalidMetric(m.state.inFlightDesc, fmt.Errorf("hostproxy: prometheus: read the status: %w", err))
		return
	}
	for _, c := range m.collectors() {
		c.Collect(ch)
	}
}

func (m *Metrics) collectors() []prom.Collector {
	return append(m.exchanges.collectors(), m.state.collectors()...)
}
