package rpc_test

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestADrainLetsStreamsFinish(t *testing.T) {
	for _, front := range []string{overTLS, plain} {
		for _, scheme := range []string{"h2c", "https"} {
			t.Run(front+" to "+scheme, func(t *testing.T) {
				proxytest.NoLeaks(t)
				g := newTarget(t, scheme)
				f := place{front, scheme}.serve(t, only(g.upstream()))
				c := f.dial(t, "localhost")
				s, err := c.FullDuplexCall(patient(t))
				require.NoError(t, err)
				ping(t, s, 10)
				f.run.Drain()
				for range 20 {
					ping(t, s, 1000)
				}
				proxytest.Eventually(t, "new calls to be refused", func() bool {
					_, err := c.UnaryCall(patient(t), new(testpb.SimpleRequest))
					return status.Code(err) == codes.Unavailable
				})
				ping(t, s, 100_000)
				require.NoError(t, s.CloseSend())
				_, err = s.Recv()
				assert.ErrorContains(t, err, "EOF")
				assert.NoError(t, f.run.Stop())
			})
		}
	}
}

// A client that knows two proxies loses no call when one of them is replaced.
func TestADrainFailsNoCallOfAClientWithASecondProxy(t *testing.T) {
	proxytest.NoLeaks(t)
	g := newTarget(t, "h2c")
	p := place{plain, "h2c"}
	first, second := p.serve(t, only(g.upstream())), p.serve(t, only(g.upstream()))
	addrs := manual.NewBuilderWithScheme("two")
	addrs.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: first.addr}, {Addr: second.addr}}})
	conn, err := grpc.NewClient("two:///", grpc.WithResolvers(addrs), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("a.test"))
	require.NoError(t, err)
	defer conn.Close()
	c := testpb.NewTestServiceClient(conn)
	calls := newCallers(t, c)
	calls.await(200)
	require.NoError(t, first.run.Stop())
	calls.await(200)
	assert.Empty(t, calls.stop())
}

// A target that limits the age of connections ends each one gracefully and
// loses no call.
func TestATargetThatLimitsTheAgeOfConnectionsFailsNoCall(t *testing.T) {
	for _, scheme := range []string{"h2c", "https"} {
		t.Run(scheme, func(t *testing.T) {
			proxytest.NoLeaks(t)
			g := newTarget(t, scheme, grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: 20 * time.Millisecond, MaxConnectionAgeGrace: proxytest.Patience}))
			c := place{plain, scheme}.serve(t, only(g.upstream())).dial(t, "localhost")
			s, err := c.FullDuplexCall(patient(t))
			require.NoError(t, err)
			calls := newCallers(t, c)
			calls.await(400)
			ping(t, s, 1000) // its connection was told to end long ago
			require.NoError(t, s.CloseSend())
			assert.Empty(t, calls.stop())
		})
	}
}

// One target stops gracefully while another one serves.
func TestAGracefulStopOfOneTargetFailsNoCall(t *testing.T) {
	proxytest.NoLeaks(t)
	first, second := newTarget(t, "h2c"), newTarget(t, "h2c")
	u := hostproxy.To("h2c://"+first.addr, "h2c://"+second.addr)
	c := place{plain, "h2c"}.serve(t, only(u)).dial(t, "localhost")
	calls := newCallers(t, c)
	calls.await(200)
	first.GracefulStop()
	calls.await(200)
	assert.Empty(t, calls.stop())
}

// callers make calls without pauses.
type callers struct {
	t     *testing.T
	ended chan error
	over  atomic.Bool
	done  atomic.Int64
}

// several is the number of callers.
const several = 4

func newCallers(t *testing.T, c testpb.TestServiceClient) *callers {
	s := &callers{t: t, ended: make(chan error, several)}
	for range several {
		go func() {
			var last error
			for !s.over.Load() && last == nil {
				_, last = c.UnaryCall(patient(t), &testpb.SimpleRequest{Payload: payload(100)})
				s.done.Add(1)
			}
			s.ended <- last
		}()
	}
	return s
}

// await waits for n more calls, or for a failure.
func (s *callers) await(n int64) {
	s.t.Helper()
	before := s.done.Load()
	proxytest.Eventually(s.t, "calls", func() bool { return s.done.Load()-before >= n || len(s.ended) > 0 })
}

// stop ends the callers. It returns the errors of those that failed before.
func (s *callers) stop() (errs []string) {
	s.over.Store(true)
	for range several {
		if err := await(s.t, "the callers", s.ended); err != nil {
			errs = append(errs, err.Error())
		}
	}
	return errs
}

// A gRPC server closes a connection with "too_many_pings" if the client pings
// more than once in five minutes without data from the server. A proxy that
// pinged would break quiet streams.
func TestAQuietStreamStaysOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		behind, front := bufconn.Listen(64<<10), bufconn.Listen(64<<10)
		g := newTargetOn(t, behind, "h2c")
		u := hostproxy.To("h2c://target.test:80")
		u.IdleTimeout = -1
		u.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) { return behind.DialContext(ctx) }
		hs := &http.Server{Handler: u, Protocols: new(http.Protocols)}
		hs.Protocols.SetUnencryptedHTTP2(true)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = hs.Serve(front)
		}()
		conn, err := grpc.NewClient("passthrough:///a.test", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return front.DialContext(ctx) }))
		require.NoError(t, err)
		s, err := testpb.NewTestServiceClient(conn).FullDuplexCall(t.Context())
		require.NoError(t, err)
		for range 3 {
			ping(t, s, 10)
			time.Sleep(time.Hour)
		}
		ping(t, s, 10)
		require.NoError(t, s.CloseSend())
		_, err = s.Recv()
		assert.ErrorContains(t, err, "EOF")
		conn.Close()
		hs.Close()
		<-done
		assert.NoError(t, u.Drain(context.Background()))
		g.Stop()
	})
}

// Canceled calls must not make the proxy ping the target each time.
func TestCallsThatAreCanceledCostNoConnection(t *testing.T) {
	proxytest.NoLeaks(t)
	g := newTarget(t, "h2c", grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Hour}))
	c := place{plain, "h2c"}.serve(t, only(g.upstream())).dial(t, "localhost")
	s, err := c.FullDuplexCall(patient(t))
	require.NoError(t, err)
	ping(t, s, 10)
	await(t, "the stream", g.began)
	for range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := c.StreamingOutputCall(ctx, new(testpb.StreamingOutputCallRequest))
		require.NoError(t, err)
		await(t, "the call", g.began)
		cancel()
		await(t, "its end", g.ended)
	}
	ping(t, s, 10) // fails if the connection was closed
	require.NoError(t, s.CloseSend())
}
