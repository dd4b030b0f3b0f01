package rpc_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

const serving, notServing = healthpb.HealthCheckResponse_SERVING, healthpb.HealthCheckResponse_NOT_SERVING

// changes makes u report changes of its targets' health.
func changes(u *hostproxy.Upstream) <-chan hostproxy.Health {
	c := make(chan hostproxy.Health, 100)
	u.TargetChanged = func(_ *hostproxy.Target, h hostproxy.Health) { c <- h }
	return c
}

func TestTheHealthOfATargetIsFollowed(t *testing.T) {
	for _, scheme := range []string{"h2c", "https"} {
		for _, service := range []string{"", "shop.v1.Carts"} {
			t.Run(scheme+" "+service, func(t *testing.T) {
				proxytest.NoLeaks(t)
				g := newTarget(t, scheme)
				g.health.SetServingStatus(service, serving)
				u := g.upstream()
				u.Health = &hostproxy.HealthCheck{GRPC: true, Service: service, Interval: 10 * time.Millisecond, Fall: 2}
				u.FailClosed = true
				changed := changes(u)
				c := place{plain, scheme}.serve(t, only(u)).dial(t, "localhost")
				call := func() error {
					_, err := c.UnaryCall(patient(t), new(testpb.SimpleRequest))
					return err
				}
				require.NoError(t, call())
				for range 2 {
					g.health.SetServingStatus(service, notServing)
					h := await(t, "the target to be down", changed)
					assert.Equal(t, "down", h.State)
					assert.Contains(t, h.Reason, "SERVING")
					assert.Equal(t, codes.Unavailable, status.Code(call()))
					g.health.SetServingStatus(service, serving)
					assert.Equal(t, "up", await(t, "the target to be up", changed).State)
					require.NoError(t, call())
				}
			})
		}
	}
}

// A target that shuts down first reports that in its health.
func TestCallsGoToTheTargetThatServes(t *testing.T) {
	proxytest.NoLeaks(t)
	first, second := newTarget(t, "h2c"), newTarget(t, "h2c")
	u := hostproxy.To("h2c://"+first.addr, "h2c://"+second.addr)
	u.Policy = hostproxy.FirstAvailable
	u.Health = &hostproxy.HealthCheck{GRPC: true, Interval: 10 * time.Millisecond, Fall: 1}
	changed := changes(u)
	c := place{plain, "h2c"}.serve(t, only(u)).dial(t, "localhost")
	answeredBy := func() string {
		p, err := c.UnaryCall(patient(t), new(testpb.SimpleRequest))
		require.NoError(t, err)
		return p.GetUsername()
	}
	assert.Equal(t, first.addr, answeredBy())
	first.health.Shutdown()
	assert.Equal(t, "down", await(t, "the first target to be down", changed).State)
	assert.Equal(t, second.addr, answeredBy())
	first.health.Resume()
	assert.Equal(t, "up", await(t, "the first target to be up", changed).State)
	assert.Equal(t, first.addr, answeredBy())
}

func TestATargetWithoutAGoodHealthResponseIsDown(t *testing.T) {
	for _, tt := range []struct {
		name   string
		set    func(*target, *hostproxy.HealthCheck)
		reason string
	}{
		{"a service that the target does not know", func(_ *target, h *hostproxy.HealthCheck) { h.Service = "shop.v1.Carts" }, `grpc-status "5"`},
		{"a service whose health is unknown", func(g *target, _ *hostproxy.HealthCheck) {
			g.health.SetServingStatus("", healthpb.HealthCheckResponse_UNKNOWN)
		}, "serving status 0: want 1 (SERVING)"},
		{"a target that has stopped", func(g *target, _ *hostproxy.HealthCheck) { g.Stop() }, "refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			proxytest.NoLeaks(t)
			g := newTarget(t, "h2c")
			u := g.upstream()
			u.Health = &hostproxy.HealthCheck{GRPC: true, Interval: 10 * time.Millisecond, Fall: 1}
			tt.set(g, u.Health)
			u.FailClosed = true
			changed := changes(u)
			c := place{plain, "h2c"}.serve(t, only(u)).dial(t, "localhost")
			_, _ = c.UnaryCall(patient(t), new(testpb.SimpleRequest)) // starts the health checks
			h := await(t, "the target to be down", changed)
			assert.Equal(t, "down", h.State)
			assert.Contains(t, h.Reason, tt.reason)
			_, err := c.UnaryCall(patient(t), new(testpb.SimpleRequest))
			checkStatus(t, err, codes.Unavailable, "503 Service Unavailable: destination_unavailable")
		})
	}
}
