package client_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/client"
	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/forward"
	"github.com/hostproxy/hostproxy/internal/pool"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// poolOf returns a pool of connections to addr.
func poolOf(t testing.TB, network, addr string) *pool.Pool {
	p := &pool.Pool{Dial: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, addr)
	}}
	t.Cleanup(p.Close)
	return p
}

// clientOf returns the built-in client of a raw target that runs script.
func clientOf(t testing.TB, script func(*proxytest.BackendConn)) (forward.Doer, *pool.Pool, *proxytest.Backend) {
	proxytest.NoLeaks(t)
	b := proxytest.NewBackend(t, script)
	p := poolOf(t, "tcp", b.Addr())
	return client.New(p, client.Timeouts{}), p, b
}

// request makes a request like those of the handler lane: its body is not in
// memory.
func request(t testing.TB, method, target string, body io.Reader, length int64) *http.Request {
	u, err := url.Parse("http://target.test" + target)
	require.NoError(t, err)
	q := &http.Request{Method: method, URL: u, Host: "front.test", Header: http.Header{"User-Agent": {""}}, Body: http.NoBody}
	if body != nil {
		q.Body, q.ContentLength = io.NopCloser(body), length
	}
	return q.WithContext(t.Context())
}

func get(t testing.TB) *http.Request { return request(t, "GET", "/", nil, 0) }

// do performs q and reads the body to its end.
func do(t testing.TB, c forward.Doer, q *http.Request) (res *http.Response, content string) {
	t.Helper()
	res, err := c.Do(q, nil)
	require.NoError(t, err)
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	return res, string(b)
}

// failure performs q and returns its failure.
func failure(t testing.TB, c forward.Doer, q *http.Request) *exchange.AttemptError {
	t.Helper()
	res, err := c.Do(q, nil)
	if err == nil {
		res.Body.Close()
	}
	var ae *exchange.AttemptError
	require.ErrorAs(t, err, &ae)
	return ae
}

const plainOK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

