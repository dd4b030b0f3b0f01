package rpc_test

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestUnaryCallsOfAllSizesPass(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		c, _ := p.through(t)
		for _, size := range []int{0, 1, 100 << 10, big} {
			for _, opts := range [][]grpc.CallOption{nil, {grpc.UseCompressor(gzip.Name)}} {
				want := payload(size)
				got, err := c.UnaryCall(patient(t), &testpb.SimpleRequest{Payload: want}, opts...)
				require.NoError(t, err)
				assert.True(t, string(want.Body) == string(got.GetPayload().GetBody()), "%d bytes came back as %d", size, len(got.GetPayload().GetBody()))
			}
		}
	})
}

func TestServerStreamsPass(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		c, _ := p.through(t)
		sizes := []int{1, 0, 70_000, big, 5, 1 << 20}
		q := new(testpb.StreamingOutputCallRequest)
		for _, n := range sizes {
			q.ResponseParameters = append(q.ResponseParameters, &testpb.ResponseParameters{Size: int32(n)})
		}
		s, err := c.StreamingOutputCall(patient(t), q)
		require.NoError(t, err)
		for _, n := range sizes {
			r, err := s.Recv()
			require.NoError(t, err)
			require.True(t, string(payload(n).Body) == string(r.GetPayload().GetBody()), "%d bytes", n)
		}
		_, err = s.Recv()
		assert.Equal(t, io.EOF, err)
	})
}

func TestClientStreamsPass(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		c, _ := p.through(t)
		s, err := c.StreamingInputCall(patient(t))
		require.NoError(t, err)
		sum := 0
		for _, n := range []int{1, 0, 70_000, big, 5} {
			require.NoError(t, s.Send(&testpb.StreamingInputCallRequest{Payload: payload(n)}))
			sum += n
		}
		r, err := s.CloseAndRecv()
		require.NoError(t, err)
		assert.EqualValues(t, sum, r.GetAggregatedPayloadSize())
	})
}

// Each message arrives before the next one is sent.
func TestBothDirectionsOfAStreamPassMessageByMessage(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		c, _ := p.through(t)
		s, err := c.FullDuplexCall(patient(t))
		require.NoError(t, err)
		for _, n := range []int{1, 0, 70_000, 5, 1 << 20} {
			ping(t, s, n)
		}
		require.NoError(t, s.CloseSend())
		_, err = s.Recv()
		assert.Equal(t, io.EOF, err)
	})
}

// ping sends a message of n bytes on s and requires its echo.
func ping(t testing.TB, s testpb.TestService_FullDuplexCallClient, n int) {
	t.Helper()
	require.NoError(t, s.Send(&testpb.StreamingOutputCallRequest{Payload: payload(n)}))
	r, err := s.Recv()
	require.NoError(t, err)
	require.True(t, string(payload(n).Body) == string(r.GetPayload().GetBody()), "%d bytes", n)
}

// every contains each byte value once, which needs base64 on the wire.
// Read-only.
var every = func() string {
	var b strings.Builder
	for i := range 256 {
		b.WriteByte(byte(i))
	}
	return b.String()
}()

func TestMetadataArrivesAsItWasSent(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		c, _ := p.through(t)
		sent := metadata.MD{
			"h-text": {"one", "two, with a comma", "~!\"%"}, "h-empty": {""}, "h-data-bin": {every, "", "\x00", ",", "a,b"}, "h-long": {strings.Repeat("x", 4000)},
			"t-text": {"three", "four; five"}, "t-data-bin": {every, "x"}, "t-long-bin": {strings.Repeat(every, 20)},
		}
		var head, trail metadata.MD
		_, err := c.UnaryCall(metadata.NewOutgoingContext(patient(t), sent), new(testpb.SimpleRequest), grpc.Header(&head), grpc.Trailer(&trail))
		require.NoError(t, err)
		for k, want := range sent {
			got := head
			if k[0] == 't' {
				got = trail
			}
			assert.Equal(t, want, got[k], k)
		}
	})
}

func TestStatusesOfTheTargetPass(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		c, _ := p.through(t)
		message := "naïve: 100 %\n\ttest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈"
		for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
			want := &testpb.EchoStatus{Code: int32(code), Message: message}
			sent := metadata.Pairs("t-kept", "yes")
			var trail metadata.MD
			// without a message, which means trailers only
			_, err := c.UnaryCall(metadata.NewOutgoingContext(patient(t), sent), &testpb.SimpleRequest{ResponseStatus: want}, grpc.Trailer(&trail))
			assert.Equal(t, code, status.Code(err))
			assert.Equal(t, message, status.Convert(err).Message())
			assert.Equal(t, []string{"yes"}, trail["t-kept"])

			s, err := c.FullDuplexCall(patient(t))
			require.NoError(t, err)
			ping(t, s, 3)
			require.NoError(t, s.Send(&testpb.StreamingOutputCallRequest{ResponseStatus: want}))
			_, err = s.Recv()
			assert.Equal(t, code, status.Code(err), "after messages")
			assert.Equal(t, message, status.Convert(err).Message())
		}
		_, err := c.HalfDuplexCall(patient(t))
		require.NoError(t, err)
		_, err = c.UnimplementedCall(patient(t), new(testpb.Empty))
		assert.Equal(t, codes.Unimplemented, status.Code(err))
	})
}

func TestManyConcurrentCallsPassOnOneConnection(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		c, _ := p.through(t)
		errs := make(chan error)
		const callers, each = 20, 20
		for i := range callers {
			go func() {
				var last error
				for range each {
					if _, err := c.UnaryCall(patient(t), &testpb.SimpleRequest{Payload: payload(i * 1000)}); err != nil {
						last = err
					}
				}
				errs <- last
			}()
		}
		for range callers {
			assert.NoError(t, await(t, "the calls", errs))
		}
	})
}

func TestACallEndsWithItsDeadline(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		c, g := p.through(t)
		for limit, began := 25*time.Millisecond, false; !began; limit *= 2 {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			_, err := c.EmptyCall(ctx, new(testpb.Empty))
			cancel()
			assert.Equal(t, codes.DeadlineExceeded, status.Code(err), "%v", err)
			began = len(g.began) > 0
		}
		assert.Error(t, await(t, "the end of the call", g.ended))
	})
}
