package e2e_test

import (
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A noted connection knows how much had been read of it when the last Read began.
type noted struct {
	net.Conn
	n     int64
	begun *atomic.Int64
}

func (c *noted) Read(p []byte) (int, error) {
	c.begun.Store(c.n)
	n, err := c.Conn.Read(p)
	c.n += int64(n)
	return n, err
}

// The next target is chosen while the proxy still reads the body for the last one. What it gets then, maybe more than it would
// keep, is of the body that the next target gets.
func TestTheNextTargetGetsWhatWasReadWhileItWasChosen(t *testing.T) {
	first, second := chunked(strings.Repeat("a", 20_000), 20_000), chunked(strings.Repeat("b", 16_000), 16_000)
	first = strings.TrimSuffix(first, "0\r\n\r\n")
	head := request("PUT /p", "Transfer-Encoding: chunked\r\n\r\n")
	for _, tt := range []struct {
		name   string
		change func(*testing.T, *hostproxy.Upstream) // while the next target is chosen
	}{
		{"of the same lane", func(*testing.T, *hostproxy.Upstream) {}},
		{"of the other lane", func(t *testing.T, u *hostproxy.Upstream) {
			assert.NoError(t, u.Add("h2c://"+proxytest.NewH2CServer(t, nil).Addr()))
		}},
	} {
		for _, handled := range []bool{false, true} {
			t.Run(tt.name+map[bool]string{false: ", fast lane", true: ", handler lane"}[handled], func(t *testing.T) {
				begun, came, more := new(atomic.Int64), make(chan struct{}), make(chan struct{})
				busy := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
					_, _ = c.ReadHead()
					_, _ = c.ReadString(20_000)
					proxytest.Eventually(t, "the proxy to read on", func() bool { return begun.Load() == int64(len(head+first)) })
					_ = c.Send("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy")
					_, _ = c.ReadString(16_000)
					close(came)
				})
				good := proxytest.NewBackend(t, good)
				u := hostproxy.To(busy.Addr(), good.Addr())
				u.Policy, u.Retry.Statuses, u.ResponseHeaderTimeout = hostproxy.FirstAvailable, []int{503}, 2*patient
				u.Breaker = &hostproxy.Breaker{Failures: 1, Statuses: []int{503}}
				u.TargetChanged = func(_ *hostproxy.Target, h hostproxy.Health) {
					if h.State == "open" {
						tt.change(t, u)
						close(more)
						<-came
					}
				}
				r := &hostproxy.Router{Logger: silent()}
				r.Handle("a.test", u)
				s := &hostproxy.Server{Router: r}
				if handled {
					s.Handler = http.HandlerFunc(r.ServeHTTP)
				}
				site := &site{listen: func(ln net.Listener) net.Listener {
					return &wrapping{ln, func(c *net.TCPConn) net.Conn { return &noted{Conn: c, begun: begun} }}
				}}
				c := proxytest.Dial(t, proxytest.StartPlain(t, site.runner(s)).Plain)
				c.Send(head + first)
				<-more
				c.Send(second)
				a := c.Response("PUT")
				require.Equal(t, 200, a.StatusCode, "%s", a.Content)
				q := good.Requests()[0]
				assert.Equal(t, strings.Repeat("a", 20_000)+strings.Repeat("b", 16_000), string(q.Content))
			})
		}
	}
}
