package http3_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
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

func TestALargeHeadIsRefused(t *testing.T) {
	s := newSite(t, "a.test")
	s.router.Handle("a.test", hello("a"))
	s.start(t)
	// an HTTP/2 client knows the limit, and sends nothing
	for _, p := range []string{"h1", "h3"} {
		c := s.client(t, p)
		for _, want := range []int{200, 431, 200} {
			q, err := http.NewRequest("GET", "https://a.test/", nil)
			require.NoError(t, err)
			if want == 431 {
				q.Header.Set("X-Large", strings.Repeat("x", 20<<10))
			}
			assert.Equal(t, want, ask(t, c, q).Status, p)
		}
	}
}

func TestTooManyFieldsAreRefusedOverAllProtocols(t *testing.T) {
	s := newSite(t, "a.test")
	s.router.Handle("a.test", hello("a"))
	s.start(t)
	for _, p := range protocols {
		c := s.client(t, p)
		for n, want := range map[int]int{90: 200, 101: 431} {
			q, err := http.NewRequest("GET", "https://a.test/", nil)
			require.NoError(t, err)
			for range n {
				q.Header.Add("X-Many", "")
			}
			assert.Equal(t, want, ask(t, c, q).Status, "%s %d", p, n)
		}
	}
}

func TestStreamsOfAConnectionAreLimited(t *testing.T) {
	proxytest.NoLeaks(t)
	var now, most atomic.Int64
	goOn := make(chan bool)
	s := newSite(t, "a.test")
	s.own.MaxStreams = 3
	s.router.Handle("a.test", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		most.Store(max(most.Load(), now.Add(1)))
		<-goOn
		now.Add(-1)
	}))
	s.start(t)
	c := s.client(t, "h3")
	done := make(chan error)
	for range 9 {
		go func() {
			res, err := c.Get("https://a.test/")
			if err == nil {
				res.Body.Close()
			}
			done <- err
		}()
	}
	for range 9 {
		goOn <- true
	}
	for range 9 {
		assert.NoError(t, <-done)
	}
	assert.LessOrEqual(t, most.Load(), int64(3))
}

func TestConnectionsAreLimited(t *testing.T) {
	for name, set := range map[string]func(*http3.Server){
		"in all":     func(s *http3.Server) { s.MaxConns = 2 },
		"per client": func(s *http3.Server) { s.MaxConnsPerClient = 2 },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, "a.test")
			s.router.Handle("a.test", hello("a"))
			set(s.own)
			s.start(t)
			first, second := s.client(t, "h3"), s.client(t, "h3")
			for _, c := range []*http.Client{first, second, first} {
				status, _, _ := get(t, c, "https://a.test/")
				assert.Equal(t, 200, status)
			}
			_, err := s.client(t, "h3").Get("https://a.test/")
			var refused *quic.TransportError
			require.ErrorAs(t, err, &refused)
			assert.Equal(t, quic.ConnectionRefused, refused.ErrorCode)
			first.Transport.(*h3.Transport).Close()
			proxytest.Eventually(t, "there is room again", func() bool {
				res, err := s.client(t, "h3").Get("https://a.test/")
				return err == nil && res.Body.Close() == nil
			})
		})
	}
}

func TestAnIdleConnectionIsClosed(t *testing.T) {
	s := newSite(t, "a.test")
	s.own.IdleTimeout = 50 * time.Millisecond
	s.start(t)
	conn, err := quic.DialAddr(t.Context(), s.own.LocalAddr().String(), &tls.Config{RootCAs: s.roots, ServerName: "a.test", NextProtos: []string{"h3"}}, nil)
	if err != nil { // the handshake fails without a route
		s.router.Handle("a.test", hello("a"))
		conn, err = quic.DialAddr(t.Context(), s.own.LocalAddr().String(), &tls.Config{RootCAs: s.roots, ServerName: "a.test", NextProtos: []string{"h3"}}, nil)
	}
	require.NoError(t, err)
	<-conn.Context().Done()
	assert.ErrorContains(t, context.Cause(conn.Context()), "idle timeout")
}

