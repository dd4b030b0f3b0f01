package hostproxy_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// serve runs s over plain HTTP. It returns the address and a function that
// stops the server. The test fails if the server does not drain cleanly.
func serve(t *testing.T, s *hostproxy.Server) (addr string, stop func()) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, nil, ln) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			assert.NoError(t, err)
		case <-time.After(proxytest.Patience):
			t.Error("the server does not drain")
		}
	}
	t.Cleanup(stop)
	return ln.Addr().String(), stop
}

func TestServerServesKeepAliveAndPipelinedRequestsInOrder(t *testing.T) {
	backend := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		b, _ := io.ReadAll(q.Body)
		fmt.Fprintf(w, "%s %s", q.URL.Path, b)
	}))
	var r hostproxy.Router
	r.Handle("a.test", hostproxy.To(backend.Addr()))
	addr, _ := serve(t, &hostproxy.Server{Router: &r})
	c := proxytest.Dial(t, addr)
	c.Send("GET /1 HTTP/1.1\r\nHost: a.test\r\n\r\n" +
		"POST /2 HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\ntwo" +
		"POST /3 HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nthr\r\n2\r\nee\r\n0\r\n\r\n" +
		"HEAD /4 HTTP/1.1\r\nHost: a.test\r\n\r\n" +
		"GET /5 HTTP/1.1\r\nHost: a.test\r\n\r\n")
	for _, want := range []string{"/1 ", "/2 two", "/3 three"} {
		assert.Equal(t, want, string(c.Response("GET").Content))
	}
	assert.Equal(t, "3", c.Response("HEAD").Header.Get("Content-Length"))
	assert.Equal(t, "/5 ", string(c.Response("GET").Content))
}

func TestServerStreamsBodies(t *testing.T) {
	backend := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		assert.NoError(t, http.NewResponseController(w).EnableFullDuplex())
		if q.ContentLength >= 0 {
			w.Header().Set("Content-Length", fmt.Sprint(q.ContentLength))
		}
		io.Copy(w, q.Body)
	}))
	var r hostproxy.Router
	r.Handle("a.test", hostproxy.To(backend.Addr()))
	addr, _ := serve(t, &hostproxy.Server{Router: &r})
	client := proxytest.HTTPClient(t, addr, nil, "h1")
	for _, n := range []int{0, 1, 1000, 16 << 10, 40 << 10, 1 << 20, 5 << 20} {
		for _, chunked := range []bool{false, true} {
			body := bytes.Repeat([]byte("0123456789abcdef"), n/16+1)[:n]
			q, _ := http.NewRequest("POST", "http://a.test/", bytes.NewReader(body))
			if chunked {
				q.Body, q.ContentLength = io.NopCloser(bytes.NewReader(body)), -1
			}
			res, err := client.Do(q)
			require.NoError(t, err)
			got, err := io.ReadAll(res.Body)
			res.Body.Close()
			require.NoError(t, err)
			assert.True(t, bytes.Equal(body, got), "%d bytes, chunked %v", n, chunked)
		}
	}
}

func TestServerRefusesRequestsThatCouldDesynchronise(t *testing.T) {
	backend := proxytest.NewServer(t, nil)
	var r hostproxy.Router
	r.Handle("a.test", hostproxy.To(backend.Addr()))
	addr, _ := serve(t, &hostproxy.Server{Router: &r})
	for name, raw := range map[string]string{
		"Content-Length with Transfer-Encoding": "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"two lengths":                           "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
		"a signed length":                       "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: +3\r\n\r\nabc",
		"a coding that is not chunked":          "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
		"Transfer-Encoding on HTTP/1.0":         "POST / HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"a bare LF":                             "GET / HTTP/1.1\nHost: a.test\r\n\r\n",
		"a folded line":                         "GET / HTTP/1.1\r\nHost: a.test\r\nX: a\r\n b\r\n\r\n",
		"space before the colon":                "GET / HTTP/1.1\r\nHost : a.test\r\n\r\n",
		"no Host":                               "GET / HTTP/1.1\r\n\r\n",
		"two Hosts":                             "GET / HTTP/1.1\r\nHost: a.test\r\nHost: a.test\r\n\r\n",
		"a fragment":                            "GET /#x HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"a NUL":                                 "GET / HTTP/1.1\r\nHost: a.test\r\nX: \x00\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := proxytest.Dial(t, addr)
			c.Send(raw)
			rest := c.Rest()
			assert.True(t, strings.HasPrefix(rest, "HTTP/1.1 400 "), rest)
			assert.Contains(t, rest, "Connection: close")
		})
	}
	assert.Empty(t, backend.Seen(), "nothing reaches the upstream")
	for _, raw := range []string{
		"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
	} {
		c := proxytest.Dial(t, addr)
		c.Send(raw)
		assert.Contains(t, c.Rest(), "HTTP/1.1 501 ", raw)
	}
}

