package e2e_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxyproto"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

var (
	// Read-only.
	loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	// Read-only.
	noPeers = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
)

// header1 and header2 return headers of both versions, from a client to
// 198.51.100.2:443 (in IPv6 form for an IPv6 client).
func header1(client string) string { return string(proxyproto.AppendV1(nil, fromTo(client))) }
func header2(client string) string { return string(proxyproto.AppendV2(nil, fromTo(client))) }

func fromTo(client string) proxyproto.Header {
	return proxyproto.Of(netip.MustParseAddrPort(client), netip.MustParseAddrPort("198.51.100.2:443"))
}

// block2 returns a header of version 2 with block and a checksum.
func block2(command, family byte, block string) string {
	b := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), command, family)
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(block)+7)), block+"\x03\x00\x04\x00\x00\x00\x00"...)
	binary.BigEndian.PutUint32(b[len(b)-4:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return string(b)
}

// A balanced site is behind a load balancer. a.test takes the fast lane.
// b.test, which has a hook, and c.test, whose handler returns what it sees,
// take the handler lane.
type balanced struct {
	router *hostproxy.Router
	target *proxytest.Server
	log    *proxytest.Log
	addr   string
	roots  *x509.CertPool
	run    *proxytest.Running
	seen   chan hostproxy.Exchange
}

// newBalanced starts a Server with ProxyProtocol, over TLS if secure. change
// may set further fields.
func newBalanced(t *testing.T, secure bool, change func(*hostproxy.Server)) *balanced {
	t.Helper()
	proxytest.NoLeaks(t)
	return startBalanced(t, secure, change)
}

// startBalanced is newBalanced without a check for leaks.
func startBalanced(t *testing.T, secure bool, change func(*hostproxy.Server)) *balanced {
	t.Helper()
	b := &balanced{router: new(hostproxy.Router), log: new(proxytest.Log), seen: make(chan hostproxy.Exchange, 1000)}
	b.router.Logger = slog.New(slog.NewTextHandler(b.log, nil))
	b.router.Observe = func(x *hostproxy.Exchange) { b.seen <- *x }
	b.target = proxytest.NewServer(t, nil)
	hooked := hostproxy.To(b.target.Addr())
	hooked.ModifyResponse = func(*http.Response) error { return nil }
	b.router.Handle("a.test", hostproxy.To(b.target.Addr()))
	b.router.Handle("b.test", hooked)
	b.router.Handle("c.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		fmt.Fprintf(w, "%s|%s|%v", q.RemoteAddr, hostproxy.ClientAddr(q), q.Context().Value(http.LocalAddrContextKey))
	}))
	s := &hostproxy.Server{Router: b.router, ProxyProtocol: &hostproxy.ProxyProtocol{From: loopback}, H2C: !secure}
	if change != nil {
		change(s)
	}
	if !secure {
		b.run = proxytest.StartPlain(t, s)
		b.addr = b.run.Plain
		return b
	}
	b.router.TLS.Config, b.roots = proxytest.TLS(t, "a.test", "b.test", "c.test")
	b.router.TLS.Storage = newStorage(t)
	b.run = proxytest.Start(t, s)
	b.addr = b.run.HTTPS
	return b
}

// client returns a client whose connections begin with first.
func (b *balanced) client(t *testing.T, protocol, first string) *http.Client {
	c := proxytest.HTTPClient(t, b.addr, b.roots, protocol)
	tr := c.Transport.(*http.Transport)
	dial := tr.DialContext
	tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := dial(ctx, network, addr)
		if err == nil {
			nc = &gluer{Conn: nc, first: first}
		}
		return nc, err
	}
	return c
}

// A gluer sends first together with the first bytes that are written.
type gluer struct {
	net.Conn
	first string
}

func (g *gluer) Write(p []byte) (int, error) {
	if g.first == "" {
		return g.Conn.Write(p)
	}
	first := g.first
	g.first = ""
	n, err := g.Conn.Write(append([]byte(first), p...))
	return max(n-len(first), 0), err
}

// ways are the protocols of requests. Read-only.
var ways = []struct {
	name, protocol string
	secure         bool
}{{"HTTP/1.1", "h1", false}, {"h2c", "h2c", false}, {"HTTP/1.1 over TLS", "h1", true}, {"HTTP/2", "h2", true}}

