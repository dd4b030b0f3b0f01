package e2e_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxyproto"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// An introduced server accepts only connections that begin with a PROXY header.
// It answers with the header and the number of the connection.
type introduced struct {
	url   string
	roots *x509.CertPool

	mu    sync.Mutex
	heads []proxyproto.Header // headers of all connections
	slow  chan struct{}       // if not nil, the first request waits for it
}

// An introducedConn reads the header first.
type introducedConn struct {
	net.Conn
	s    *introduced
	once sync.Once
	err  error
	n    int // number of the connection
	head proxyproto.Header
}

func (c *introducedConn) Read(p []byte) (int, error) {
	c.once.Do(func() {
		var b []byte
		for {
			n, err := proxyproto.Missing(b)
			if err == nil && n > 0 {
				more := make([]byte, n)
				_, err = io.ReadFull(c.Conn, more)
				b = append(b, more...)
			}
			if c.err = err; err != nil {
				return
			}
			if n == 0 {
				break
			}
		}
		c.head, c.err = proxyproto.Parse(b)
		c.s.mu.Lock()
		defer c.s.mu.Unlock()
		c.s.heads = append(c.s.heads, c.head)
		c.n = len(c.s.heads)
	})
	if c.err != nil {
		return 0, c.err
	}
	return c.Conn.Read(p)
}

type introducedListener struct {
	net.Listener
	s *introduced
}

func (l introducedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &introducedConn{Conn: c, s: l.s}, nil
}

func (s *introduced) all() []proxyproto.Header {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]proxyproto.Header(nil), s.heads...)
}

type connKey struct{}

// newIntroduced starts an introduced server for targets with that scheme.
func newIntroduced(t *testing.T, scheme string) *introduced {
	t.Helper()
	s := new(introduced)
	var ln net.Listener
	if scheme == "unix" {
		path := filepath.Join(t.TempDir(), "s")
		var err error
		ln, err = net.Listen("unix", path)
		require.NoError(t, err)
		s.url = "unix:" + path
	} else {
		ln = proxytest.Listen(t)
		s.url = scheme + "://" + ln.Addr().String()
	}
	hs := &http.Server{Protocols: new(http.Protocols), ErrorLog: log.New(io.Discard, "", 0), ConnContext: func(ctx context.Context, c net.Conn) context.Context {
		if secure, ok := c.(*tls.Conn); ok {
			c = secure.NetConn()
		}
		return context.WithValue(ctx, connKey{}, c)
	}}
	hs.Handler = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		c := q.Context().Value(connKey{}).(*introducedConn)
		_, _ = io.Copy(io.Discard, q.Body)
		if s.slow != nil && c.n == 1 {
			<-s.slow
		}
		w.Header().Set("Content-Type", q.Header.Get("Content-Type"))
		fmt.Fprintf(w, "%d %d %s %s", c.n, c.head.Kind, c.head.Source, c.head.Destination)
	})
	hs.Protocols.SetHTTP1(true)
	hs.Protocols.SetHTTP2(true)
	hs.Protocols.SetUnencryptedHTTP2(true)
	wrapped := net.Listener(introducedListener{ln, s})
	if scheme == "https" {
		config, roots := proxytest.TLS(t, "127.0.0.1")
		config = config.Clone()
		config.NextProtos = []string{"h2", "http/1.1"}
		s.roots, wrapped = roots, tls.NewListener(wrapped, config)
	}
	go func() { _ = hs.Serve(wrapped) }()
	t.Cleanup(func() { hs.Close() })
	return s
}

// upstream returns an Upstream of s.
func (s *introduced) upstream(t *testing.T, version int) *hostproxy.Upstream {
	t.Helper()
	u := hostproxy.To(s.url)
	u.ProxyProtocol = version
	if s.roots != nil {
		u.TLS = &tls.Config{RootCAs: s.roots}
	}
	return u
}

// A sender is a Server in front of an introduced one: a.test takes the fast
// lane, b.test the handler lane.
type sender struct {
	*balanced
	target *introduced
}