func TestServerAnswersUnusualRequests(t *testing.T) {
	backend := proxytest.NewServer(t, nil)
	var r hostproxy.Router
	r.Handle("a.test", hostproxy.To(backend.Addr()))
	r.Handle("h.test", says("handler"))
	addr, _ := serve(t, &hostproxy.Server{Router: &r})
	c := proxytest.Dial(t, addr)
	for _, tt := range []struct{ raw, want string }{
		{"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", "ok"},
		{"PROPFIND / HTTP/1.1\r\nHost: a.test\r\n\r\n", "ok"},
		{"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", "ok"},
		{"GET / HTTP/1.1\r\nHost: h.test\r\n\r\n", "handler"},
		{"POST / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi", "ok"},
		{"GET / HTTP/1.0\r\nHost: a.test\r\n\r\n", "ok"},
	} {
		res := c.Do(tt.raw)
		assert.Equal(t, 200, res.StatusCode)
		assert.Equal(t, tt.want, string(res.Content))
	}
}

func TestServerFinishesRequestsInFlightInADrain(t *testing.T) {
	t.Parallel() // mostly waiting
	release, entered := make(chan struct{}), make(chan struct{}, 2)
	backend := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/slow" {
			entered <- struct{}{}
			<-release
		}
	}))
	var r hostproxy.Router
	r.Handle("a.test", hostproxy.To(backend.Addr()))
	addr, stop := serve(t, &hostproxy.Server{Router: &r})
	idle, fast, full := proxytest.Dial(t, addr), proxytest.Dial(t, addr), proxytest.Dial(t, addr)
	assert.Equal(t, 200, idle.Do("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").StatusCode)
	fast.Send("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n")
	full.Send("GET http://a.test/slow HTTP/1.1\r\nHost: a.test\r\n\r\n")
	<-entered
	<-entered
	drained := make(chan struct{})
	go func() { stop(); close(drained) }()
	assert.Empty(t, idle.Rest(), "an idle connection is closed at once")
	close(release)
	for _, c := range []*proxytest.Client{fast, full} {
		res := c.Response("GET")
		assert.Equal(t, 200, res.StatusCode, "the request in flight finishes")
		assert.Empty(t, c.Rest())
	}
	<-drained
}

func TestServerCutsOffRequestsThatOutliveTheDrain(t *testing.T) {
	backend := proxytest.NewBackend(t, func(c *proxytest.BackendConn) { c.ReadRequest(); c.ReadAll() })
	var r hostproxy.Router
	r.Handle("a.test", hostproxy.To(backend.Addr()))
	ln := proxytest.Listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- (&hostproxy.Server{Router: &r, DrainTimeout: 20 * time.Millisecond}).Serve(ctx, nil, ln)
	}()
	c := proxytest.Dial(t, ln.Addr().String())
	c.Send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	backend.WaitRequests(1)
	cancel()
	assert.ErrorContains(t, <-done, "drain timeout")
	assert.Empty(t, c.Rest())
}