func TestClientWritesTheRequestAsGiven(t *testing.T) {
	for _, tt := range []struct {
		name string
		req  func(*http.Request)
		want []string // lines in any order, except the first
		body string
	}{
		{"a plain request, with no User-Agent of our own", func(*http.Request) {},
			[]string{"GET /a%2Fb//c;d?x=%zz&y HTTP/1.1", "Host: front.test"}, ""},
		{"a User-Agent and lists of values", func(q *http.Request) {
			q.Header = http.Header{"User-Agent": {"x/1"}, "X-A": {"1", "2"}, "Accept-Encoding": {"br"}}
		}, []string{"GET /a%2Fb//c;d?x=%zz&y HTTP/1.1", "Host: front.test", "User-Agent: x/1", "X-A: 1", "X-A: 2", "Accept-Encoding: br"}, ""},
		{"the target that Opaque spells", func(q *http.Request) { q.URL.Opaque, q.URL.RawQuery, q.URL.ForceQuery = "//a|b", "", true },
			[]string{"GET //a|b? HTTP/1.1", "Host: front.test"}, ""},
		{"the URL's host when there is no other", func(q *http.Request) { q.Host = "" },
			[]string{"GET /a%2Fb//c;d?x=%zz&y HTTP/1.1", "Host: target.test"}, ""},
		{"no framing but our own", func(q *http.Request) {
			q.Header = http.Header{"Content-Length": {"7"}, "Transfer-Encoding": {"chunked"}, "Trailer": {"x"}, "Host": {"evil"}, "User-Agent": {""}}
		}, []string{"GET /a%2Fb//c;d?x=%zz&y HTTP/1.1", "Host: front.test"}, ""},
		{"no line end in a value, no name that is no token", func(q *http.Request) {
			q.Header = http.Header{"X-A": {"1\r\nX-B: 2"}, "X C": {"3"}}
		}, []string{"GET /a%2Fb//c;d?x=%zz&y HTTP/1.1", "Host: front.test", "X-A: 1  X-B: 2"}, ""},
		{"a POST without a body or Content-Length", func(q *http.Request) { q.Method = "POST" },
			[]string{"POST /a%2Fb//c;d?x=%zz&y HTTP/1.1", "Host: front.test"}, ""},
		{"a POST with Content-Length: 0", func(q *http.Request) { q.Method, q.Header = "POST", http.Header{"Content-Length": {"0"}} },
			[]string{"POST /a%2Fb//c;d?x=%zz&y HTTP/1.1", "Host: front.test", "Content-Length: 0"}, ""},
		{"Connection: close on demand", func(q *http.Request) { q.Close = true },
			[]string{"GET /a%2Fb//c;d?x=%zz&y HTTP/1.1", "Host: front.test", "Connection: close"}, ""},
		{"a sized body", func(q *http.Request) { q.Body, q.ContentLength = io.NopCloser(strings.NewReader("hello, more")), 5 },
			[]string{"GET /a%2Fb//c;d?x=%zz&y HTTP/1.1", "Host: front.test", "Content-Length: 5"}, "hello"},
		{"a sized body in memory", func(q *http.Request) {
			q.Body, q.ContentLength = io.NopCloser(strings.NewReader("hello")), 5
			q.GetBody = func() (io.ReadCloser, error) { return nil, errors.ErrUnsupported }
		}, []string{"GET /a%2Fb//c;d?x=%zz&y HTTP/1.1", "Host: front.test", "Content-Length: 5"}, "hello"},
		{"a body of unknown length", func(q *http.Request) { q.Body, q.ContentLength = io.NopCloser(strings.NewReader("hello")), -1 },
			[]string{"GET /a%2Fb//c;d?x=%zz&y HTTP/1.1", "Host: front.test", "Transfer-Encoding: chunked"}, "5\r\nhello\r\n0\r\n\r\n"},
		{"trailers, announced or not, but no forbidden ones", func(q *http.Request) {
			q.Trailer = http.Header{"X-Sum": {"1"}, "Content-Length": {"9"}}
			q.Body, q.ContentLength = io.NopCloser(strings.NewReader("hello")), -1
		}, []string{"GET /a%2Fb//c;d?x=%zz&y HTTP/1.1", "Host: front.test", "Transfer-Encoding: chunked", "Trailer: X-Sum"}, "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, _, b := clientOf(t, proxytest.Reply(plainOK))
			q := request(t, "GET", "/a%2Fb//c;d?x=%zz&y", nil, 0)
			tt.req(q)
			_, content := do(t, c, q)
			assert.Equal(t, "ok", content)
			head, body, _ := strings.Cut(string(b.WaitRequests(1)[0].Raw), "\r\n\r\n")
			lines := strings.Split(head, "\r\n")
			assert.Equal(t, tt.want[0], lines[0])
			slices.Sort(lines[1:])
			slices.Sort(tt.want[1:])
			assert.Equal(t, tt.want, lines)
			assert.Equal(t, tt.body, body)
		})
	}
}

func TestClientRefusesWhatCannotBeWritten(t *testing.T) {
	for name, spoil := range map[string]func(*http.Request){
		"a method that is no token": func(q *http.Request) { q.Method = "G T" },
		"a line end in the target":  func(q *http.Request) { q.URL.Opaque = "/\r\nX: y" },
		"a space in the query":      func(q *http.Request) { q.URL.RawQuery = "a b" },
		"a fragment in the target":  func(q *http.Request) { q.URL.Opaque = "/#a" },
		"a line end in the host":    func(q *http.Request) { q.Host = "a\r\nX: y" },
	} {
		t.Run(name, func(t *testing.T) {
			c, _, b := clientOf(t, proxytest.Reply(plainOK))
			q := get(t)
			spoil(q)
			assert.False(t, failure(t, c, q).Wrote)
			assert.Zero(t, b.Conns())
		})
	}
}

