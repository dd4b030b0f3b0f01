package rpc_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
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
		c, g := p.through(t)
		s, err := c.FullDuplexCall(patient(t))
		require.NoError(t, err)
		ping(t, s, 10)
		out, err := c.StreamingOutputCall(patient(t), new(testpb.StreamingOutputCallRequest))
		require.NoError(t, err)
		_, err = out.Header()
		require.NoError(t, err)
		g.Stop()
		_, err = s.Recv()
		assert.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
		_, err = out.Recv()
		assert.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
		_, err = c.UnaryCall(patient(t), new(testpb.SimpleRequest))
		assert.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
	})
}