// A client that sends a part of a request head and then nothing counts as idle.
func TestAConnectionWithAPartOfAHeadIsClosed(t *testing.T) {
	proxytest.NoLeaks(t)
	s := newSite(t, "a.test")
	s.router.Handle("a.test", hello("a"))
	s.own.IdleTimeout = 50 * time.Millisecond
	s.start(t)
	conn, err := quic.DialAddr(t.Context(), s.own.LocalAddr().String(), &tls.Config{RootCAs: s.roots, ServerName: "a.test", NextProtos: []string{"h3"}}, nil)
	require.NoError(t, err)
	str, err := conn.OpenStream()
	require.NoError(t, err)
	_, err = str.Write([]byte{1, 100, 0}) // HEADERS, 100 bytes long
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), proxytest.Patience)
	defer cancel()
	select {
	case <-conn.Context().Done():
		assert.ErrorContains(t, context.Cause(conn.Context()), "idle timeout")
	case <-ctx.Done():
		t.Error("the connection is open")
	}
}

// A request in flight keeps its connection open.
func TestAConnectionWithARequestIsNotIdle(t *testing.T) {
	s := newSite(t, "a.test")
	s.own.IdleTimeout = 100 * time.Millisecond // also limits the wait for the head
	s.router.Handle("a.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		select {
		case <-q.Context().Done():
		case <-time.NewTimer(300 * time.Millisecond).C:
			_, _ = io.WriteString(w, "late")
		}
	}))
	s.start(t)
	_, body, _ := get(t, s.client(t, "h3"), "https://a.test/")
	assert.Equal(t, "late", body)
}

// A session can be resumed, but the client cannot send requests in 0-RTT.
func TestNoRequestIsAcceptedIn0RTT(t *testing.T) {
	s := newSite(t, "a.test")
	s.router.Handle("a.test", hello("a"))
	s.start(t)
	cache := tls.NewLRUClientSessionCache(1)
	for i := range 2 {
		c := h3Client(t, &tls.Config{RootCAs: s.roots, ClientSessionCache: cache}, s.own.LocalAddr().String)
		var conn *quic.Conn
		tr := c.Transport.(*h3.Transport)
		tr.Dial = func(ctx context.Context, _ string, conf *tls.Config, q *quic.Config) (_ *quic.Conn, err error) {
			conn, err = quic.DialAddrEarly(ctx, s.own.LocalAddr().String(), conf, q)
			return conn, err
		}
		q, err := http.NewRequest(h3.MethodGet0RTT, "https://a.test/", nil)
		require.NoError(t, err)
		assert.Equal(t, 200, ask(t, c, q).Status)
		assert.Equal(t, i == 1, conn.ConnectionState().TLS.DidResume)
		assert.False(t, conn.ConnectionState().Used0RTT)
		tr.Close()
	}
}

func TestAllInvalidSettingsAreReported(t *testing.T) {
	busy, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer busy.Close()
	for want, s := range map[string]*http3.Server{
		`Server.Addr is "localhost": want host:port`:              {Addr: "localhost"},
		`Server.Addr is "127.0.0.1:99999": want a port`:           {Addr: "127.0.0.1:99999"},
		`Server.AltSvcPort is -1`:                                 {AltSvcPort: -1},
		`Server.BindTimeout is set, but Addr is "127.0.0.1:0"`:    {Addr: "127.0.0.1:0", BindTimeout: 1},
		`Server.MaxStreams is negative`:                           {MaxStreams: -1},
		`Server.MaxHeaderBytes is negative`:                       {MaxHeaderBytes: -1},
		`Server.MaxConns is negative`:                             {MaxConns: -1},
		`Server.MaxConnsPerClient is negative`:                    {MaxConnsPerClient: -1},
		`Server.HandshakeTimeout is negative`:                     {HandshakeTimeout: -1},
		`hostproxy: Server.Companions[0]: listen udp 127.0.0.1:`:  {Addr: busy.LocalAddr().String()},
		`Server.Companions[0]: http3: Server.BindTimeout is nega`: {BindTimeout: -1},
	} {
		r := new(hostproxy.Router)
		r.TLS.Config, _ = proxytest.TLS(t, "a.test")
		err := (&hostproxy.Server{Router: r, Companions: []hostproxy.Companion{s}}).Serve(t.Context(), proxytest.Listen(t), nil)
		assert.ErrorContains(t, err, want)
	}
	old := &tls.Config{MaxVersion: tls.VersionTLS12}
	assert.ErrorContains(t, new(http3.Server).Listen(old), "http3: Router.TLS.Config.MaxVersion is TLS 1.2: HTTP/3 needs TLS 1.3")
	assert.ErrorContains(t, new(http3.Server).Serve(t.Context(), nil), "http3: Serve without Listen")
	assert.NoError(t, new(http3.Server).Close())
}

