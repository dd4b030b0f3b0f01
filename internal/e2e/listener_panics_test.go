package e2e_test

import (
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A client's connection that panics in one of its methods, while it becomes a
// WebSocket or when that ends, is closed: it ends neither the program nor holds
// a shutdown up.
func TestAConnectionOfAListenerThatPanicsEndsOnlyItsWebSocket(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	for _, methods := range [][]string{{"SetDeadline"}, {"Write"}, {"Write", "RemoteAddr"}, {"Close"}} {
		for _, late := range []bool{false, true} {
			for _, l := range lanes {
				if l.foreign {
					continue
				}
				name := methods[len(methods)-1] + " " + l.name
				if late {
					name += " late"
				}
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					mined := new(atomic.Bool)
					s := newSite(t, l, upgrades, func(s *site) {
						s.router.Logger = silent()
						s.listen = func(ln net.Listener) net.Listener { return &mining{ln, methods, mined} }
					})
					c := s.dial(t)
					mined.Store(!late)
					require.NoError(t, c.Conn.Send("GET / HTTP/1.1\r\n"+host+"Connection: Upgrade\r\nUpgrade: websocket\r\n"+token+"\r\n"))
					if late {
						require.Equal(t, http.StatusSwitchingProtocols, c.Response("GET").StatusCode)
						mined.Store(true)
					} else {
						_, _ = c.Conn.Conn.Read(make([]byte, 1))
					}
					s.server.Drain()
					c.Close()
					require.NoError(t, s.server.Stop())
					noneInFlight(t, s.upstream)
				})
			}
		}
	}
}

// upgrades answers a request with a WebSocket that says nothing.
func upgrades(c *proxytest.BackendConn) {
	q, err := c.ReadRequest()
	if err != nil || q == nil {
		return
	}
	_ = c.Send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + proxytest.Accept(q.Header) + "\r\n\r\n")
	_, _ = c.ReadAll()
}

// A mining listener has connections that panic in some methods.
type mining struct {
	net.Listener
	methods []string
	mined   *atomic.Bool
}

// Accept implements net.Listener.
func (l *mining) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return mine{c, l}, nil
}

type mine struct {
	net.Conn
	of *mining
}

func (m mine) step(method string) {
	if m.of.mined.Load() && slices.Contains(m.of.methods, method) {
		panic("as told")
	}
}

func (m mine) Write(p []byte) (int, error)    { m.step("Write"); return m.Conn.Write(p) }
func (m mine) Close() error                   { defer m.step("Close"); return m.Conn.Close() }
func (m mine) RemoteAddr() net.Addr           { m.step("RemoteAddr"); return m.Conn.RemoteAddr() }
func (m mine) SetDeadline(at time.Time) error { m.step("SetDeadline"); return m.Conn.SetDeadline(at) }
