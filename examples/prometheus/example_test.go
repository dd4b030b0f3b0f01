package prometheus_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	prom "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/prometheus"
)

func Example() {
	var r hostproxy.Router
	r.Handle("app.example.com", http.NotFoundHandler())

	m, err := prometheus.New(&r, prometheus.Options{})
	if err != nil {
		panic(err)
	}
	r.Begin, r.Observe = m.Begin, m.Observe
	registry := prom.NewRegistry()
	registry.MustRegister(m) // serve the registry by promhttp.HandlerFor

	r.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "https://app.example.com/", nil))
	fmt.Println(testutil.GatherAndCount(registry, "hostproxy_requests_total"))
	// Output: 1 <nil>
}

func ExampleMetrics_Handler() {
	var r hostproxy.Router
	r.Handle("app.example.com", http.NotFoundHandler())
	m, err := prometheus.New(&r, prometheus.Options{})
	if err != nil {
		panic(err)
	}
	r.Begin, r.Observe = m.Begin, m.Observe
	r.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "https://app.example.com/", nil))

	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, "hostproxy_requests_total") {
			fmt.Print(line)
		}
	}
	// Output: hostproxy_requests_total{code="4xx",pattern="app.example.com",protocol="HTTP/1.1",target=""} 1
}
