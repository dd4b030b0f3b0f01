package serve_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
	"github.com/hostproxy/hostproxy/internal/serve"
)

// A hostileConn panics in method when left reaches 0.
type hostileConn struct {
	net.Conn
	method string
	left   *atomic.Int64
}

func (c *hostileConn) may(method string) {
	if c.method == method && c.left.Add(-1) == 0 {
		panic("oh")
	}
}

func (c *hostileConn) Read(p []byte) (int, error) {
	c.may("Read")
	return c.Conn.Read(p)
}

func (c *hostileConn) SetReadDeadline(t time.Time) error {
	c.may("SetReadDeadline")
	return c.Conn.SetReadDeadline(t)
}

func (c *hostileConn) Close() error {
	err := c.Conn.Close()
	c.may("Close")
	return err
}

func (c *hostileConn) Write(p []byte) (int, error) {
	c.may("Write")
	return c.Conn.Write(p)
}

func (c *hostileConn) SetWriteDeadline(t time.Time) error {
	c.may("SetWriteDeadline")
	return c.Conn.SetWriteDeadline(t)
}

type hostileListener struct {
	net.Listener
	method string
	left   *atomic.Int64
}

func (l *hostileListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &hostileConn{c, l.method, l.left}, nil
}

// A panic in the program's own connection type ends that connection only.
func TestAPanickingConnectionTypeEndsOnlyItsConnection(t *testing.T) {
	for method, calls := range map[string][]int64{"Read": {4, 5, 6}, "Write": {1, 2, 3, 4, 5, 6}, "SetWriteDeadline": {1}} {
		for _, n := range calls {
			proxytest.NoLeaks(t)
			s := &serve.Server{H2C: true, Log: slog.New(slog.DiscardHandler), Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				for range 4 {
					io.WriteString(w, "piece")
					_ = http.NewResponseController(w).Flush()
				}
			})}
			var left atomic.Int64
			left.Store(n)
			ln := proxytest.Listen(t)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- s.Serve(ctx, &hostileListener{ln, method, &left}) }()
			c, err := net.Dial("tcp", ln.Addr().String())
			require.NoError(t, err)
			p := newPeer(t, c)
			p.listen()
			for i := 0; left.Load() > 0; i++ {
				if p.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: p.fields(of("GET", "/")...), EndStream: true, EndHeaders: true}) != nil {
					break
				}
				p.wait("answer", func(all []seen, ended bool) bool {
					return ended || len(all) > 0 && all[len(all)-1].end && all[len(all)-1].stream == uint32(2*i+1)
				})
			}
			p.closed()
			q := dialH2(t, ln.Addr().String())
			q.ask(1, false, of("GET", "/")...)
			assert.Equal(t, "200", q.reply(1).status)
			q.c.Close()
			cancel()
			assert.NoError(t, <-done)
		}
	}
}

// sendPage writes a large body without a copy: it contains panics by itself.
func TestAPanicInALargeWriteEndsOnlyItsConnection(t *testing.T) {
	proxytest.NoLeaks(t)
	s := &serve.Server{H2C: true, Log: slog.New(slog.DiscardHandler), Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write(make([]byte, 1<<20))
	})}
	var left atomic.Int64
	addr := startOn(t, s, &hostileListener{proxytest.Listen(t), "Write", &left})
	for range 2 {
		left.Store(2)
		p := dialH2(t, addr)
		p.ask(1, false, of("GET", "/")...)
		p.closed()
	}
}

// A panickedConn panics in Read.
type panickedConn struct{ net.Conn }

func (c *panickedConn) Read([]byte) (int, error) { panic("oh") }

// A panic during an upload leaves no goroutine that waits for the rest.
func TestAPanickingTargetConnectionEndsTheUpload(t *testing.T) {
	proxytest.NoLeaks(t)
	backend := proxytest.NewBackend(t, func(c *proxytest.BackendConn) { _, _ = c.ReadString(1 << 20) })
	u := hostproxy.To(backend.Addr())
	u.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		return &panickedConn{c}, err
	}
	r := hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
	r.Handle("a.test", u)
	addr := proxytest.StartPlain(t, &hostproxy.Server{Router: &r, H2C: true}).Plain
	for range 200 {
		p := dialH2(t, addr)
		p.ask(1, true, of("POST", "/")...)
		assert.Equal(t, http2.ErrCodeInternal, p.reply(1).code)
		p.c.Close()
	}
}

// The sweeper and a drain handle all connections. A panic there ends only one
// of them.
func TestAPanickingConnectionEndsNeitherASweepNorADrain(t *testing.T) {
	for _, tt := range []struct {
		name, method string
		busy         bool // has a request in flight until it ends
		sweeps       bool // the panic is in the sweeper; otherwise in the drain
	}{
		{"in a sweep", "SetReadDeadline", false, true},
		{"in a drain", "SetReadDeadline", false, false},
		{"in Close after a drain", "Close", false, false},
		{"in Close at DrainTimeout", "Close", true, false},
	} {
		for _, protocol := range []string{"HTTP/1.1", "HTTP/2"} {
			t.Run(tt.name+" "+protocol, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					release := make(chan struct{})
					var left atomic.Int64
					ln := newPipes()
					s := &serve.Server{H2C: true, Log: slog.New(slog.DiscardHandler), DrainTimeout: 10 * time.Second,
						Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
							if tt.busy {
								<-release
							}
						})}
					ctx, cancel := context.WithCancel(t.Context())
					done := make(chan error, 1)
					go func() { done <- s.Serve(ctx, &hostileListener{ln, tt.method, &left}) }()
					c := ln.dial()
					if protocol == "HTTP/2" {
						p := newPeer(t, c)
						p.listen()
						p.ask(1, false, of("GET", "/")...)
					} else {
						go func() { _, _ = io.Copy(io.Discard, c) }()
						_, err := io.WriteString(c, get)
						require.NoError(t, err)
					}
					// after this pause a drain does not wait for the client
					time.Sleep(time.Second)
					left.Store(1)
					if tt.sweeps {
						time.Sleep(5 * time.Second)
					}
					cancel()
					err := <-done
					if tt.busy {
						assert.Equal(t, serve.ErrDrainTimeout, err)
					} else {
						assert.NoError(t, err)
					}
					assert.Less(t, left.Load(), int64(1), "it panics")
					close(release)
					c.Close()
				})
			})
		}
	}
}

// A hook that panics after an early response ends only its stream. The rest of
// the request body may still arrive, and is not the client's fault.
func TestAHookPanicAfterAnEarlyResponseEndsOnlyItsStream(t *testing.T) {
	backend := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	})
	r := hostproxy.Router{Logger: slog.New(slog.DiscardHandler), Observe: func(*hostproxy.Exchange) { panic("oh") }}
	r.Handle("a.test", hostproxy.To(backend.Addr()))
	p := dialH2(t, proxytest.StartPlain(t, &hostproxy.Server{Router: &r, H2C: true}).Plain)
	p.ask(1, true, of("POST", "/")...)
	require.NoError(t, p.WriteData(1, false, []byte("some")))
	p.frame("answer", func(s seen) bool { return s.stream == 1 && s.end })
	p.frame("reset", func(s seen) bool { return s.stream == 1 && s.kind == http2.FrameRSTStream })
	require.NoError(t, p.WriteData(1, true, []byte("more")))
	p.ask(3, false, of("GET", "/")...)
	assert.NotEmpty(t, p.reply(3))
}
