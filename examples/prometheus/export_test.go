package prometheus

import (
	prom "github.com/prometheus/client_golang/prometheus"

	"github.com/hostproxy/hostproxy"
)

// ReadCertificates fills m as if its Router had these certificates.
func ReadCertificates(m *Metrics, all []hostproxy.CertStatus) {
	m.state.readCertificates(all, m.pairs.max)
}

// RegisterState registers the metrics that ReadCertificates fills. Scrapes then
// do not read the Router.
func RegisterState(m *Metrics, r *prom.Registry) { r.MustRegister(m.state.collectors()...) }

// Pairs returns the number of pairs.
func Pairs(m *Metrics) int {
	m.pairs.mu.Lock()
	defer m.pairs.mu.Unlock()
	return len(*m.pairs.all.Load()) + len(m.pairs.fresh)
}

// AddPair adds a pair, as Observe does.
func AddPair(m *Metrics, pattern string) { m.pairs.of(pairKey{pattern, "t:1"}) }
