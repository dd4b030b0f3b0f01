package e2e_test

import (
	"crypto/tls"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A request is answered even if the server shuts down while it finds out that
// the target speaks only HTTP/2.
func TestAShutdownDuringTheHandshakeOfAnHTTP2TargetIsAnswered(t *testing.T) {
	for _, l := range lanes {
		if l.foreign {
			continue
		}
		t.Run(l.name, func(t *testing.T) {
			proxytest.NoLeaks(t)
			var once sync.Once
			arrived, answer := make(chan struct{}), make(chan struct{})
			slow := tlsKinds[0]
			slow.tell = func(c *tls.Config) {
				tlsKinds[0].tell(c)
				picks := c.GetConfigForClient
				c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
					once.Do(func() { close(arrived); <-answer })
					return picks(hello)
				}
			}
			s := newSite(t, l, nil, func(s *site) { tlsTarget(t, s, slow) })
			c := s.dial(t)
			require.NoError(t, c.Conn.Send(get))
			<-arrived
			stopped := make(chan error, 1)
			go func() { stopped <- s.server.Stop() }()
			proxytest.Eventually(t, "the end of listening", func() bool { return refusesConns(s.addr) })
			close(answer)
			p := c.Response("GET")
			assert.Equal(t, 200, p.StatusCode)
			assert.True(t, p.Close)
			require.NoError(t, <-stopped)
			assert.Equal(t, 200, s.record(t, 1).Status)
		})
	}
}

// refusesConns reports whether addr refuses connections.
func refusesConns(addr string) bool {
	nc, err := net.Dial("tcp", addr)
	if err == nil {
		nc.Close()
	}
	return err != nil
}