// The reference is http.Transport: for any valid response, both return the
// same.
func TestClientReadsResponsesAsTransportDoes(t *testing.T) {
	for _, tt := range []struct{ name, method, raw string }{
		{"sized", "GET", plainOK},
		{"empty", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
		{"chunked", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x\r\nc\r\n0\r\n\r\n"},
		{"chunked with trailers", "GET", "HTTP/1.1 200 OK\r\nTrailer: X-A, x-b\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-A: 1\r\nX-B: 2\r\nX-C: 3\r\nX-A: 4\r\n\r\n"},
		{"until close", "GET", "HTTP/1.1 200 OK\r\n\r\nall of this"},
		{"HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\n\r\nall of this"},
		{"HTTP/1.0, kept", "GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na"},
		{"HEAD with a size", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 700\r\n\r\n"},
		{"HEAD with chunks", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"},
		{"HEAD of unknown size", "HEAD", "HTTP/1.1 200 OK\r\n\r\n"},
		{"204", "DELETE", "HTTP/1.1 204 No Content\r\n\r\n"},
		{"304 with a size", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 12\r\nETag: \"x\"\r\n\r\n"},
		{"an unknown status with no reason", "GET", "HTTP/1.1 599 \r\nContent-Length: 1\r\n\r\na"},
		{"fields in any case and number", "GET", "HTTP/1.1 200 Fine\r\nset-cookie: a\r\nSET-COOKIE: b\r\nx_y: \xff \r\nContent-Length: 0\r\nConnection: X-Y\r\n\r\n"},
		{"after interim ones", "GET", "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + plainOK},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, _, b := clientOf(t, func(bc *proxytest.BackendConn) {
				if _, err := bc.ReadRequest(); err == nil {
					bc.Send(tt.raw)
				}
			})
			got, gotContent := do(t, c, request(t, tt.method, "/", nil, 0))

			reference := &http.Transport{DisableCompression: true}
			defer reference.CloseIdleConnections()
			q, err := http.NewRequest(tt.method, "http://"+b.Addr()+"/", nil)
			require.NoError(t, err)
			want, err := reference.RoundTrip(q)
			require.NoError(t, err)
			wantContent, err := io.ReadAll(want.Body)
			require.NoError(t, err)
			want.Body.Close()

			assert.Equal(t, string(wantContent), gotContent)
			assert.Equal(t, want.Status, got.Status)
			assert.Equal(t, want.StatusCode, got.StatusCode)
			assert.Equal(t, want.Proto, got.Proto)
			assert.Equal(t, want.ProtoMinor, got.ProtoMinor)
			assert.Equal(t, want.Header, got.Header)
			assert.Equal(t, want.Trailer, got.Trailer)
			assert.Equal(t, want.ContentLength, got.ContentLength)
			if tt.name != "HEAD with chunks" { // a body that never comes is not chunked
				assert.Equal(t, want.TransferEncoding, got.TransferEncoding)
			}
		})
	}
}

func TestClientDropsForbiddenTrailers(t *testing.T) {
	c, _, _ := clientOf(t, proxytest.Reply("HTTP/1.1 200 OK\r\nTrailer: Content-Length, X-A\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 9\r\nX-A: 1\r\nTransfer-Encoding: x\r\n\r\n"))
	res, _ := do(t, c, get(t))
	assert.Equal(t, http.Header{"X-A": {"1"}}, res.Trailer)
}

func TestClientKeepsConnectionsAfterCompleteResponses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		method string
		raw    string
		keep   bool
	}{
		{"after a sized body", "GET", plainOK, true},
		{"after a chunked body", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", true},
		{"after a 204 that announces a body", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", true},
		{"after HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true},
		{"not after Connection: close", "GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", false},
		{"not after HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false},
		{"not with bytes after the response", "GET", plainOK + "HTTP/1.1 200 OK\r\n", false},
		{"not after a 204 with a body", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 1\r\n\r\na", false},
		{"not after a HEAD with a body", "HEAD", plainOK, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, p, b := clientOf(t, proxytest.Reply(tt.raw, plainOK))
			do(t, c, request(t, tt.method, "/", nil, 0))
			assert.Equal(t, tt.keep, p.Idle() == 1)
			if !tt.keep { // the script restarts on the next connection
				do(t, c, request(t, tt.method, "/", nil, 0))
				assert.Equal(t, 2, b.Conns())
				return
			}
			_, content := do(t, c, get(t))
			assert.Equal(t, "ok", content)
			assert.Equal(t, 1, b.Conns())
		})
	}
}

func TestClientClosesConnectionsWhoseBodyIsNotRead(t *testing.T) {
	more := make(chan struct{})
	for _, tt := range []struct {
		name string
		raw  string
		keep bool
	}{
		{"sized, all of it here", plainOK, true},
		{"chunked, all of it here", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", true},
		{"sized, some missing", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcd", false},
		{"chunked, the end missing", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, p, _ := clientOf(t, func(bc *proxytest.BackendConn) {
				if _, err := bc.ReadRequest(); err == nil {
					bc.Send(tt.raw)
					bc.Wait(more)
				}
			})
			res, err := c.Do(get(t), nil)
			require.NoError(t, err)
			require.NoError(t, res.Body.Close())
			require.NoError(t, res.Body.Close())
			assert.Equal(t, tt.keep, p.Idle() == 1)
			_, err = res.Body.Read(make([]byte, 1))
			assert.ErrorIs(t, err, http.ErrBodyReadAfterClose)
		})
	}
}

func TestClientReportsHowMuchCanBeReadWithoutWaiting(t *testing.T) {
	for _, tt := range []struct {
		name string
		raw  string
		want int
	}{
		{"all of a sized body", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 2},
		{"no byte of a sized body", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", 0},
		{"a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", 2},
		{"a chunk header is nothing", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n", 0},
		{"an end is something", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 1},
		{"some of an endless body", "HTTP/1.1 200 OK\r\n\r\nabc", 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, _, _ := clientOf(t, func(bc *proxytest.BackendConn) {
				if _, err := bc.ReadRequest(); err == nil {
					bc.Send(tt.raw)
					bc.Wait(nil)
				}
			})
			res, err := c.Do(get(t), nil)
			require.NoError(t, err)
			assert.Equal(t, tt.want, res.Body.(interface{ Buffered() int }).Buffered())
			res.Body.Close()
		})
	}
}

func TestClientReachesTLSAndUnixTargets(t *testing.T) {
	proxytest.NoLeaks(t)
	hello := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { fmt.Fprintf(w, "%s %s", q.Method, q.URL) })
	t.Run("https", func(t *testing.T) {
		server, roots := proxytest.TLS(t, "target.test")
		ln := tls.NewListener(proxytest.Listen(t), server)
		s := &http.Server{Handler: hello}
		go s.Serve(ln)
		t.Cleanup(func() { s.Close() })
		p := poolOf(t, "tcp", ln.Addr().String())
		p.TLS = &tls.Config{ServerName: "target.test", RootCAs: roots}
		c := client.New(p, client.Timeouts{})
		for range 3 {
			_, content := do(t, c, request(t, "GET", "/x", nil, 0))
			assert.Equal(t, "GET /x", content)
			assert.Equal(t, 1, p.Idle())
		}
		p.TLS = &tls.Config{ServerName: "other.test", RootCAs: roots}
		c.CloseIdleConnections()
		ae := failure(t, c, get(t))
		assert.Equal(t, "handshake", ae.Op)
		assert.False(t, ae.Wrote)
	})
	t.Run("unix", func(t *testing.T) {
		ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
		require.NoError(t, err)
		s := &http.Server{Handler: hello}
		go s.Serve(ln)
		t.Cleanup(func() { s.Close() })
		c := client.New(poolOf(t, "unix", ln.Addr().String()), client.Timeouts{})
		_, content := do(t, c, request(t, "PUT", "/x", strings.NewReader("abc"), 3))
		assert.Equal(t, "PUT /x", content)
	})
	t.Run("a refused dial", func(t *testing.T) {
		c := client.New(poolOf(t, "tcp", proxytest.Refused(t)), client.Timeouts{})
		ae := failure(t, c, get(t))
		assert.Equal(t, "dial", ae.Op)
		assert.False(t, ae.Wrote)
	})
}

func TestClientSwitchesProtocolsAndKeepsEveryByte(t *testing.T) {
	c, p, _ := clientOf(t, func(bc *proxytest.BackendConn) {
		bc.ReadHead()
		bc.Send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nahead")
		s, _ := bc.ReadString(5)
		bc.Send(" " + s)
		io.Copy(io.Discard, bc) // until our half is closed
		bc.Send(" bye")
	})
	q := get(t)
	q.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}
	res, err := c.Do(q, nil)
	require.NoError(t, err)
	require.Equal(t, 101, res.StatusCode)
	assert.Equal(t, "websocket", res.Header.Get("Upgrade"))
	rw := res.Body.(io.ReadWriteCloser)
	_, err = io.WriteString(rw, "hello")
	require.NoError(t, err)
	require.NoError(t, rw.(interface{ CloseWrite() error }).CloseWrite())
	got, err := io.ReadAll(rw)
	require.NoError(t, err)
	assert.Equal(t, "ahead hello bye", string(got))
	require.NoError(t, rw.Close())
	assert.Zero(t, p.Idle())

	t.Run("and closes when the request's context ends", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c, _, _ := clientOf(t, func(bc *proxytest.BackendConn) {
			bc.ReadHead()
			bc.Send("HTTP/1.1 101 Switching Protocols\r\n\r\n")
			bc.ReadAll()
		})
		res, err := c.Do(q.WithContext(ctx), nil)
		require.NoError(t, err)
		cancel()
		_, err = res.Body.Read(make([]byte, 1))
		assert.Error(t, err)
		res.Body.Close()
	})
}

func TestClientBodiesOfAnySizeArriveWhole(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	proxytest.NoLeaks(t)
	ln := proxytest.Listen(t)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		b, _ := io.ReadAll(q.Body)
		if q.ContentLength >= 0 {
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		}
		w.Write(b)
	})}
	go s.Serve(ln)
	t.Cleanup(func() { s.Close() })
	p := poolOf(t, "tcp", ln.Addr().String())
	c := client.New(p, client.Timeouts{})
	for _, size := range []int{0, 1, 16<<10 - 1, 16 << 10, 32<<10 - 12, 32 << 10, 100_000, len(big)} {
		for _, sized := range []bool{true, false} {
			length := int64(-1)
			if sized {
				length = int64(size)
			}
			var body io.Reader = bytes.NewReader(big[:size])
			if size == 0 && sized {
				body = nil
			}
			_, content := do(t, c, request(t, "POST", "/", body, length))
			require.Equal(t, size, len(content))
			require.True(t, content == string(big[:size]))
			require.Equal(t, 1, p.Idle(), "size %d", size)
		}
	}
}

func BenchmarkClient(b *testing.B) {
	target := proxytest.NewBackend(b, func(bc *proxytest.BackendConn) {
		answer, buf := []byte(plainOK), make([]byte, 4<<10)
		for {
			if _, err := bc.Conn.Conn.Read(buf); err != nil {
				return
			}
			if _, err := bc.Conn.Conn.Write(answer); err != nil {
				return
			}
		}
	})
	q := get(b)
	q.URL.Host = target.Addr()
	exchange := func(b *testing.B, do func(*http.Request) (*http.Response, error)) {
		b.ReportAllocs()
		for b.Loop() {
			res, err := do(q)
			if err != nil {
				b.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, res.Body)
			res.Body.Close()
		}
	}
	b.Run("impl=hostproxy", func(b *testing.B) {
		c := client.New(poolOf(b, "tcp", target.Addr()), client.Timeouts{})
		exchange(b, func(q *http.Request) (*http.Response, error) { return c.Do(q, nil) })
	})
	b.Run("impl=net/http", func(b *testing.B) {
		reference := &http.Transport{DisableCompression: true}
		defer reference.CloseIdleConnections()
		exchange(b, reference.RoundTrip)
	})
}