func newSender(t *testing.T, secure bool, scheme string, version int, change func(*hostproxy.Upstream)) *sender {
	t.Helper()
	// called first, so that it checks after the target has ended: net/http
	// keeps recently busy HTTP/2 connections until the target closes them
	proxytest.NoLeaks(t)
	s := &sender{target: newIntroduced(t, scheme)}
	s.balanced = startBalanced(t, secure, func(server *hostproxy.Server) {
		fast, hooked := s.target.upstream(t, version), s.target.upstream(t, version)
		hooked.Rewrite = func(*httputil.ProxyRequest) {}
		for _, u := range []*hostproxy.Upstream{fast, hooked} {
			if change != nil {
				change(u)
			}
		}
		_ = server.Router.Replace(map[string]http.Handler{"a.test": fast, "b.test": hooked})
	})
	return s
}

// ask sends a request and returns the number of the connection to the target
// and the contents of its header.
func (s *sender) ask(t *testing.T, c *http.Client, host string, change ...func(*http.Request)) (number, kind int, source, destination string) {
	t.Helper()
	q, err := http.NewRequest("GET", s.scheme()+"://"+host+"/", nil)
	require.NoError(t, err)
	for _, f := range change {
		f(q)
	}
	res, err := c.Do(q)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, 200, res.StatusCode, string(body))
	_, err = fmt.Sscan(string(body), &number, &kind, &source, &destination)
	require.NoError(t, err, string(body))
	return number, kind, source, destination
}

// checkReuse checks that requests of one client share connections to the
// target.
func (s *sender) checkReuse(t *testing.T, c *http.Client, host string) {
	t.Helper()
	seen := make(map[int]bool)
	// the response may end before its connection is kept
	proxytest.Eventually(t, "a connection that is used again", func() bool {
		n, _, src, _ := s.ask(t, c, host)
		assert.Equal(t, "192.0.2.7:4321", src)
		old := seen[n]
		seen[n] = true
		return old
	})
}

func TestTargetsAreToldTheClientByThePROXYProtocol(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"http", "https", "h2c", "unix"} {
		for _, way := range ways {
			for version := 1; version <= 2; version++ {
				t.Run(fmt.Sprintf("%s by %s, version %d", scheme, way.name, version), func(t *testing.T) {
					s := newSender(t, way.secure, scheme, version, nil)
					for _, host := range []string{"a.test", "b.test"} {
						one := s.client(t, way.protocol, header2("192.0.2.7:4321"))
						n, kind, src, dst := s.ask(t, one, host)
						assert.Equal(t, int(proxyproto.TCP), kind)
						assert.Equal(t, "192.0.2.7:4321", src)
						assert.Equal(t, "198.51.100.2:443", dst)
						s.checkReuse(t, one, host)
						other, _, src, _ := s.ask(t, s.client(t, way.protocol, header2("[2001:db8::7]:1")), host)
						assert.NotEqual(t, n, other, "and not for another client")
						assert.Equal(t, "[2001:db8::7]:1", src)
						other, _, src, _ = s.ask(t, s.client(t, way.protocol, header2("192.0.2.7:4322")), host)
						assert.NotEqual(t, n, other, "nor for another connection of the client")
						assert.Equal(t, "192.0.2.7:4322", src)
						s.checkReuse(t, one, host)
						_, kind, _, _ = s.ask(t, s.client(t, way.protocol, block2(0x21, 0x31, strings.Repeat("/", 216))), host)
						assert.Equal(t, int(proxyproto.Local), kind, "a client without an address")
					}
				})
			}
		}
	}
}

