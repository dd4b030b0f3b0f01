package e2e_test

import (
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"golang.org/x/net/http2"
)

// A target may reset a stream with PROTOCOL_ERROR after it has served the
// request, for example if its own response was invalid. net/http's HTTP/2
// client sends such a request again if it can get the body again. Only a
// request that the target has not processed may be sent again.
func TestAPOSTIsSentAgainOnlyIfAnHTTP2TargetHasRefusedItUnseen(t *testing.T) {
	for _, tt := range []struct {
		about        string
		end          func(u *h2Upstream, stream uint32)
		status, sent int
	}{
		{"PROTOCOL_ERROR", func(u *h2Upstream, stream uint32) { _ = u.WriteRSTStream(stream, http2.ErrCodeProtocol) }, 502, 1},
		{"REFUSED_STREAM", func(u *h2Upstream, stream uint32) { _ = u.WriteRSTStream(stream, http2.ErrCodeRefusedStream) }, 200, 2},
		{"GOAWAY", func(u *h2Upstream, stream uint32) { _ = u.WriteGoAway(stream-1, http2.ErrCodeNo, nil) }, 200, 2},
	} {
		t.Run(tt.about, func(t *testing.T) {
			var came atomic.Int64
			script := speakH2(func(u *h2Upstream, q *http2.MetaHeadersFrame) {
				for f, err := u.ReadFrame(); err == nil; f, err = u.ReadFrame() {
					if d, ok := f.(*http2.DataFrame); ok && d.StreamEnded() {
						break
					}
				}
				if came.Add(1) > 1 {
					_ = u.say(q.StreamID, true, ":status", "200")
					return
				}
				tt.end(u, q.StreamID)
			})
			overEachLane(t, script, func(t *testing.T, s *site) {
				came.Store(0)
				c := s.dial(t)
				c.Send("POST / HTTP/1.1\r\nHost: a.test\r\nIdempotency-Key: 1\r\n" + sized("order"))
				assert.Equal(t, tt.status, c.Response("POST").StatusCode)
				assert.EqualValues(t, tt.sent, came.Load())
			}, overH2C)
		})
	}
}
