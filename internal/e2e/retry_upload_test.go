package e2e_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A noted connection counts the bytes read, and notes the count at the start of
// the last Read. The proxy cannot peek at it.
type noted struct {
	net.Conn
	*noting
}

type noting struct{ read, begun atomic.Int64 }

func (c *noted) Read(p []byte) (int, error) {
	c.begun.Store(c.read.Load())
	n, err := c.Conn.Read(p)
	c.read.Add(int64(n))
	return n, err
}

// serve serves r, only in the handler lane if handled, and returns a client
// whose connection is noted.
func (n *noting) serve(t *testing.T, r *hostproxy.Router, handled bool) *proxytest.Client {
	t.Helper()
	s := &hostproxy.Server{Router: r}
	if handled {
		s.Handler = http.HandlerFunc(r.ServeHTTP)
	}
	site := &site{listen: func(ln net.Listener) net.Listener {
		return &wrapping{ln, func(c *net.TCPConn) net.Conn { return &noted{c, n} }}
	}}
	return proxytest.Dial(t, proxytest.StartPlain(t, site.runner(s)).Plain)
}

// The next target is chosen while the proxy still reads the body for the last
// one. The bytes that it reads then, maybe more than it would keep, also reach
// the next target.
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
				front, came, more := new(noting), make(chan struct{}), make(chan struct{})
				busy := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
					_, _ = c.ReadHead()
					_, _ = c.ReadString(20_000)
					proxytest.Eventually(t, "the proxy to read on", func() bool { return front.begun.Load() == int64(len(head+first)) })
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
				c := front.serve(t, r, handled)
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

// Another request follows a body that the fast lane has read to its end, and
// that the handler lane does not use.
func TestNothingBehindABodyThatWasHandedOverIsLost(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	body := "Transfer-Encoding: chunked\r\n\r\n" + chunked(strings.Repeat("a", 20_000), 20_000)
	for what, next := range map[string]string{"a GET": get, "a POST": request("POST /", sized("hello"))} {
		t.Run(what, func(t *testing.T) {
			front, asked, came := new(noting), make(chan struct{}), make(chan struct{})
			busy := proxytest.NewBackend(t, proxytest.Reply("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"))
			u := hostproxy.To(busy.Addr(), "gone.test:1")
			u.Policy, u.Retry.Statuses = hostproxy.FirstAvailable, []int{503}
			u.Breaker = &hostproxy.Breaker{Failures: 1, Statuses: []int{503}}
			var once, added sync.Once
			u.TargetChanged = func(*hostproxy.Target, hostproxy.Health) {
				added.Do(func() { assert.NoError(t, u.Add("h2c://gone.test:2")) })
			}
			u.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if addr == busy.Addr() {
					return new(net.Dialer).DialContext(ctx, network, addr)
				}
				once.Do(func() { close(asked) })
				<-came
				return nil, errors.New("nobody is there")
			}
			r := &hostproxy.Router{Logger: panicsFail(t)}
			r.Handle("a.test", u)
			other := proxytest.NewBackend(t, good)
			r.Handle("b.test", hostproxy.To(other.Addr()))
			c := front.serve(t, r, false)
			c.Send(request("PUT /p", body))
			<-asked
			before := front.read.Load()
			c.Send(strings.Replace(next, "a.test", "b.test", 1))
			// otherwise it is read after the response was sent
			happens(2*moment, func() bool { return front.read.Load() > before })
			close(came)
			require.Equal(t, 502, c.Response("PUT").StatusCode)
			assert.Equal(t, 200, c.Response("GET").StatusCode)
			assert.Equal(t, strings.Fields(next)[0], other.Requests()[0].Method)
		})
	}
}
