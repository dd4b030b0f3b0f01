package prometheus_test

import (
	"context"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/certmagic"
	prom "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/prometheus"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestMain(m *testing.M) { proxytest.Main(m) }

// measured returns a registry with the metrics of r.
func measured(t testing.TB, r *hostproxy.Router, o prometheus.Options) (*prom.Registry, *prometheus.Metrics) {
	t.Helper()
	m, err := prometheus.New(r, o)
	require.NoError(t, err)
	r.Begin, r.Observe = m.Begin, m.Observe
	registry := prom.NewPedanticRegistry()
	registry.MustRegister(m)
	return registry, m
}

// gather returns all series by name and labels. The value of a histogram is its
// count.
func gather(t testing.TB, g prom.Gatherer) map[string]float64 {
	t.Helper()
	families, err := g.Gather()
	require.NoError(t, err)
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				require.True(t, utf8.ValidString(l.GetValue()))
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			name := f.GetName() + "{" + strings.Join(labels, ",") + "}"
			switch f.GetType() {
			case dto.MetricType_COUNTER:
				all[name] = m.Counter.GetValue()
			case dto.MetricType_GAUGE:
				all[name] = m.Gauge.GetValue()
			default:
				require.NotNil(t, m.Histogram.Schema, "%s is a native histogram", name)
				all[name] = float64(m.Histogram.GetSampleCount())
			}
		}
	}
	return all
}

// sum adds up the series of a name.
func sum(all map[string]float64, name string) (n float64) {
	for series, v := range all {
		if strings.HasPrefix(series, name+"{") {
			n += v
		}
	}
	return n
}

// lanes are the ways in which a request reaches a Router.
var lanes = map[string]func(t *testing.T, r *hostproxy.Router) *http.Client{ // read-only
	"fast lane, HTTP/1.1": func(t *testing.T, r *hostproxy.Router) *http.Client {
		s := proxytest.Start(t, &hostproxy.Server{Router: r})
		return proxytest.HTTPClient(t, s.HTTPS, roots(t, r), "h1")
	},
	"fast lane, HTTP/2.0": func(t *testing.T, r *hostproxy.Router) *http.Client {
		s := proxytest.Start(t, &hostproxy.Server{Router: r})
		return proxytest.HTTPClient(t, s.HTTPS, roots(t, r), "h2")
	},
	"handler lane, HTTP/1.1": func(t *testing.T, r *hostproxy.Router) *http.Client {
		through := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { r.ServeHTTP(w, q) })
		s := proxytest.Start(t, &hostproxy.Server{Router: r, Handler: through})
		return proxytest.HTTPClient(t, s.HTTPS, roots(t, r), "h1")
	},
	"net/http, HTTP/2.0": func(t *testing.T, r *hostproxy.Router) *http.Client {
		config, err := r.TLSConfig()
		require.NoError(t, err)
		s := httptest.NewUnstartedServer(r)
		s.TLS, s.EnableHTTP2 = config, true
		s.StartTLS()
		t.Cleanup(func() { s.Close(); require.NoError(t, r.Close()) })
		return proxytest.HTTPClient(t, s.Listener.Addr().String(), roots(t, r), "h2")
	},
}

func roots(t *testing.T, r *hostproxy.Router) *x509.CertPool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), proxytest.Patience)
	defer cancel()
	require.NoError(t, r.AwaitCertificates(ctx))
	pem, err := r.TLS.Internal.(*hostproxy.LocalCA).RootPEM(ctx)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(pem))
	return pool
}

func post(t *testing.T, c *http.Client, method, url, body string) int {
	t.Helper()
	q, err := http.NewRequest(method, url, strings.NewReader(body))
	require.NoError(t, err)
	p, err := c.Do(q)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, p.Body)
	require.NoError(t, err)
	require.NoError(t, p.Body.Close())
	return p.StatusCode
}

// router returns a Router that stores its certificates in a directory of the
// test.
func router(t *testing.T) *hostproxy.Router {
	s := &certmagic.FileStorage{Path: t.TempDir()}
	return &hostproxy.Router{TLS: hostproxy.TLS{Storage: s, Internal: &hostproxy.LocalCA{Storage: s}}}
}

