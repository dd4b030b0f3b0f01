package http3_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	h3 "github.com/quic-go/quic-go/http3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/http3"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestHTTP3IsAnnouncedAndServed(t *testing.T) {
	proxytest.NoLeaks(t)
	s := newSite(t, "a.test")
	s.router.Handle("a.test", hello("a"))
	s.start(t)
	_, port, err := net.SplitHostPort(s.own.LocalAddr().String())
	require.NoError(t, err)
	for _, p := range protocols {
		status, body, h := get(t, s.client(t, p), "https://a.test/")
		assert.Equal(t, 200, status)
		assert.Equal(t, "a "+p[1:], body)
		assert.Equal(t, `h3=":`+port+`"; ma=86400`, h.Get("Alt-Svc"), p)
	}
}

func TestHTTP3IsNotAnnouncedIfThatIsDisabled(t *testing.T) {
	s := newSite(t, "a.test")
	s.router.Handle("a.test", hello("a"))
	s.own.AltSvcAge = -1
	s.start(t)
	for _, p := range protocols {
		_, _, h := get(t, s.client(t, p), "https://a.test/")
		assert.Empty(t, h.Values("Alt-Svc"), p)
	}
}

// A client certificate shown to one host does not count for another.
func TestClientCertificatesCountForTheirHostOverAllProtocols(t *testing.T) {
	proxytest.NoLeaks(t)
	proof, clients := proxytest.Certificate(t, "client.example")
	s := newSite(t, "open.test", "admin.test")
	s.router.TLS.Host = func(pattern string) (hostproxy.HostTLS, error) {
		if pattern == "admin.test" {
			return hostproxy.HostTLS{ClientAuth: &hostproxy.ClientAuth{CAs: clients}}, nil
		}
		return hostproxy.HostTLS{}, nil
	}
	backend := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		fmt.Fprint(w, q.Host, q.Header.Get("Client-Cert") != "")
	}))
	u := hostproxy.To(backend.Addr())
	u.Rewrite = func(p *httputil.ProxyRequest) { hostproxy.SetClientCert(p.Out.Header, p.In.TLS) }
	s.router.Handle("open.test", u)
	s.router.Handle("admin.test", u)
	s.start(t)
	for _, tt := range []struct {
		sni, host string
		proves    bool
		want      int // 0: no request gets through
		body      string
	}{
		{"open.test", "open.test", false, 200, "open.testfalse"},
		{"open.test", "open.test", true, 200, "open.testfalse"},
		{"open.test", "admin.test", false, 421, ""},
		{"open.test", "admin.test", true, 421, ""},
		{"admin.test", "admin.test", false, 0, ""},
		{"admin.test", "admin.test", true, 200, "admin.testtrue"},
		{"admin.test", "open.test", true, 421, ""},
	} {
		for _, p := range protocols {
			var certs []tls.Certificate
			if tt.proves {
				certs = append(certs, proof)
			}
			q, err := http.NewRequest("GET", "https://"+tt.sni+"/", nil)
			require.NoError(t, err)
			q.Host = tt.host
			got := ask(t, s.client(t, p, certs...), q)
			assert.Equal(t, tt.want, got.Status, "%s: %+v", p, tt)
			assert.Contains(t, got.Body, tt.body, p)
		}
	}
}

func TestOneRateLimitHoldsForAllProtocols(t *testing.T) {
	s := newSite(t, "a.test")
	s.router.Handle("a.test", hello("a"))
	s.router.RateLimit = &hostproxy.RateLimit{Rate: 0.001, Burst: 3}
	s.start(t)
	for _, want := range []int{200, 429} {
		for _, p := range protocols {
			status, _, h := get(t, s.client(t, p), "https://a.test/")
			assert.Equal(t, want, status, p)
			assert.Equal(t, want == 429, h.Get("Retry-After") != "", p)
		}
	}
}

