package otel_test

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/otel"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestMain(m *testing.M) { proxytest.Main(m) }

// The context that a client sends.
const (
	clientTrace  = "0af7651916cd43dd8448eb211c80319c"
	clientParent = "00-" + clientTrace + "-b7ad6b7169203331-01"
)

// traced makes spans for r and keeps them in memory.
func traced(t testing.TB, r *hostproxy.Router, trusted ...string) *tracetest.InMemoryExporter {
	t.Helper()
	exporter := tracetest.NewInMemoryExporter()
	provider := sdk.NewTracerProvider(sdk.WithSyncer(exporter))
	t.Cleanup(func() { require.NoError(t, provider.Shutdown(context.Background())) })
	o := otel.Options{Provider: provider}
	for _, p := range trusted {
		o.Trusted = append(o.Trusted, netip.MustParsePrefix(p))
	}
	tracer, err := otel.New(o)
	require.NoError(t, err)
	r.Begin, r.BeginAttempt, r.Observe = tracer.Begin, tracer.BeginAttempt, tracer.Observe
	return exporter
}

// await waits until there are n spans, and returns them. The exchange's span is
// the last one.
func await(t testing.TB, e *tracetest.InMemoryExporter, n int) tracetest.SpanStubs {
	t.Helper()
	proxytest.Eventually(t, "the spans have ended", func() bool { return len(e.GetSpans()) >= n })
	spans := e.GetSpans()
	require.Len(t, spans, n)
	return spans
}

// attributes returns a span's attributes.
func attributes(s tracetest.SpanStub) map[string]any {
	all := map[string]any{}
	for _, a := range s.Attributes {
		all[string(a.Key)] = a.Value.AsInterface()
	}
	return all
}

// lanes are the ways in which a request reaches a Router, with its HTTP
// version. Read-only.
var lanes = []struct {
	name, version string
	start         func(t *testing.T, r *hostproxy.Router) *http.Client
}{
	{"the fast lane over HTTP/1.1", "1.1", func(t *testing.T, r *hostproxy.Router) *http.Client {
		return serve(t, "h1", &hostproxy.Server{Router: r})
	}},
	{"the fast lane over HTTP/2", "2", func(t *testing.T, r *hostproxy.Router) *http.Client {
		return serve(t, "h2", &hostproxy.Server{Router: r})
	}},
	{"the handler lane", "2", func(t *testing.T, r *hostproxy.Router) *http.Client {
		return serve(t, "h2", &hostproxy.Server{Router: r, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { r.ServeHTTP(w, q) })})
	}},
	{"net/http", "1.1", func(t *testing.T, r *hostproxy.Router) *http.Client {
		s := httptest.NewTLSServer(r)
		t.Cleanup(func() { s.Close(); require.NoError(t, r.Close()) })
		c := s.Client()
		c.Transport.(*http.Transport).DialContext = nil
		return to(s.Listener.Addr().String(), c)
	}},
}

func serve(t *testing.T, protocol string, s *hostproxy.Server) *http.Client {
	cert, roots := proxytest.Certificate(t, "app.localhost")
	s.Router.TLS.Config = &tls.Config{Certificates: []tls.Certificate{cert}}
	return proxytest.HTTPClient(t, proxytest.Start(t, s).HTTPS, roots, protocol)
}

// to makes c connect to addr regardless of the URL.
func to(addr string, c *http.Client) *http.Client {
	tr := c.Transport.(*http.Transport)
	tr.TLSClientConfig.ServerName = "example.com" // the name in httptest's certificate
	tr.Proxy = nil
	c.Transport = rewrite{tr, addr}
	return c
}

type rewrite struct {
	*http.Transport
	addr string
}

func (r rewrite) RoundTrip(q *http.Request) (*http.Response, error) {
	q = q.Clone(q.Context())
	q.Host, q.URL.Host = q.URL.Host, r.addr
	return r.Transport.RoundTrip(q)
}

