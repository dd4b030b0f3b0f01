package forward_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/forward"
)

func TestADrainErrorCountsTheRequestsCutOff(t *testing.T) {
	for _, tt := range []struct {
		left, streams int64
		want          string
	}{
		{1, 0, "cut off 1 request: context canceled"},
		{2, 0, "cut off 2 requests: context canceled"},
		{1, 1, "cut off 1 stream: context canceled"},
		{3, 3, "cut off 3 streams: context canceled"},
		{2, 1, "cut off 2 requests, 1 of them a stream: context canceled"},
		{5, 2, "cut off 5 requests, 2 of them streams: context canceled"},
	} {
		assert.EqualError(t, forward.CutOff(tt.left, tt.streams, context.Canceled), tt.want)
	}
}
