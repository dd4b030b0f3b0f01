package e2e_test

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// The record of an exchange that Server.DrainTimeout cuts off blames the drain,
// not the client. It has the status that was sent, or 503.
func TestTheRecordOfAnExchangeCutOffByDrainTimeoutBlamesTheDrain(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	asked := make(chan struct{}, 1)
	answer := func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/begun" {
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "12345")
			_ = http.NewResponseController(w).Flush()
		}
		asked <- struct{}{}
		<-q.Context().Done()
	}
	target := proxytest.NewServer(t, http.HandlerFunc(answer))
	for name, tt := range map[string]struct {
		start func(testing.TB, shape) *track
		own   bool // a handler of the program answers
		two   bool // over HTTP/2
	}{
		"fast lane":               {start: newFast},
		"handler lane":            {start: newAdapter},
		"own handler":             {start: newFast, own: true},
		"fast lane, HTTP/2":       {start: newFast, two: true},
		"handler lane, HTTP/2":    {start: newAdapter, two: true},
		"own handler over HTTP/2": {start: newFast, own: true, two: true},
	} {
		for path, status := range map[string]int{"/begun": 200, "/silent": 503} {
			t.Run(name+path, func(t *testing.T) {
				k := tt.start(t, shape{secure: tt.two, tune: func(s *hostproxy.Server) { s.DrainTimeout = 50 * time.Millisecond },
					routes: func(r *hostproxy.Router, u *hostproxy.Upstream) {
						u.Targets[0].Host = target.Addr()
						if tt.own {
							r.Handle("*", http.HandlerFunc(answer))
							return
						}
						r.Handle("*", u)
					}})
				if tt.two {
					p := newH2(t, k)
					require.NoError(t, p.ask(1, true, ":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", path))
				} else {
					proxytest.Dial(t, k.addr).Send("GET " + path + " HTTP/1.1\r\nHost: a.test\r\n\r\n")
				}
				<-asked
				assert.ErrorContains(t, k.running.StopLate(), "drain timeout")
				x := <-k.records
				assert.Equal(t, status, x.Status)
				var fail *hostproxy.Error
				require.ErrorAs(t, x.Err, &fail)
				assert.Equal(t, hostproxy.SideDrain, fail.Side)
				assert.EqualError(t, fail.Err, "ended by a drain")
			})
		}
	}
}
