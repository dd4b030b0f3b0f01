package forward_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/forward"
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
)

// RFC 9112, 3.2: regardless of the form of the client's target, the upstream
// gets a path or "*".
func TestAnAbsoluteRequestTargetIsSentAsAPath(t *testing.T) {
	for _, tt := range []struct{ line, want string }{
		{"GET /x?y", "GET /base/x?y HTTP/1.1\r\nHost: a.test\r\n"},
		{"GET http://b.test:80/x//y?z=/", "GET /base/x//y?z=/ HTTP/1.1\r\nHost: b.test:80\r\n"},
		{"GET https://b.test?z", "GET /base/?z HTTP/1.1\r\nHost: b.test\r\n"},
	} {
		t.Run(tt.line, func(t *testing.T) {
			var req h1.Request
			if _, err := req.Parse([]byte(tt.line + " HTTP/1.1\r\nHost: a.test\r\n\r\n")); err != nil {
				require.ErrorIs(t, err, h1.ErrUnusual)
			}
			e := forward.Encoder{Config: &forward.Config{}}
			out := e.AppendRequest(nil, &req, &forward.Target{Base: "/base"}, &header.Hop{}, new(header.Received[[]byte]))
			assert.Equal(t, tt.want, string(out)[:len(tt.want)])
		})
	}
}