// In a hand-over, the new process has the TCP listeners while the old one keeps
// the UDP socket until its connections end.
func TestTheSocketOfTheOldProcessIsTakenOverLater(t *testing.T) {
	proxytest.NoLeaks(t)
	old, next := newSite(t, "a.test"), newSite(t, "a.test")
	old.router.Handle("a.test", hello("old"))
	next.router.Handle("a.test", hello("next"))
	old.start(t)
	addr := old.own.LocalAddr().String()
	next.own.Addr, next.own.BindTimeout = addr, time.Minute
	next.run = proxytest.Start(t, next.server)
	_, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	_, body, h := get(t, next.client(t, "h2"), "https://a.test/")
	assert.Equal(t, "next 2", body)
	assert.Contains(t, h.Get("Alt-Svc"), ":"+port+`"`)
	_, body, _ = get(t, old.client(t, "h3"), "https://a.test/")
	assert.Equal(t, "old 3", body)
	assert.NoError(t, old.run.Stop())
	proxytest.Eventually(t, "the socket is open", func() bool { return next.own.LocalAddr() != nil })
	_, body, _ = get(t, next.client(t, "h3"), "https://a.test/")
	assert.Equal(t, "next 3", body)
}

func TestASocketThatStaysBusyIsAnError(t *testing.T) {
	busy, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer busy.Close()
	s := newSite(t, "a.test")
	s.router.Handle("a.test", hello("a"))
	s.own.Addr, s.own.BindTimeout = busy.LocalAddr().String(), 10*time.Millisecond
	s.run = proxytest.Start(t, s.server)
	c := s.client(t, "h2")
	proxytest.Eventually(t, "clients are told to forget it", func() bool {
		_, _, h := get(t, c, "https://a.test/")
		return h.Get("Alt-Svc") == "clear"
	})
	assert.ErrorContains(t, s.run.StopLate(), "Server.Companions[0]: listen udp")
}

func TestAServerServesAgain(t *testing.T) {
	proxytest.NoLeaks(t)
	s := newSite(t, "a.test")
	s.router.Handle("a.test", hello("a"))
	s.start(t)
	s.own.Addr = s.own.LocalAddr().String()
	for range 2 {
		status, _, _ := get(t, s.client(t, "h3"), "https://a.test/")
		assert.Equal(t, 200, status)
		require.NoError(t, s.run.Stop())
		s.server = &hostproxy.Server{Router: s.router, Companions: []hostproxy.Companion{s.own}}
		s.start(t)
	}
}

func TestAHandlerThatEndsItsGoroutineIsCutOffOverAllProtocols(t *testing.T) {
	proxytest.NoLeaks(t)
	s := newSite(t, "a.test")
	s.router.Handle("a.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/begun" {
			_, _ = io.WriteString(w, "some")
			_ = http.NewResponseController(w).Flush()
		}
		runtime.Goexit()
	}))
	s.router.Handle("a.test/fine", hello("a"))
	s.start(t)
	for _, p := range protocols {
		c := s.client(t, p)
		for path, cut := range map[string]bool{"/": true, "/begun": true, "/fine": false} {
			q, err := http.NewRequest("GET", "https://a.test"+path, nil)
			require.NoError(t, err)
			got := ask(t, c, q)
			assert.Equal(t, cut, got.Cut, "%s %s", p, path)
			assert.NotContains(t, got.Body, "deadline", "%s %s", p, path)
		}
	}
}
