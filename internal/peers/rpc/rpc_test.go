// Package rpc_test puts a Server between client and server of grpc-go: calls of
// every kind, metadata, statuses, deadlines, cancellation, drains on both
// sides, and the health of targets. internal/conformance runs grpc-go's own
// interoperability cases.
package rpc_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestMain(m *testing.M) { proxytest.Main(m) }

// The kinds of fronts that clients use.
const (
	overTLS = "h2"       // a Server
	plain   = "h2c"      // a Server with H2C
	foreign = "net/http" // the Router in an http.Server
)

// A place is a front and the scheme of its target.
type place struct{ front, scheme string }

// everywhere runs a test at each place.
func everywhere(t *testing.T, test func(t *testing.T, p place)) {
	t.Helper()
	for _, front := range []string{overTLS, plain, foreign} {
		for _, scheme := range []string{"h2c", "https"} {
			t.Run(front+" to "+scheme, func(t *testing.T) {
				proxytest.NoLeaks(t)
				test(t, place{front, scheme})
			})
		}
	}
}

// big is the size of the largest messages. The default limit is 4 MiB.
const big = 4 << 20

// A target is a grpc-go server.
type target struct {
	*grpc.Server
	testpb.UnimplementedTestServiceServer
	health *health.Server
	addr   string
	roots  *x509.CertPool // nil for h2c

	began chan string // names of calls that wait for their client's end
	ended chan error  // errors of the contexts of those calls
}

// newTarget starts a target that is reached by this scheme.
func newTarget(t testing.TB, scheme string, opts ...grpc.ServerOption) *target {
	t.Helper()
	return newTargetOn(t, proxytest.Listen(t), scheme, opts...)
}

// newTargetOn is newTarget on an existing listener.
func newTargetOn(t testing.TB, ln net.Listener, scheme string, opts ...grpc.ServerOption) *target {
	t.Helper()
	g := &target{health: health.NewServer(), addr: ln.Addr().String(), began: make(chan string, 100), ended: make(chan error, 100)}
	opts = append([]grpc.ServerOption{grpc.MaxRecvMsgSize(2 * big)}, opts...)
	if scheme == "https" {
		config, roots := proxytest.TLS(t, "127.0.0.1")
		g.roots = roots
		opts = append(opts, grpc.Creds(credentials.NewTLS(config)))
	}
	g.Server = grpc.NewServer(opts...)
	testpb.RegisterTestServiceServer(g.Server, g)
	healthpb.RegisterHealthServer(g.Server, g.health)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Serve(ln)
	}()
	t.Cleanup(func() {
		g.Stop()
		<-done
	})
	return g
}

// upstream returns an Upstream for g.
func (g *target) upstream() *hostproxy.Upstream {
	if g.roots == nil {
		return hostproxy.To("h2c://" + g.addr)
	}
	u := hostproxy.To("https://" + g.addr)
	u.TLS = &tls.Config{RootCAs: g.roots}
	return u
}

// answer returns the client's metadata: keys with the prefix "h-" in the
// header, those with "t-" in the trailer.
func answer(ctx context.Context, stream grpc.ServerTransportStream) {
	sent, _ := metadata.FromIncomingContext(ctx)
	head, trail := metadata.MD{}, metadata.MD{}
	for k, v := range sent {
		switch k[:2] {
		case "h-":
			head[k] = v
		case "t-":
			trail[k] = v
		}
	}
	_ = stream.SetHeader(head)
	_ = stream.SetTrailer(trail)
}

// EmptyCall waits until its client ends the call.
func (g *target) EmptyCall(ctx context.Context, _ *testpb.Empty) (*testpb.Empty, error) {
	g.wait(ctx, "EmptyCall")
	return nil, ctx.Err()
}

func (g *target) wait(ctx context.Context, name string) {
	g.began <- name
	<-ctx.Done()
	g.ended <- ctx.Err()
}

// UnaryCall answers with the payload, or with the requested status.
func (g *target) UnaryCall(ctx context.Context, q *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	answer(ctx, grpc.ServerTransportStreamFromContext(ctx))
	if s := q.GetResponseStatus(); s.GetCode() != 0 {
		return nil, status.Error(codes.Code(s.Code), s.Message)
	}
	return &testpb.SimpleResponse{Payload: q.GetPayload(), Username: g.addr}, nil
}

