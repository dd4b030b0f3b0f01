package main

import (
	"context"

	"go.opentelemetry.io/otel/sdk/trace"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/otel"
	"github.com/hostproxy/hostproxy/examples/prometheus"
)

// metricsFeatures returns the features of the modules in examples that measure
// exchanges.
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
		{"otel", "spans, one trace in a hundred sampled", traced, func(r *hostproxy.Router, _ *hostproxy.Upstream, _ string) error {
			provider := trace.NewTracerProvider(trace.WithSampler(trace.TraceIDRatioBased(0.01)), trace.WithBatcher(nowhere{}))
			t, err := otel.New(otel.Options{Provider: provider})
			if err != nil {
				return err
			}
			r.Begin, r.BeginAttempt, r.Observe = t.Begin, t.BeginAttempt, t.Observe
			return nil
		}},
	}
}

// nowhere discards spans.
type nowhere struct{}

// ExportSpans implements trace.SpanExporter.
func (nowhere) ExportSpans(context.Context, []trace.ReadOnlySpan) error { return nil }

// Shutdown implements trace.SpanExporter.
func (nowhere) Shutdown(context.Context) error { return nil }
