package e2e_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// As behind net/http, a handler may leave an upgraded connection to a goroutine
// of its own.
func TestTheRecordOfAHandlerThatReturnsDuringAnUpgradeHasTheSwitch(t *testing.T) {
	target := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		if q, err := c.ReadRequest(); err == nil {
			_ = c.Send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + proxytest.Accept(q.Header) + "\r\n\r\nhello")
			c.Wait(nil)
		}
	})
	returns := make(chan struct{})
	overEachServer(t, func(s *timed) {
		s.upstream = hostproxy.To(target.Addr())
		s.router.Handle("a.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			go s.upstream.ServeHTTP(w, q)
			<-returns
		}))
	}, func(t *testing.T, s *timed) {
		if s.lane.secure {
			return
		}
		c := proxytest.Dial(t, s.addr)
		c.Send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
		for got := ""; len(got) < 5 || got[len(got)-5:] != "hello"; {
			p := make([]byte, 512)
			n, err := c.Conn.Conn.Read(p)
			if got += string(p[:n]); !assert.NoError(t, err) {
				break
			}
		}
		returns <- struct{}{}
		x := s.record(t, 1)
		assert.Equal(t, []any{101, 1, target.Addr(), nil}, []any{x.Status, x.Attempts, x.Target, x.Err})
		c.Conn.Close()
	})
}
