package e2e_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
	"github.com/hostproxy/hostproxy/internal/status"
)

// Visitors are the clients of a Server with a limit for each client.
type visitors struct {
	router      *hostproxy.Router
	https, http string
	roots       *tls.Config
	secure      bool
}

// newVisitors starts a Server with a.test, which answers, and /hijack, whose
// handler hijacks the connection.
func newVisitors(t *testing.T, secure bool, most int, trusted ...netip.Prefix) *visitors {
	t.Helper()
	proxytest.NoLeaks(t)
	config, roots := proxytest.TLS(t, "a.test")
	r := &hostproxy.Router{Logger: silent(), TrustedProxies: trusted}
	r.TLS.Config, r.TLS.Storage = config, newStorage(t)
	target := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }))
	r.Handle("a.test", hostproxy.To(target.Addr()))
	r.Handle("a.test/hijack", http.HandlerFunc(hijack))
	c := &visitors{router: r, secure: secure, roots: &tls.Config{RootCAs: roots, ServerName: "a.test", NextProtos: []string{"http/1.1"}}}
	s := &hostproxy.Server{Router: r, MaxConnsPerClient: most}
	if !secure {
		c.http = proxytest.StartPlain(t, s).Plain
		return c
	}
	run := proxytest.Start(t, s)
	c.https, c.http = run.HTTPS, run.Plain
	return c
}

// hijack hijacks the connection, and echoes lines until the client closes it or
// sends "end".
func hijack(w http.ResponseWriter, _ *http.Request) {
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	go func() {
		defer c.Close()
		_ = c.SetDeadline(time.Time{})
		_, _ = c.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"))
		for {
			line, err := rw.ReadString('\n')
			if err != nil || line == "end\n" {
				return
			}
			_, _ = io.WriteString(c, line)
		}
	}()
}

// dial connects from an address of this machine to the listener of the routes.
func (c *visitors) dial(t *testing.T, from string) *proxytest.Conn {
	t.Helper()
	if !c.secure {
		return dialFrom(t, from, c.http)
	}
	return proxytest.NewConn(tls.Client(dialFrom(t, from, c.https).Conn, c.roots))
}

func dialFrom(t *testing.T, from, addr string) *proxytest.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: proxytest.Patience}
	nc, err := d.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { nc.Close() })
	return proxytest.NewConn(nc)
}

// answered reports whether a request on the connection is answered. Otherwise
// the connection must be closed without a byte.
func answered(t *testing.T, c *proxytest.Conn) bool {
	t.Helper()
	_ = c.Send(get) // fails if the connection is closed already
	head, err := c.ReadResponse("GET")
	if err == nil {
		return head.StatusCode < 400
	}
	var late net.Error
	require.False(t, errors.As(err, &late) && late.Timeout(), "the connection stays open")
	return false
}

// refusalsOf returns what a Router's Servers have refused: counts by what and
// why.
func refusalsOf(t *testing.T, r *hostproxy.Router) map[string]uint64 {
	t.Helper()
	all := make(map[string]uint64)
	for _, s := range servers(t, r) {
		for _, x := range s.Refused {
			all[x.What+" "+x.Why] += x.Count
			assert.WithinDuration(t, time.Now(), x.Latest, time.Minute)
		}
	}
	return all
}

// open returns how many connections a Router's Servers have.
func open(t *testing.T, r *hostproxy.Router) (n int64) {
	t.Helper()
	for _, s := range servers(t, r) {
		for _, l := range s.Listeners {
			n += l.Open
		}
	}
	return n
}

func servers(t *testing.T, r *hostproxy.Router) []status.Server {
	t.Helper()
	w := httptest.NewRecorder()
	hostproxy.StatusHandler(r).ServeHTTP(w, httptest.NewRequest("GET", "/?format=json", nil))
	var p status.Page
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &p))
	return p.Servers
}