func TestTheHeadersOfARouterAreSetOverAllProtocols(t *testing.T) {
	backend := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Frame-Options", "target") }))
	s := newSite(t, "a.test")
	s.router.ResponseHeader.Set = http.Header{"X-Frame-Options": {"DENY"}}
	s.router.HSTS = new(hostproxy.HSTS)
	s.router.Handle("a.test", hostproxy.To(backend.Addr()))
	s.router.Handle("a.test/own", hello("own"))
	s.router.Handle("a.test/none", hostproxy.To(proxytest.Refused(t)))
	s.router.Handle("a.test/moved", hostproxy.Redirect("b.test"))
	s.start(t)
	for _, p := range protocols {
		for path, want := range map[string]int{"/": 200, "/own": 200, "/none": 502, "/moved": 308} {
			status, _, h := get(t, s.client(t, p), "https://a.test"+path)
			assert.Equal(t, want, status, p)
			assert.Equal(t, []string{"DENY"}, h["X-Frame-Options"], "%s over %s", path, p)
			assert.Equal(t, []string{"max-age=0"}, h["Strict-Transport-Security"], "%s over %s", path, p)
		}
	}
}

func TestTheClientAddressIsResolvedOverAllProtocols(t *testing.T) {
	for name, trusted := range map[string]bool{"trusted": true, "not trusted": false} {
		t.Run(name, func(t *testing.T) {
			backend := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				fmt.Fprint(w, q.Header["X-Forwarded-For"])
			}))
			s := newSite(t, "a.test")
			s.router.Handle("a.test", hostproxy.To(backend.Addr()))
			s.router.Handle("a.test/own", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { fmt.Fprint(w, hostproxy.ClientAddr(q)) }))
			want := [2]string{"[127.0.0.1]", "127.0.0.1"}
			if trusted {
				s.router.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
				want = [2]string{"[203.0.113.9, 127.0.0.1]", "203.0.113.9"}
			}
			s.start(t)
			for _, p := range protocols {
				for i, path := range []string{"/", "/own"} {
					q, err := http.NewRequest("GET", "https://a.test"+path, nil)
					require.NoError(t, err)
					q.Header.Set("X-Forwarded-For", "203.0.113.9")
					assert.Equal(t, want[i], ask(t, s.client(t, p), q).Body, p)
				}
			}
		})
	}
}

func TestFlushedEventsArriveAtOnceOverAllProtocols(t *testing.T) {
	proxytest.NoLeaks(t)
	more := make(chan bool)
	events := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for range 3 {
			fmt.Fprint(w, "data: x\n\n")
			_ = http.NewResponseController(w).Flush()
			<-more
		}
	})
	s := newSite(t, "a.test")
	s.router.Handle("a.test", hostproxy.To(proxytest.NewServer(t, events).Addr()))
	s.router.Handle("a.test/own", events)
	s.start(t)
	for _, p := range protocols {
		for _, path := range []string{"/", "/own"} {
			res, err := s.client(t, p).Get("https://a.test" + path)
			require.NoError(t, err)
			for range 3 {
				b := make([]byte, 9)
				_, err := io.ReadFull(res.Body, b)
				require.NoError(t, err)
				assert.Equal(t, "data: x\n\n", string(b))
				more <- true
			}
			_, err = res.Body.Read(make([]byte, 1))
			assert.Equal(t, io.EOF, err)
			res.Body.Close()
		}
	}
}

func TestAClientDisconnectEndsItsRequest(t *testing.T) {
	proxytest.NoLeaks(t)
	began, left := make(chan bool), make(chan bool)
	s := newSite(t, "a.test")
	s.router.Handle("a.test", hostproxy.To(proxytest.NewServer(t, http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		began <- true
		<-q.Context().Done()
		left <- true
	})).Addr()))
	records := make(chan int, 1)
	s.router.Observe = func(x *hostproxy.Exchange) { records <- x.Status }
	s.start(t)
	for _, p := range protocols {
		ctx, cancel := context.WithCancel(t.Context())
		q, err := http.NewRequestWithContext(ctx, "GET", "https://a.test/", nil)
		require.NoError(t, err)
		done := make(chan bool)
		go func() {
			_, err := s.client(t, p).Do(q)
			assert.Error(t, err)
			close(done)
		}()
		<-began
		cancel()
		<-left
		<-done
		assert.Equal(t, 499, <-records, p)
	}
}

// openWebSocket opens a WebSocket over HTTP/3 (RFC 9220).
func openWebSocket(t *testing.T, c *http.Client, url string) (*http.Response, *io.PipeWriter) {
	t.Helper()
	body, send := io.Pipe()
	q, err := http.NewRequest(http.MethodConnect, url, body)
	require.NoError(t, err)
	q.Proto, q.ProtoMajor, q.ProtoMinor = "websocket", 3, 0
	q.Header.Set("Sec-Websocket-Version", "13")
	res, err := c.Do(q)
	require.NoError(t, err)
	t.Cleanup(func() { send.Close(); res.Body.Close() })
	return res, send
}

