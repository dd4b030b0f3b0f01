package e2e_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// The reader of the body for the last target may get the trailers while the
// head is sent to the next target.
func TestTrailersMayComeWhileTheNextTargetIsAsked(t *testing.T) {
	proxytest.NoLeaks(t)
	const piece = "5\r\nhello\r\n"
	came := make(chan struct{}, 100)
	busy := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		if _, err := c.ReadHead(); err != nil {
			return
		}
		_, _ = c.ReadString(len(piece))
		came <- struct{}{}
		_ = c.Send("HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbusy")
		_, _ = c.ReadString(1) // until the proxy closes the connection
	})
	good := proxytest.NewBackend(t, good)
	u := hostproxy.To(busy.Addr(), good.Addr())
	u.Policy, u.Retry.Statuses, u.Retry.Budget = hostproxy.FirstAvailable, []int{503}, -1
	r := new(hostproxy.Router)
	r.Handle("a.test", u)
	c := proxytest.Dial(t, proxytest.StartPlain(t, (&site{}).runner(&hostproxy.Server{Router: r, Handler: http.HandlerFunc(r.ServeHTTP)})).Plain)
	for i := range 50 {
		c.Send(request("PUT /p", "Trailer: X-A, X-B, X-C\r\nTransfer-Encoding: chunked\r\n\r\n"+piece))
		<-came
		c.Send("0\r\nX-A: 1\r\nX-B: 2\r\nX-C: 3\r\n\r\n")
		assert.Equal(t, "good 5", string(c.Response("PUT").Content))
		q := good.WaitRequests(i + 1)[i]
		assert.Equal(t, http.Header{"X-A": {"1"}, "X-B": {"2"}, "X-C": {"3"}}, q.Trailer)
	}
}
