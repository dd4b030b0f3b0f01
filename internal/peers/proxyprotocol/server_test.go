package proxyprotocol_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	theirs "github.com/pires/go-proxyproto"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// loopback is where the tests' load balancers are. Read-only.
var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// showing routes all hosts to a handler that shows the client's address.
func showing() *hostproxy.Router {
	r := &hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
	r.Handle("*", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		local, _ := q.Context().Value(http.LocalAddrContextKey).(net.Addr)
		fmt.Fprintf(w, "%s %v %s", q.RemoteAddr, local, hostproxy.ClientAddr(q))
	}))
	return r
}

// request is an HTTP/1.1 request that ends its connection.
const request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

// A sent is a header in bytes, and what the Server answers after it: "" if it
// closes the connection.
type sent struct {
	name string
	head []byte
	want string
}

func heads(t *testing.T) []sent {
	v4, v4dst, v6, v6dst := tcp("192.0.2.1:258"), tcp("198.51.100.2:443"), tcp("[2001:db8::1]:6"), tcp("[2001:db8::2]:443")
	path := &net.UnixAddr{Net: "unix", Name: "/run/x"}
	alpn := theirs.TLV{Type: theirs.PP2_TYPE_ALPN, Value: []byte("http/1.1")}
	broken := summed(made(t, 2, v4, v4dst))
	broken[len(broken)-1]++
	const four, six = "192.0.2.1:258 198.51.100.2:443 192.0.2.1", "[2001:db8::1]:6 [2001:db8::2]:443 2001:db8::1"
	return []sent{
		{"TCP4, version 1", made(t, 1, v4, v4dst), four}, {"TCP6, version 1", made(t, 1, v6, v6dst), six},
		{"TCP4, version 2", made(t, 2, v4, v4dst), four}, {"TCP6, version 2", made(t, 2, v6, v6dst), six},
		{"extensions", made(t, 2, v4, v4dst, alpn), four}, {"a checksum", summed(made(t, 2, v6, v6dst, alpn)), six},
		{"UNKNOWN", made(t, 1, nil, nil), "127.0.0.1"}, {"LOCAL", made(t, 2, nil, nil), "127.0.0.1"},
		{"unix", made(t, 2, path, path), "invalid IP"},
		{"a wrong checksum", broken, ""}, {"UDP", made(t, 2, &net.UDPAddr{IP: v4.IP, Port: 1}, &net.UDPAddr{IP: v4.IP, Port: 2}), ""},
		{"no header", nil, ""},
	}
}

func TestOurListenersHandleTheirHeaders(t *testing.T) {
	config, roots := proxytest.TLS(t)
	for _, front := range []string{"plain", "TLS", "Listener"} {
		t.Run(front, func(t *testing.T) {
			proxytest.NoLeaks(t)
			r := showing()
			s := &hostproxy.Server{Router: r, ProxyProtocol: &hostproxy.ProxyProtocol{From: loopback}}
			var addr string
			switch front {
			case "TLS":
				r.TLS.Config = config
				addr = proxytest.Start(t, s).HTTPS
			case "Listener":
				ln := proxytest.Listen(t)
				s.Listeners = []hostproxy.Listener{{Listener: ln, Role: hostproxy.RolePlain, ProxyProtocol: s.ProxyProtocol}}
				s.ProxyProtocol = nil
				proxytest.StartPlain(t, s)
				addr = ln.Addr().String()
			default:
				addr = proxytest.StartPlain(t, s).Plain
			}
			for _, h := range heads(t) {
				for _, size := range []int{len(h.head), 7, 1} {
					got := ask(t, addr, h.head, size, func(c net.Conn) net.Conn {
						if front != "TLS" {
							return c
						}
						return tls.Client(c, &tls.Config{RootCAs: roots, ServerName: "localhost"})
					})
					if h.want == "" {
						assert.NotContains(t, got, "200 OK", "%s in pieces of %d", h.name, size)
						continue
					}
					assert.Contains(t, got, h.want, "%s in pieces of %d", h.name, size)
				}
			}
		})
	}
}