func TestAClientHasAtMostMaxConnsPerClientConnections(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS %t", secure), func(t *testing.T) {
			c := newVisitors(t, secure, 2)
			one, two := c.dial(t, "127.0.0.1"), c.dial(t, "127.0.0.1")
			require.True(t, answered(t, one) && answered(t, two))
			for range 3 {
				assert.False(t, answered(t, c.dial(t, "127.0.0.1")), "a third connection of a client is refused")
			}
			assert.False(t, answered(t, dialFrom(t, "127.0.0.1", c.http)), "on the other listener too")
			other := c.dial(t, "127.0.0.2")
			assert.True(t, answered(t, other), "another client has room")
			assert.True(t, answered(t, one) && answered(t, two), "the others go on")
			assert.Equal(t, map[string]uint64{"connections MaxConnsPerClient": 4}, refusalsOf(t, c.router))
			assert.Equal(t, int64(3), open(t, c.router))
			one.Close()
			proxytest.Eventually(t, "room", func() bool { return answered(t, c.dial(t, "127.0.0.1")) })
		})
	}
}

func TestThePlaceOfAConnectionIsGivenBackOnce(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	const upgrade = "GET /hijack HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
	for name, end := range map[string]func(t *testing.T, c *proxytest.Conn){
		"the client closes": func(t *testing.T, c *proxytest.Conn) {
			assert.True(t, answered(t, c))
			c.Close()
		},
		"the client sends nothing": func(_ *testing.T, c *proxytest.Conn) { c.Close() },
		"the client resets": func(t *testing.T, c *proxytest.Conn) {
			require.NoError(t, c.Send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9\r\n\r\nab"))
			if tcp, ok := c.Conn.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0)
			}
			c.Close()
		},
		"the server closes": func(t *testing.T, c *proxytest.Conn) {
			require.NoError(t, c.Send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"))
			_, err := c.ReadAll()
			require.NoError(t, err)
			c.Close()
		},
		"the server refuses a head": func(t *testing.T, c *proxytest.Conn) {
			require.NoError(t, c.Send("GET / HTTP/1.1\r\nHost : a.test\r\n\r\n"))
			s, _ := c.ReadHead()
			assert.Contains(t, s, " 400 ")
			c.Close()
		},
		"a hijacker closes": func(t *testing.T, c *proxytest.Conn) {
			require.NoError(t, c.Send(upgrade))
			_, err := c.ReadHead()
			require.NoError(t, err)
			require.NoError(t, c.Send("end\n"))
			_, err = c.ReadAll()
			require.NoError(t, err)
			c.Close()
		},
		"the client of a hijacker closes": func(t *testing.T, c *proxytest.Conn) {
			require.NoError(t, c.Send(upgrade))
			_, err := c.ReadHead()
			require.NoError(t, err)
			c.Close()
		},
	} {
		for _, secure := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, TLS %t", name, secure), func(t *testing.T) {
				t.Parallel()
				c := newVisitors(t, secure, 1)
				for range 3 {
					one := c.dial(t, "127.0.0.1")
					proxytest.Eventually(t, "the connection", func() bool { return open(t, c.router) == 1 })
					end(t, one)
					proxytest.Eventually(t, "the end", func() bool { return open(t, c.router) == 0 })
				}
				last := c.dial(t, "127.0.0.1")
				assert.True(t, answered(t, last))
				assert.False(t, answered(t, c.dial(t, "127.0.0.1")))
			})
		}
	}
}

func TestAHijackedConnectionHoldsItsPlace(t *testing.T) {
	c := newVisitors(t, false, 1)
	ws := c.dial(t, "127.0.0.1")
	require.NoError(t, ws.Send("GET /hijack HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"))
	_, err := ws.ReadHead()
	require.NoError(t, err)
	for range 3 {
		assert.False(t, answered(t, c.dial(t, "127.0.0.1")))
	}
	require.NoError(t, ws.Send("hello\n"))
	s, err := ws.ReadString(6)
	require.NoError(t, err)
	assert.Equal(t, "hello\n", s)
}

