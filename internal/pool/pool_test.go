package pool_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/pool"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestMain(m *testing.M) { proxytest.Main(m) }

// serve runs script on each connection to ln until the test ends.
func serve(t testing.TB, ln net.Listener, script func(net.Conn)) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, nc)
			mu.Unlock()
			wg.Go(func() {
				defer nc.Close()
				if sc, ok := nc.(*tls.Conn); !ok || sc.Handshake() == nil {
					script(nc)
				}
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for _, nc := range conns {
			nc.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
}

// poolFor returns a Pool of connections to ln.
func poolFor(t testing.TB, ln net.Listener) *pool.Pool {
	addr := ln.Addr()
	p := &pool.Pool{Dial: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, addr.Network(), addr.String())
	}}
	t.Cleanup(p.Close)
	return p
}

func open(t testing.TB, p *pool.Pool) *pool.Conn {
	c, err := p.Open(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() {
		if p.Idle() == 0 {
			c.Close()
		}
	})
	return c
}

// echo answers each read with the same bytes.
func echo(nc net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := nc.Read(buf)
		if err != nil {
			return
		}
		if _, err := nc.Write(buf[:n]); err != nil {
			return
		}
	}
}

// network is a way to reach a peer.
type network struct {
	name   string
	listen func(t testing.TB) net.Listener
	pool   func(t testing.TB, ln net.Listener) *pool.Pool
}

// networks are all networks whose connections can be kept. In the last one the
// TLS peer writes records byte by byte, so that every read gets a part.
func networks(t testing.TB) []network {
	server, roots := proxytest.TLS(t, "target.test")
	client := &tls.Config{ServerName: "target.test", RootCAs: roots}
	secure := func(t testing.TB, ln net.Listener) *pool.Pool {
		p := poolFor(t, ln)
		p.TLS = client
		return p
	}
	return []network{
		{"tcp", func(t testing.TB) net.Listener { return proxytest.Listen(t) }, poolFor},
		{"unix", func(t testing.TB) net.Listener {
			ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
			require.NoError(t, err)
			return ln
		}, poolFor},
		{"tls", func(t testing.TB) net.Listener { return tls.NewListener(proxytest.Listen(t), server) }, secure},
		{"tls in pieces", func(t testing.TB) net.Listener {
			return tls.NewListener(dribbler{proxytest.Listen(t)}, server)
		}, secure},
	}
}

type dribbler struct{ net.Listener }

func (d dribbler) Accept() (net.Conn, error) {
	nc, err := d.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return dribble{nc}, nil
}

type dribble struct{ net.Conn }

func (d dribble) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := d.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
		runtime.Gosched()
	}
	return len(p), nil
}

func ask(t testing.TB, c *pool.Conn, q string) string {
	t.Helper()
	require.NoError(t, c.Ask([]byte(q)))
	for len(c.Buffered()) < len(q) {
		require.NoError(t, c.Fill())
	}
	got := string(c.Buffered())
	c.Discard(len(got))
	return got
}

func TestAConnectionCarriesExchangeAfterExchange(t *testing.T) {
	for _, nw := range networks(t) {
		t.Run(nw.name, func(t *testing.T) {
			proxytest.NoLeaks(t)
			ln := nw.listen(t)
			serve(t, ln, echo)
			p := nw.pool(t, ln)
			require.Nil(t, p.Take())
			first := open(t, p)
			assert.False(t, first.Reused())
			assert.Equal(t, nw.name[:3] == "tls", first.TLS() != nil)
			for i := range 20 {
				c := first
				if i > 0 {
					c = p.Take()
					require.Same(t, first, c)
					assert.True(t, c.Reused())
				}
				assert.False(t, c.Wrote())
				q := strings.Repeat("hello ", i+1)
				assert.Equal(t, q, ask(t, c, q))
				assert.True(t, c.Wrote())
				c.Put()
				assert.False(t, pool.HoldsBuffer(c), "an idle connection holds no buffer")
				assert.Equal(t, 1, p.Idle())
			}
		})
	}
}

