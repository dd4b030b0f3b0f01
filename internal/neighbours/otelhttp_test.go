package neighbours_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// traced returns otelhttp's middleware, and the exporter that keeps its spans.
func traced(t *testing.T) (middleware, *tracetest.InMemoryExporter) {
	t.Helper()
	spans := tracetest.NewInMemoryExporter()
	provider := trace.NewTracerProvider(trace.WithSyncer(spans))
	t.Cleanup(func() { _ = provider.Shutdown(t.Context()) })
	return otelhttp.NewMiddleware("test", otelhttp.WithTracerProvider(provider), otelhttp.WithPropagators(propagation.TraceContext{})), spans
}

// span waits for the only span and returns it with its attributes as text.
func span(t testing.TB, spans *tracetest.InMemoryExporter) (tracetest.SpanStub, map[string]string) {
	t.Helper()
	proxytest.Eventually(t, "the span", func() bool { return len(spans.GetSpans()) > 0 })
	all := spans.GetSpans()
	spans.Reset()
	require.Len(t, all, 1)
	attributes := map[string]string{}
	for _, a := range all[0].Attributes {
		attributes[string(a.Key)] = a.Value.String()
	}
	return all[0], attributes
}

func TestOtelhttpRecordsStatusAndSizes(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		around, spans := traced(t)
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			body, err := io.ReadAll(q.Body)
			assert.NoError(t, err)
			w.WriteHeader(http.StatusCreated)
			fmt.Fprint(w, strings.ToUpper(string(body)))
			_, _ = io.Copy(w, strings.NewReader("!!"))
		}), around)
		resp := s.do("POST", "/a?b=c", io.NopCloser(strings.NewReader("hello")), "Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		assert.Equal(t, "HELLO!!", resp.body)

		got, attributes := span(t, spans)
		assert.Equal(t, "0af7651916cd43dd8448eb211c80319c", got.SpanContext.TraceID().String())
		assert.Equal(t, "b7ad6b7169203331", got.Parent.SpanID().String())
		version := strings.TrimPrefix(p.proto(), "HTTP/")
		for name, want := range map[string]string{
			"http.request.method": "POST", "url.path": "/a", "server.address": "localhost", "network.protocol.version": version,
			"http.response.status_code": "201", "http.request.body.size": "5", "http.response.body.size": "7", "network.peer.address": "127.0.0.1",
		} {
			assert.Equal(t, want, attributes[name], name)
		}
		scheme, _, _ := strings.Cut(s.url("/"), ":")
		assert.Equal(t, scheme, attributes["url.scheme"])
	})
}

func TestOtelhttpRecordsImplicitStatuses(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		around, spans := traced(t)
		s := p.serve(t, http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
			if q.ProtoMajor == 1 { // over HTTP/2, an empty Body has another type
				assert.Equal(t, http.NoBody, q.Body, "otelhttp keeps the body of a request without one")
			}
		}), around)
		s.get("/")
		_, attributes := span(t, spans)
		assert.Equal(t, "200", attributes["http.response.status_code"])
		assert.Empty(t, attributes["http.request.body.size"])
	})
}

func TestOtelhttpKeepsFlusherAndHijacker(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		around, _ := traced(t)
		next := make(chan struct{})
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			_, hijacks := w.(http.Hijacker)
			assert.True(t, hijacks || q.ProtoMajor == 2)
			fmt.Fprint(w, "one")
			w.(http.Flusher).Flush()
			hold(q, next)
		}), around)
		resp := s.begin("GET", "/", nil)
		assert.Equal(t, "one", readString(t, resp.Body, 3), "before the handler continues")
		close(next)
	})
}

func TestOtelhttpRecordsHijackedExchanges(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		around, spans := traced(t)
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			c, _, err := w.(http.Hijacker).Hijack()
			if assert.NoError(t, err) {
				_, _ = io.WriteString(c, "raw bytes")
				c.Close()
			}
		}), around)
		c := s.dial()
		c.Send(echoUpgrade)
		assert.Equal(t, "raw bytes", c.Rest())
		span(t, spans)
	})
}

func TestOtelhttpEndsTheSpanOfAnAbortedExchange(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		around, spans := traced(t)
		s := p.serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), around)
		s.fails("/")
		span(t, spans)
	})
}

func TestOtelhttpWorksAroundUpstreams(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		around, spans := traced(t)
		backend := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			body, _ := io.ReadAll(q.Body)
			w.WriteHeader(http.StatusAccepted)
			_, _ = w.Write(append(body, body...))
		}))
		s := p.serve(t, hostproxy.To(backend.Addr()), around)
		assert.Equal(t, "hellohello", s.do("POST", "/", strings.NewReader("hello")).body)
		_, attributes := span(t, spans)
		assert.Equal(t, "202", attributes["http.response.status_code"])
		assert.Equal(t, "5", attributes["http.request.body.size"])
		assert.Equal(t, "10", attributes["http.response.body.size"])
	})
}
