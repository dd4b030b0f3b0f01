package hostproxy_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
)

func TestBadBuffersAreRefused(t *testing.T) {
	for _, tt := range []struct {
		requests, responses int64
		want                string
	}{
		{-1, 0, "field BufferRequests is -1: want 0 to 1073741824 bytes"},
		{0, -1, "field BufferResponses is -1: want 0 to 1073741824 bytes"},
		{1<<30 + 1, 0, "field BufferRequests is 1073741825"},
		{1 << 30, 1, ""},
	} {
		var r hostproxy.Router
		u := hostproxy.To("a:1")
		u.BufferRequests, u.BufferResponses = tt.requests, tt.responses
		if err := r.Set("a.test", u); tt.want == "" {
			assert.NoError(t, err)
		} else {
			assert.ErrorContains(t, err, tt.want)
		}
	}
}