func TestEveryLaneIsMeasured(t *testing.T) {
	for lane, start := range lanes {
		t.Run(lane, func(t *testing.T) {
			up, down := proxytest.NewServer(t, nil).Addr(), proxytest.Refused(t)
			r := router(t)
			app := hostproxy.To(down, up)
			app.Policy = hostproxy.FirstAvailable
			app.Breaker = &hostproxy.Breaker{}
			r.Handle("app.localhost", app)
			r.Handle("dead.localhost", hostproxy.To(down))
			registry, _ := measured(t, r, prometheus.Options{})
			c := start(t, r)

			require.Equal(t, 200, post(t, c, "POST", "https://app.localhost/", "four"))
			require.Equal(t, 200, post(t, c, "POST", "https://app.localhost/", "four"))
			require.Equal(t, 502, post(t, c, "GET", "https://dead.localhost/", ""))
			proxytest.Eventually(t, "all exchanges have ended", func() bool {
				return sum(gather(t, registry), "hostproxy_requests_total") == 3
			})
			got := gather(t, registry)
			_, protocol, _ := strings.Cut(lane, ", ")
			for series, want := range map[string]float64{
				`hostproxy_requests_total{code="2xx",pattern="app.localhost",protocol="` + protocol + `",target="` + up + `"}`:    2,
				`hostproxy_requests_total{code="5xx",pattern="dead.localhost",protocol="` + protocol + `",target="` + down + `"}`: 1,
				`hostproxy_request_duration_seconds{code="2xx",pattern="app.localhost"}`:                                          2,
				`hostproxy_request_bytes_total{pattern="app.localhost"}`:                                                          8,
				`hostproxy_attempts_total{code="2xx",pattern="app.localhost",target="` + up + `"}`:                                2,
				`hostproxy_attempts_total{code="none",pattern="app.localhost",target="` + down + `"}`:                             2,
				`hostproxy_retries_total{pattern="app.localhost",target="` + up + `"}`:                                            2,
				`hostproxy_attempt_errors_total{op="dial",pattern="app.localhost",side="upstream",target="` + down + `"}`:         2,
				`hostproxy_attempt_first_byte_seconds{pattern="app.localhost",target="` + up + `"}`:                               2,
				`hostproxy_errors_total{op="dial",pattern="dead.localhost",side="upstream",target="` + down + `"}`:                1,
				`hostproxy_target_up{pattern="app.localhost",target="` + up + `"}`:                                                1,
				`hostproxy_target_in_flight{pattern="app.localhost",target="` + up + `"}`:                                         0,
				`hostproxy_targets{pattern="app.localhost",state="up"}`:                                                           2,
				`hostproxy_queue_length{pattern="app.localhost"}`:                                                                 0,
				`hostproxy_certificates{certificate="app.localhost",state="valid"}`:                                               1,
				`hostproxy_requests_in_flight{}`:                                                                                  0,
			} {
				assert.Equal(t, want, got[series], "%s of\n%s", series, text(got))
			}
			assert.Greater(t, got[`hostproxy_response_bytes_total{pattern="app.localhost"}`], 0.0)
			assert.Greater(t, got[`hostproxy_certificate_expiry_timestamp_seconds{certificate="app.localhost"}`], float64(time.Now().Unix()))
		})
	}
}

func text(all map[string]float64) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&b, "%s %v\n", k, all[k])
	}
	return b.String()
}

func TestRequestsInFlightAndQueuedAreMeasured(t *testing.T) {
	release := make(chan struct{})
	defer sync.OnceFunc(func() { close(release) })()
	slow := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { <-release }))
	var r hostproxy.Router
	app := hostproxy.To(slow.Addr())
	app.MaxInFlight, app.Queue.Max = 1, 5
	r.Handle("app.localhost", app)
	registry, _ := measured(t, &r, prometheus.Options{})
	s := proxytest.StartPlain(t, &hostproxy.Server{Router: &r})
	var wg sync.WaitGroup
	for range 3 {
		c := proxytest.HTTPClient(t, s.Plain, nil, "h1")
		wg.Go(func() { post(t, c, "GET", "http://app.localhost/", "") })
	}
	proxytest.Eventually(t, "one is at the target and two wait", func() bool {
		all := gather(t, registry)
		return all[`hostproxy_requests_in_flight{}`] == 3 && all[`hostproxy_route_in_flight{pattern="app.localhost"}`] == 1 &&
			all[`hostproxy_queue_length{pattern="app.localhost"}`] == 2 && sum(all, "hostproxy_connections") == 3
	})
	for range 3 {
		release <- struct{}{}
	}
	wg.Wait()
	proxytest.Eventually(t, "two have waited", func() bool {
		all := gather(t, registry)
		return all[`hostproxy_queue_duration_seconds{pattern="app.localhost"}`] == 2 && all[`hostproxy_requests_in_flight{}`] == 0
	})
}