// socketTarget echoes 20 bytes after the upgrade.
func socketTarget(t *testing.T) string {
	t.Helper()
	return proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		q, err := c.ReadRequest()
		if err != nil {
			return
		}
		if q.Header.Get("Upgrade") != "websocket" {
			_ = c.Send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
			return
		}
		_ = c.Send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + proxytest.Accept(q.Header) + "\r\n\r\n")
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		_, _ = io.CopyN(c.Conn, c.Conn, 20)
		_, _ = io.Copy(io.Discard, c.Conn)
	}).Addr()
}

func TestAWebSocketWorksOverHTTP3(t *testing.T) {
	proxytest.NoLeaks(t)
	s := newSite(t, "a.test")
	s.router.Handle("a.test", hostproxy.To(socketTarget(t)))
	s.start(t)
	client := s.client(t, "h3")
	res, send := openWebSocket(t, client, "https://a.test/ws")
	require.Equal(t, 200, res.StatusCode)
	for _, text := range []string{"\x82\x84\x00\x00\x00\x00some", "\x82\x84\x00\x00\x00\x00more"} {
		_, err := io.WriteString(send, text)
		require.NoError(t, err)
		got := make([]byte, len(text))
		_, err = io.ReadFull(res.Body, got)
		require.NoError(t, err)
		assert.Equal(t, text, string(got))
	}
	status, _, _ := get(t, client, "https://a.test/")
	assert.Equal(t, 400, status, "a request beside it, on the same connection")
	s.run.Drain()
	got, err := io.ReadAll(io.LimitReader(res.Body, 4))
	require.NoError(t, err)
	assert.Equal(t, "\x88\x02\x03\xe9", string(got), "a Close frame with the status 1001")
	send.Close()
	res.Body.Close()
	assert.NoError(t, s.run.Stop())
}

func TestConnectIsRefused(t *testing.T) {
	s := newSite(t, "a.test")
	s.router.Handle("a.test", hostproxy.To(socketTarget(t)))
	s.start(t)
	for _, protocol := range []string{"connect-udp", "HTTP/1.1"} {
		q, err := http.NewRequest(http.MethodConnect, "https://a.test/", nil)
		require.NoError(t, err)
		q.Proto = protocol
		assert.Equal(t, 501, ask(t, s.client(t, "h3"), q).Status, protocol)
	}
}

// A balancer sends new connections to the site in to.
type balancer struct {
	to atomic.Pointer[site]
}

func TestNoRequestFailsWhileASiteIsReplaced(t *testing.T) {
	backend := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		_, _ = io.Copy(w, q.Body)
		fmt.Fprint(w, "done")
	})).Addr()
	first, second := newSite(t, "a.test"), newSite(t, "a.test")
	for _, s := range []*site{first, second} {
		s.router.Handle("a.test", hostproxy.To(backend))
		s.start(t)
	}
	var b balancer
	b.to.Store(first)
	const clients, each = 8, 60
	var asked, failed atomic.Int64
	var half sync.WaitGroup
	half.Add(clients)
	var all sync.WaitGroup
	for range clients {
		c := h3Client(t, &tls.Config{InsecureSkipVerify: true}, func() string { return b.to.Load().own.LocalAddr().String() })
		all.Go(func() {
			for i := range each {
				if i == each/3 {
					half.Done()
				}
				res, err := c.Post("https://a.test/", "text/plain", strings.NewReader("text"))
				asked.Add(1)
				if err != nil {
					failed.Add(1)
					t.Log(err)
					continue
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || res.StatusCode != 200 || string(body) != "textdone" {
					failed.Add(1)
					t.Log(res.StatusCode, string(body), err)
				}
			}
		})
	}
	half.Wait()
	b.to.Store(second)
	assert.NoError(t, first.run.Stop())
	all.Wait()
	assert.Equal(t, int64(clients*each), asked.Load())
	assert.Zero(t, failed.Load())
	assert.NotZero(t, backendConns(second))
}