func (b *balanced) scheme() string {
	if b.roots != nil {
		return "https"
	}
	return "http"
}

// inBoth runs check with TLS and without.
func inBoth(t *testing.T, check func(t *testing.T, secure bool)) {
	t.Helper()
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS %t", secure), func(t *testing.T) { check(t, secure) })
	}
}

func TestThePROXYHeaderSaysWhoTheClientIs(t *testing.T) {
	t.Parallel()
	const own = "127.0.0.1"
	headers := []struct{ name, first, client, local string }{
		{"version 1", header1("192.0.2.7:4321"), "192.0.2.7", "198.51.100.2:443"},
		{"version 1, IPv6", "PROXY TCP6 2001:db8::7 2001:db8::8 4321 443\r\n", "2001:db8::7", "[2001:db8::8]:443"},
		{"version 1, UNKNOWN", "PROXY UNKNOWN\r\n", own, ""},
		{"version 1, UNKNOWN with addresses", "PROXY UNKNOWN 192.0.2.7 192.0.2.8 1 2\r\n", own, ""},
		{"version 2", header2("192.0.2.7:4321"), "192.0.2.7", "198.51.100.2:443"},
		{"version 2, IPv6 and IPv4", header2("[2001:db8::7]:4321"), "2001:db8::7", "198.51.100.2:443"},
		{"version 2, LOCAL", string(proxyproto.AppendV2(nil, proxyproto.Header{})), own, ""},
		{"version 2, UNSPEC", block2(0x21, 0, "\xe0\x00\x02xy"), own, ""},
		{"version 2, extensions", block2(0x21, 0x11, "\xc0\x00\x02\x07\xc6\x33\x64\x02\x10\xe1\x01\xbb"+"\x01\x00\x02h2"+"\x04\x0b\xb8"+strings.Repeat("x", 3000)), "192.0.2.7", "198.51.100.2:443"},
		{"version 2, unix", block2(0x21, 0x31, strings.Repeat("/", 216)), "", ""},
	}
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			b := newBalanced(t, way.secure, nil)
			for _, h := range headers {
				t.Run(h.name, func(t *testing.T) {
					c := b.client(t, way.protocol, h.first)
					// the last one on a used connection
					for _, host := range []string{"a.test", "b.test", "c.test", "a.test"} {
						res, err := c.Get(b.scheme() + "://" + host + "/")
						require.NoError(t, err)
						body, err := io.ReadAll(res.Body)
						require.NoError(t, err)
						res.Body.Close()
						require.Equal(t, 200, res.StatusCode)
						x := <-b.seen
						assert.Equal(t, h.client, text(x.Client), host)
						assert.Equal(t, h.client, text(x.Peer), host)
						if host == "c.test" {
							b.checkHandler(t, string(body), h.client, h.local)
							continue
						}
						assert.Equal(t, h.client, b.target.Last(t).Header.Get("X-Forwarded-For"), host)
					}
				})
			}
			assert.Empty(t, refusalsOf(t, b.router))
		})
	}
}

// text returns an address, or "" if there is none.
func text(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func (b *balanced) checkHandler(t *testing.T, body, client, local string) {
	t.Helper()
	part := strings.Split(body, "|")
	require.Len(t, part, 3)
	switch {
	case client == "":
		assert.Equal(t, []string{"unknown", "invalid IP"}, part[:2])
	default:
		assert.True(t, strings.HasPrefix(part[0], client+":") || strings.HasPrefix(part[0], "["+client+"]:"), part[0])
		assert.Equal(t, client, part[1])
	}
	if local == "" {
		local = b.addr
	}
	assert.Equal(t, local, part[2])
}

func TestTrustedProxiesAreLookedUpBehindThePROXYHeader(t *testing.T) {
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			var r *hostproxy.Router
			b := newBalanced(t, way.secure, func(s *hostproxy.Server) {
				r = s.Router
				r.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("127.0.0.0/8")}
			})
			for _, tt := range []struct{ first, want string }{
				// a proxy behind the load balancer
				{header2("192.0.2.7:1"), "203.0.113.9"},
				// trust in the load balancer does not matter
				{header2("192.0.2.8:1"), "192.0.2.8"},
				// nor does a unix socket in the header
				{block2(0x21, 0x31, strings.Repeat("/", 216)), ""},
				// loopback is trusted, also as the source
				{string(proxyproto.AppendV2(nil, fromTo("127.0.0.1:1"))), "203.0.113.9"},
			} {
				c := b.client(t, way.protocol, tt.first)
				q, err := http.NewRequest("GET", b.scheme()+"://a.test/", nil)
				require.NoError(t, err)
				q.Header.Set("X-Forwarded-For", "203.0.113.9")
				res, err := c.Do(q)
				require.NoError(t, err)
				res.Body.Close()
				assert.Equal(t, tt.want, text((<-b.seen).Client))
			}
		})
	}
}

