package main

import (
	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/prometheus"
)

// metricsFeatures are features of the modules below examples that measure exchanges.
func metricsFeatures() []feature {
	return []feature{
		{"prometheus", "metrics for Prometheus", dearest, func(r *hostproxy.Router, _ *hostproxy.Upstream, _ string) error {
			m, err := prometheus.New(r, prometheus.Options{})
			if err != nil {
				return err
			}
			r.Begin, r.Observe = m.Begin, m.Observe
			return nil
		}},
	}
}
