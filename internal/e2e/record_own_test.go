package e2e_test

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// The context of a request may end without a disconnect. Then the record has
// the status that the client got.
func TestTheRecordOfAHandlerHasTheStatusThatAConnectedClientGot(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	slow := func(w http.ResponseWriter, q *http.Request) {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(moment))
		if _, err := io.ReadAll(q.Body); err != nil {
			http.Error(w, "too slow", http.StatusRequestTimeout)
		}
	}
	overOurLanes(t, nil, func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send("POST / HTTP/1.1\r\nHost: b.test\r\nContent-Length: 10\r\n\r\nhello")
		require.Equal(t, 408, c.Response("POST").StatusCode)
		x := s.record(t, 1)
		assert.Equal(t, 408, x.Status)
		assert.NoError(t, x.Err)
	}, func(s *site) { s.router.Handle("b.test", http.HandlerFunc(slow)) })
}

// The library does not read what the handler then sends. In HTTP, only a 101
// ends HTTP on a connection.
func TestTheRecordOfAHandlerThatHijacksHasTheSwitch(t *testing.T) {
	overEachServer(t, func(s *timed) {
		s.router.Handle("a.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			c, rw, err := http.NewResponseController(w).Hijack()
			if !assert.NoError(t, err) {
				return
			}
			defer c.Close()
			line, err := rw.ReadString('!')
			assert.NoError(t, err)
			_, _ = io.WriteString(c, "heard "+line)
		}))
	}, func(t *testing.T, s *timed) {
		if s.lane.secure {
			return
		}
		c := proxytest.Dial(t, s.addr)
		c.Send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\nhello!")
		assert.Equal(t, "heard hello!", c.Rest())
		x := s.record(t, 1)
		assert.Equal(t, 101, x.Status)
		assert.NoError(t, x.Err)
	})
}

func TestAContextThatMiddlewareEndsIsNoClientThatLeaves(t *testing.T) {
	records := make(chan hostproxy.Exchange, 1)
	r := &hostproxy.Router{Logger: panicsFail(t), Observe: func(x *hostproxy.Exchange) { records <- *x }}
	r.Handle("a.test", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "busy", http.StatusServiceUnavailable) }))
	mw := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		ctx, cancel := context.WithCancel(q.Context())
		cancel()
		r.ServeHTTP(w, q.WithContext(ctx))
	})
	c := proxytest.Dial(t, proxytest.StartPlain(t, &hostproxy.Server{Router: r, Handler: mw}).Plain)
	require.Equal(t, 503, c.Do(get).StatusCode)
	x := <-records
	assert.Equal(t, 503, x.Status)
	assert.NoError(t, x.Err)
}

// Handlers such as httputil.ReverseProxy panic with http.ErrAbortHandler when
// the client does not take the response.
func TestTheRecordOfAHandlerThatAbortsSaysThatTheClientHasLeft(t *testing.T) {
	abort := func(w http.ResponseWriter, q *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				panic(http.ErrAbortHandler)
			}
		}
	}
	overOurLanes(t, nil, func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n")
		c.Head()
		c.Close()
		x := s.record(t, 1)
		assert.Equal(t, 499, x.Status)
		var fail *hostproxy.Error
		require.ErrorAs(t, x.Err, &fail)
		assert.Equal(t, hostproxy.SideClient, fail.Side)
	}, func(s *site) { s.router.Handle("b.test", http.HandlerFunc(abort)) })
}

func TestTheRecordOfAHandlerThatAbortsSaysSo(t *testing.T) {
	abort := func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Length", "10")
		_, _ = io.WriteString(w, "hello")
		panic(http.ErrAbortHandler)
	}
	overEachLane(t, nil, func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n")
		x := s.record(t, 1)
		assert.Equal(t, 200, x.Status)
		var fail *hostproxy.Error
		require.ErrorAs(t, x.Err, &fail)
		assert.Equal(t, hostproxy.SideProxy, fail.Side)
	}, func(s *site) { s.router.Handle("b.test", http.HandlerFunc(abort)) })
}

// RFC 8441: over HTTP/2 the client of a tunnel ends its stream, as the client
// of an upgraded connection closes that.
func TestATunnelThatItsClientEndsHasNotFailed(t *testing.T) {
	own := func(r *hostproxy.Router, u *hostproxy.Upstream) { r.Handle("*", http.HandlerFunc(u.ServeHTTP)) }
	for about, routes := range map[string]func(*hostproxy.Router, *hostproxy.Upstream){"an Upstream": nil, "a handler around one": own} {
		t.Run(about, func(t *testing.T) {
			backend := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
				if q, err := c.ReadRequest(); err == nil {
					_ = c.Send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + proxytest.Accept(q.Header) + "\r\n\r\n")
					_, _ = c.ReadString(1) // until it ends
				}
			})
			k := newFast(t, shape{secure: true, routes: routes, change: func(u *hostproxy.Upstream) { u.Targets[0].Host = backend.Addr() }})
			p := newH2(t, k)
			p.listen()
			require.NoError(t, p.connectTo("websocket"))
			require.Equal(t, "200", p.outcome(t, 1))
			require.NoError(t, p.WriteRSTStream(1, http2.ErrCodeCancel))
			x := <-k.records
			assert.Equal(t, 200, x.Status)
			assert.NoError(t, x.Err)
		})
	}
}

// An HTTP/2 client resets one stream, and keeps its connection.
func TestTheRecordOfAHandlerSaysThatTheClientHasResetItsStream(t *testing.T) {
	called := make(chan struct{}, 1)
	for about, h := range map[string]http.HandlerFunc{
		"that aborts": func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					panic(http.ErrAbortHandler)
				}
			}
		},
		"that returns": func(_ http.ResponseWriter, q *http.Request) { <-q.Context().Done() },
	} {
		t.Run(about, func(t *testing.T) {
			k := newFast(t, shape{secure: true, routes: func(r *hostproxy.Router, _ *hostproxy.Upstream) {
				r.Handle("*", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
					called <- struct{}{}
					h(w, q)
				}))
			}})
			p := newH2(t, k)
			p.listen()
			require.NoError(t, p.ask(1, true, ":method", "GET", ":scheme", "https", ":path", "/", ":authority", "a.test"))
			<-called
			require.NoError(t, p.WriteRSTStream(1, http2.ErrCodeCancel))
			x := <-k.records
			assert.Equal(t, 499, x.Status)
			var fail *hostproxy.Error
			require.ErrorAs(t, x.Err, &fail)
			assert.Equal(t, hostproxy.SideClient, fail.Side)
		})
	}
}
