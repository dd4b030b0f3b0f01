package otel_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/otel"
)

func Example() {
	exporter := tracetest.NewInMemoryExporter() // your program: otlptracehttp.New, for instance
	provider := trace.NewTracerProvider(trace.WithSyncer(exporter))

	t, err := otel.New(otel.Options{Provider: provider})
	if err != nil {
		panic(err)
	}
	r := hostproxy.Router{Begin: t.Begin, BeginAttempt: t.BeginAttempt, Observe: t.Observe}
	r.Handle("app.example.com", http.NotFoundHandler())

	r.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "https://app.example.com/", nil))
	fmt.Println(exporter.GetSpans()[0].Name)
	// Output: GET app.example.com
}