// ask sends a header in pieces of size bytes, and then a request on the
// connection that wrap returns. It returns everything received.
func ask(t *testing.T, addr string, head []byte, size int, wrap func(net.Conn) net.Conn) string {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer nc.Close()
	require.NoError(t, nc.SetDeadline(time.Now().Add(proxytest.Patience)))
	for len(head) > 0 {
		n := min(size, len(head))
		if _, err := nc.Write(head[:n]); err != nil { // refused in the middle of the header
			return ""
		}
		head = head[n:]
	}
	c := wrap(nc)
	if _, err := io.WriteString(c, request); err != nil {
		return ""
	}
	got, _ := io.ReadAll(c)
	return string(got)
}

// A theirTarget is an http.Server with a go-proxyproto Listener.
type theirTarget struct {
	url   string
	roots *tls.Config
}

func newTheirTarget(t *testing.T, scheme string, policy theirs.ConnPolicyFunc) *theirTarget {
	t.Helper()
	inner := proxytest.Listen(t)
	g := &theirTarget{url: scheme + "://" + inner.Addr().String()}
	var ln net.Listener = &theirs.Listener{Listener: inner, ConnPolicy: policy, ReadHeaderTimeout: proxytest.Patience}
	if scheme == "https" {
		config, roots := proxytest.TLS(t, "127.0.0.1")
		config = config.Clone()
		config.NextProtos = []string{"h2", "http/1.1"}
		g.roots, ln = &tls.Config{RootCAs: roots}, tls.NewListener(ln, config)
	}
	hs := &http.Server{Protocols: new(http.Protocols), ErrorLog: log.New(io.Discard, "", 0), ConnContext: func(ctx context.Context, c net.Conn) context.Context {
		if secure, ok := c.(*tls.Conn); ok {
			c = secure.NetConn()
		}
		return context.WithValue(ctx, headKey{}, c)
	}}
	hs.Protocols.SetHTTP1(true)
	hs.Protocols.SetHTTP2(true)
	hs.Protocols.SetUnencryptedHTTP2(true)
	hs.Handler = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if c, ok := q.Context().Value(headKey{}).(*theirs.Conn); ok {
			if h := c.ProxyHeader(); h != nil {
				fmt.Fprintf(w, "%d %x %x %v %v", h.Version, byte(h.Command), byte(h.TransportProtocol), h.SourceAddr, h.DestinationAddr)
				return
			}
		}
		io.WriteString(w, "no header")
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = hs.Serve(ln)
	}()
	t.Cleanup(func() {
		hs.Close()
		<-done
	})
	return g
}

type headKey struct{}

// upstream returns an Upstream of g.
func (g *theirTarget) upstream(version int) *hostproxy.Upstream {
	u := hostproxy.To(g.url)
	u.ProxyProtocol, u.TLS = version, g.roots
	return u
}

