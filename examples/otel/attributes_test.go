package otel_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/otel"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// An attempt is a client span, which requires server.address and server.port.
func TestAnAttemptHasTheAddressAndThePortOfItsTarget(t *testing.T) {
	for target, want := range map[string][]any{
		"localhost:1":                 {"localhost", int64(1)},
		"http://localhost:1/base/":    {"localhost", int64(1)},
		"http://[::1]:1":              {"::1", int64(1)},
		"h2c://localhost:1":           {"localhost", int64(1)},
		"https://backend.invalid":     {"backend.invalid", int64(443)},
		"https://backend.invalid/a:b": {"backend.invalid", int64(443)},
		"http://backend.invalid":      {"backend.invalid", int64(80)},
		"http://backend.invalid/base": {"backend.invalid", int64(80)},
		"unix:/run/app.sock":          {"/run/app.sock", nil},
	} {
		t.Run(target, func(t *testing.T) {
			var r hostproxy.Router
			app := hostproxy.To(target)
			app.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("away") }
			r.Handle("*", app)
			exporter := traced(t, &r)
			c := proxytest.HTTPClient(t, proxytest.StartPlain(t, &hostproxy.Server{Router: &r}).Plain, nil, "h1")
			require.Equal(t, 502, get(t, c, "http://app.localhost/"))
			attempt := attributes(await(t, exporter, 2)[0])
			assert.Equal(t, want, []any{attempt["server.address"], attempt["server.port"]})
			assert.Equal(t, want[1] == nil, attempt["network.transport"] == "unix")
		})
	}
}

// The attributes that the semantic conventions require of every span, and of
// spans with an error. Read-only.
var (
	ofServers  = []string{"http.request.method", "url.path", "url.scheme", "server.address", "server.port", "http.response.status_code", "network.protocol.version"}
	ofClients  = []string{"http.request.method", "server.address", "server.port", "url.full"}
	ofFailures = []string{"error.type"}
)

func TestSpansHaveWhatTheConventionsRequire(t *testing.T) {
	for _, lane := range lanes {
		for _, fails := range []bool{false, true} {
			t.Run(fmt.Sprint(lane.name, fails), func(t *testing.T) {
				app := hostproxy.To(proxytest.NewServer(t, nil).Addr())
				if fails {
					app = hostproxy.To(proxytest.Refused(t))
				}
				var r hostproxy.Router
				r.Handle("app.localhost", app)
				exporter := traced(t, &r)
				get(t, lane.start(t, &r), "https://app.localhost/a%2Fb?secret=1")
				spans := await(t, exporter, 2)
				attempt, exchange := attributes(spans[0]), attributes(spans[1])
				for _, key := range ofServers {
					assert.Contains(t, exchange, key)
				}
				assert.Equal(t, int64(443), exchange["server.port"])
				for _, key := range ofClients {
					assert.Contains(t, attempt, key)
				}
				assert.Equal(t, fmt.Sprintf("http://%s/a%%2Fb", app.Targets[0].Host), attempt["url.full"])
				for _, key := range ofFailures {
					assert.Equal(t, fails, attempt[key] != nil, key)
					assert.Equal(t, fails, exchange[key] != nil, key)
				}
				assert.Equal(t, !fails, attempt["http.response.status_code"] != nil)
			})
		}
	}
}

func TestTheURLOfAnAttemptIsThatOfTheTarget(t *testing.T) {
	for _, x := range [][3]string{
		{"localhost:1", "/a%2Fb", "http://localhost:1/a%2Fb"},
		{"https://[::1]:1/base/", "/a", "https://[::1]:1/base/a"},
		{"https://backend.invalid", "/", "https://backend.invalid/"},
		{"h2c://localhost:1", "/grpc.Service/Do", "http://localhost:1/grpc.Service/Do"},
		{"unix:/run/app.sock", "/a", "http+unix://%2Frun%2Fapp.sock/a"},
		{"http://localhost:1", "*", "http://localhost:1"},
		{"http://localhost:1", "", "http://localhost:1"},
		{"http://user:password@localhost:1/base", "/a@b", "http://REDACTED:REDACTED@localhost:1/base/a@b"},
	} {
		assert.Equal(t, x[2], otel.FullURL(&hostproxy.Exchange{Path: x[1], Query: "token=1"}, x[0]))
	}
	_, err := hostproxy.NewUpstream("http://user:password@localhost:1")
	assert.Error(t, err, "hostproxy refuses credentials in a target")
}

func TestOptionsSetThePathAndTheQueryOfSpans(t *testing.T) {
	app := hostproxy.To(proxytest.NewServer(t, nil).Addr())
	app.StripPrefix = "/api"
	var r hostproxy.Router
	r.Handle("app.localhost/api", app)
	exporter := tracetest.NewInMemoryExporter()
	tracer, err := otel.New(otel.Options{
		Provider: sdk.NewTracerProvider(sdk.WithSyncer(exporter)),
		Path:     func(x *hostproxy.Exchange) string { return strings.TrimPrefix(x.Path, "/api") },
		Query:    func(string) string { return "token=REDACTED" },
	})
	require.NoError(t, err)
	r.Begin, r.BeginAttempt, r.Observe = tracer.Begin, tracer.BeginAttempt, tracer.Observe
	c := proxytest.HTTPClient(t, proxytest.StartPlain(t, &hostproxy.Server{Router: &r}).Plain, nil, "h1")
	require.Equal(t, 200, get(t, c, "http://app.localhost/api/a?token=1"))
	spans := await(t, exporter, 2)
	assert.Equal(t, fmt.Sprintf("http://%s/a?token=REDACTED", app.Targets[0].Host), attributes(spans[0])["url.full"])
	exchange := attributes(spans[1])
	assert.Equal(t, []any{"/api/a", "token=REDACTED", int64(80)}, []any{exchange["url.path"], exchange["url.query"], exchange["server.port"]})
}

// A panic's stack belongs in the program's log, not in a span.
func TestTheStatusOfASpanHasNoStack(t *testing.T) {
	for _, lane := range lanes {
		t.Run(lane.name, func(t *testing.T) {
			var r hostproxy.Router
			r.Handle("*", hostproxy.To(proxytest.Refused(t)))
			exporter := traced(t, &r)
			attempt := r.BeginAttempt
			r.BeginAttempt = func(b *hostproxy.Beginning) {
				attempt(b)
				panic(fmt.Sprint("as told\n", "goroutine"))
			}
			require.Equal(t, 500, get(t, lane.start(t, &r), "https://app.localhost/"))
			for _, s := range await(t, exporter, 2) {
				assert.Equal(t, codes.Error, s.Status.Code)
				assert.Contains(t, s.Status.Description, "panic in BeginAttempt: as told")
				assert.NotContains(t, s.Status.Description, "goroutine")
			}
		})
	}
}