func TestIdleConnectionsCostNoGoroutine(t *testing.T) {
	ln := proxytest.Listen(t)
	p := poolFor(t, ln)
	before := runtime.NumGoroutine()
	var cs []*pool.Conn
	for range 10 {
		cs = append(cs, open(t, p))
	}
	for _, c := range cs {
		c.Put()
	}
	assert.Equal(t, 10, p.Idle())
	assert.LessOrEqual(t, runtime.NumGoroutine(), before+10*idleGoroutines)
}

func TestAConnectionThatIsNoLongerKeptLeavesNothingBehind(t *testing.T) {
	for _, nw := range networks(t)[:3] {
		for _, tt := range []struct {
			name string
			end  func(p *pool.Pool)
		}{
			{"after Close", (*pool.Pool).Close},
			{"after Retire", (*pool.Pool).Retire},
			{"after CloseIdle", (*pool.Pool).CloseIdle},
			{"after its idle time", func(*pool.Pool) {}},
			{"after it was taken and closed", func(p *pool.Pool) { p.Take().Close() }},
			{"after it was taken and detached", func(p *pool.Pool) {
				nc, _ := p.Take().Detach()
				nc.Close()
			}},
		} {
			t.Run(nw.name+"/"+tt.name, func(t *testing.T) {
				proxytest.NoLeaks(t)
				ln := nw.listen(t)
				left := make(chan struct{}, 1)
				serve(t, ln, func(nc net.Conn) {
					echo(nc)
					left <- struct{}{}
				})
				p := nw.pool(t, ln)
				if strings.Contains(tt.name, "idle time") {
					p.IdleTimeout = 10 * time.Millisecond
				}
				c := open(t, p)
				ask(t, c, "a")
				c.Put()
				tt.end(p)
				<-left
				assert.Zero(t, p.Idle())
			})
		}
	}
}

// forwarding.md: a connection is reused only without unsolicited bytes, and a
// stale connection differs from a failure by what was written.
func TestDeadConnectionsAreFoundBeforeAnythingIsWritten(t *testing.T) {
	for _, nw := range networks(t) {
		for _, tt := range []struct {
			name  string
			spoil func(nc net.Conn)
		}{
			{"closed by the target", func(nc net.Conn) { nc.Close() }},
			{"unsolicited bytes", func(nc net.Conn) { io.WriteString(nc, "HTTP/1.1 408 Request Timeout\r\n\r\n") }},
			{"unsolicited bytes, then closed", func(nc net.Conn) { io.WriteString(nc, "x"); nc.Close() }},
		} {
			t.Run(nw.name+"/"+tt.name, func(t *testing.T) {
				proxytest.NoLeaks(t)
				spoil, spoiled := make(chan struct{}), make(chan struct{})
				ln := nw.listen(t)
				received := make(chan string, 1)
				serve(t, ln, func(nc net.Conn) {
					b := make([]byte, 1)
					io.ReadFull(nc, b)
					nc.Write(b)
					<-spoil
					tt.spoil(nc)
					close(spoiled)
					rest, _ := io.ReadAll(nc)
					received <- string(rest)
				})
				p := nw.pool(t, ln)
				c := open(t, p)
				ask(t, c, "a")
				c.Put()
				close(spoil)
				<-spoiled
				c = p.Take()
				require.NotNil(t, c)
				require.ErrorIs(t, c.Ask([]byte("request")), pool.ErrStale)
				assert.False(t, c.Wrote())
				c.Close()
				assert.NotContains(t, <-received, "request")
			})
		}
	}
}

// Threat: unsolicited bytes in the same segment or TLS flight as a response
// must not become the next client's answer.
func TestBytesAfterAResponseNeverReachTheNextExchange(t *testing.T) {
	server, roots := proxytest.TLS(t, "target.test")
	ln := proxytest.Listen(t)
	serve(t, ln, func(nc net.Conn) {
		flight := &collect{Conn: nc}
		sc := tls.Server(flight, server)
		b := make([]byte, 1)
		if _, err := io.ReadFull(sc, b); err != nil {
			return
		}
		flight.hold = true
		sc.Write([]byte("A"))
		sc.Write([]byte("poison"))
		nc.Write(flight.held.Bytes())
		io.Copy(io.Discard, nc)
	})
	p := poolFor(t, ln)
	p.TLS = &tls.Config{ServerName: "target.test", RootCAs: roots}
	c := open(t, p)
	require.NoError(t, c.Ask([]byte("q")))
	require.Equal(t, "A", string(c.Buffered()))
	c.Discard(1)
	c.Put()
	if c = p.Take(); c != nil {
		assert.ErrorIs(t, c.Ask([]byte("q")), pool.ErrStale)
		c.Close()
	}
}