func TestAnInvalidPROXYHeaderClosesTheConnection(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS %t", secure), func(t *testing.T) {
			b := newBalanced(t, secure, nil)
			for _, tt := range []struct{ name, first, why string }{
				{"none where one is due, a request", get, string(proxyproto.ErrNone)},
				{"none where one is due, a ClientHello", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", string(proxyproto.ErrNone)},
				{"a wrong checksum", strings.ReplaceAll(block2(0x21, 0x11, header2("192.0.2.7:1")[16:]), "\xc0\x00\x02\x07", "\xc0\x00\x02\x08"), string(proxyproto.ErrChecksum)},
				{"UDP", strings.Replace(header2("192.0.2.7:1"), "\x21\x11", "\x21\x12", 1), string(proxyproto.ErrFamily)},
				{"too long", "\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff", string(proxyproto.ErrLong)},
				{"a line too long", "PROXY UNKNOWN " + strings.Repeat("x", 100), string(proxyproto.ErrLong)},
				{"a wrong port", "PROXY TCP4 192.0.2.7 192.0.2.8 1 99999\r\n", string(proxyproto.ErrAddress)},
			} {
				before := refusalsOf(t, b.router)["connections ProxyProtocol: "+tt.why]
				c := proxytest.Dial(t, b.addr)
				_ = c.Conn.Send(tt.first)
				rest, err := c.ReadAll()
				assert.NoError(t, err, tt.name)
				assert.Empty(t, rest, tt.name)
				assert.Equal(t, before+1, refusalsOf(t, b.router)["connections ProxyProtocol: "+tt.why], tt.name)
			}
			assert.Equal(t, 1, strings.Count(b.log.String(), string(proxyproto.ErrNone)), "a line for two of a kind")
			assert.Contains(t, b.log.String(), `msg="connections refused" reason="ProxyProtocol: the connection does not begin with a PROXY header" count=1 latest_client=127.0.0.1 remedy=`)
			proxytest.Eventually(t, "the end", func() bool { return open(t, b.router) == 0 })
			assert.Empty(t, b.seen)
		})
	}
}

func TestAPROXYHeaderOfAnUntrustedPeerIsABadRequest(t *testing.T) {
	b := newBalanced(t, false, func(s *hostproxy.Server) { s.ProxyProtocol.From = noPeers })
	for _, first := range []string{header1("192.0.2.7:1"), header2("192.0.2.7:1")} {
		assert.Contains(t, proxytest.Dial(t, b.addr).Do(first+get).Status, "400")
		<-b.seen
	}
	assert.Equal(t, 200, proxytest.Dial(t, b.addr).Do(get).StatusCode)
	assert.Equal(t, "127.0.0.1", (<-b.seen).Peer.String())
}

func TestAPROXYHeaderOfAnUntrustedPeerIsNoClientHello(t *testing.T) {
	b := newBalanced(t, true, func(s *hostproxy.Server) { s.ProxyProtocol.From = noPeers })
	for _, first := range []string{header1("192.0.2.7:1"), header2("192.0.2.7:1")} {
		nc, err := net.Dial("tcp", b.addr)
		require.NoError(t, err)
		assert.Error(t, tls.Client(&gluer{nc, first}, &tls.Config{RootCAs: b.roots, ServerName: "a.test"}).Handshake())
		nc.Close()
	}
	assert.Equal(t, 200, proxytest.DialTLS(t, b.addr, &tls.Config{RootCAs: b.roots, ServerName: "a.test"}).Do(get).StatusCode)
}

