package proxytest_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestMain(m *testing.M) { proxytest.Main(m) }

// recorder is a testing.TB that records errors and cleanups. The test runs the
// cleanups.
type recorder struct {
	testing.TB
	errors   []string
	cleanups []func()
}

func (r *recorder) Helper()                   {}
func (r *recorder) Cleanup(f func())          { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Errorf(s string, a ...any) { r.errors = append(r.errors, fmt.Sprintf(s, a...)) }

func TestNoLeaksReportsAGoroutineThatStays(t *testing.T) {
	r := &recorder{TB: t}
	proxytest.NoLeaksWithin(r, 20*time.Millisecond)
	stop, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		<-stop
	}()
	r.cleanups[0]()
	close(stop)
	<-gone
	require.Len(t, r.errors, 1)
	assert.Contains(t, r.errors[0], "1 goroutines outlive the test")
	assert.Contains(t, r.errors[0], "proxytest_test.go")
}

func TestNoLeaksWaitsForAGoroutineThatEnds(t *testing.T) {
	r := &recorder{TB: t}
	proxytest.NoLeaksWithin(r, proxytest.Patience)
	stop := make(chan struct{})
	go func() { <-stop }()
	time.AfterFunc(5*time.Millisecond, func() { close(stop) })
	r.cleanups[0]()
	assert.Empty(t, r.errors)
}

// staying uses start to start a goroutine that stays until the test ends.
func staying(t *testing.T, start func(func())) {
	stop, begun, gone := make(chan struct{}), make(chan struct{}), make(chan struct{})
	start(func() {
		defer close(gone)
		close(begun)
		<-stop
	})
	<-begun
	t.Cleanup(func() { close(stop); <-gone })
}

func TestNoLeaksLeavesEachTestItsOwnGoroutines(t *testing.T) {
	directly := func(f func()) { go f() }
	for _, tt := range []struct {
		about string
		other func(*testing.T) // runs in another test at the same time
		want  int
	}{
		{"another test's", func(t *testing.T) { staying(t, directly) }, 0},
		{"those of another test that looks for leaks too", func(t *testing.T) { proxytest.NoLeaksWithin(&recorder{TB: t}, 0); staying(t, directly) }, 0},
		{"those that a timer has started", func(t *testing.T) { staying(t, func(f func()) { time.AfterFunc(0, f) }) }, 1},
	} {
		t.Run(tt.about, func(t *testing.T) {
			begins, stays, looked := make(chan struct{}), make(chan struct{}), make(chan struct{})
			t.Run("one", func(t *testing.T) {
				t.Parallel()
				r := &recorder{TB: t}
				proxytest.NoLeaksWithin(r, 20*time.Millisecond)
				close(begins)
				<-stays
				r.cleanups[0]()
				close(looked)
				assert.Len(t, r.errors, tt.want)
			})
			t.Run("other", func(t *testing.T) {
				t.Parallel()
				<-begins
				tt.other(t)
				close(stays)
				<-looked
			})
		})
	}
}

func TestNoLeaksIgnoresGoroutinesThatTimersStartMeanwhile(t *testing.T) {
	r := &recorder{TB: t}
	proxytest.NoLeaksWithin(r, proxytest.Patience)
	stop, gone := make(chan struct{}), make(chan struct{})
	var relay func(release func())
	relay = func(release func()) { // there is always one, and each time another one
		release()
		select {
		case <-stop:
			close(gone)
		default:
			ctx, next := context.WithCancel(context.Background())
			time.AfterFunc(0, func() { relay(next) })
			<-ctx.Done()
		}
	}
	begun := make(chan struct{})
	time.AfterFunc(0, func() { relay(func() { close(begun) }) })
	<-begun
	r.cleanups[0]()
	close(stop)
	<-gone
	assert.Empty(t, r.errors)
}