func TestGRPCTargetsAreToldTheClientByThePROXYProtocol(t *testing.T) {
	for _, scheme := range []string{"https", "h2c"} {
		t.Run(scheme, func(t *testing.T) {
			s := newSender(t, true, scheme, 2, nil)
			for _, host := range []string{"a.test", "b.test"} {
				for _, client := range []string{"192.0.2.7:1", "192.0.2.8:2"} {
					c := s.client(t, "h2", header2(client))
					var all sync.WaitGroup
					for range 5 {
						all.Go(func() {
							_, _, src, _ := s.ask(t, c, host, func(q *http.Request) {
								q.Method, q.Body = "POST", io.NopCloser(strings.NewReader("x"))
								q.Header.Set("Content-Type", "application/grpc")
							})
							assert.Equal(t, client, src)
						})
					}
					all.Wait()
				}
			}
		})
	}
}

func TestTheClientBehindATrustedProxyIsSentByThePROXYProtocol(t *testing.T) {
	s := &sender{target: newIntroduced(t, "http")}
	s.balanced = newBalanced(t, false, func(server *hostproxy.Server) {
		server.ProxyProtocol, server.Router.TrustedProxies = nil, loopback
		hooked := s.target.upstream(t, 2)
		hooked.Rewrite = func(*httputil.ProxyRequest) {}
		_ = server.Router.Replace(map[string]http.Handler{"a.test": s.target.upstream(t, 2), "b.test": hooked})
	})
	c := s.client(t, "h1", "")
	for _, host := range []string{"a.test", "b.test"} {
		n, _, src, dst := s.ask(t, c, host, func(q *http.Request) { q.Header.Set("X-Forwarded-For", "203.0.113.9") })
		assert.Equal(t, "203.0.113.9:0", src)
		assert.Equal(t, s.addr, dst)
		other, _, src, _ := s.ask(t, c, host, func(q *http.Request) { q.Header.Set("X-Forwarded-For", "203.0.113.10") })
		assert.Equal(t, "203.0.113.10:0", src)
		assert.NotEqual(t, n, other, "one connection of the proxy's carries many clients")
		_, _, src, _ = s.ask(t, c, host)
		assert.Regexp(t, `^127\.0\.0\.1:[1-9]`, src)
	}
}

func TestAForeignServerSendsThePROXYProtocolToo(t *testing.T) {
	proxytest.NoLeaks(t)
	target := newIntroduced(t, "http")
	u := target.upstream(t, 1)
	front := proxytest.NewServer(t, u)
	c := proxytest.Dial(t, front.Addr())
	var kind, n int
	var src, dst string
	_, err := fmt.Sscan(string(c.Do(get).Content), &n, &kind, &src, &dst)
	require.NoError(t, err)
	assert.Equal(t, c.LocalAddr().String(), src)
	assert.Equal(t, front.Addr(), dst)
	require.NoError(t, u.Drain(t.Context()))
}

func TestHealthChecksSendALocalPROXYHeader(t *testing.T) {
	for name, check := range map[string]hostproxy.HealthCheck{"by a connection": {}, "by a GET": {Path: "/"}, "by gRPC": {GRPC: true}} {
		for _, scheme := range []string{"http", "https", "h2c", "unix"} {
			if check.GRPC && (scheme == "http" || scheme == "unix") {
				continue
			}
			for version := 1; version <= 2; version++ {
				t.Run(fmt.Sprintf("%s over %s, version %d", name, scheme, version), func(t *testing.T) {
					check.Interval = time.Hour
					s := newSender(t, false, scheme, version, func(u *hostproxy.Upstream) { u.Health = &check })
					s.ask(t, s.client(t, "h1", header2("192.0.2.7:4321")), "a.test")
					proxytest.Eventually(t, "the check", func() bool {
						local := slices.Contains(s.target.all(), proxyproto.Header{})
						// a check by connection only may end before its header
						// is read
						return local || check.Path == "" && !check.GRPC
					})
				})
			}
		}
	}
}