func TestAQueueBeforeThereAreTargetsIsMeasured(t *testing.T) {
	found := make(chan struct{})
	backend := proxytest.NewServer(t, nil)
	app := &hostproxy.Upstream{Discover: func(ctx context.Context, publish func([]hostproxy.Endpoint)) error {
		select {
		case <-found:
			publish([]hostproxy.Endpoint{{Target: backend.Addr()}})
		case <-ctx.Done():
		}
		<-ctx.Done()
		return nil
	}}
	var r hostproxy.Router
	r.Handle("app.localhost", app)
	registry, _ := measured(t, &r, prometheus.Options{})
	s := proxytest.StartPlain(t, &hostproxy.Server{Router: &r})
	c, done := proxytest.HTTPClient(t, s.Plain, nil, "h1"), make(chan int)
	go func() { done <- post(t, c, "GET", "http://app.localhost/", "") }()
	proxytest.Eventually(t, "it is in flight", func() bool {
		all := gather(t, registry)
		_, known := all[`hostproxy_queue_length{pattern="app.localhost"}`]
		return known && all[`hostproxy_requests_in_flight{}`] == 1
	})
	close(found)
	require.Equal(t, 200, <-done)
}

func TestRefusalsAreCountedAcrossRestarts(t *testing.T) {
	var r hostproxy.Router
	registry, _ := measured(t, &r, prometheus.Options{})
	for i := range 2 {
		s := proxytest.StartPlain(t, &hostproxy.Server{Router: &r})
		p := proxytest.Dial(t, s.Plain).Do("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
		require.Equal(t, "400 Bad Request", p.Status)
		proxytest.Eventually(t, "it is counted", func() bool {
			return gather(t, registry)[`hostproxy_refused_total{what="requests",why="400"}`] == float64(i+1)
		})
		require.NoError(t, s.Stop())
		gather(t, registry)
	}
}

// invented is the number of invented hosts. It exceeds every limit on what is
// kept. MaxPairs is the largest of these limits: beyond it, each new host takes
// the same path.
var invented = flag.Int("invented", 1_000_000, "hosts that are invented")

func TestInventedHostsMakeNoSeries(t *testing.T) {
	var r hostproxy.Router
	ok := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {})
	r.Handle("*", ok)
	r.Handle("*.example.com", ok)
	r.Handle("api.example.com/v1/", ok)
	registry, m := measured(t, &r, prometheus.Options{})
	ask := func(i int) {
		host := fmt.Sprintf("h%d.%s", i, []string{"test", "example.com", "a.example.com"}[i%3])
		q := &http.Request{Method: fmt.Sprintf("M%d", i), Host: host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			URL: &url.URL{Path: fmt.Sprintf("/%d", i)}, Header: http.Header{"User-Agent": {host}}, Body: http.NoBody, RemoteAddr: "192.0.2.1:1"}
		r.ServeHTTP(blind{}, q)
	}
	for i := range 30 {
		ask(i)
	}
	before, pairs := gather(t, registry), prometheus.Pairs(m)
	for i := range *invented {
		ask(30 + i)
	}
	after := gather(t, registry)
	assert.Equal(t, slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after)), "no series is new")
	assert.Equal(t, pairs, prometheus.Pairs(m))
	assert.Equal(t, float64(30+*invented), sum(after, "hostproxy_requests_total"), "all are counted")
}

// A blind response writer discards everything.
type blind struct{}