// get sends a GET with these headers, given in pairs, and returns the status.
func get(t testing.TB, c *http.Client, url string, headers ...string) int {
	t.Helper()
	q, err := http.NewRequest("GET", url, nil)
	require.NoError(t, err)
	for i := 0; i < len(headers); i += 2 {
		q.Header.Add(headers[i], headers[i+1])
	}
	p, err := c.Do(q)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, p.Body)
	require.NoError(t, err)
	require.NoError(t, p.Body.Close())
	return p.StatusCode
}

func TestEveryLaneIsTraced(t *testing.T) {
	for _, lane := range lanes {
		t.Run(lane.name, func(t *testing.T) {
			bad := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { w.WriteHeader(503) }))
			good := proxytest.NewServer(t, nil)
			app := hostproxy.To(bad.Addr(), good.Addr())
			app.Policy, app.Retry.Statuses = hostproxy.FirstAvailable, []int{503}
			var r hostproxy.Router
			r.Handle("app.localhost", app)
			exporter := traced(t, &r)
			c := lane.start(t, &r)

			require.Equal(t, 200, get(t, c, "https://app.localhost/a%2Fb?secret=1", "Traceparent", clientParent, "Traceparent", clientParent, "Tracestate", "a=b", "Baggage", "c=d"))
			spans := await(t, exporter, 3)
			first, second, exchange := spans[0], spans[1], spans[2]
			for i, s := range []*proxytest.Server{bad, good} {
				seen := s.Last(t)
				attempt := spans[i].SpanContext
				assert.Equal(t, []string{"00-" + attempt.TraceID().String() + "-" + attempt.SpanID().String() + "-01"}, seen.Header["Traceparent"])
				assert.NotContains(t, seen.Header, "Tracestate")
				assert.NotContains(t, seen.Header, "Baggage")
				assert.Equal(t, exchange.SpanContext.SpanID(), spans[i].Parent.SpanID())
				assert.Equal(t, trace.SpanKindClient, spans[i].SpanKind)
				assert.Equal(t, s.Addr(), attributes(spans[i])["hostproxy.target"])
			}
			assert.NotEqual(t, clientTrace, exchange.SpanContext.TraceID().String())
			assert.Equal(t, trace.SpanKindServer, exchange.SpanKind)
			assert.Equal(t, "GET app.localhost", exchange.Name)
			assert.Equal(t, codes.Unset, exchange.Status.Code)
			for key, want := range map[string]any{
				"http.request.method": "GET", "http.route": "app.localhost", "http.response.status_code": int64(200), "url.path": "/a%2Fb", "url.scheme": "https",
				"server.address": "app.localhost", "client.address": "127.0.0.1", "network.protocol.version": lane.version, "tls.protocol.version": "1.3",
				"hostproxy.attempts": int64(2), "user_agent.original": attributes(exchange)["user_agent.original"],
			} {
				assert.Equal(t, want, attributes(exchange)[key], key)
			}
			assert.NotContains(t, attributes(exchange), "url.query")

			assert.Equal(t, codes.Error, first.Status.Code)
			assert.Equal(t, int64(503), attributes(first)["http.response.status_code"])
			assert.Equal(t, "upstream", attributes(first)["hostproxy.side"])
			assert.NotEmpty(t, attributes(first)["hostproxy.op"])
			assert.Equal(t, int64(1), attributes(second)["http.request.resend_count"])
			assert.Equal(t, codes.Unset, second.Status.Code)
			assert.False(t, second.StartTime.Before(first.StartTime))
			assert.False(t, exchange.EndTime.Before(second.EndTime))
		})
	}
}

