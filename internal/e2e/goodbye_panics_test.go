package e2e_test

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A target's connection that panics when the shutdown says goodbye ends its
// WebSocket, and not the program.
func TestAConnectionThatPanicsAtTheGoodbyeEndsOnlyItsWebSocket(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	for _, l := range lanes {
		if l.foreign {
			continue
		}
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			var late atomic.Bool
			s := newSite(t, l, nil, func(s *site) {
				s.router.Logger = silent()
				echo := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
					w.Header().Set("Connection", "Upgrade")
					w.Header().Set("Upgrade", "websocket")
					w.Header().Set("Sec-WebSocket-Accept", proxytest.Accept(q.Header))
					w.WriteHeader(http.StatusSwitchingProtocols)
					c, _, err := http.NewResponseController(w).Hijack()
					if err == nil {
						t.Cleanup(func() { c.Close() })
					}
				}))
				s.upstream = hostproxy.To(echo.Addr())
				s.upstream.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
					c, err := new(net.Dialer).DialContext(ctx, network, addr)
					return brittle{c, &late}, err
				}
			})
			c := s.dial(t)
			require.NoError(t, c.Conn.Send("GET / HTTP/1.1\r\n"+host+"Connection: Upgrade\r\nUpgrade: websocket\r\n"+token+"\r\n"))
			require.Equal(t, http.StatusSwitchingProtocols, c.Response("GET").StatusCode)
			late.Store(true)
			s.server.Drain()
			_, _ = c.ReadAll()
			c.Close()
			require.NoError(t, s.server.Stop())
			noneInFlight(t, s.upstream)
		})
	}
}

// A brittle connection panics when it is written late.
type brittle struct {
	net.Conn
	late *atomic.Bool
}

func (f brittle) Write(p []byte) (int, error) {
	if f.late.Load() {
		panic("as told")
	}
	return f.Conn.Write(p)
}