func TestAConnectionOfHTTP2HoldsOnePlace(t *testing.T) {
	c := newVisitors(t, true, 1)
	for range 3 {
		h2 := proxytest.HTTPClient(t, c.https, c.roots.RootCAs, "h2")
		ask := func() {
			res, err := h2.Get("https://a.test/")
			if assert.NoError(t, err) {
				_, _ = io.Copy(io.Discard, res.Body)
				res.Body.Close()
				assert.Equal(t, "HTTP/2.0", res.Proto)
			}
		}
		ask() // first one alone: many at once would open a connection each
		var all sync.WaitGroup
		for range 10 {
			all.Go(ask)
		}
		all.Wait()
		assert.False(t, answered(t, c.dial(t, "127.0.0.1")))
		h2.CloseIdleConnections()
		proxytest.Eventually(t, "the end", func() bool { return open(t, c.router) == 0 })
	}
}

func TestPassthroughConnectionsCountPerClient(t *testing.T) {
	proxytest.NoLeaks(t)
	p := newPassing(t)
	run := proxytest.Start(t, &hostproxy.Server{Router: p.router, MaxConnsPerClient: 2})
	one, two := p.dial(t, run.HTTPS), p.dial(t, run.HTTPS)
	require.True(t, repeats(one) && repeats(two))
	for range 3 {
		assert.True(t, p.dial(t, run.HTTPS) == nil, "a connection above the bound is refused")
	}
	one.Close()
	proxytest.Eventually(t, "the end", func() bool { return open(t, p.router) == 1 })
	assert.True(t, repeats(p.dial(t, run.HTTPS)) && repeats(two))
	assert.True(t, p.dial(t, run.HTTPS) == nil)
	assert.Equal(t, map[string]uint64{"connections MaxConnsPerClient": 4}, refusalsOf(t, p.router), "a passthrough connection is no failed handshake")
}

func TestTrustedProxiesMayHaveAnyNumberOfConnections(t *testing.T) {
	c := newVisitors(t, false, 1, netip.MustParsePrefix("127.0.0.2/32"))
	for range 5 {
		assert.True(t, answered(t, c.dial(t, "127.0.0.2")))
	}
	assert.True(t, answered(t, c.dial(t, "127.0.0.1")))
	assert.False(t, answered(t, c.dial(t, "127.0.0.1")))
}

// A foretold connection begins with a line with its client's address, as with
// the PROXY protocol. RemoteAddr waits for the line.
type foretold struct {
	*net.TCPConn
	once sync.Once
	r    *bufio.Reader
	from net.Addr
}

func (c *foretold) hear() {
	c.once.Do(func() {
		c.r = bufio.NewReader(c.TCPConn)
		line, _ := c.r.ReadString('\n')
		c.from = c.TCPConn.RemoteAddr()
		if ap, err := netip.ParseAddrPort(strings.TrimSpace(line)); err == nil {
			c.from = net.TCPAddrFromAddrPort(ap)
		}
	})
}

func (c *foretold) RemoteAddr() net.Addr { c.hear(); return c.from }

func (c *foretold) Read(p []byte) (int, error) { c.hear(); return c.r.Read(p) }

