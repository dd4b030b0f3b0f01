package prometheus_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

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