func TestRetriesHedgesAndCopiesSendThePROXYProtocol(t *testing.T) {
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			first, second, copied := newIntroduced(t, "http"), newIntroduced(t, "http"), newIntroduced(t, "http")
			first.slow = make(chan struct{})
			defer close(first.slow)
			mirror := copied.upstream(t, 1)
			both := func(change func(*hostproxy.Upstream)) *hostproxy.Upstream {
				u := hostproxy.To(first.url, second.url)
				u.ProxyProtocol, u.Policy = 2, hostproxy.FirstAvailable
				change(u)
				require.NoError(t, u.Mirror(mirror, 1))
				return u
			}
			b := newBalanced(t, way.secure, func(s *hostproxy.Server) {
				_ = s.Router.Replace(map[string]http.Handler{
					"a.test": both(func(u *hostproxy.Upstream) { u.Hedge = time.Millisecond }),
					"b.test": both(func(u *hostproxy.Upstream) { u.Hedge, u.Rewrite = time.Millisecond, func(*httputil.ProxyRequest) {} }),
					"c.test": both(func(u *hostproxy.Upstream) { // the first target is not there
						gone, err := url.Parse("http://" + proxytest.Refused(t))
						require.NoError(t, err)
						u.Targets[0] = gone
					}),
				})
			})
			s := &sender{balanced: b}
			c := s.client(t, way.protocol, header2("192.0.2.7:4321"))
			for _, host := range []string{"a.test", "b.test", "c.test"} {
				_, _, src, _ := s.ask(t, c, host)
				assert.Equal(t, "192.0.2.7:4321", src, host)
			}
			proxytest.Eventually(t, "the copies", func() bool { return len(copied.all()) >= 1 })
			for _, s := range []*introduced{first, second, copied} {
				for _, h := range s.all() {
					assert.Equal(t, fromTo("192.0.2.7:4321"), h)
				}
			}
		})
	}
}

func TestACanaryIsToldTheClientByThePROXYProtocol(t *testing.T) {
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			proxytest.NoLeaks(t)
			canary := newIntroduced(t, "http")
			b := startBalanced(t, way.secure, func(s *hostproxy.Server) {
				for _, h := range s.Router.All() {
					if u, ok := h.(*hostproxy.Upstream); ok {
						require.NoError(t, u.Canary(canary.upstream(t, 1), 1))
					}
				}
			})
			s := &sender{b, canary}
			for _, host := range []string{"a.test", "b.test"} {
				_, _, src, _ := s.ask(t, s.client(t, way.protocol, header1("192.0.2.7:4321")), host)
				assert.Equal(t, "192.0.2.7:4321", src)
			}
		})
	}
}

func TestAnAuthenticationServerIsToldTheClientByThePROXYProtocol(t *testing.T) {
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			proxytest.NoLeaks(t)
			auth, target := newIntroduced(t, "http"), newIntroduced(t, "http")
			b := startBalanced(t, way.secure, func(s *hostproxy.Server) {
				require.NoError(t, s.Router.Set("a.test", &hostproxy.ForwardAuth{Auth: auth.upstream(t, 2), Path: "/", Next: target.upstream(t, 2)}))
			})
			s := &sender{b, target}
			_, _, src, _ := s.ask(t, s.client(t, way.protocol, header1("192.0.2.7:4321")), "a.test")
			assert.Equal(t, "192.0.2.7:4321", src)
			assert.Equal(t, []proxyproto.Header{fromTo("192.0.2.7:4321")}, auth.all())
		})
	}
}

func TestTheTargetOfAWebSocketIsToldTheClientByThePROXYProtocol(t *testing.T) {
	proxytest.NoLeaks(t)
	ln := proxytest.Listen(t)
	want := header2("192.0.2.7:4321")
	got := make(chan string, 1)
	proxytest.NewBackendOn(t, ln, func(c *proxytest.BackendConn) {
		head, _ := c.ReadString(len(want))
		got <- head
		if _, err := c.ReadRequest(); err == nil {
			c.Send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello")
		}
	})
	b := newBalanced(t, false, func(s *hostproxy.Server) {
		u := hostproxy.To(ln.Addr().String())
		u.ProxyProtocol = 2
		_ = s.Router.Set("a.test", u)
	})
	c := proxytest.Dial(t, b.addr)
	c.Send(want + "GET / HTTP/1.1\r\n" + host + "Connection: Upgrade\r\nUpgrade: websocket\r\n" + token + "\r\n")
	head, err := c.ReadHead()
	require.NoError(t, err)
	assert.Contains(t, head, " 101 ")
	assert.Equal(t, want, <-got)
	c.Expect("hello")
	c.Close()
}

