package e2e_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// Requests for both lanes on one connection, sent at once or in small pieces:
// regardless of the lanes, no request is lost or repeated, and the responses
// are in order.
func TestNothingIsLostBetweenTheLanes(t *testing.T) {
	script := func(c *proxytest.BackendConn) {
		for {
			q, err := c.ReadRequest()
			if err != nil || c.Send("HTTP/1.1 200 OK\r\n"+sized(q.RequestURI+" "+string(q.Content))) != nil {
				return
			}
		}
	}
	big := strings.Repeat("b", 40_000)
	requests := []struct{ raw, want string }{
		{"GET /get HTTP/1.1\r\nHost: a.test\r\n\r\n", "/get "},
		{"POST /post HTTP/1.1\r\nHost: a.test\r\n" + sized("body"), "/post body"},
		{"PUT /chunks HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked("chunked body", 5, "X-Sum: 1"), "/chunks chunked body"},
		{"POST /big HTTP/1.1\r\nHost: a.test\r\n" + sized(big), "/big " + big},
		{"PURGE /odd HTTP/1.1\r\nHost: a.test\r\n" + sized("odd body"), "/odd odd body"},
		{"GET http://a.test/absolute HTTP/1.1\r\nHost: a.test\r\n\r\n", "/absolute "},
		{"POST /nominates HTTP/1.1\r\nHost: a.test\r\nConnection: X-A\r\nX-A: 1\r\n" + sized(big), "/nominates " + big},
		{"POST /announces HTTP/1.1\r\nHost: a.test\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(big, 9_000, "X-Sum: 1"), "/announces " + big},
	}
	overEachLane(t, script, func(t *testing.T, s *site) {
		for first := range requests {
			c := s.dial(t)
			var all string
			for i := range requests {
				all += requests[(first+i)%len(requests)].raw
			}
			go func() {
				step := len(all)
				if first%2 == 1 {
					step = 97 // so that most heads come in pieces
				}
				for ; len(all) > 0; all = all[min(step, len(all)):] {
					if c.Conn.Send(all[:min(step, len(all))]) != nil {
						return
					}
				}
			}()
			for i := range requests {
				p := c.Response("GET")
				require.Equal(t, 200, p.StatusCode)
				assert.Equal(t, requests[(first+i)%len(requests)].want, string(p.Content), "answer %d of those that begin with %d", i, first)
			}
		}
		assert.Len(t, s.backend.Requests(), len(requests)*len(requests))
	})
}
