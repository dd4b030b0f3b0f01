package e2e_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// Dial makes all connections to targets.
func TestDialMakesAllConnectionsToTargets(t *testing.T) {
	for _, l := range lanes {
		t.Run(l.name, func(t *testing.T) {
			target := proxytest.NewServer(t, nil)
			tlsTarget, roots := proxytest.NewTLSServer(t, nil)
			there := func(addr string) func(context.Context, string, string) (net.Conn, error) {
				return func(ctx context.Context, network, named string) (net.Conn, error) {
					assert.Equal(t, "tcp", network)
					assert.Equal(t, "over.there:1", named)
					return new(net.Dialer).DialContext(ctx, network, addr)
				}
			}
			for _, u := range map[string]*hostproxy.Upstream{
				"plain": {Targets: hostproxy.To("over.there:1").Targets, Dial: there(target.Addr())},
				"h2c":   {Targets: hostproxy.To("h2c://over.there:1").Targets, Dial: there(proxytest.NewH2CServer(t, nil).Addr())},
				"TLS":   {Targets: hostproxy.To("https://over.there:1").Targets, Dial: there(tlsTarget.Addr()), TLS: clientTLS(roots)},
			} {
				if u.TLS != nil {
					u.TLS.ServerName = "localhost"
				}
				u.Health = &hostproxy.HealthCheck{StartDown: true, Interval: moment}
				u.FailClosed = true
				s := newSite(t, l, nil, func(s *site) { s.upstream = u })
				c := s.dial(t)
				proxytest.Eventually(t, "an answer, when a check has got through", func() bool {
					require.NoError(t, c.Conn.Send(get))
					return c.Response("GET").StatusCode == 200
				})
			}
		})
	}
}

// A Passthrough's Dial makes the connections to its target.
func TestDialMakesTheConnectionsOfAPassthrough(t *testing.T) {
	target, roots := proxytest.NewTLSServer(t, nil)
	var r hostproxy.Router
	config, _ := proxytest.TLS(t, "b.test")
	r.TLS.Config = config
	r.Handle("localhost", &hostproxy.Passthrough{Addr: "over.there:1", Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		assert.Equal(t, "over.there:1", addr)
		return new(net.Dialer).DialContext(ctx, network, target.Addr())
	}})
	server := proxytest.Start(t, &hostproxy.Server{Router: &r})
	conf := clientTLS(roots)
	conf.ServerName = "localhost"
	c := proxytest.DialTLS(t, server.HTTPS, conf)
	require.NoError(t, c.Conn.Send("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
	res, err := http.ReadResponse(bufio.NewReader(c.Conn.Conn), nil)
	require.NoError(t, err)
	assert.Equal(t, 200, res.StatusCode)
}

// If a target's connection panics in the second of two hedged attempts, that
// attempt fails.
func TestAConnectionThatPanicsInAHedgedAttemptFailsOnlyThatAttempt(t *testing.T) {
	for _, l := range lanes {
		t.Run(l.name, func(t *testing.T) {
			release := make(chan struct{})
			slow := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				<-release
				io.WriteString(w, "slow")
			}))
			bad := proxytest.NewServer(t, nil)
			reached := make(chan struct{})
			s := newSite(t, l, nil, func(s *site) {
				s.upstream = hostproxy.To(slow.Addr(), bad.Addr())
				s.upstream.Policy, s.upstream.Hedge = hostproxy.FirstAvailable, time.Millisecond
				s.upstream.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
					nc, err := new(net.Dialer).DialContext(ctx, network, addr)
					if err == nil && addr == bad.Addr() {
						nc = &exploding{nc, reached}
					}
					return nc, err
				}
			})
			c := s.dial(t)
			require.NoError(t, c.Conn.Send(get))
			<-reached
			close(release)
			assert.Equal(t, "slow", string(c.Response("GET").Content))
		})
	}
}

// An exploding connection panics whenever it is read.
type exploding struct {
	net.Conn
	reached chan struct{}
}

func (c *exploding) Read([]byte) (int, error) {
	close(c.reached)
	panic("oh")
}

// A connection that comes too late is closed, even if its Close panics.
func TestALateConnectionMayPanicWhenItIsClosed(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	for _, l := range lanes {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel() // most of the time is spent waiting
			closed := make(chan struct{})
			s := newSite(t, l, nil, func(s *site) {
				s.upstream.DialTimeout = moment
				s.upstream.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
					<-ctx.Done()
					return stubborn{closed: closed}, nil
				}
			})
			assert.Equal(t, 504, s.dial(t).Do(get).StatusCode)
			<-closed
			assert.Equal(t, 504, s.dial(t).Do(get).StatusCode)
			<-closed
		})
	}
}

// A stubborn connection panics when it is closed.
type stubborn struct {
	net.Conn
	closed chan struct{}
}

func (c stubborn) Close() error {
	c.closed <- struct{}{}
	panic("oh")
}