// collect collects writes, to send them in one piece.
type collect struct {
	net.Conn
	hold bool
	held bytes.Buffer
}

func (c *collect) Write(p []byte) (int, error) {
	if c.hold {
		return c.held.Write(p)
	}
	return c.Conn.Write(p)
}

// A target may send session tickets late; they say nothing about the
// connection.
func TestSessionTicketsDoNotMakeAConnectionStale(t *testing.T) {
	server, roots := proxytest.TLS(t, "target.test")
	ln := proxytest.Listen(t)
	released := make(chan struct{})
	serve(t, ln, func(nc net.Conn) {
		flight := &collect{Conn: nc}
		sc := tls.Server(flight, server)
		if sc.Handshake() != nil {
			return
		}
		flight.hold = true
		b := make([]byte, 1)
		io.ReadFull(sc, b) // TLS 1.3 sends tickets after the client's Finished
		close(released)
		nc.Write(flight.held.Bytes())
		flight.hold = false
		io.ReadFull(sc, b)
		sc.Write([]byte("B"))
		io.Copy(io.Discard, sc)
	})
	p := poolFor(t, ln)
	p.TLS = &tls.Config{ServerName: "target.test", RootCAs: roots, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	c := open(t, p)
	require.NoError(t, c.Send([]byte("a")))
	<-released
	c.Put()
	c = p.Take()
	require.NotNil(t, c)
	require.NoError(t, c.Ask([]byte("b")))
	assert.Equal(t, "B", string(c.Buffered()))
	c.Close()
}

func TestAConnectionWithUnreadBytesIsNotKept(t *testing.T) {
	ln := proxytest.Listen(t)
	serve(t, ln, echo)
	p := poolFor(t, ln)
	c := open(t, p)
	require.NoError(t, c.Ask([]byte("answer and more")))
	c.Discard(6)
	c.Put()
	assert.Zero(t, p.Idle())
}

func TestTheLatestIdleConnectionIsTakenFirstAndTheirNumberIsLimited(t *testing.T) {
	ln := proxytest.Listen(t)
	p := poolFor(t, ln)
	p.MaxIdle = 2
	a, b, c := open(t, p), open(t, p), open(t, p)
	a.Put()
	b.Put()
	c.Put()
	assert.Equal(t, 2, p.Idle())
	assert.Same(t, b, p.Take())
	assert.Same(t, a, p.Take())
	assert.Nil(t, p.Take())
	t.Run("a negative number disables keeping", func(t *testing.T) {
		p := poolFor(t, ln)
		p.MaxIdle = -1
		open(t, p).Put()
		assert.Zero(t, p.Idle())
	})
}

func TestCloseEndsThePool(t *testing.T) {
	ln := proxytest.Listen(t)
	p := poolFor(t, ln)
	kept, out := open(t, p), open(t, p)
	kept.Put()
	p.Close()
	p.Close()
	assert.Zero(t, p.Idle())
	out.Put()
	assert.Zero(t, p.Idle())
	_, err := p.Open(t.Context())
	assert.ErrorIs(t, err, pool.ErrClosed)
}

func TestOpenDistinguishesDialFromHandshakeErrors(t *testing.T) {
	t.Run("dial", func(t *testing.T) {
		fault := errors.New("no route")
		p := &pool.Pool{Dial: func(context.Context) (net.Conn, error) { return nil, fault }}
		_, err := p.Open(t.Context())
		assert.Equal(t, fault, err)
	})
	t.Run("handshake", func(t *testing.T) {
		ln := proxytest.Listen(t)
		serve(t, ln, func(nc net.Conn) { io.WriteString(nc, "HTTP/1.1 400 Bad Request\r\n\r\n") })
		p := poolFor(t, ln)
		p.TLS = &tls.Config{ServerName: "target.test"}
		_, err := p.Open(t.Context())
		var handshake *pool.HandshakeError
		require.ErrorAs(t, err, &handshake)
		var record tls.RecordHeaderError
		assert.ErrorAs(t, err, &record)
	})
	t.Run("handshake that never ends", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			go io.Copy(io.Discard, far)
			p := &pool.Pool{Dial: func(context.Context) (net.Conn, error) { return near, nil }, TLS: &tls.Config{ServerName: "target.test"}}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := p.Open(ctx)
			var handshake *pool.HandshakeError
			require.ErrorAs(t, err, &handshake)
			assert.ErrorIs(t, err, context.DeadlineExceeded)
		})
	})
}