func TestNoLeaksSeesTheGoroutinesOfSubtests(t *testing.T) {
	r := &recorder{TB: t}
	proxytest.NoLeaksWithin(r, 20*time.Millisecond)
	stop, gone := make(chan struct{}), make(chan struct{})
	t.Run(`a "sub" \ tést`, func(t *testing.T) {
		proxytest.NoLeaksWithin(&recorder{TB: t}, 0)
		go func() {
			defer close(gone)
			<-stop
		}()
	})
	r.cleanups[0]()
	close(stop)
	<-gone
	assert.Len(t, r.errors, 1)
}

func TestBackendRecordsEveryByteOfEachRequest(t *testing.T) {
	proxytest.NoLeaks(t)
	b := proxytest.NewBackend(t, proxytest.Reply("HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
	first := "POST /a?b=%2F HTTP/1.1\r\nhOst: x\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\n"
	second := "GET / HTTP/1.1\r\nHost: y\r\n\r\n"

	c := proxytest.Dial(t, b.Addr())
	c.Send(first + second)
	assert.Equal(t, 204, c.Response("POST").StatusCode)
	assert.Equal(t, "ok", string(c.Response("GET").Content))

	got := b.WaitRequests(2)
	assert.Equal(t, first, string(got[0].Raw))
	assert.Equal(t, "abc", string(got[0].Content))
	assert.Equal(t, "1", got[0].Trailer.Get("T"))
	assert.Equal(t, second, string(got[1].Raw))
	assert.Equal(t, 1, b.Conns())
}

func TestBackendScriptSeesEachConnection(t *testing.T) {
	proxytest.NoLeaks(t)
	release := make(chan struct{})
	b := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		_, err := c.ReadRequest()
		switch {
		case c.Number == 0:
			_ = c.Reset()
		case err == nil && c.Wait(release):
			_ = c.Send("HTTP/1.1 200 OK\r\n\r\nuntil the end")
		}
	})
	c := proxytest.Dial(t, b.Addr())
	c.Send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	_, err := c.ReadResponse("GET")
	require.ErrorIs(t, err, syscall.ECONNRESET)

	c = proxytest.Dial(t, b.Addr())
	c.Send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	assert.Equal(t, 1, b.WaitRequests(2)[1].Conn)
	close(release)
	p := c.Response("GET")
	assert.Equal(t, "until the end", string(p.Content))
	assert.Equal(t, "HTTP/1.1 200 OK\r\n\r\nuntil the end", string(p.Raw))
}

func TestBackendEndsWithTheTestThoughAScriptWaits(t *testing.T) {
	proxytest.NoLeaks(t)
	b := proxytest.NewBackend(t, func(c *proxytest.BackendConn) { c.Wait(nil) })
	proxytest.Dial(t, b.Addr())
	b.WaitConns(1)
}

func TestClientReadsPastInterimResponses(t *testing.T) {
	proxytest.NoLeaks(t)
	b := proxytest.NewBackend(t, proxytest.Reply("HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", ""))
	c := proxytest.Dial(t, b.Addr())
	assert.Equal(t, "x", string(c.Do("GET / HTTP/1.1\r\nHost: x\r\n\r\n").Content))
	c.Send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	assert.Empty(t, c.Rest())
}

func TestConnKeepsRawBytesAndStreamApart(t *testing.T) {
	proxytest.NoLeaks(t)
	b := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		head, err := c.ReadHead()
		if err == nil {
			_ = c.Send(head)
		}
		_, _ = io.Copy(c, c)
		_ = c.CloseWrite()
	})
	c := proxytest.Dial(t, b.Addr())
	c.Send("PING\r\n\r\nmore")
	assert.Equal(t, "PING\r\n\r\n", c.Head())
	c.Expect("more")
	require.NoError(t, c.CloseWrite())
	assert.Empty(t, c.Rest())
}