// A clumsy connection is not a socket, accepts no bytes, or panics.
type clumsy struct {
	net.Conn
	write func() error
	over  chan struct{}
}

func (c *clumsy) Write([]byte) (int, error) { return 0, c.write() }

func (c *clumsy) SetWriteDeadline(at time.Time) error {
	if !at.IsZero() && at.Before(time.Now()) {
		close(c.over)
	}
	return nil
}

func TestAPROXYHeaderThatCannotBeSentIsAFailedDial(t *testing.T) {
	for name, write := range map[string]func(*clumsy) error{
		"an error": func(*clumsy) error { return errors.New("no") },
		"a panic":  func(*clumsy) error { panic("no") },
		"a wait":   func(c *clumsy) error { <-c.over; return errors.New("late") },
	} {
		for _, scheme := range []string{"http", "h2c"} {
			t.Run(name+" over "+scheme, func(t *testing.T) {
				b := newBalanced(t, false, func(s *hostproxy.Server) {
					s.ProxyProtocol = nil
					u := hostproxy.To(scheme + "://127.0.0.1:1")
					u.ProxyProtocol, u.DialTimeout = 2, 50*time.Millisecond
					u.Dial = func(context.Context, string, string) (net.Conn, error) {
						nc, other := net.Pipe()
						other.Close()
						c := &clumsy{Conn: nc, over: make(chan struct{})}
						c.write = func() error { return write(c) }
						return c, nil
					}
					_ = s.Router.Set("a.test", u)
				})
				p := proxytest.Dial(t, b.addr).Do(get)
				assert.GreaterOrEqual(t, p.StatusCode, 500)
				x := <-b.seen
				var e *hostproxy.Error
				require.ErrorAs(t, x.Err, &e)
				assert.Equal(t, "dial", e.Op)
				if name != "a panic" {
					assert.ErrorContains(t, e, "sending the PROXY header")
				}
			})
		}
	}
}

func TestInvalidSettingsOfAnUpstreamsPROXYProtocolAreRefused(t *testing.T) {
	for want, set := range map[string]func(*hostproxy.Upstream){
		"ProxyProtocol is 3: want 1 or 2":                 func(u *hostproxy.Upstream) { u.ProxyProtocol = 3 },
		"ProxyProtocol is -1: want 1 or 2":                func(u *hostproxy.Upstream) { u.ProxyProtocol = -1 },
		"ProxyProtocol cannot be combined with Transport": func(u *hostproxy.Upstream) { u.ProxyProtocol, u.Transport = 1, http.DefaultTransport },
	} {
		u := hostproxy.To("127.0.0.1:1")
		set(u)
		assert.ErrorContains(t, new(hostproxy.Router).Set("a.test", u), want)
	}
}

func TestKeptConnectionsOfManyClientsMakeRoomForOthers(t *testing.T) {
	s := newSender(t, false, "http", 2, nil)
	const clients = 300 // more than the connections that are kept
	for i := range clients {
		c := s.client(t, "h1", header2(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1).String()))
		n, _, _, _ := s.ask(t, c, "a.test")
		again, _, _, _ := s.ask(t, c, "a.test")
		assert.Equal(t, n, again, "the newest one is kept")
		c.CloseIdleConnections()
	}
	assert.Len(t, s.target.all(), clients)
}

// A reserved connection drops the first bytes that are written, which are the
// header.
type reserved struct {
	net.Conn
	begun bool
}

func (c *reserved) Write(p []byte) (int, error) {
	if !c.begun {
		c.begun = true
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func dialReserved(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &reserved{Conn: c}, nil
}