// backendConns returns how many HTTP/3 connections s has.
func backendConns(s *site) int { return http3.Conns(s.own) }

func TestADrainFinishesRequestsAndRefusesNewConnections(t *testing.T) {
	proxytest.NoLeaks(t)
	began, goOn := make(chan bool), make(chan bool)
	s := newSite(t, "a.test")
	s.router.Handle("a.test", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		began <- true
		<-goOn
		fmt.Fprint(w, "whole")
	}))
	s.start(t)
	results := make(chan result, 2)
	for _, p := range []string{"h1", "h3"} {
		c := s.client(t, p)
		go func() {
			res, err := c.Get("https://a.test/")
			if err != nil {
				results <- result{Body: err.Error()}
				return
			}
			defer res.Body.Close()
			b, _ := io.ReadAll(res.Body)
			results <- result{Status: res.StatusCode, Body: string(b), Header: res.Header, Proto: res.Proto}
		}()
		<-began
	}
	s.run.Drain()
	proxytest.Eventually(t, "new connections are refused", func() bool {
		_, err := h3Client(t, &tls.Config{RootCAs: s.roots}, s.own.LocalAddr().String).Get("https://a.test/")
		var refused *quic.TransportError
		return errors.As(err, &refused) && refused.ErrorCode == quic.ConnectionRefused
	})
	close(goOn)
	for range 2 {
		r := <-results
		assert.Equal(t, "whole", r.Body)
		if !strings.HasPrefix(r.Proto, "HTTP/3") { // HTTP/3 has announced the shutdown by GOAWAY
			assert.Empty(t, r.Header.Values("Alt-Svc"), "withdrawn")
		}
	}
	assert.NoError(t, s.run.Stop())
}

// A client that ignores GOAWAY does not delay the shutdown.
func TestIdleConnectionsEndInADrain(t *testing.T) {
	proxytest.NoLeaks(t)
	s := newSite(t, "a.test")
	s.router.Handle("a.test", hello("a"))
	s.start(t)
	conn, err := quic.DialAddr(t.Context(), s.own.LocalAddr().String(), &tls.Config{RootCAs: s.roots, ServerName: "a.test", NextProtos: []string{"h3"}}, nil)
	require.NoError(t, err)
	proxytest.Eventually(t, "accepted", func() bool { return backendConns(s) == 1 })
	assert.NoError(t, s.run.Stop())
	<-conn.Context().Done()
	var app *quic.ApplicationError
	require.ErrorAs(t, context.Cause(conn.Context()), &app)
	assert.Equal(t, quic.ApplicationErrorCode(h3.ErrCodeNoError), app.ErrorCode)
}

func TestARequestThatOutlivesTheDrainIsCutOff(t *testing.T) {
	proxytest.NoLeaks(t)
	began := make(chan bool)
	s := newSite(t, "a.test")
	s.server.DrainTimeout = time.Millisecond
	s.router.Handle("a.test", http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		began <- true
		<-q.Context().Done()
	}))
	s.start(t)
	done := make(chan error)
	go func() {
		_, err := s.client(t, "h3").Get("https://a.test/")
		done <- err
	}()
	<-began
	assert.ErrorContains(t, s.run.StopLate(), "Server.Companions[0]: drain timeout")
	<-done // an error, or what the handler sent
}

// Otherwise one hostproxy.Server could close the sockets of the other.
func TestAServerServesForOneHostproxyServerAtATime(t *testing.T) {
	proxytest.NoLeaks(t)
	first, second := newSite(t, "a.test"), newSite(t, "a.test")
	first.router.Handle("a.test", hello("first"))
	second.router.Handle("a.test", hello("second"))
	first.start(t)
	second.server.Companions = first.server.Companions
	err := second.server.Serve(t.Context(), proxytest.Listen(t), nil)
	assert.EqualError(t, err, "hostproxy: Server.Companions[0]: http3: Server is in use: a Server serves once at a time, give each hostproxy.Server one of its own")
	_, body, _ := get(t, first.client(t, "h3"), "https://a.test/")
	assert.Equal(t, "first 3", body)
	require.NoError(t, first.run.Stop())
	second.own = first.own
	second.own.Addr = first.own.LocalAddr().String()
	second.start(t)
	_, body, _ = get(t, second.client(t, "h3"), "https://a.test/")
	assert.Equal(t, "second 3", body)
}