func (blind) Header() http.Header         { return http.Header{} }
func (blind) Write(b []byte) (int, error) { return len(b), nil }
func (blind) WriteHeader(int)             {}

func TestPairsAboveTheLimitShareSeries(t *testing.T) {
	var r hostproxy.Router
	for i := range 50 {
		r.Handle(fmt.Sprintf("h%d.test", i), hostproxy.To(fmt.Sprintf("127.0.0.1:%d", i+1)))
	}
	registry, m := measured(t, &r, prometheus.Options{MaxPairs: 3})
	for i := range 50 {
		m.Observe(&hostproxy.Exchange{Pattern: fmt.Sprintf("h%d.test", i), Target: fmt.Sprintf("127.0.0.1:%d", i+1), Status: 200, Proto: "HTTP/1.1",
			RequestBytes: 2, Timeline: []hostproxy.Attempt{{Target: fmt.Sprintf("127.0.0.1:%d", i+1), Status: 200}}})
	}
	all := gather(t, registry)
	assert.Equal(t, 3, prometheus.Pairs(m))
	assert.Equal(t, 47.0, all[`hostproxy_requests_total{code="2xx",pattern="(other)",protocol="HTTP/1.1",target=""}`])
	assert.Equal(t, 50.0, sum(all, "hostproxy_requests_total"))
	assert.Equal(t, 50.0, sum(all, "hostproxy_attempts_total"))
	assert.Equal(t, 100.0, sum(all, "hostproxy_request_bytes_total"))
	assert.Equal(t, 50.0, sum(all, "hostproxy_target_up"))
	assert.Equal(t, 47.0, all[`hostproxy_targets{pattern="(other)",state="up"}`])
}

func TestPairsThatAreGoneMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r hostproxy.Router
		registry, m := measured(t, &r, prometheus.Options{MaxPairs: 2})
		end := func(pattern string) {
			m.Observe(&hostproxy.Exchange{Pattern: pattern, Target: "t:1", Status: 200, RequestBytes: 1})
		}
		pattern := func(pattern string) float64 {
			return gather(t, registry)[`hostproxy_requests_total{code="2xx",pattern="`+pattern+`",protocol="(other)",target="t:1"}`]
		}
		end("old.test")
		end("kept.test")
		for range 4 {
			time.Sleep(5 * time.Minute)
			end("kept.test")
			end("new.test") // counted in the shared pair at first
			gather(t, registry)
		}
		end("new.test")
		all := gather(t, registry)
		assert.NotContains(t, text(all), "old.test")
		assert.Equal(t, 5.0, pattern("kept.test"), "in use, although no route of the Router has it")
		assert.Equal(t, 1.0, pattern("new.test"), "has a pair of its own now")
		assert.Equal(t, 4.0, all[`hostproxy_requests_total{code="2xx",pattern="(other)",protocol="(other)",target=""}`])
	})
}

func TestHostileLabelsAreMadeSafe(t *testing.T) {
	var r hostproxy.Router
	registry, m := measured(t, &r, prometheus.Options{})
	for _, s := range []string{"", "\xff", "a\x00\n\"\\{}", strings.Repeat("é", 500), "\u202e", "(other)"} {
		failure := &hostproxy.Error{Op: s, Target: s, Side: hostproxy.Side(s), Err: io.EOF}
		for _, status := range []int{-1, 0, 99, 200, 600, 1 << 40} {
			m.Observe(&hostproxy.Exchange{Host: s, Method: s, Pattern: s, Target: s, Proto: s, Status: status, Err: failure, Duration: -1, Queue: -1,
				RequestBytes: -1, ResponseBytes: -1, Timeline: []hostproxy.Attempt{{Target: s + "2", Status: status, Err: io.EOF, FirstByte: -1}}})
		}
	}
	all := gather(t, registry) // fails for values that are not UTF-8
	assert.Equal(t, 36.0, sum(all, "hostproxy_requests_total"))
	assert.Equal(t, 36.0, sum(all, "hostproxy_errors_total"))
	for series := range all {
		assert.Less(t, len(series), 2000)
		for _, label := range []string{"op", "side", "protocol"} {
			_, value, found := strings.Cut(series, label+`="`)
			assert.True(t, !found || strings.HasPrefix(value, `(other)"`), series)
		}
	}
}

