package e2e_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// If its route gets another handler, a request in flight leaves no connection
// that would never be closed.
func TestTheConnectionOfARouteThatIsGoneIsClosed(t *testing.T) {
	asked, release, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	script := func(c *proxytest.BackendConn) {
		if _, err := c.ReadRequest(); err != nil {
			return
		}
		asked <- struct{}{}
		<-release
		_ = c.Send(ok)
		_, _ = c.ReadAll()
		ended <- struct{}{}
	}
	overEachLane(t, script, func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send(get)
		<-asked
		require.NoError(t, s.router.Set("a.test", hostproxy.To("127.0.0.1:1")))
		release <- struct{}{}
		assert.Equal(t, 200, c.Response("GET").StatusCode)
		<-ended
	})
}
