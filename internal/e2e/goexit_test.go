package e2e_test

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
)

// A hook that ends its goroutine, as testing's FailNow does, ends its connection: the client does not wait, and neither does
// the end of the Server.
func TestAHookThatEndsItsGoroutineEndsItsConnection(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]setting{
		"Begin": func(s *site) { s.router.Begin = func(*hostproxy.Beginning) { runtime.Goexit() } },
		"BeginAttempt": func(s *site) {
			s.router.BeginAttempt = func(*hostproxy.Beginning) { runtime.Goexit() }
			s.upstream.RateLimit = &hostproxy.RateLimit{MaxInFlight: 1}
		},
		"Observe": func(s *site) { s.router.Observe = func(*hostproxy.Exchange) { runtime.Goexit() } },
	} {
		t.Run(name, func(t *testing.T) {
			overOurLanes(t, good, func(t *testing.T, s *site) {
				for _, raw := range []string{get, "POST / HTTP/1.1\r\n" + host + sized("hello"), "GET / HTTP/1.1\r\n" + host + "Content-Length: x\r\n\r\n"} {
					c := s.dial(t)
					c.Send(raw)
					_, err := c.ReadAll()
					require.NoError(t, err)
				}
				noneInFlight(t, s.upstream)
				require.NoError(t, s.server.Stop())
			}, set)
		})
	}
}