func TestAClientCountsAsOneHoweverItsAddressIsWritten(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS %t", secure), func(t *testing.T) {
			proxytest.NoLeaks(t)
			config, roots := proxytest.TLS(t, "a.test")
			r := &hostproxy.Router{Logger: silent()}
			r.TLS.Config, r.TLS.Storage = config, newStorage(t)
			r.Handle("a.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { fmt.Fprint(w, "ok") }))
			ln := proxytest.Listen(t)
			other := &wrapping{ln, func(c *net.TCPConn) net.Conn { return &foretold{TCPConn: c} }}
			https, plain := net.Listener(nil), net.Listener(other)
			if secure {
				https, plain = other, nil
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				done <- (&hostproxy.Server{Router: r, MaxConnsPerClient: 1, DrainTimeout: moment}).Serve(ctx, https, plain)
			}()
			defer func() { cancel(); <-done }()
			from := func(addr string) bool {
				nc := net.Conn(dialFrom(t, "127.0.0.1", ln.Addr().String()).Conn)
				_, err := io.WriteString(nc, addr+"\n")
				require.NoError(t, err)
				if secure {
					nc = tls.Client(nc, &tls.Config{RootCAs: roots, ServerName: "a.test"})
				}
				return answered(t, proxytest.NewConn(nc))
			}
			dialFrom(t, "127.0.0.1", ln.Addr().String()) // says nothing, and keeps nobody waiting
			for _, first := range []struct{ addr, same, other string }{
				{"[2001:db8:1:2::1]:1", "[2001:db8:1:2:ffff::9]:2", "[2001:db8:1:3::1]:1"},
				{"192.0.2.1:1", "[::ffff:192.0.2.1]:2", "192.0.2.2:1"},
			} {
				assert.True(t, from(first.addr))
				assert.False(t, from(first.same), first.same)
				assert.True(t, from(first.other), first.other)
			}
		})
	}
}

func TestAFloodOfOneClientLeavesTheOthersServed(t *testing.T) {
	c := newVisitors(t, false, 10)
	const flood = 2_000
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for range flood / 20 {
				nc, err := net.Dial("tcp", c.http) // a refused one is closed by the server
				if assert.NoError(t, err) {
					t.Cleanup(func() { nc.Close() })
				}
			}
		})
	}
	for range 50 {
		other := c.dial(t, "127.0.0.2")
		assert.True(t, answered(t, other))
		other.Close()
	}
	all.Wait()
	proxytest.Eventually(t, "the refusals", func() bool {
		return refusalsOf(t, c.router)["connections MaxConnsPerClient"] == flood-10
	})
	assert.LessOrEqual(t, open(t, c.router), int64(20))
	assert.True(t, answered(t, c.dial(t, "127.0.0.2")))
}