// A connection that cannot be read without waiting could hold anything.
func TestConnectionsThatCannotBeCheckedAreNotKept(t *testing.T) {
	near, far := net.Pipe()
	go func() { defer far.Close(); echo(far) }()
	p := &pool.Pool{Dial: func(context.Context) (net.Conn, error) { return near, nil }}
	c, err := p.Open(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "hello", ask(t, c, "hello"))
	require.NoError(t, c.Send([]byte("world")))
	b := make([]byte, 8)
	n, err := c.Read(b)
	require.NoError(t, err)
	assert.Equal(t, "world", string(b[:n]))
	c.Put()
	assert.Zero(t, p.Idle())
}

func TestAnExchangeOnAKeptConnectionDoesNotAllocate(t *testing.T) {
	for _, nw := range networks(t)[:2] {
		t.Run(nw.name, func(t *testing.T) {
			ln := nw.listen(t)
			serve(t, ln, echo)
			p := nw.pool(t, ln)
			open(t, p).Put()
			q := []byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			allocs := testing.AllocsPerRun(200, func() {
				c := p.Take()
				deadline := time.Now().Add(time.Minute)
				_ = c.SetReadDeadline(deadline)
				_ = c.SetWriteDeadline(deadline)
				if err := c.Ask(q); err != nil {
					panic(err)
				}
				c.Discard(len(c.Buffered()))
				c.Put()
			})
			assert.LessOrEqual(t, allocs, float64(keptAllocs))
		})
	}
}

// Many exchanges, some aborted in flight: none may get another's answer, and no
// abort may hit a later use.
func TestExchangesNeverMix(t *testing.T) {
	for _, nw := range networks(t)[:3] {
		t.Run(nw.name, func(t *testing.T) {
			proxytest.NoLeaks(t)
			ln := nw.listen(t)
			serve(t, ln, echo)
			p := nw.pool(t, ln)
			var wg sync.WaitGroup
			for g := range 8 {
				wg.Go(func() {
					for i := range 50 {
						exchange(t, p, strings.Repeat(string(rune('a'+g)), 10+i), i%7 == 0)
					}
				})
			}
			wg.Wait()
		})
	}
}

func exchange(t *testing.T, p *pool.Pool, q string, abort bool) {
	c := p.Take()
	if c == nil {
		var err error
		if c, err = p.Open(t.Context()); !assert.NoError(t, err) {
			return
		}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	if abort {
		wg.Go(c.Lease().Abort)
	}
	err := c.Ask([]byte(q))
	for err == nil && len(c.Buffered()) < len(q) {
		err = c.Fill()
	}
	if err != nil {
		assert.True(t, abort, "%v", err)
		assert.True(t, errors.Is(err, pool.ErrAborted) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, pool.ErrStale), "%v", err)
		c.Close()
		return
	}
	assert.Equal(t, q, string(c.Buffered()))
	c.Discard(len(q))
	c.Put()
}

func BenchmarkExchange(b *testing.B) {
	for _, nw := range networks(b)[:3] {
		b.Run("net="+nw.name, func(b *testing.B) {
			ln := nw.listen(b)
			serve(b, ln, echo)
			p := nw.pool(b, ln)
			open(b, p).Put()
			q := []byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			b.ReportAllocs()
			for b.Loop() {
				c := p.Take()
				if err := c.Ask(q); err != nil {
					b.Fatal(err)
				}
				c.Discard(len(c.Buffered()))
				c.Put()
			}
		})
	}
}
