package e2e_test

import (
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// halfClosers returns the places whose target may be slow.
func halfClosers() (all []place) {
	for _, p := range places() {
		if p.usual == 200 {
			all = append(all, p)
		}
	}
	return all
}

// endings are complete requests, after which the client closes its side.
// Read-only.
var endings = []struct{ about, raw string }{
	{"GET", "GET / HTTP/1.1\r\n" + host + "\r\n"},
	{"POST", "POST / HTTP/1.1\r\n" + host + "Content-Length: 5\r\n\r\nhello"},
	{"POST in chunks", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"},
	{"an unusual method", "PURGE / HTTP/1.1\r\n" + host + "\r\n"},
	{"HTTP/1.0", "GET / HTTP/1.0\r\n" + host + "\r\n"},
}

// shutWrite closes the sending side of c, under TLS with an alert first. The
// client still reads.
func shutWrite(t testing.TB, c *proxytest.Conn) {
	t.Helper()
	nc := c.Conn
	if tc, ok := nc.(*tls.Conn); ok {
		require.NoError(t, tc.CloseWrite())
		nc = tc.NetConn()
	}
	require.NoError(t, nc.(*net.TCPConn).CloseWrite())
}

// A client that half-closes the connection after its request gets the response
// if that takes less than another second.
func TestAHalfClosedClientIsAnswered(t *testing.T) {
	t.Parallel()
	for _, p := range halfClosers() {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			arrived, answer := make(chan struct{}, 1), make(chan struct{}, 1)
			k := p.startOn(t, func(c *proxytest.BackendConn) {
				if _, err := c.ReadRequest(); err == nil {
					arrived <- struct{}{}
					if c.Wait(answer) {
						// fails if the request was canceled
						_ = c.Send("HTTP/1.1 200 OK\r\nConnection: close\r\n" + sized("ok"))
					}
				}
			})
			for _, q := range endings {
				once(t, q.about+": the answer", func() bool {
					c := k.connect(t)
					defer c.Close()
					require.NoError(t, c.Send(p.with(q.raw)))
					<-arrived
					shutWrite(t, c)
					dawdle(2 * moment) // the proxy has noticed the half-close
					answer <- struct{}{}
					a, err := c.ReadResponse("GET")
					return (<-k.records).Status == 200 && err == nil && string(a.Content) == "ok"
				})
			}
		})
	}
}

// After a second its request is canceled.
func TestAHalfClosedClientIsGivenUpAfterASecond(t *testing.T) {
	t.Parallel()
	for _, p := range halfClosers() {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			arrived, cancelled := make(chan struct{}, len(endings)), make(chan error, len(endings))
			k := p.startOn(t, func(c *proxytest.BackendConn) {
				if _, err := c.ReadRequest(); err == nil {
					arrived <- struct{}{}
					_, err := c.ReadAll()
					cancelled <- err
				}
			})
			conns := make([]*proxytest.Conn, len(endings))
			for i, q := range endings {
				conns[i] = k.connect(t)
				require.NoError(t, conns[i].Send(p.with(q.raw)))
				<-arrived
			}
			began := time.Now()
			for _, c := range conns {
				shutWrite(t, c)
			}
			for range endings {
				k.expectFailure(t, hostproxy.SideClient, 499)
				assert.GreaterOrEqual(t, time.Since(began), 900*time.Millisecond, "it had its second, by a clock of 50 ms")
				assert.NoError(t, <-cancelled, "the target's connection is closed")
			}
		})
	}
}

// startOn is start with a backend that runs script.
func (p place) startOn(t testing.TB, script func(*proxytest.BackendConn)) *track {
	t.Helper()
	b := proxytest.NewBackend(t, script)
	change := p.shape.change
	p.shape.change = func(u *hostproxy.Upstream) {
		if change != nil {
			change(u)
		}
		u.Targets[0].Host = b.Addr()
	}
	return p.start(t)
}
