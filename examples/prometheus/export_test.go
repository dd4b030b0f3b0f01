package prometheus

import (
	prom "github.com/prometheus/client_golang/prometheus"

	"github.com/hostproxy/hostproxy"
)

// ReadCertificates fills m as if its Router had these certificates.
func ReadCertificates(m *Metrics, all []hostproxy.CertStatus) {
	m.state.readCertificates(all, m.pairs.max)
}

// RegisterState registers what ReadCertificates fills, which is not read again.
func RegisterState(m *Metrics, r *prom.Registry) { r.MustRegister(m.state.collectors()...) }

// Pairs returns how many pairs there are.
func Pairs(m *Metrics) int { return len(*m.pairs.all.Load()) }