func TestTheStatusCountsRefusedConnectionsByReason(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	proxytest.NoLeaks(t)
	config, roots := proxytest.TLS(t, "a.test")
	var mu sync.Mutex
	records := make(map[int]error)
	r := &hostproxy.Router{Logger: silent(), Observe: func(x *hostproxy.Exchange) {
		mu.Lock()
		defer mu.Unlock()
		records[x.Status] = x.Err
	}}
	r.TLS.Config, r.TLS.Storage = config, newStorage(t)
	target := proxytest.NewServer(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	r.Handle("a.test", hostproxy.To(target.Addr()))
	run := proxytest.Start(t, &hostproxy.Server{Router: r, MaxConns: 4, ReadHeaderTimeout: patient})
	// on run, handshakes have more time
	brisk := proxytest.Start(t, &hostproxy.Server{Router: r, HandshakeTimeout: patient})
	conf := &tls.Config{RootCAs: roots, ServerName: "a.test"}
	silentOne := dialFrom(t, "127.0.0.1", brisk.HTTPS) // reaches its timeout during the others
	for _, tt := range []struct {
		head, status string
	}{
		{"GET / HTTP/1.1\r\nHost : a.test\r\n\r\n", " 400 "},
		{"GET / HTTP/1.1\r\nHost : a.test\r\n\r\n", " 400 "},
		{"GET / HTTP/2.7\r\nHost: a.test\r\n\r\n", " 505 "},
		{"GET / HTTP/1.1\r\nHost: a.", " 408 "},
	} {
		c := proxytest.DialTLS(t, run.HTTPS, conf)
		c.Send(tt.head)
		assert.Contains(t, c.Head(), tt.status)
		c.Close()
	}
	_, _ = silentOne.ReadAll()
	proxytest.Eventually(t, "the ends", func() bool { return open(t, r) == 0 })
	wrong := tls.Client(dialFrom(t, "127.0.0.1", run.HTTPS).Conn, &tls.Config{RootCAs: roots, ServerName: "other.test"})
	assert.Error(t, wrong.Handshake())
	left := dialFrom(t, "127.0.0.1", run.HTTPS)
	proxytest.Eventually(t, "the connection", func() bool { return open(t, r) == 1 })
	left.Close() // counts as no refusal
	proxytest.Eventually(t, "the ends", func() bool { return open(t, r) == 0 })
	for range 4 {
		c := proxytest.DialTLS(t, run.HTTPS, conf)
		assert.Equal(t, 200, c.Do(get).StatusCode)
	}
	for range 3 {
		assert.False(t, answered(t, dialFrom(t, "127.0.0.1", run.HTTPS)))
	}
	assert.Equal(t, map[string]uint64{"requests 400": 2, "requests 505": 1, "requests 408": 1,
		"handshakes HandshakeTimeout": 1, "handshakes failed": 1, "connections MaxConns": 3}, refusalsOf(t, r))
	var listeners []status.Listener
	for _, s := range servers(t, r) {
		listeners = append(listeners, s.Listeners...)
	}
	assert.ElementsMatch(t, []status.Listener{
		{Addr: run.HTTPS, Role: "tls", TLS: true, Open: 4}, {Addr: run.Plain, Role: "redirects"},
		{Addr: brisk.HTTPS, Role: "tls", TLS: true}, {Addr: brisk.Plain, Role: "redirects"}}, listeners)
	mu.Lock()
	defer mu.Unlock()
	for _, status := range []int{400, 505, 408} {
		assert.Error(t, records[status], "the record of a refused head says why: %d", status)
	}
}

func TestAClientThatLeavesInItsHandshakeIsNotRefused(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	proxytest.NoLeaks(t)
	s := besiege(t, nil, "slow.example.com")
	for range 3 {
		c := s.hello(t, "slow.example.com")
		s.waiting(t, "slow.example.com", 1)
		c.Close()
		proxytest.Eventually(t, "the end", func() bool { return open(t, s.router) == 0 })
	}
	for range 3 { // in the middle of a ClientHello
		c := dialFrom(t, "127.0.0.1", s.addr)
		require.NoError(t, c.Send("\x16\x03\x01\x02"))
		proxytest.Eventually(t, "the connection", func() bool { return open(t, s.router) == 1 })
		require.NoError(t, c.Reset())
		proxytest.Eventually(t, "the end", func() bool { return open(t, s.router) == 0 })
	}
	assert.Empty(t, refusalsOf(t, s.router))
}

func TestServersLeaveTheStatusWhenTheyEnd(t *testing.T) {
	proxytest.NoLeaks(t)
	r := &hostproxy.Router{Logger: silent()}
	first, second := proxytest.StartPlain(t, &hostproxy.Server{Router: r}), proxytest.StartPlain(t, &hostproxy.Server{Router: r})
	proxytest.Eventually(t, "both", func() bool {
		s := servers(t, r)
		return len(s) == 2 && len(s[0].Listeners) == 1 && len(s[1].Listeners) == 1
	})
	require.NoError(t, first.Stop())
	s := servers(t, r)
	require.Len(t, s, 1)
	assert.Equal(t, second.Plain, s[0].Listeners[0].Addr)
}

func TestAStatusWithoutRefusalsHasEmptyLists(t *testing.T) {
	r := &hostproxy.Router{Logger: silent()}
	status := func() string {
		w := httptest.NewRecorder()
		hostproxy.StatusHandler(r).ServeHTTP(w, httptest.NewRequest("GET", "/?format=json", nil))
		return strings.ReplaceAll(w.Body.String(), " ", "")
	}
	assert.Contains(t, status(), `"servers":[]`)
	proxytest.StartPlain(t, &hostproxy.Server{Router: r})
	proxytest.Eventually(t, "the server", func() bool { return strings.Contains(status(), `"refused":[]`) })
}