// A crumbling connection returns one byte per Read.
type crumbling struct{ *net.TCPConn }

func (c crumbling) Read(p []byte) (int, error) { return c.TCPConn.Read(p[:min(len(p), 1)]) }

func TestAPROXYHeaderMayComeInPieces(t *testing.T) {
	inBoth(t, func(t *testing.T, secure bool) {
		b := newBalanced(t, secure, nil)
		for _, first := range []string{header1("192.0.2.7:1"), header2("192.0.2.7:1"), header2("[2001:db8::7]:1")} {
			nc := proxytest.Dial(t, b.addr).Conn.Conn
			for i := range len(first) {
				_, err := io.WriteString(nc, first[i:i+1])
				require.NoError(t, err)
			}
			if secure {
				nc = tls.Client(nc, &tls.Config{RootCAs: b.roots, ServerName: "a.test"})
			}
			assert.True(t, answered(t, proxytest.NewConn(nc)))
			assert.NotEqual(t, "127.0.0.1", (<-b.seen).Client.String())
		}
	})
}

func TestAPROXYHeaderIsReadOffConnectionsOfOtherTypes(t *testing.T) {
	proxytest.NoLeaks(t)
	target := proxytest.NewServer(t, http.HandlerFunc(wrappedTarget))
	var bare, in, out atomic.Int64
	for _, tt := range []struct {
		name, first string
		wrap        func(*net.TCPConn) net.Conn
	}{
		{"byte by byte", "", func(c *net.TCPConn) net.Conn { return crumbling{c} }},
		{"counted", "", func(c *net.TCPConn) net.Conn { return &metered{c, &in, &out} }},
		{"buffered behind a line", "first\n", func(c *net.TCPConn) net.Conn { return &proxied{TCPConn: c} }},
		{"buffered, and unbuffered later", "first\n", func(c *net.TCPConn) net.Conn { return &candid{&proxied{TCPConn: c}, &bare} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := new(hostproxy.Router)
			r.Logger = panicsFail(t)
			seen := make(chan string, 10)
			r.Observe = func(x *hostproxy.Exchange) { seen <- x.Client.String() }
			r.Handle("a.test", hostproxy.To(target.Addr()))
			server := &hostproxy.Server{Router: r, MaxConnsPerClient: 10, ProxyProtocol: &hostproxy.ProxyProtocol{From: loopback}}
			run := proxytest.StartPlain(t, runner(func(ctx context.Context, _, plain net.Listener) error {
				return server.Serve(ctx, nil, &wrapping{plain, tt.wrap})
			}))
			c := proxytest.Dial(t, run.Plain)
			one := "POST /a HTTP/1.1\r\nHost: a.test\r\n" + sized("hello")
			c.Send(tt.first + header2("192.0.2.7:1") + one + one)
			for range 2 {
				p := c.Response("POST")
				require.Equal(t, 200, p.StatusCode)
				assert.True(t, "/ahello"+wrappedBody == string(p.Content), "the answer is whole")
				assert.Equal(t, "192.0.2.7", <-seen)
			}
			assert.True(t, "/a"+wrappedBody == string(c.Do("GET /a HTTP/1.1\r\nHost: a.test\r\n\r\n").Content))
		})
	}
	assert.Positive(t, bare.Load(), "what is below the header is looked for")
}

func TestClientsBehindALoadBalancerHaveTheirOwnLimits(t *testing.T) {
	b := newBalanced(t, false, func(s *hostproxy.Server) {
		s.MaxConnsPerClient = 1
		s.Router.RateLimit = &hostproxy.RateLimit{Rate: 0.001, Burst: 2}
	})
	dial := func(client string) *proxytest.Conn {
		c := proxytest.Dial(t, b.addr)
		c.Send(header2(client))
		return c.Conn
	}
	one := dial("192.0.2.7:1")
	assert.True(t, answered(t, one))
	assert.False(t, answered(t, dial("192.0.2.7:2")), "a second connection of a client")
	other := dial("192.0.2.8:1")
	assert.True(t, answered(t, other), "another client")
	assert.Equal(t, map[string]uint64{"connections MaxConnsPerClient": 1}, refusalsOf(t, b.router))
	assert.True(t, answered(t, one))
	assert.False(t, answered(t, one), "the rate is the client's")
	assert.True(t, answered(t, other))
	one.Close()
	proxytest.Eventually(t, "the end", func() bool { return open(t, b.router) == 1 })
	assert.False(t, answered(t, dial("192.0.2.7:3")), "429")
}