func TestASpanOfAFailureHasOpAndSide(t *testing.T) {
	var r hostproxy.Router
	r.Handle("app.localhost", hostproxy.To(proxytest.Refused(t)))
	exporter := traced(t, &r)
	c := proxytest.HTTPClient(t, proxytest.StartPlain(t, &hostproxy.Server{Router: &r}).Plain, nil, "h1")
	require.Equal(t, 502, get(t, c, "http://app.localhost/"))
	for _, s := range await(t, exporter, 2) {
		assert.Equal(t, codes.Error, s.Status.Code)
		assert.Contains(t, s.Status.Description, "connection refused")
		assert.Equal(t, []any{"dial", "upstream", "dial"}, []any{attributes(s)["hostproxy.op"], attributes(s)["hostproxy.side"], attributes(s)["error.type"]})
	}
	exporter.Reset()
	require.Equal(t, 404, get(t, c, "http://other.localhost/"))
	s := await(t, exporter, 1)[0]
	assert.Equal(t, codes.Unset, s.Status.Code, "404 is the client's")
	assert.Equal(t, "GET", s.Name)
}

func TestOnlyATrustedPeersTraceIsContinued(t *testing.T) {
	for _, tt := range []struct {
		about, trusted string
		parent         []string
		continued      bool
		linked         bool
	}{
		{"a trusted peer", "127.0.0.0/8", []string{clientParent}, true, false},
		{"a trusted peer that does not sample", "127.0.0.0/8", []string{strings.TrimSuffix(clientParent, "1") + "0"}, true, false},
		{"a trusted peer that sends two", "127.0.0.0/8", []string{clientParent, clientParent}, false, false},
		{"a trusted peer that sends nonsense", "127.0.0.0/8", []string{"00-" + strings.Repeat("0", 32) + "-b7ad6b7169203331-01"}, false, false},
		{"another peer", "10.0.0.0/8", []string{clientParent}, false, true},
	} {
		t.Run(tt.about, func(t *testing.T) {
			backend := proxytest.NewServer(t, nil)
			var r hostproxy.Router
			r.Handle("*", hostproxy.To(backend.Addr()))
			exporter := traced(t, &r, tt.trusted)
			c := proxytest.HTTPClient(t, proxytest.StartPlain(t, &hostproxy.Server{Router: &r}).Plain, nil, "h1")
			headers := []string{"Tracestate", "a=b", "Baggage", "c=d"}
			for _, p := range tt.parent {
				headers = append(headers, "Traceparent", p)
			}
			require.Equal(t, 200, get(t, c, "http://app.localhost/", headers...))
			seen := backend.Last(t).Header
			require.Len(t, seen["Traceparent"], 1)
			assert.Equal(t, tt.continued, strings.Contains(seen["Traceparent"][0], clientTrace))
			assert.Equal(t, tt.trusted == "127.0.0.0/8", seen.Get("Baggage") == "c=d")
			if tt.continued {
				assert.Equal(t, []string{"a=b"}, seen["Tracestate"])
				assert.Equal(t, tt.parent[0][53:], seen["Traceparent"][0][53:], "the peer's sampling decision")
				return
			}
			assert.NotContains(t, seen, "Tracestate")
			links := await(t, exporter, 2)[1].Links
			assert.Equal(t, tt.linked, len(links) == 1)
		})
	}
}

func TestTwoHedgedAttemptsHaveContextsOfTheirOwn(t *testing.T) {
	release := make(chan struct{})
	slow := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		select {
		case <-q.Context().Done():
		case <-release:
		}
	}))
	quick := proxytest.NewServer(t, nil)
	app := hostproxy.To(slow.Addr(), quick.Addr())
	app.Policy, app.Hedge = hostproxy.FirstAvailable, 20*time.Millisecond
	var r hostproxy.Router
	r.Handle("*", app)
	exporter := traced(t, &r)
	c := proxytest.HTTPClient(t, proxytest.StartPlain(t, &hostproxy.Server{Router: &r}).Plain, nil, "h1")
	require.Equal(t, 200, get(t, c, "http://app.localhost/"))
	close(release)
	spans := await(t, exporter, 3)
	assert.NotEqual(t, slow.Last(t).Header["Traceparent"], quick.Last(t).Header["Traceparent"])
	assert.Equal(t, true, attributes(spans[1])["hostproxy.hedge"])
}

