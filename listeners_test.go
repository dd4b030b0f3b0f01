package hostproxy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// served runs s on its Listeners alone, and returns a function that ends it.
func served(t *testing.T, s *hostproxy.Server) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, nil, nil) }()
	ended := false
	stop = func() error {
		if ended {
			return nil
		}
		ended = true
		cancel()
		return <-done
	}
	t.Cleanup(func() { assert.NoError(t, stop()) })
	return stop
}

// certified returns a Router and the root of its certificate for a.test. The
// host has a route on the fast lane and one on the handler lane.
func certified(t *testing.T) (*hostproxy.Router, *x509.CertPool) {
	t.Helper()
	backend := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		fmt.Fprintf(w, "routes %s", q.Header.Get("X-Forwarded-For"))
	}))
	r := &hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
	r.Handle("a.test", hostproxy.To(backend.Addr()))
	r.Handle("a.test/own", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		fmt.Fprintf(w, "routes %v", hostproxy.ClientAddr(q))
	}))
	config, roots := proxytest.TLS(t, "a.test")
	r.TLS.Config = config
	return r, roots
}

// unixClient returns a client that connects to a unix socket.
func unixClient(t *testing.T, path string) *http.Client {
	t.Helper()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// socket waits until a process listens on the unix socket.
func socket(t *testing.T, path string) {
	t.Helper()
	proxytest.Eventually(t, "a socket", func() bool {
		c, err := net.Dial("unix", path)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func TestEachListenerServesItsRole(t *testing.T) {
	t.Parallel() // mostly waiting
	for name, middleware := range map[string]bool{"fast lane": false, "handler lane": true} {
		t.Run(name, func(t *testing.T) {
			proxytest.NoLeaks(t)
			r, roots := certified(t)
			var lns [6]net.Listener
			for i := range lns {
				lns[i] = proxytest.Listen(t)
			}
			s := &hostproxy.Server{Router: r, Listeners: []hostproxy.Listener{
				{Listener: lns[0]},
				{Listener: lns[1], Role: hostproxy.RoleTLS},
				{Listener: lns[2], Role: hostproxy.RolePlain},
				{Listener: lns[3], Role: hostproxy.RolePlain, H2C: true},
				{Listener: lns[4], Role: hostproxy.RoleRedirects},
				{Listener: lns[5], Role: hostproxy.RoleInternal, Handler: hostproxy.StatusHandler(r)},
			}}
			if middleware {
				s.Handler = http.HandlerFunc(r.ServeHTTP)
			}
			stop := served(t, s)
			addr := func(i int) string { return lns[i].Addr().String() }
			for i, protocol := range []string{"h1", "h2", "h1", "h2c"} {
				client := proxytest.HTTPClient(t, addr(i), roots, protocol)
				scheme := "http"
				if i < 2 {
					scheme = "https"
				}
				for path, want := range map[string]string{"/": "routes 127.0.0.1", "/own": "routes 127.0.0.1"} {
					status, body := get(t, client, scheme+"://a.test"+path)
					assert.Equal(t, 200, status)
					assert.Equal(t, want, body, "%s at listener %d", path, i)
				}
			}
			_, port, _ := net.SplitHostPort(addr(4))
			_, https, _ := net.SplitHostPort(addr(0))
			res, err := proxytest.HTTPClient(t, addr(4), nil, "h1").Get("http://a.test:" + port + "/x")
			require.NoError(t, err)
			res.Body.Close()
			assert.Equal(t, "https://a.test:"+https+"/x", res.Header.Get("Location"))
			status, body := get(t, proxytest.HTTPClient(t, addr(5), nil, "h1"), "http://any.test/?format=json")
			assert.Equal(t, 200, status)
			for i, role := range []string{"tls", "tls", "plain", "plain", "redirects", "internal"} {
				assert.Contains(t, body, fmt.Sprintf("%q,\n          \"role\": %q", addr(i), role))
			}
			plain := proxytest.Dial(t, addr(2))
			plain.Send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
			assert.Regexp(t, "^HTTP/1.1 505 ", plain.Rest(), "no H2C there")
			require.NoError(t, stop())
			for i := range lns {
				_, err := lns[i].Accept()
				assert.ErrorIs(t, err, net.ErrClosed)
			}
		})
	}
}

func TestListenersWithInvalidFieldsAreRefused(t *testing.T) {
	r, _ := certified(t)
	ln := func() net.Listener { return proxytest.Listen(t) }
	same, nothing, taken := ln(), http.NotFoundHandler(), ln().Addr().String()
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	for want, lns := range map[string][]hostproxy.Listener{
		"Server.Listeners[0] has neither Listener nor Addr":              {{}},
		"Server.Listeners[1] has neither Listener nor Addr":              {{Listener: ln()}, {Role: hostproxy.RolePlain}},
		"has both Listener and Addr \":1\"":                              {{Listener: ln(), Addr: ":1"}},
		"is a nil *net.TCPListener":                                      {{Listener: (*net.TCPListener)(nil)}},
		"has Addr \"unix:x.sock\": a unix socket needs an absolute path": {{Addr: "unix:x.sock"}},
		"has Addr \"unix:@x\": a unix socket needs an absolute path":     {{Addr: "unix:@x"}},
		"has a Mode, which is for a unix socket":                         {{Addr: ":0", Mode: 0o600}},
		"want permissions alone, such as 0660":                           {{Addr: "unix:/x", Mode: fs.ModeSetuid | 0o600}},
		"has Role \"public\": want RoleTLS":                              {{Listener: ln(), Role: "public"}},
		"has H2C, which is for RolePlain":                                {{Listener: ln(), H2C: true}},
		"has a Handler, which is for RoleInternal":                       {{Listener: ln(), Handler: nothing}},
		"has no Handler: RoleInternal requires one":                      {{Listener: ln(), Role: hostproxy.RoleInternal}},
		ruleOfNil:                     {{Listener: ln(), Role: hostproxy.RoleInternal, Handler: (*http.ServeMux)(nil)}},
		"is a listener that does TLS": {{Listener: tls.NewListener(ln(), &tls.Config{})}},
		"Server.Listeners[0] and Server.Listeners[1] are the same listener": {{Listener: same}, {Listener: same, Role: hostproxy.RolePlain}},
		"redirects to HTTPS, and no listener of the Server serves it":       {{Listener: ln(), Role: hostproxy.RoleRedirects}},
		"write \":8080\"":                                                               {{Addr: "8080"}},
		"the file is not a socket":                                                      {{Addr: "unix:" + path}},
		"the path of a unix socket has 105 bytes":                                       {{Addr: fmt.Sprintf("unix:/%0104d", 0)}},
		fmt.Sprintf("listen %q: listen tcp", taken):                                     {{Addr: taken}},
		fmt.Sprintf("listen %q: lstat", "unix:"+filepath.Join(path, "x")):               {{Addr: "unix:" + filepath.Join(path, "x")}},
		"Server.Listeners[0] has H2C, which is for RolePlain: leave it false\nhostprox": {{Listener: ln(), H2C: true}, {}},
	} {
		err := (&hostproxy.Server{Router: r, Listeners: lns}).Serve(t.Context(), nil, nil)
		if assert.Error(t, err, want) {
			assert.Contains(t, err.Error(), want)
			assert.Regexp(t, "^hostproxy: ", err.Error())
		}
		for _, l := range lns {
			if l.Listener != nil && l.Listener != net.Listener((*net.TCPListener)(nil)) {
				_, err := l.Listener.Accept()
				assert.ErrorIs(t, err, net.ErrClosed, want)
			}
		}
	}
}

func TestAListenerInTwoRolesIsRefused(t *testing.T) {
	r, _ := certified(t)
	ln := proxytest.Listen(t)
	s := &hostproxy.Server{Router: r, Listeners: []hostproxy.Listener{{Listener: ln}}}
	assert.ErrorContains(t, s.Serve(t.Context(), ln, nil), "https and Server.Listeners[0] are the same listener")
	ln = proxytest.Listen(t)
	assert.ErrorContains(t, (&hostproxy.Server{Router: r}).Serve(t.Context(), ln, ln), "https and plain are the same listener")
}

func TestServeRefusesAddrAndHTTPAddr(t *testing.T) {
	r, _ := certified(t)
	for _, s := range []*hostproxy.Server{{Router: r, Addr: ":8443"}, {Router: r, HTTPAddr: ":8080"}} {
		ln := proxytest.Listen(t)
		assert.ErrorContains(t, s.Serve(t.Context(), nil, ln), "Serve listens on neither: call ListenAndServe, or use Server.Listeners")
		_, err := ln.Accept()
		assert.ErrorIs(t, err, net.ErrClosed)
	}
}

func TestListenAndServeServesListenersToo(t *testing.T) {
	proxytest.NoLeaks(t)
	r, _ := certified(t)
	path := filepath.Join(t.TempDir(), "status.sock")
	s := &hostproxy.Server{Router: r, Addr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:0", Listeners: []hostproxy.Listener{
		{Addr: "unix:" + path, Role: hostproxy.RoleInternal, Handler: hostproxy.StatusHandler(r)},
	}}
	for range 2 { // the second round opens the same addresses again
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.ListenAndServe(ctx) }()
		socket(t, path)
		client := unixClient(t, path)
		for _, role := range []string{"tls", "redirects", "internal"} {
			proxytest.Eventually(t, role, func() bool {
				_, body := get(t, client, "http://x/?format=json")
				return strings.Contains(body, fmt.Sprintf("\"role\": %q", role))
			})
		}
		client.CloseIdleConnections()
		cancel()
		require.NoError(t, <-done)
		assert.NoFileExists(t, path)
	}
}

func TestASocketOfAnEndedProcessIsReplaced(t *testing.T) {
	r, _ := certified(t)
	path := filepath.Join(t.TempDir(), "a.sock")
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	listener := hostproxy.Listener{Addr: "unix:" + path, Role: hostproxy.RolePlain}
	s := &hostproxy.Server{Router: r, Listeners: []hostproxy.Listener{listener}}
	assert.ErrorContains(t, s.Serve(t.Context(), nil, nil), fmt.Sprintf("hostproxy: listen %q: another process listens on the socket", "unix:"+path))
	left.SetUnlinkOnClose(false)
	left.Close()
	require.FileExists(t, path)
	for mode, want := range map[fs.FileMode]fs.FileMode{0: 0o600, 0o666: 0o666} {
		listener.Mode = mode
		stop := served(t, &hostproxy.Server{Router: r, Listeners: []hostproxy.Listener{listener}})
		socket(t, path)
		info, err := os.Stat(path)
		require.NoError(t, err)
		assert.Equal(t, want, info.Mode().Perm())
		require.NoError(t, stop())
		assert.NoFileExists(t, path)
	}
}

func TestClientsOfAUnixSocketHaveNoAddress(t *testing.T) {
	for name, trusted := range map[string]bool{"unknown": false, "trusted": true} {
		t.Run(name, func(t *testing.T) {
			r, _ := certified(t)
			want := [2]string{"routes ", "routes invalid IP"}
			if trusted {
				r.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
				want = [2]string{"routes 192.0.2.1", "routes 192.0.2.1"}
			}
			path := filepath.Join(t.TempDir(), "a.sock")
			served(t, &hostproxy.Server{Router: r, MaxConnsPerClient: 1, Listeners: []hostproxy.Listener{{Addr: "unix:" + path, Role: hostproxy.RolePlain}}})
			socket(t, path)
			for i, at := range []string{"/", "/own"} {
				// each request has a connection of its own: MaxConnsPerClient
				// does not count them
				client := unixClient(t, path)
				q, err := http.NewRequest("GET", "http://a.test"+at, nil)
				require.NoError(t, err)
				q.Header.Set("X-Forwarded-For", "192.0.2.1")
				res, err := client.Do(q)
				require.NoError(t, err)
				body, err := io.ReadAll(res.Body)
				require.NoError(t, err)
				res.Body.Close()
				assert.Equal(t, want[i], string(body), at)
			}
		})
	}
}

func TestMaxConnsCountsPerListenerAndMaxConnsPerClientPerServer(t *testing.T) {
	r, _ := certified(t)
	a, b := proxytest.Listen(t), proxytest.Listen(t)
	for name, s := range map[string]*hostproxy.Server{
		"MaxConns is of each":              {Router: r, MaxConns: 1},
		"MaxConnsPerClient is of all":      {Router: r, MaxConnsPerClient: 1},
		"MaxConnsPerClient of two is full": {Router: r, MaxConnsPerClient: 2},
	} {
		t.Run(name, func(t *testing.T) {
			a, b = proxytest.Listen(t), proxytest.Listen(t)
			s.Listeners = []hostproxy.Listener{{Listener: a, Role: hostproxy.RolePlain}, {Listener: b, Role: hostproxy.RolePlain}}
			served(t, s)
			ask := func(ln net.Listener) bool { // keeps the connection open
				c := proxytest.Dial(t, ln.Addr().String())
				c.Send("GET /own HTTP/1.1\r\nHost: a.test\r\n\r\n")
				line, _ := bufio.NewReader(c).ReadString('\n')
				return line == "HTTP/1.1 200 OK\r\n"
			}
			assert.True(t, ask(a))
			assert.Equal(t, s.MaxConnsPerClient != 1, ask(b))
			assert.False(t, ask(a))
			assert.False(t, ask(b))
		})
	}
}

func TestASecondServeLeavesTheListenersOfTheFirst(t *testing.T) {
	t.Parallel() // mostly waiting
	r, _ := certified(t)
	ln := proxytest.Listen(t)
	s := &hostproxy.Server{Router: r, Listeners: []hostproxy.Listener{{Listener: ln, Role: hostproxy.RolePlain}}}
	stop := served(t, s)
	proxytest.Dial(t, ln.Addr().String()).Do("GET /own HTTP/1.1\r\nHost: a.test\r\n\r\n")
	other := proxytest.Listen(t)
	require.ErrorContains(t, s.Serve(t.Context(), nil, other), "Serve is in progress")
	_, err := other.Accept()
	assert.ErrorIs(t, err, net.ErrClosed)
	proxytest.Dial(t, ln.Addr().String()).Do("GET /own HTTP/1.1\r\nHost: a.test\r\n\r\n")
	require.NoError(t, stop())
	assert.ErrorIs(t, s.Serve(t.Context(), nil, nil), net.ErrClosed, "a listener of the program is opened once")
}

func TestOnlyOneOfTwoConcurrentServeCallsServes(t *testing.T) {
	proxytest.NoLeaks(t)
	for range 20 {
		r, _ := certified(t)
		ln := proxytest.Listen(t)
		s := &hostproxy.Server{Router: r, Listeners: []hostproxy.Listener{{Listener: ln, Role: hostproxy.RolePlain}, {Addr: "127.0.0.1:0"}}}
		ctx, cancel := context.WithCancel(t.Context())
		errs := make(chan error, 2)
		for range 2 {
			go func() { errs <- s.Serve(ctx, nil, nil) }()
		}
		assert.ErrorContains(t, <-errs, "Serve is in progress")
		proxytest.Dial(t, ln.Addr().String()).Do("GET /own HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
		cancel()
		assert.NoError(t, <-errs)
	}
}

func TestAListenerThatBreaksEndsTheOthers(t *testing.T) {
	r, _ := certified(t)
	a, b := proxytest.Listen(t), proxytest.Listen(t)
	s := &hostproxy.Server{Router: r, Listeners: []hostproxy.Listener{{Listener: a, Role: hostproxy.RolePlain}, {Listener: b}}}
	done := make(chan error, 1)
	go func() { done <- s.Serve(t.Context(), nil, nil) }()
	proxytest.Dial(t, a.Addr().String()).Do("GET /own HTTP/1.1\r\nHost: a.test\r\n\r\n")
	a.Close()
	assert.ErrorIs(t, <-done, net.ErrClosed)
	_, err := b.Accept()
	assert.ErrorIs(t, err, net.ErrClosed)
}

// The first listener's drain has nothing to wait for. Its end must not cut the
// connection that the other listener carries.
func TestAPassthroughOfOneListenerOutlivesTheDrainOfAnother(t *testing.T) {
	r, _ := certified(t)
	target := proxytest.Listen(t)
	require.NoError(t, r.Set("pass.test", &hostproxy.Passthrough{Addr: target.Addr().String()}))
	lns := []net.Listener{proxytest.Listen(t), proxytest.Listen(t), proxytest.Listen(t)}
	s := &hostproxy.Server{Router: r}
	for _, ln := range lns {
		s.Listeners = append(s.Listeners, hostproxy.Listener{Listener: ln})
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, nil, nil) }()
	client, err := net.Dial("tcp", lns[1].Addr().String())
	require.NoError(t, err)
	defer client.Close()
	go func() { _ = tls.Client(client, &tls.Config{ServerName: "pass.test"}).Handshake() }()
	carried, err := target.Accept()
	require.NoError(t, err)
	hello := make([]byte, 5)
	_, err = io.ReadFull(carried, hello)
	require.NoError(t, err)
	cancel()
	for _, ln := range lns {
		_, err := ln.Accept()
		require.ErrorIs(t, err, net.ErrClosed)
	}
	_, err = carried.Write([]byte("still here"))
	require.NoError(t, err)
	select {
	case err := <-done:
		t.Fatalf("Serve ended with %v", err)
	default:
	}
	client.Close()
	carried.Close()
	assert.NoError(t, <-done)
}

// Only one of the listeners may be behind a load balancer.
func TestAListenerHasAPROXYProtocolOfItsOwn(t *testing.T) {
	r, _ := certified(t)
	own := &hostproxy.ProxyProtocol{From: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	whole := &hostproxy.ProxyProtocol{From: []netip.Prefix{netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("127.0.0.1/32")}}
	answers := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "internal") })
	lns := []net.Listener{proxytest.Listen(t), proxytest.Listen(t), proxytest.Listen(t)}
	served(t, &hostproxy.Server{Router: r, ProxyProtocol: whole, Listeners: []hostproxy.Listener{
		{Listener: lns[0], Role: hostproxy.RolePlain},
		{Listener: lns[1], Role: hostproxy.RoleInternal, Handler: answers},
		{Listener: lns[2], Role: hostproxy.RoleInternal, Handler: answers, ProxyProtocol: own},
	}})
	get := "GET /own HTTP/1.1\r\nHost: a.test\r\n\r\n"
	header := "PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n"
	assert.Equal(t, "routes 192.0.2.1", string(proxytest.Dial(t, lns[0].Addr().String()).Do(header+get).Content), "the setting of the Server")
	assert.Equal(t, "internal", string(proxytest.Dial(t, lns[1].Addr().String()).Do(get).Content), "an internal listener has none")
	assert.Equal(t, "internal", string(proxytest.Dial(t, lns[2].Addr().String()).Do(header+get).Content), "its own")

	bad := &hostproxy.Server{Router: r, Listeners: []hostproxy.Listener{{Addr: "127.0.0.1:0", Role: hostproxy.RolePlain, ProxyProtocol: new(hostproxy.ProxyProtocol)}}}
	assert.ErrorContains(t, bad.Serve(t.Context(), nil, nil), "hostproxy: Server.Listeners[0].ProxyProtocol.From is empty")
	bad.Listeners[0].ProxyProtocol = &hostproxy.ProxyProtocol{From: own.From, Timeout: 5}
	assert.ErrorContains(t, bad.Serve(t.Context(), nil, nil), "hostproxy: Server.Listeners[0].ProxyProtocol.Timeout is 5ns, below a microsecond")
}