func TestAWaitForAPROXYHeaderIsBounded(t *testing.T) {
	const late = "connections ProxyProtocol: the PROXY header did not arrive in time"
	inBoth(t, func(t *testing.T, secure bool) {
		b := newBalanced(t, secure, func(s *hostproxy.Server) { s.ProxyProtocol.Timeout, s.MaxConns = 100*time.Millisecond, 1 })
		quiet := proxytest.Dial(t, b.addr)
		proxytest.Eventually(t, "the connection", func() bool { return open(t, b.router) == 1 })
		rest, err := proxytest.Dial(t, b.addr).ReadAll()
		assert.True(t, err == nil && rest == "", "it has its place in MaxConns")
		rest, err = quiet.ReadAll()
		assert.True(t, err == nil && rest == "")
		assert.Equal(t, uint64(1), refusalsOf(t, b.router)[late])
		proxytest.Eventually(t, "the end", func() bool { return open(t, b.router) == 0 })

		slow, first := proxytest.Dial(t, b.addr), header1("192.0.2.7:1")
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		sent := 0
		for ; sent < len(first); sent++ {
			if slow.Conn.Send(first[sent:sent+1]) != nil {
				break
			}
			<-tick.C
		}
		assert.Less(t, sent, len(first), "a byte now and then is not enough")
		assert.Equal(t, uint64(2), refusalsOf(t, b.router)[late])
		proxytest.Eventually(t, "the end", func() bool { return open(t, b.router) == 0 })
		assert.Equal(t, 1, strings.Count(b.log.String(), "did not arrive in time"))
	})
}

func TestAPeerThatLeavesBeforeItsPROXYHeaderIsNotCounted(t *testing.T) {
	b := newBalanced(t, false, nil)
	for _, first := range []string{"", "P", "PROXY TCP4 1", header2("192.0.2.7:1")[:13]} {
		c := proxytest.Dial(t, b.addr)
		c.Send(first)
		require.NoError(t, c.CloseWrite())
		rest, err := c.ReadAll()
		assert.True(t, err == nil && rest == "")
	}
	proxytest.Eventually(t, "the end", func() bool { return open(t, b.router) == 0 })
	assert.Empty(t, refusalsOf(t, b.router))
	assert.Empty(t, b.log.String())
}

func TestADrainEndsTheWaitForAPROXYHeader(t *testing.T) {
	inBoth(t, func(t *testing.T, secure bool) {
		b := newBalanced(t, secure, func(s *hostproxy.Server) { s.ProxyProtocol.Timeout, s.DrainTimeout = -1, -1 })
		quiet, begun := proxytest.Dial(t, b.addr), proxytest.Dial(t, b.addr)
		begun.Send("PROXY ")
		proxytest.Eventually(t, "the connections", func() bool { return open(t, b.router) == 2 })
		require.NoError(t, b.run.Stop())
		for _, c := range []*proxytest.Client{quiet, begun} {
			rest, err := c.ReadAll()
			assert.True(t, err == nil && rest == "")
		}
	})
}

