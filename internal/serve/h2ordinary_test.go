package serve_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/hostproxy/hostproxy/internal/proxytest"
	"github.com/hostproxy/hostproxy/internal/serve"
)

// goClient is x/net's client of HTTP/2 without TLS.
func goClient(t testing.TB) *http.Client {
	transport := &http2.Transport{AllowHTTP: true, DialTLS: func(network, addr string, _ *tls.Config) (net.Conn, error) { return net.Dial(network, addr) }}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// A client that reads in small pieces opens its windows for each of them.
func TestAClientMayReadALargeAnswerInSmallPieces(t *testing.T) {
	const size = 16 << 20
	addr := startH2(t, func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, size)) })
	res, err := goClient(t).Get("http://" + addr)
	require.NoError(t, err)
	defer res.Body.Close()
	total, buf := 0, make([]byte, 4<<10)
	for err == nil {
		var n int
		n, err = res.Body.Read(buf)
		total += n
	}
	assert.Equal(t, io.EOF, err)
	assert.Equal(t, size, total)
}

// Who flushes writes its own, and not what others have to send for as long as they have it.
func TestAFlushDoesNotWaitForTheBodiesOfOthers(t *testing.T) {
	flushed := make(chan struct{})
	large := make(chan struct{})
	addr := startH2(t, func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/large" {
			close(large)
			for q.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
			return
		}
		<-large
		for range 100 {
			io.WriteString(w, "event")
			_ = http.NewResponseController(w).Flush()
		}
		close(flushed)
		<-q.Context().Done()
	})
	p := dialH2(t, addr, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
	require.NoError(t, p.WriteWindowUpdate(0, 1<<30))
	p.ask(1, false, of("GET", "/events")...)
	p.ask(3, false, of("GET", "/large")...)
	select {
	case <-flushed:
	case <-time.After(proxytest.Patience):
		t.Fatal("a flush goes on for as long as somebody else has something to send")
	}
}

// A client that opens a stream before it knows the last one may send its body too.
func TestAStreamThatComesTooLateIsPassedOver(t *testing.T) {
	release := make(chan struct{})
	addr, drain := startDraining(t, func(w http.ResponseWriter, _ *http.Request) {
		<-release
		io.WriteString(w, "whole")
	})
	p := dialH2(t, addr)
	p.frame("settings", func(s seen) bool { return s.kind == http2.FrameSettings })
	p.ask(1, false, of("GET", "/")...)
	drain()
	ping := p.frame("PING", func(s seen) bool { return s.kind == http2.FramePing })
	require.NoError(t, p.WritePing(true, [8]byte([]byte(ping.data))))
	p.ask(3, true, of("POST", "/")...)
	require.NoError(t, p.WriteData(3, false, []byte("body")))
	require.NoError(t, p.WriteWindowUpdate(3, 1))
	require.NoError(t, p.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: p.fields("x-sent", "1"), EndStream: true, EndHeaders: true}))
	require.NoError(t, p.WriteRSTStream(3, http2.ErrCodeCancel))
	require.NoError(t, p.WritePing(false, [8]byte{1}))
	p.frame("ping", func(s seen) bool { return s.kind == http2.FramePing && s.ack })
	close(release)
	assert.Equal(t, "whole", p.reply(1).body)
}

// The body of a request that was answered early may be on its way for long.
func TestABodyMayComeLongAfterItsAnswer(t *testing.T) {
	addr := startH2(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
	p := dialH2(t, addr)
	p.ask(1, true, of("POST", "/")...)
	p.reply(1)
	const others = 600
	for i := range others {
		p.ask(uint32(2*i+3), false, of("GET", "/")...)
		assert.Equal(t, "ok", p.reply(uint32(2*i+3)).body)
	}
	require.NoError(t, p.WriteData(1, false, make([]byte, 10_000)))
	require.NoError(t, p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.fields("x-sent", "1"), EndStream: true, EndHeaders: true}))
	p.ask(2*others+3, false, of("GET", "/")...)
	assert.Equal(t, "ok", p.reply(2*others+3).body)
}

// runtime.Goexit, which testing's FailNow calls, ends a handler and no more than that.
func TestAHandlerMayEndItsGoroutine(t *testing.T) {
	proxytest.NoLeaks(t)
	addr, drain := startDraining(t, func(_ http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/exit" {
			runtime.Goexit()
		}
	})
	p := dialH2(t, addr)
	for i := range 400 {
		stream := uint32(4*i + 1)
		p.ask(stream, false, of("GET", "/exit")...)
		require.True(t, p.reply(stream).reset)
		p.ask(stream+2, false, of("GET", "/")...)
		require.Equal(t, "200", p.reply(stream+2).status)
	}
	done := drain()
	ping := p.frame("PING", func(s seen) bool { return s.kind == http2.FramePing })
	require.NoError(t, p.WritePing(true, [8]byte([]byte(ping.data))))
	p.closed()
	p.c.Close()
	assert.NoError(t, <-done)
}

// A heldConn gives what it has read to its server when that has had enough of waiting for it: the two cross. As TLS does, it reads ahead.
type heldConn struct {
	net.Conn
	ahead *bufio.Reader
	holds atomic.Bool
	bored chan struct{}
	once  sync.Once
}

func (c *heldConn) Read(p []byte) (int, error) {
	n, err := c.ahead.Read(p)
	if n > 0 && c.holds.Load() {
		<-c.bored
	}
	return n, err
}

func (c *heldConn) SetReadDeadline(t time.Time) error {
	if c.holds.Load() && !t.IsZero() {
		c.once.Do(func() { close(c.bored) })
	}
	return c.Conn.SetReadDeadline(t)
}

type heldListener struct {
	*pipes
	conns chan *heldConn
}

func (l *heldListener) Accept() (net.Conn, error) {
	c, err := l.pipes.Accept()
	if err != nil {
		return nil, err
	}
	held := &heldConn{Conn: c, ahead: bufio.NewReader(c), bored: make(chan struct{})}
	l.conns <- held
	return held, nil
}

// A request that crosses the end of the idle time is served, or its client is told that it was not.
func TestARequestMayCrossTheEndOfTheIdleTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := &heldListener{pipes: newPipes(), conns: make(chan *heldConn, 1)}
		s := &serve.Server{H2C: true, Log: slog.New(slog.DiscardHandler), IdleTimeout: 30 * time.Second,
			Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				time.Sleep(time.Second)
				io.WriteString(w, "whole")
			})}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Serve(ctx, ln) }()
		p := newPeer(t, ln.dial())
		p.listen()
		p.ask(1, false, of("GET", "/")...)
		assert.Equal(t, "whole", p.reply(1).body)
		time.Sleep(20 * time.Second)
		synctest.Wait()
		(<-ln.conns).holds.Store(true)
		p.ask(3, false, of("GET", "/")...)
		assert.Equal(t, "whole", p.reply(3).body)
		cancel()
		assert.NoError(t, <-done)
		p.c.Close()
	})
}

// A hostileConn is of a type that panics, at the nth call of a method.
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

// What panics in a connection of the program's own type ends that connection, and nothing else.
func TestAConnectionOfATypeThatPanicsEnds(t *testing.T) {
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