func TestCertificatesOnDemandShareALabel(t *testing.T) {
	var r hostproxy.Router
	_, m := measured(t, &r, prometheus.Options{MaxPairs: 2})
	at := time.Unix(2_000_000_000, 0)
	all := []hostproxy.CertStatus{{Host: "a\xff.test", State: hostproxy.CertFailed, Attempts: 3, Waiting: 2}, {Host: "b.test", State: hostproxy.CertValid, NotAfter: at},
		{Host: "c.test", State: hostproxy.CertValid, NotAfter: at.Add(1)}, {Host: "d.test", State: hostproxy.CertValid, NotAfter: at.Add(-time.Hour)}}
	for i := range 5000 {
		all = append(all, hostproxy.CertStatus{Host: fmt.Sprintf("h%d.test", i), State: hostproxy.CertValid, OnDemand: true, NotAfter: at.Add(time.Duration(i) * time.Hour)})
	}
	prometheus.ReadCertificates(m, all)
	registry := prom.NewPedanticRegistry()
	prometheus.RegisterState(m, registry)
	got := gather(t, registry)
	for series, want := range map[string]float64{
		`hostproxy_certificates{certificate="(on demand)",state="valid"}`:           5000,
		`hostproxy_certificates{certificate="(other)",state="valid"}`:               2,
		"hostproxy_certificates{certificate=\"a\uFFFD.test\",state=\"failed\"}":     1,
		"hostproxy_certificate_failed_attempts{certificate=\"a\uFFFD.test\"}":       3,
		`hostproxy_certificate_expiry_timestamp_seconds{certificate="(other)"}`:     2_000_000_000 - 3600,
		`hostproxy_certificate_expiry_timestamp_seconds{certificate="b.test"}`:      2_000_000_000,
		`hostproxy_certificate_expiry_timestamp_seconds{certificate="(on demand)"}`: 2_000_000_000,
		`hostproxy_handshakes_waiting{}`:                                            2,
	} {
		assert.Equal(t, want, got[series], series)
	}
	assert.Less(t, len(got), 40)
}

func TestBadOptionsAreErrors(t *testing.T) {
	for want, o := range map[string]prometheus.Options{
		"-1 pairs in MaxPairs: want 0 to 100000":          {MaxPairs: -1},
		"1000000 pairs in MaxPairs: want 0 to 100000":     {MaxPairs: 1_000_000},
		"2 before 1 in Buckets: want increasing bounds":   {Buckets: []float64{2, 1}},
		"NaN before 1 in Buckets: want increasing bounds": {Buckets: []float64{math.NaN(), 1}},
	} {
		_, err := prometheus.New(nil, o)
		assert.ErrorContains(t, err, want)
		assert.ErrorContains(t, err, "hostproxy: prometheus: nil Router")
	}
}

func TestObserveCallsTheHookOfTheOptions(t *testing.T) {
	var r hostproxy.Router
	r.Handle("app.test", http.NotFoundHandler())
	var paths []string
	m, err := prometheus.New(&r, prometheus.Options{Observe: func(x *hostproxy.Exchange) { paths = append(paths, x.Path) }})
	require.NoError(t, err)
	r.Begin, r.Observe = m.Begin, m.Observe
	r.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "http://app.test/a", nil))
	assert.Equal(t, []string{"/a"}, paths)
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	assert.Contains(t, w.Body.String(), `pattern="app.test"`, "it is counted too")
}

func TestMetricNamesPassTheLinter(t *testing.T) {
	r := &hostproxy.Router{}
	registry, m := measured(t, r, prometheus.Options{Buckets: prom.DefBuckets})
	fill(m)
	problems, err := testutil.GatherAndLint(registry)
	require.NoError(t, err)
	assert.Empty(t, problems)
}

func TestTwoRoutersShareARegistry(t *testing.T) {
	registry := prom.NewPedanticRegistry()
	for _, name := range []string{"a", "b"} {
		m, err := prometheus.New(&hostproxy.Router{}, prometheus.Options{})
		require.NoError(t, err)
		labelled := prom.WrapRegistererWith(prom.Labels{"router": name}, registry)
		require.NoError(t, labelled.Register(m))
		assert.ErrorAs(t, labelled.Register(m), &prom.AlreadyRegisteredError{}, "twice")
		fill(m)
	}
	assert.Equal(t, 2.0, sum(gather(t, registry), "hostproxy_requests_total"))
}