// StreamingOutputCall sends a message of each requested size. If no size is
// requested, it waits.
func (g *target) StreamingOutputCall(q *testpb.StreamingOutputCallRequest, s grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error {
	answer(s.Context(), grpc.ServerTransportStreamFromContext(s.Context()))
	if err := s.SendHeader(nil); err != nil {
		return err
	}
	for _, r := range q.GetResponseParameters() {
		if err := s.Send(&testpb.StreamingOutputCallResponse{Payload: payload(int(r.Size))}); err != nil {
			return err
		}
	}
	if len(q.GetResponseParameters()) == 0 {
		g.wait(s.Context(), "StreamingOutputCall")
	}
	return nil
}

// StreamingInputCall adds up the sizes that it gets.
func (g *target) StreamingInputCall(s grpc.ClientStreamingServer[testpb.StreamingInputCallRequest, testpb.StreamingInputCallResponse]) error {
	n := 0
	for {
		q, err := s.Recv()
		if err == io.EOF {
			return s.SendAndClose(&testpb.StreamingInputCallResponse{AggregatedPayloadSize: int32(n)})
		}
		if err != nil {
			return err
		}
		n += len(q.GetPayload().GetBody())
	}
}

// FullDuplexCall answers each message with its payload, until a status is
// requested or its client ends.
func (g *target) FullDuplexCall(s grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
	g.began <- "FullDuplexCall"
	for {
		q, err := s.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			g.ended <- s.Context().Err()
			return err
		}
		if r := q.GetResponseStatus(); r.GetCode() != 0 {
			return status.Error(codes.Code(r.Code), r.Message)
		}
		if err := s.Send(&testpb.StreamingOutputCallResponse{Payload: q.GetPayload()}); err != nil {
			return err
		}
	}
}

// payload returns n bytes. Any two ranges of a few KiB differ.
func payload(n int) *testpb.Payload {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i) ^ byte(i>>8)*3 ^ byte(i>>16)*7
	}
	return &testpb.Payload{Body: p}
}

// A front is the server that a client connects to.
type front struct {
	addr  string
	roots *x509.CertPool // nil for h2c
	run   *proxytest.Running
}

// serve starts a front for handlers, by pattern.
func (p place) serve(t testing.TB, routes map[string]http.Handler, change ...func(*hostproxy.Server)) *front {
	t.Helper()
	config, roots := proxytest.TLS(t, "localhost", "a.test", "unknown.test")
	s := &hostproxy.Server{Router: &hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}, DrainTimeout: proxytest.Patience}
	require.NoError(t, s.Router.Replace(routes))
	for _, f := range change {
		f(s)
	}
	switch p.front {
	case plain:
		s.H2C = true
		run := proxytest.StartPlain(t, s)
		return &front{run.Plain, nil, run}
	case foreign:
		return &front{serveForeign(t, s.Router, config), roots, nil}
	}
	s.Router.TLS.Config = config
	run := proxytest.Start(t, s)
	return &front{run.HTTPS, roots, run}
}

func serveForeign(t testing.TB, h http.Handler, config *tls.Config) string {
	ln := proxytest.Listen(t)
	hs := &http.Server{Handler: h, TLSConfig: config, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: proxytest.Patience}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = hs.ServeTLS(ln, "", "")
	}()
	t.Cleanup(func() {
		hs.Close()
		<-done
	})
	return ln.Addr().String()
}

// only returns the routes with a single handler for all hosts.
func only(h http.Handler) map[string]http.Handler { return map[string]http.Handler{"*": h} }

// dial returns a client of f that uses this host.
func (f *front) dial(t testing.TB, host string, opts ...grpc.DialOption) testpb.TestServiceClient {
	t.Helper()
	creds := insecure.NewCredentials()
	if f.roots != nil {
		creds = credentials.NewTLS(&tls.Config{RootCAs: f.roots})
	}
	opts = append([]grpc.DialOption{
		grpc.WithTransportCredentials(creds), grpc.WithAuthority(host), grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(2 * big)),
	}, opts...)
	c, err := grpc.NewClient("passthrough:///"+f.addr, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return testpb.NewTestServiceClient(c)
}

// through starts a target, a front before it, and a client of the front.
func (p place) through(t testing.TB, change ...func(*hostproxy.Upstream)) (testpb.TestServiceClient, *target) {
	t.Helper()
	g := newTarget(t, p.scheme)
	u := g.upstream()
	for _, f := range change {
		f(u)
	}
	return p.serve(t, only(u)).dial(t, "localhost"), g
}

// patient returns a context that ends if the test hangs.
func patient(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), proxytest.Patience)
	t.Cleanup(cancel)
	return ctx
}

// await returns the next value of ch.
func await[T any](t testing.TB, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(proxytest.Patience):
		t.Fatalf("still waiting for %s after %v", what, proxytest.Patience)
		panic("unreachable")
	}
}