func TestAPROXYHeaderIsReadOnAUnixSocket(t *testing.T) {
	proxytest.NoLeaks(t)
	for _, due := range []bool{true, false} {
		path := filepath.Join(t.TempDir(), "s")
		ln, err := net.Listen("unix", path)
		require.NoError(t, err)
		r := &hostproxy.Router{Logger: silent()}
		r.Handle("a.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { fmt.Fprint(w, hostproxy.ClientAddr(q)) }))
		s := &hostproxy.Server{Router: r, ProxyProtocol: &hostproxy.ProxyProtocol{From: noPeers}}
		first, want := "", "invalid IP"
		if due {
			s.ProxyProtocol.From, first, want = loopback, header1("192.0.2.7:1"), "192.0.2.7"
		}
		proxytest.StartPlain(t, runner(func(ctx context.Context, _, plain net.Listener) error {
			plain.Close()
			return s.Serve(ctx, nil, ln)
		}))
		nc, err := net.Dial("unix", path)
		require.NoError(t, err)
		defer nc.Close()
		c := proxytest.NewConn(nc)
		require.NoError(t, c.Send(first+get))
		p, err := c.ReadResponse("GET")
		require.NoError(t, err)
		assert.Equal(t, want, string(p.Content))
	}
}

func TestAPassthroughSendsTheAddressesOfThePROXYHeader(t *testing.T) {
	proxytest.NoLeaks(t)
	target := proxytest.Listen(t)
	r := &hostproxy.Router{Logger: silent()}
	r.TLS.Storage = newStorage(t)
	r.Handle("away.test", &hostproxy.Passthrough{Addr: target.Addr().String(), ProxyProtocol: true})
	run := proxytest.Start(t, &hostproxy.Server{Router: r, MaxConnsPerClient: 1, ProxyProtocol: &hostproxy.ProxyProtocol{From: loopback}})
	nc := proxytest.Dial(t, run.HTTPS).Conn.Conn
	go func() {
		_ = tls.Client(&gluer{nc, header1("192.0.2.7:4321")}, &tls.Config{ServerName: "away.test"}).Handshake()
	}()
	c, err := target.Accept()
	require.NoError(t, err)
	defer c.Close()
	want := header2("192.0.2.7:4321")
	got := make([]byte, len(want)+1)
	_, err = io.ReadFull(c, got)
	require.NoError(t, err)
	assert.Equal(t, want+"\x16", string(got), "and then the ClientHello")
}

func TestThePlainListenerBesideTLSReadsThePROXYHeader(t *testing.T) {
	b := newBalanced(t, true, nil)
	c := proxytest.Dial(t, b.run.Plain)
	assert.Equal(t, 308, c.Do(header1("192.0.2.7:1")+get).StatusCode)
	assert.Equal(t, 308, c.Do(get).StatusCode, "only once a connection")
	rest, err := func() (string, error) {
		c := proxytest.Dial(t, b.run.Plain)
		_ = c.Conn.Send(get)
		return c.ReadAll()
	}()
	assert.True(t, err == nil && rest == "")
}

func TestInvalidSettingsOfThePROXYProtocolAreRefused(t *testing.T) {
	r := &hostproxy.Router{Logger: silent()}
	for want, p := range map[string]hostproxy.ProxyProtocol{
		"Server.ProxyProtocol.From is empty: want the addresses":                                {},
		`Server.ProxyProtocol.From[1] is "invalid Prefix": want an IPv4 or IPv6 prefix`:         {From: []netip.Prefix{loopback[0], {}}},
		`Server.ProxyProtocol.From[0] is "::ffff:10.0.0.0/104": want an IPv4 or IPv6 prefix`:    {From: []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")}},
		"Server.ProxyProtocol.Timeout is 5ns, below a microsecond: multiply by a unit, as in 5": {From: loopback, Timeout: 5},
	} {
		err := (&hostproxy.Server{Router: r, ProxyProtocol: &p}).Serve(t.Context(), nil, proxytest.Listen(t))
		assert.ErrorContains(t, err, "hostproxy: "+want)
	}
}

func TestALateChangeOfThePROXYProtocolIsReported(t *testing.T) {
	var s *hostproxy.Server
	b := newBalanced(t, false, func(server *hostproxy.Server) { s = server })
	assert.True(t, answered(t, func() *proxytest.Conn {
		c := proxytest.Dial(t, b.addr)
		c.Send(header1("192.0.2.7:1"))
		return c.Conn
	}()))
	require.NoError(t, b.router.Check())
	s.ProxyProtocol.Timeout = time.Minute
	assert.ErrorContains(t, b.router.Check(), "ProxyProtocol")
	s.ProxyProtocol.Timeout = 0
	require.NoError(t, b.router.Check())
}
