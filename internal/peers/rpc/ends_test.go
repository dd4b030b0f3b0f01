package rpc_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/hostproxy/hostproxy"
)

func TestACancelReachesTheTarget(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		c, g := p.through(t)
		for name, begin := range map[string]func(context.Context) (recv func() error){
			"EmptyCall": func(ctx context.Context) func() error {
				failed := make(chan error, 1)
				go func() {
					_, err := c.EmptyCall(ctx, new(testpb.Empty))
					failed <- err
				}()
				return func() error { return <-failed }
			},
			"StreamingOutputCall": func(ctx context.Context) func() error {
				s, err := c.StreamingOutputCall(ctx, new(testpb.StreamingOutputCallRequest))
				require.NoError(t, err)
				return func() error { _, err := s.Recv(); return err }
			},
			"FullDuplexCall": func(ctx context.Context) func() error {
				s, err := c.FullDuplexCall(ctx)
				require.NoError(t, err)
				ping(t, s, 10)
				return func() error { _, err := s.Recv(); return err }
			},
		} {
			ctx, cancel := context.WithCancel(patient(t))
			recv := begin(ctx)
			assert.Equal(t, name, await(t, "the call", g.began))
			cancel()
			assert.Equal(t, codes.Canceled, status.Code(recv()))
			assert.Equal(t, context.Canceled, await(t, name+" to end", g.ended))
		}
	})
}

func TestATargetThatDiesEndsItsCallsAsUnavailable(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		g := newTarget(t, p.scheme)
		failed := make(chan error, 10)
		c := p.serve(t, only(g.upstream()), func(s *hostproxy.Server) {
			s.Router.Observe = func(x *hostproxy.Exchange) { failed <- x.Err }
		}).dial(t, "localhost")
		talk, err := c.FullDuplexCall(patient(t))
		require.NoError(t, err)
		ping(t, talk, 10)
		await(t, "the call", g.began)
		silent, err := c.FullDuplexCall(patient(t)) // neither side has sent anything
		require.NoError(t, err)
		await(t, "the call", g.began)
		out, err := c.StreamingOutputCall(patient(t), new(testpb.StreamingOutputCallRequest))
		require.NoError(t, err)
		_, err = out.Header()
		require.NoError(t, err)

		g.Stop()
		for name, recv := range map[string]func() error{
			"both talk":     func() error { _, err := talk.Recv(); return err },
			"both silent":   func() error { _, err := silent.Recv(); return err },
			"target talks":  func() error { _, err := out.Recv(); return err },
			"after the end": func() error { _, err := c.UnaryCall(patient(t), new(testpb.SimpleRequest)); return err },
		} {
			err := recv()
			assert.Equal(t, codes.Unavailable, status.Code(err), "%s: %v", name, err)
			var fault *hostproxy.Error
			if assert.ErrorAs(t, await(t, "the record", failed), &fault) {
				assert.Equal(t, hostproxy.SideUpstream, fault.Side, "%v", fault)
			}
		}
	})
}
