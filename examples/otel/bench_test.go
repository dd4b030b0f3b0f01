package otel_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	sdk "go.opentelemetry.io/otel/sdk/trace"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/otel"
)

// BenchmarkExchange compares exchanges with and without spans. They run in
// process, and a handler of the program answers them.
func BenchmarkExchange(b *testing.B) {
	for name, sampler := range map[string]sdk.Sampler{"spans=none": nil, "spans=unsampled": sdk.NeverSample(), "spans=sampled": sdk.AlwaysSample()} {
		b.Run(name, func(b *testing.B) {
			var r hostproxy.Router
			r.Handle("*", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			if sampler != nil {
				t, err := otel.New(otel.Options{Provider: sdk.NewTracerProvider(sdk.WithSampler(sampler))})
				require.NoError(b, err)
				r.Begin, r.BeginAttempt, r.Observe = t.Begin, t.BeginAttempt, t.Observe
			}
			q := httptest.NewRequest("GET", "/", nil)
			b.ReportAllocs()
			for b.Loop() {
				r.ServeHTTP(httptest.NewRecorder(), q)
			}
		})
	}
}