func TestTheirListenerReadsOurHeaders(t *testing.T) {
	v4, v6, dst4, dst6 := tcp("192.0.2.1:258"), tcp("[2001:db8::1]:6"), tcp("198.51.100.2:443"), tcp("[2001:db8::2]:443")
	for _, scheme := range []string{"http", "https", "h2c"} {
		for version := 1; version <= 2; version++ {
			t.Run(fmt.Sprintf("%s, version %d", scheme, version), func(t *testing.T) {
				proxytest.NoLeaks(t)
				g := newTheirTarget(t, scheme, nil) // the policy REQUIRE
				r := &hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
				r.Handle("*", g.upstream(version))
				addr := proxytest.StartPlain(t, &hostproxy.Server{Router: r, ProxyProtocol: &hostproxy.ProxyProtocol{From: loopback}}).Plain
				local := map[int]string{1: "1 20 0 <nil> <nil>", 2: "2 20 0 <nil> <nil>"}[version]
				for _, tt := range []struct {
					head []byte
					want string
				}{
					{made(t, 2, v4, dst4), fmt.Sprintf("%d 21 11 192.0.2.1:258 198.51.100.2:443", version)},
					{made(t, 1, v6, dst6), fmt.Sprintf("%d 21 21 [2001:db8::1]:6 [2001:db8::2]:443", version)},
					{made(t, 2, nil, nil), fmt.Sprintf("%d 21 11 127.0.0.1:", version)},
					{made(t, 2, &net.UnixAddr{Net: "unix", Name: "/x"}, &net.UnixAddr{Net: "unix", Name: "/y"}), local},
				} {
					for range 2 {
						got := ask(t, addr, tt.head, len(tt.head), func(c net.Conn) net.Conn { return c })
						assert.True(t, strings.Contains(got, "200 OK") && strings.Contains(got, tt.want), "want %q in %q", tt.want, got)
					}
				}
			})
		}
	}
}

func TestEachOfTheirPoliciesWorksWithOurTargets(t *testing.T) {
	trusted, err := theirs.TrustProxyHeaderFromRanges([]string{"127.0.0.0/8"})
	require.NoError(t, err)
	strangers, err := theirs.TrustProxyHeaderFromRanges([]string{"192.0.2.0/24"})
	require.NoError(t, err)
	fixed := func(p theirs.Policy) theirs.ConnPolicyFunc {
		return func(theirs.ConnPolicyOptions) (theirs.Policy, error) { return p, nil }
	}
	for _, tt := range []struct {
		name    string
		policy  theirs.ConnPolicyFunc
		version int
		want    string
	}{
		{"REQUIRE, with a header", fixed(theirs.REQUIRE), 2, "2 21 11 "},
		{"REQUIRE, without", fixed(theirs.REQUIRE), 0, "502"},
		{"USE, with a header", fixed(theirs.USE), 1, "1 21 11 "},
		{"USE, without", fixed(theirs.USE), 0, "no header"},
		{"IGNORE", fixed(theirs.IGNORE), 2, "no header"},
		{"REJECT, with a header", fixed(theirs.REJECT), 2, "502"},
		{"REJECT, without", fixed(theirs.REJECT), 0, "no header"},
		{"a range that we are in", trusted, 2, "2 21 11 "},
		{"a range that we are not in", strangers, 2, "502"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			proxytest.NoLeaks(t)
			r := &hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
			r.Handle("*", newTheirTarget(t, "http", tt.policy).upstream(tt.version))
			addr := proxytest.StartPlain(t, &hostproxy.Server{Router: r}).Plain
			assert.Contains(t, ask(t, addr, nil, 1, func(c net.Conn) net.Conn { return c }), tt.want)
		})
	}
}

// A health check of ours is not made for a client, and its header says so.
func TestOurHealthChecksSendALocalHeader(t *testing.T) {
	for version := 1; version <= 2; version++ {
		proxytest.NoLeaks(t)
		seen := make(chan string, 100)
		inner := proxytest.Listen(t)
		ln := &theirs.Listener{Listener: inner, ValidateHeader: func(h *theirs.Header) error {
			seen <- fmt.Sprintf("%d %x", h.Version, byte(h.Command))
			return nil
		}}
		hs := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), ReadHeaderTimeout: proxytest.Patience}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = hs.Serve(ln)
		}()
		u := hostproxy.To(inner.Addr().String())
		u.ProxyProtocol = version
		u.Health = &hostproxy.HealthCheck{Path: "/", Interval: 10 * time.Millisecond}
		ctx, cancel := context.WithTimeout(t.Context(), proxytest.Patience)
		require.NoError(t, u.Ready(ctx))
		cancel()
		assert.Equal(t, fmt.Sprintf("%d 20", version), <-seen)
		require.NoError(t, u.Drain(t.Context()))
		hs.Close()
		<-done
	}
}