func TestAPipelinedRequestBehindAStreamedBodyDoesNotChangeTheRecord(t *testing.T) {
	backend := proxytest.NewServer(t, nil)
	seen := make(chan hostproxy.Exchange, 2)
	r := hostproxy.Router{Observe: func(x *hostproxy.Exchange) { seen <- *x }}
	r.Handle("a.test", hostproxy.To(backend.Addr()))
	addr, _ := serve(t, &hostproxy.Server{Router: &r})
	c := proxytest.Dial(t, addr)
	c.Send("POST /first HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
	proxytest.Eventually(t, "the head", func() bool { return len(backend.Seen()) == 1 })
	c.Send("3\r\ndef\r\n0\r\n\r\nGET /second HTTP/1.1\r\nHost: a.test\r\n\r\n")
	assert.Equal(t, 200, c.Response("POST").StatusCode)
	assert.Equal(t, 200, c.Response("GET").StatusCode)
	first, second := <-seen, <-seen
	assert.Equal(t, "POST /first", first.Method+" "+first.Path)
	assert.EqualValues(t, 6, first.RequestBytes)
	assert.Equal(t, "GET /second", second.Method+" "+second.Path)
}

func TestTheFastLaneNoticesThatTheClientDisconnects(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	backend := proxytest.NewBackend(t, func(c *proxytest.BackendConn) { c.ReadRequest(); c.ReadAll() })
	seen := make(chan hostproxy.Exchange, 1)
	r := hostproxy.Router{Observe: func(x *hostproxy.Exchange) { seen <- *x }}
	r.Handle("a.test", hostproxy.To(backend.Addr()))
	addr, _ := serve(t, &hostproxy.Server{Router: &r})
	c := proxytest.Dial(t, addr)
	c.Send("GET /p?q HTTP/1.1\r\nHost: a.test\r\n\r\n")
	backend.WaitRequests(1)
	c.Close()
	x := <-seen
	assert.Equal(t, 499, x.Status)
	var e *hostproxy.Error
	require.ErrorAs(t, x.Err, &e)
	assert.Equal(t, hostproxy.SideClient, e.Side)
}

func TestRateLimitRefusesAClientAboveItsRate(t *testing.T) {
	backend := proxytest.NewServer(t, nil)
	for _, tt := range []struct{ name, request string }{
		{"fast lane", "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: %s\r\n\r\n"},
		{"handler lane", "GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: %s\r\n\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := hostproxy.Router{
				RateLimit:      &hostproxy.RateLimit{Rate: 0.01, Burst: 3},
				TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
			}
			r.Handle("a.test", hostproxy.To(backend.Addr()))
			addr, _ := serve(t, &hostproxy.Server{Router: &r})
			c := proxytest.Dial(t, addr)
			for range 3 {
				assert.Equal(t, 200, c.Do(fmt.Sprintf(tt.request, "192.0.2.1")).StatusCode)
			}
			res := c.Do(fmt.Sprintf(tt.request, "192.0.2.1"))
			assert.Equal(t, 429, res.StatusCode)
			assert.Equal(t, "100", res.Header.Get("Retry-After"))
			assert.Equal(t, `"default";r=0;t=100`, res.Header.Get("RateLimit"))
			assert.Equal(t, `"default";q=3;w=300`, res.Header.Get("RateLimit-Policy"))
			assert.Equal(t, 200, c.Do(fmt.Sprintf(tt.request, "192.0.2.2")).StatusCode, "another client, on the same connection")
		})
	}
	r := hostproxy.Router{RateLimit: &hostproxy.RateLimit{Rate: -1}}
	assert.ErrorContains(t, (&hostproxy.Server{Router: &r}).Serve(t.Context(), nil, proxytest.Listen(t)), "hostproxy: RateLimit: Rate is -1")
}

func TestAccessLogWritesOneLinePerExchange(t *testing.T) {
	backend := proxytest.NewServer(t, nil)
	var out bytes.Buffer
	log := hostproxy.AccessLog(slog.New(slog.NewTextHandler(&out, nil)))
	done := make(chan struct{}, 3)
	r := hostproxy.Router{Observe: func(x *hostproxy.Exchange) { log(x); done <- struct{}{} }}
	r.Handle("a.test", hostproxy.To(backend.Addr()))
	r.Handle("down.test", hostproxy.To(proxytest.Refused(t)))
	spare := hostproxy.To(proxytest.Refused(t), backend.Addr())
	spare.Policy = hostproxy.FirstAvailable
	r.Handle("spare.test", spare)
	addr, _ := serve(t, &hostproxy.Server{Router: &r})
	c := proxytest.Dial(t, addr)
	c.Do("GET /p?secret HTTP/1.1\r\nHost: a.test\r\n\r\n")
	<-done
	assert.Equal(t, 502, c.Do("GET / HTTP/1.1\r\nHost: down.test\r\n\r\n").StatusCode)
	<-done
	assert.Equal(t, 200, c.Do("GET / HTTP/1.1\r\nHost: spare.test\r\n\r\n").StatusCode)
	<-done
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Len(t, lines, 3)
	assert.Contains(t, lines[0], "level=INFO msg=exchange client=127.0.0.1 method=GET scheme=http host=a.test path=/p query=secret proto=HTTP/1.1 status=200 request_bytes=0 response_bytes=2")
	assert.Contains(t, lines[0], " pattern=a.test target="+backend.Addr()+" attempts=1")
	assert.Contains(t, lines[1], "level=WARN")
	assert.Contains(t, lines[1], "op=dial side=upstream")
	assert.Contains(t, lines[2], "level=INFO")
	assert.Contains(t, lines[2], "attempts=2")
}