func TestServerRecordsOverEachProtocol(t *testing.T) {
	tlsServer, roots := proxytest.NewTLSServer(t, nil)
	plain, h2c := proxytest.NewServer(t, nil), proxytest.NewH2CServer(t, nil)
	tests := []struct {
		protocol, scheme, want string
		server                 *proxytest.Server
	}{
		{"h1", "http", "HTTP/1.1", plain},
		{"h1", "https", "HTTP/1.1", tlsServer},
		{"h2", "https", "HTTP/2.0", tlsServer},
		{"h2c", "http", "HTTP/2.0", h2c},
	}
	for _, tt := range tests {
		t.Run(tt.protocol+" over "+tt.scheme, func(t *testing.T) {
			client := proxytest.HTTPClient(t, tt.server.Addr(), roots, tt.protocol)
			q, err := http.NewRequest("POST", tt.scheme+"://localhost/a%2Fb", io.MultiReader(strings.NewReader("body")))
			require.NoError(t, err)
			q.Trailer = http.Header{"T": {"1"}}
			p, err := client.Do(q)
			require.NoError(t, err)
			content, err := io.ReadAll(p.Body)
			require.NoError(t, err)
			require.NoError(t, p.Body.Close())
			assert.Equal(t, "ok", string(content))

			proxytest.Eventually(t, "the trailer", func() bool { return tt.server.Last(t).Trailer != nil })
			got := tt.server.Last(t)
			assert.Equal(t, "/a%2Fb", got.Target)
			assert.Equal(t, tt.want, got.Proto)
			assert.Equal(t, "localhost", got.Host)
			assert.Equal(t, "body", got.Content)
			assert.Equal(t, http.Header{"T": {"1"}}, got.Trailer)
		})
	}
}

func TestRefusedAddressIsRefused(t *testing.T) {
	addr := proxytest.Refused(t)
	_, err := http.Get("http://" + addr)
	assert.ErrorIs(t, err, syscall.ECONNREFUSED)
	_, err = net.Listen("tcp", addr)
	assert.ErrorIs(t, err, syscall.EADDRINUSE, "no other process gets the port")
}

func TestReservedAddressIsRefusedUntilItIsReleased(t *testing.T) {
	addr, release := proxytest.Reserve(t)
	_, err := http.Get("http://" + addr)
	assert.ErrorIs(t, err, syscall.ECONNREFUSED)
	release()
	ln, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	ln.Close()
}

func TestCertificateVerifiesForItsHostsOnly(t *testing.T) {
	config, roots := proxytest.TLS(t, "a.test", "::1")
	leaf := config.Certificates[0].Leaf
	for host, ok := range map[string]bool{"a.test": true, "::1": true, "b.test": false, "127.0.0.1": false} {
		assert.Equal(t, ok, leaf.VerifyHostname(host) == nil, host)
	}
	_, other := proxytest.Certificate(t)
	assert.False(t, roots.Equal(other))
}

// server is a Runner with an http.Server.
type server struct{ fail error }

func (s server) Serve(ctx context.Context, https, plain net.Listener) error {
	hs := &http.Server{ReadHeaderTimeout: proxytest.Patience}
	stop := context.AfterFunc(ctx, func() { hs.Close() })
	defer stop()
	_ = hs.Serve(plain)
	return s.fail
}

func TestStartRunsAServerUntilTheTestEnds(t *testing.T) {
	proxytest.NoLeaks(t)
	s := proxytest.StartPlain(t, server{})
	assert.Empty(t, s.HTTPS)
	assert.Equal(t, 404, proxytest.Dial(t, s.Plain).Do("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").StatusCode)
}

func TestStopReturnsTheServersError(t *testing.T) {
	r := &recorder{TB: t}
	s := proxytest.StartPlain(r, server{fail: io.ErrUnexpectedEOF})
	require.ErrorIs(t, s.Stop(), io.ErrUnexpectedEOF)
	for _, f := range slices.Backward(r.cleanups) {
		f()
	}
	require.Len(t, r.errors, 1)
	assert.Contains(t, r.errors[0], "unexpected EOF")
}