// fill makes a series of each metric of exchanges.
func fill(m *prometheus.Metrics) {
	failure := &hostproxy.Error{Op: "dial", Side: hostproxy.SideUpstream, Err: io.EOF}
	m.Observe(&hostproxy.Exchange{Pattern: "a.test", Target: "t:1", Status: 200, Proto: "HTTP/1.1", RequestBytes: 1, ResponseBytes: 1, Queue: 1, Err: failure,
		Timeline: []hostproxy.Attempt{{Target: "t:1", Retry: true, Hedge: true, Err: failure, FirstByte: 1, Dial: 1}}})
}

func TestNativeHistogramsAreServed(t *testing.T) {
	registry, m := measured(t, &hostproxy.Router{}, prometheus.Options{})
	fill(m)
	for accept, want := range map[string]string{
		"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited": "application/vnd.google.protobuf",
		"text/plain": "text/plain",
	} {
		q := httptest.NewRequest("GET", "/metrics", nil)
		q.Header.Set("Accept", accept)
		w := httptest.NewRecorder()
		promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, q)
		assert.Equal(t, 200, w.Code)
		assert.Contains(t, w.Header().Get("Content-Type"), want)
		assert.Contains(t, w.Body.String(), "hostproxy_request_duration_seconds")
	}
}

func TestObserveAllocatesNothing(t *testing.T) {
	_, m := measured(t, &hostproxy.Router{}, prometheus.Options{MaxPairs: 1})
	for _, pattern := range []string{"a.test", "above the limit"} {
		x := exchange(pattern)
		assert.Zero(t, testing.AllocsPerRun(100, func() { m.Begin(nil); m.Observe(x) }), pattern)
	}
}

// exchange returns an exchange that took 200 µs.
func exchange(pattern string) *hostproxy.Exchange {
	return &hostproxy.Exchange{Pattern: pattern, Target: "t:1", Status: 200, Proto: "HTTP/1.1", ResponseBytes: 100, Duration: 200 * time.Microsecond, Attempts: 1,
		Timeline: []hostproxy.Attempt{{Target: "t:1", Status: 200, FirstByte: 180 * time.Microsecond, Duration: 190 * time.Microsecond}}}
}

func TestScrapesRunBesideExchanges(t *testing.T) {
	registry, m := measured(t, &hostproxy.Router{}, prometheus.Options{MaxPairs: 20})
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := range 500 {
				m.Begin(nil)
				m.Observe(exchange(fmt.Sprintf("h%d.test", (i+worker)%30)))
			}
		})
		wg.Go(func() {
			for range 20 {
				_, err := registry.Gather()
				assert.NoError(t, err)
			}
		})
	}
	wg.Wait()
	assert.Equal(t, 2000.0, sum(gather(t, registry), "hostproxy_requests_total"))
}

func TestTheModuleIsCompleteOutsideTheTree(t *testing.T) {
	text, err := os.ReadFile("cmd/proxy/main.go")
	require.NoError(t, err)
	proxytest.BuildOutside(t, string(text))
}

func BenchmarkObserve(b *testing.B) {
	m, err := prometheus.New(new(hostproxy.Router), prometheus.Options{})
	require.NoError(b, err)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		x := exchange("a.test")
		for p.Next() {
			m.Begin(nil)
			m.Observe(x)
		}
	})
}

func BenchmarkScrape(b *testing.B) {
	var r hostproxy.Router
	for i := range 1000 {
		r.Handle(fmt.Sprintf("h%d.test", i), hostproxy.To("localhost:4000"))
	}
	registry, m := measured(b, &r, prometheus.Options{})
	for i := range 1000 {
		x := exchange(fmt.Sprintf("h%d.test", i))
		x.Target = "localhost:4000"
		m.Observe(x)
	}
	for b.Loop() {
		_, err := registry.Gather()
		require.NoError(b, err)
	}
}
