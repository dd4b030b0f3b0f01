package otel_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/codes"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// An attempt is a request of a client: server.address and server.port are
// required of it.
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

// The stack of a panic is for the log of the program.
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