// Whatever text an Exchange holds, its record is one line without bytes that a
// terminal would interpret.
func TestNoTextForgesALineOfTheAccessLog(t *testing.T) {
	const hostile = "a\r\nlevel=ERROR msg=x\x00\x1b[2J\xff\xfe\u2028\" =\\"
	x := hostproxy.Exchange{Method: hostile, Scheme: hostile, Host: hostile, Path: hostile, Query: hostile, Proto: hostile, Pattern: hostile,
		Target: hostile, RequestID: hostile, User: hostile, UserAgent: hostile, Referer: hostile, TLSVersion: tls.VersionTLS13, ServerName: hostile,
		Err: &hostproxy.Error{Op: "dial", Target: hostile, Side: hostproxy.SideClient, Err: errors.New(hostile)}}
	var text, raw bytes.Buffer
	hostproxy.AccessLog(slog.New(slog.NewTextHandler(&text, nil)))(&x)
	hostproxy.AccessLog(slog.New(slog.NewJSONHandler(&raw, nil)))(&x)
	for _, line := range []string{text.String(), raw.String()} {
		assert.Equal(t, 1, strings.Count(line, "\n"))
		assert.NotContains(t, line, "\r")
		assert.NotContains(t, line, "\x1b")
		assert.NotContains(t, line, "\x00")
		assert.NotContains(t, line, "\u2028")
		assert.True(t, utf8.ValidString(line))
	}
	attrs := make(map[string]any)
	require.NoError(t, json.Unmarshal(raw.Bytes(), &attrs))
	assert.Equal(t, "INFO", attrs["level"])
	assert.Equal(t, "TLS 1.3", attrs["tls"])
	for _, key := range []string{"method", "host", "path", "query", "target", "request_id", "user", "user_agent", "referer", "server_name", "cause"} {
		assert.Equal(t, strings.ToValidUTF8(hostile, "\ufffd\ufffd"), attrs[key], key)
	}
	assert.NotContains(t, attrs, "upstream")
}

func TestALineOfTheAccessLogIsBounded(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	var out bytes.Buffer
	hostproxy.AccessLog(slog.New(slog.NewTextHandler(&out, nil)))(&hostproxy.Exchange{Method: long, Host: long, Path: long, Query: long})
	assert.Less(t, out.Len(), 17<<10)
}

func TestClientAddrOutsideARouterIsThePeer(t *testing.T) {
	q := httptest.NewRequest("GET", "/", nil)
	q.Header.Set("X-Forwarded-For", "192.0.2.7")
	q.RemoteAddr = "[2001:db8::1]:80"
	assert.Equal(t, "2001:db8::1", hostproxy.ClientAddr(q).String())
	assert.Empty(t, hostproxy.RequestID(q))
	q.RemoteAddr = "@"
	assert.False(t, hostproxy.ClientAddr(q).IsValid())
}

func TestListenAndServeSaysWhatToDoAboutATakenPort(t *testing.T) {
	taken := proxytest.Listen(t).Addr().String()
	err := (&hostproxy.Server{Router: new(hostproxy.Router), Addr: "127.0.0.1:0", HTTPAddr: taken}).ListenAndServe(t.Context())
	assert.ErrorContains(t, err, "hostproxy: listen "+strconv.Quote(taken))
	assert.ErrorContains(t, err, "stop the other server or choose another address")
}

func TestAPortWithoutAColonIsAnErrorThatShowsHowToWriteIt(t *testing.T) {
	const want = `hostproxy: listen "443": an address is host:port, or :port for all addresses: write ":443"`
	err := (&hostproxy.Server{Router: new(hostproxy.Router), Addr: "443"}).ListenAndServe(t.Context())
	assert.EqualError(t, err, want)
	var r hostproxy.Router
	_, err = r.Listen("tcp", "443")
	assert.EqualError(t, err, want)
}

func TestServeRefusesInvalidLimits(t *testing.T) {
	r := &hostproxy.Router{RateLimit: &hostproxy.RateLimit{Rate: -1}}
	err := (&hostproxy.Server{Router: r, MaxHeaderBytes: -1, MaxConns: -2, MaxConnsPerClient: -3}).Serve(t.Context(), nil, proxytest.Listen(t))
	for _, want := range []string{"hostproxy: Server.MaxHeaderBytes is -1", "hostproxy: Server.MaxConns is -2: want 0 or more",
		"hostproxy: Server.MaxConnsPerClient is -3: want 0 or more", "hostproxy: RateLimit: Rate is -1"} {
		assert.ErrorContains(t, err, want)
	}
}

func TestServeNeedsARouterAndAListener(t *testing.T) {
	assert.EqualError(t, (&hostproxy.Server{}).Serve(context.Background(), nil, nil), "hostproxy: Server.Router is nil: set it")
	assert.EqualError(t, (&hostproxy.Server{Router: new(hostproxy.Router)}).Serve(context.Background(), nil, nil), "hostproxy: Serve has no listener: pass https, plain or both, or set Server.Listeners")
}