func TestAProviderWithoutSpansLeavesNoTraceparent(t *testing.T) {
	backend := proxytest.NewServer(t, nil)
	var r hostproxy.Router
	r.Handle("*", hostproxy.To(backend.Addr()))
	tracer, err := otel.New(otel.Options{}) // the global provider, which is not set
	require.NoError(t, err)
	r.Begin, r.BeginAttempt, r.Observe = tracer.Begin, tracer.BeginAttempt, tracer.Observe
	c := proxytest.HTTPClient(t, proxytest.StartPlain(t, &hostproxy.Server{Router: &r}).Plain, nil, "h1")
	require.Equal(t, 200, get(t, c, "http://app.localhost/", "Traceparent", clientParent))
	assert.NotContains(t, backend.Last(t).Header, "Traceparent")
}

func TestHostileBytesOfAClientAreMadeSafe(t *testing.T) {
	backend := proxytest.NewServer(t, nil)
	var r hostproxy.Router
	r.Handle("*", hostproxy.To(backend.Addr()))
	exporter := traced(t, &r)
	s := proxytest.StartPlain(t, &hostproxy.Server{Router: &r})
	p := proxytest.Dial(t, s.Plain).Do("PURGE /%FF HTTP/1.1\r\nHost: app.localhost\r\nUser-Agent: \xff\xfe" + strings.Repeat("\xc3\xa9", 3000) + "\r\n\r\n")
	require.Equal(t, 200, p.StatusCode)
	spans := await(t, exporter, 2)
	assert.Equal(t, "HTTP *", spans[1].Name)
	all := attributes(spans[1])
	assert.Equal(t, []any{"_OTHER", "PURGE"}, []any{all["http.request.method"], all["http.request.method_original"]})
	for _, span := range spans {
		for _, a := range span.Attributes {
			if a.Value.Type() == attribute.STRING {
				assert.True(t, utf8.ValidString(a.Value.AsString()), a.Key)
				assert.Less(t, len(a.Value.AsString()), 2000, a.Key)
			}
		}
	}
}

func TestAnExchangeThatIsNotSampledHasAContextToo(t *testing.T) {
	backend := proxytest.NewServer(t, nil)
	var r hostproxy.Router
	r.Handle("*", hostproxy.To(backend.Addr()))
	provider := sdk.NewTracerProvider(sdk.WithSampler(sdk.NeverSample()))
	tracer, err := otel.New(otel.Options{Provider: provider})
	require.NoError(t, err)
	r.Begin, r.BeginAttempt, r.Observe = tracer.Begin, tracer.BeginAttempt, tracer.Observe
	c := proxytest.HTTPClient(t, proxytest.StartPlain(t, &hostproxy.Server{Router: &r}).Plain, nil, "h1")
	require.Equal(t, 200, get(t, c, "http://app.localhost/", "Traceparent", clientParent, "Traceparent", clientParent))
	seen := backend.Last(t).Header["Traceparent"]
	require.Len(t, seen, 1)
	assert.Regexp(t, `^00-[0-9a-f]{32}-[0-9a-f]{16}-00$`, seen[0])
	assert.NotContains(t, seen[0], clientTrace)
}

func TestABadPrefixIsAnError(t *testing.T) {
	_, err := otel.New(otel.Options{Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), {}}})
	assert.EqualError(t, err, "hostproxy: otel: prefix 1 in Trusted is invalid: want one such as 10.0.0.0/8")
}

func TestTheModuleIsCompleteOutsideTheTree(t *testing.T) {
	proxytest.BuildOutside(t, `package main

import (
	"context"
	"log"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/otel"
)

func main() {
	t, err := otel.New(otel.Options{})
	if err != nil {
		log.Fatal(err)
	}
	r := hostproxy.Router{Begin: t.Begin, BeginAttempt: t.BeginAttempt, Observe: t.Observe}
	log.Fatal(hostproxy.ListenAndServe(context.Background(), &r))
}
`)
}
