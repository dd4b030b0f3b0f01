package compress_test

import (
	"compress/gzip"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/compress"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestMain(m *testing.M) { proxytest.Main(m) }

var prose = strings.Repeat("to be or not to be ", 1000) // read-only

// A place says where a Handler is used and how clients reach it.
type place struct {
	server, upstream bool // used as Server.Handler; used around an Upstream
	protocol         string
}

func (p place) String() string {
	return fmt.Sprintf("server=%v,upstream=%v,%s", p.server, p.upstream, p.protocol)
}

// everywhere runs f for each place.
func everywhere(t *testing.T, f func(*testing.T, place)) {
	t.Helper()
	for _, protocol := range []string{"h1", "h2"} {
		for _, server := range []bool{false, true} {
			for _, upstream := range []bool{false, true} {
				p := place{server, upstream, protocol}
				t.Run(p.String(), func(t *testing.T) {
					proxytest.NoLeaks(t)
					f(t, p)
				})
			}
		}
	}
}

// serve serves h, compressed, and returns a client for https://a.test.
func (p place) serve(t testing.TB, o compress.Options, h http.Handler) *http.Client {
	t.Helper()
	c, _ := p.start(t, o, h)
	return c
}

func (p place) start(t testing.TB, o compress.Options, h http.Handler) (*http.Client, *proxytest.Running) {
	t.Helper()
	if p.upstream {
		h = hostproxy.To(proxytest.NewServer(t, h).Addr())
	}
	r := &hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
	config, roots := proxytest.TLS(t, "a.test")
	r.TLS.Config = config
	s := &hostproxy.Server{Router: r}
	wrap := func(h http.Handler) http.Handler {
		z, err := compress.New(h, o)
		require.NoError(t, err)
		return z
	}
	if p.server {
		s.Handler = wrap(r)
	} else {
		h = wrap(h)
	}
	r.Handle("a.test", h)
	run := proxytest.Start(t, s)
	tr := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots}, DisableCompression: true, Protocols: new(http.Protocols),
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", run.HTTPS)
		},
	}
	tr.Protocols.SetHTTP1(p.protocol == "h1")
	tr.Protocols.SetHTTP2(p.protocol == "h2")
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}, run
}

// ask returns a response and its body.
func ask(t testing.TB, c *http.Client, method, path string, fields ...string) (*http.Response, string) {
	t.Helper()
	res := begin(t, c, method, path, fields...)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res, string(b)
}

func begin(t testing.TB, c *http.Client, method, path string, fields ...string) *http.Response {
	t.Helper()
	q, err := http.NewRequest(method, "https://a.test"+path, nil)
	require.NoError(t, err)
	for i := 0; i < len(fields); i += 2 {
		q.Header.Add(fields[i], fields[i+1])
	}
	res, err := c.Do(q)
	require.NoError(t, err)
	return res
}

// plain decodes an encoded body.
func plain(t testing.TB, encoding, body string) string {
	t.Helper()
	var r io.Reader = strings.NewReader(body)
	switch encoding {
	case "gzip":
		z, err := gzip.NewReader(r)
		require.NoError(t, err)
		r = z
	case "zstd":
		z, err := zstd.NewReader(r)
		require.NoError(t, err)
		defer z.Close()
		r = z
	}
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	return string(b)
}

// answer sends the response that the query describes.
func answer(w http.ResponseWriter, q *http.Request) {
	v := q.URL.Query()
	for name, values := range v {
		if textproto.CanonicalMIMEHeaderKey(name) == name {
			w.Header()[name] = values
		}
	}
	if _, ok := w.Header()["Content-Type"]; !ok {
		w.Header().Set("Content-Type", "text/plain")
	}
	size, err := strconv.Atoi(v.Get("size"))
	if err != nil {
		size = len(prose)
	}
	if v.Has("sized") {
		w.Header().Set("Content-Length", strconv.Itoa(size))
	}
	if status, _ := strconv.Atoi(v.Get("status")); status != 0 {
		w.WriteHeader(status)
		if status == 204 || status == 304 {
			return
		}
	}
	_, _ = io.WriteString(w, prose[:size])
}

func TestOnlyCompressibleResponsesAreCompressed(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		c := p.serve(t, compress.Options{}, http.HandlerFunc(answer))
		for _, tt := range []struct{ query, accept, want string }{
			{"", "gzip", "gzip"},
			{"", "zstd", "zstd"},
			{"", "gzip, deflate, br, zstd", "zstd"},
			{"", "gzip;q=1, zstd;q=0.5", "gzip"},
			{"", "gzip;q=0, br", ""},
			{"", "", ""},
			{"", "*", ""},
			{"sized", "gzip", "gzip"},
			{"status=404", "gzip", "gzip"},
			{"size=1023", "gzip", ""},
			{"size=1023&sized", "gzip", ""},
			{"size=1024&sized", "gzip", "gzip"},
			{"size=0", "gzip", ""},
			{"status=206&Content-Range=bytes+0-18999/20000", "gzip", ""},
			{"status=206&Content-Type=multipart/byteranges%3Bboundary=x", "gzip", ""},
			{"Content-Encoding=br", "gzip, br", "br"},
			{"Cache-Control=public,+No-Transform", "gzip", ""},
			{"Content-Type=application/json%3Bcharset=utf-8", "gzip", "gzip"},
			{"Content-Type=image/svg%2Bxml", "gzip", "gzip"},
			{"Content-Type=application/problem%2Bjson", "gzip", "gzip"},
			{"Content-Type=image/png", "gzip", ""},
			{"Content-Type=application/octet-stream", "gzip", ""},
			{"Content-Type=application/zip", "gzip", ""},
			{"Content-Type=text/event-stream", "gzip", ""},
			{"Content-Type=Text/Event-Stream%3Bcharset=utf-8", "gzip", ""},
			{"Content-Type=application/grpc", "gzip", ""},
			{"Content-Type=application/grpc-web%2Bproto", "gzip", ""},
		} {
			for range 2 {
				fields := []string{"Accept-Encoding", tt.accept}
				if tt.accept == "" {
					fields = nil
				}
				res, body := ask(t, c, "GET", "/?"+tt.query, fields...)
				got := res.Header.Get("Content-Encoding")
				if assert.Equal(t, tt.want, got, "%+v", tt); got == "gzip" || got == "zstd" {
					body = plain(t, got, body)
					assert.Equal(t, []string{"Accept-Encoding"}, res.Header.Values("Vary"), "%+v", tt)
				}
				assert.True(t, strings.HasPrefix(prose, body), "%+v", tt)
			}
		}
	})
}

func TestVaryIsSetAlsoForClientsThatDoNotAcceptCompression(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		c := p.serve(t, compress.Options{}, http.HandlerFunc(answer))
		for query, want := range map[string][]string{
			"":                             {"Accept-Encoding"},
			"Vary=Accept-Encoding":         {"Accept-Encoding"},
			"Vary=Cookie,+accept-encoding": {"Cookie, accept-encoding"},
		} {
			for _, accept := range []string{"gzip", "identity"} {
				res, _ := ask(t, c, "GET", "/?"+query, "Accept-Encoding", accept)
				assert.Equal(t, want, res.Header.Values("Vary"), "%s %s", query, accept)
			}
		}
		for _, accept := range []string{"gzip", "identity"} {
			res, _ := ask(t, c, "GET", "/?Vary=Cookie", "Accept-Encoding", accept)
			assert.ElementsMatch(t, []string{"Cookie", "Accept-Encoding"}, res.Header.Values("Vary"))
		}
	})
}

func TestACompressedResponseHasAWeakTagAndNoDigests(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		c := p.serve(t, compress.Options{}, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Etag", `"a"`)
			w.Header().Set("Repr-Digest", "sha-256=:x:")
			http.ServeContent(w, q, "a.txt", time.Time{}, strings.NewReader(prose))
		}))
		res, body := ask(t, c, "GET", "/", "Accept-Encoding", "gzip")
		assert.Equal(t, `W/"a"`, res.Header.Get("Etag"))
		assert.Empty(t, res.Header.Get("Accept-Ranges"))
		assert.Empty(t, res.Header.Get("Repr-Digest"))
		assert.Equal(t, prose, plain(t, "gzip", body))
		res, body = ask(t, c, "GET", "/")
		assert.Equal(t, `"a"`, res.Header.Get("Etag"))
		assert.Equal(t, "bytes", res.Header.Get("Accept-Ranges"))
		assert.Equal(t, "sha-256=:x:", res.Header.Get("Repr-Digest"))
		assert.Equal(t, prose, body)

		for tag, want := range map[string]string{`W/"a"`: `W/"a"`, `"a"`: `"a"`, `"b", W/"a"`: `W/"a"`} {
			res, body = ask(t, c, "GET", "/", "Accept-Encoding", "gzip", "If-None-Match", tag)
			assert.Equal(t, 304, res.StatusCode)
			assert.Equal(t, want, res.Header.Get("Etag"), "the tag that the client knows")
			assert.Empty(t, res.Header.Get("Content-Encoding"))
			assert.Empty(t, body)
		}

		res, body = ask(t, c, "GET", "/", "Accept-Encoding", "gzip", "Range", "bytes=3-2002")
		assert.Equal(t, 206, res.StatusCode)
		assert.Equal(t, prose[3:2003], body)
		assert.Equal(t, `"a"`, res.Header.Get("Etag"))
		res, body = ask(t, c, "GET", "/", "Accept-Encoding", "gzip", "Range", "bytes=3-2002,4000-6000")
		assert.Equal(t, 206, res.StatusCode)
		assert.Empty(t, res.Header.Get("Content-Encoding"))
		assert.Contains(t, body, prose[3:2003])
		res, body = ask(t, c, "GET", "/", "Accept-Encoding", "gzip", "Range", "bytes=3-2002", "If-Range", `W/"a"`)
		assert.Equal(t, 200, res.StatusCode, "a range of the compressed form is not a range of this one")
		assert.Equal(t, prose, plain(t, "gzip", body))
		res, _ = ask(t, c, "GET", "/", "Accept-Encoding", "gzip", "Range", "bytes=99999-")
		assert.Equal(t, 416, res.StatusCode)

		res, body = ask(t, c, "HEAD", "/", "Accept-Encoding", "gzip")
		assert.Equal(t, 200, res.StatusCode)
		assert.Empty(t, body)
	})
}

func TestAnEventStreamIsNotCompressed(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		more := make(chan bool)
		c := p.serve(t, compress.Options{}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_ = http.NewResponseController(w).Flush()
			for range 3 {
				<-more
				fmt.Fprint(w, "data: x\n\n")
				_ = http.NewResponseController(w).Flush()
			}
		}))
		// the head arrives before any event
		res := begin(t, c, "GET", "/", "Accept-Encoding", "gzip", "Accept", "text/event-stream")
		defer res.Body.Close()
		assert.Empty(t, res.Header.Get("Content-Encoding"))
		for range 3 {
			more <- true
			b := make([]byte, 9)
			_, err := io.ReadFull(res.Body, b)
			require.NoError(t, err)
			assert.Equal(t, "data: x\n\n", string(b))
		}
		_, err := res.Body.Read(make([]byte, 1))
		assert.Equal(t, io.EOF, err)
	})
}

func TestFlushesPassThrough(t *testing.T) {
	for _, encoding := range []string{"gzip", "zstd"} {
		t.Run(encoding, func(t *testing.T) {
			everywhere(t, func(t *testing.T, p place) {
				more := make(chan bool)
				c := p.serve(t, compress.Options{Jitter: 16}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Content-Type", "application/x-ndjson")
					for range 3 {
						fmt.Fprint(w, "{\"a\":1}\n")
						_ = http.NewResponseController(w).Flush()
						<-more
					}
				}))
				res := begin(t, c, "GET", "/", "Accept-Encoding", encoding)
				defer res.Body.Close()
				require.Equal(t, encoding, res.Header.Get("Content-Encoding"))
				var r io.Reader
				if encoding == "gzip" {
					z, err := gzip.NewReader(res.Body)
					require.NoError(t, err)
					r = z
				} else {
					z, err := zstd.NewReader(res.Body, zstd.WithDecoderConcurrency(1))
					require.NoError(t, err)
					defer z.Close()
					r = z
				}
				for range 3 {
					b := make([]byte, 8)
					_, err := io.ReadFull(r, b)
					require.NoError(t, err)
					assert.Equal(t, "{\"a\":1}\n", string(b))
					more <- true
				}
				_, err := r.Read(make([]byte, 1))
				assert.Equal(t, io.EOF, err)
			})
		})
	}
}

func TestTrailersAndEarlyHintsPassThrough(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		c := p.serve(t, compress.Options{}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", "</a>")
			w.WriteHeader(103)
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Set("Trailer", "X-Sum")
			_, _ = io.WriteString(w, prose)
			w.Header().Set("X-Sum", "1")
		}))
		q, err := http.NewRequest("GET", "https://a.test/", nil)
		require.NoError(t, err)
		q.Header.Set("Accept-Encoding", "gzip")
		var hints int
		res, err := c.Do(q.WithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, _ textproto.MIMEHeader) error { hints += code; return nil },
		})))
		require.NoError(t, err)
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		assert.Equal(t, prose, plain(t, res.Header.Get("Content-Encoding"), string(b)))
		assert.Equal(t, "1", res.Trailer.Get("X-Sum"))
		assert.Equal(t, 103, hints)
	})
}

// gzhttp holds the head of a small response back until the response ends.
func TestTheHeadIsFixedByWriteHeader(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		c := p.serve(t, compress.Options{}, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Set("Trailer", "X-Sum")
			w.Header().Set("X-Early", "1")
			size, err := strconv.Atoi(q.URL.RawQuery)
			assert.NoError(t, err)
			_, _ = io.WriteString(w, prose[:size])
			w.Header().Set("X-Sum", "1")
			w.Header().Set("X-Early", "2")
			w.Header().Set("X-Late", "1")
			w.Header().Set(http.TrailerPrefix+"X-Undeclared", "1")
		}))
		for _, size := range []string{"10", "10000"} {
			for _, accept := range []string{"gzip", "zstd", "identity"} {
				res, _ := ask(t, c, "GET", "/?"+size, "Accept-Encoding", accept)
				assert.Empty(t, res.Header.Values("X-Sum"), "%s %s", size, accept)
				assert.Empty(t, res.Header.Values("X-Late"), "%s %s", size, accept)
				assert.Equal(t, "1", res.Header.Get("X-Early"), "%s %s", size, accept)
				assert.Equal(t, http.Header{"X-Sum": {"1"}, "X-Undeclared": {"1"}}, res.Trailer, "%s %s", size, accept)
			}
		}
	})
}

func TestA304AnswersATagThatHasAComma(t *testing.T) {
	c := place{protocol: "h1"}.serve(t, compress.Options{}, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Etag", `"a,b"`)
		http.ServeContent(w, q, "a.txt", time.Time{}, strings.NewReader(prose))
	}))
	for tag, want := range map[string]string{`W/"a,b"`: `W/"a,b"`, `"a,b"`: `"a,b"`, `"x", W/"a,b"`: `W/"a,b"`} {
		res, _ := ask(t, c, "GET", "/", "Accept-Encoding", "gzip", "If-None-Match", tag)
		assert.Equal(t, 304, res.StatusCode)
		assert.Equal(t, want, res.Header.Get("Etag"), "the tag that the client knows")
	}
}

// A response that is cut off must not look complete to a client.
func TestAResponseThatIsCutOffStaysIncomplete(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		c := p.serve(t, compress.Options{}, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			_, _ = io.WriteString(w, prose)
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}))
		for range 2 {
			q, err := http.NewRequest("GET", "https://a.test/", nil)
			require.NoError(t, err)
			q.Header.Set("Accept-Encoding", "gzip")
			res, err := c.Do(q)
			if err == nil {
				_, err = io.ReadAll(res.Body)
				res.Body.Close()
			}
			assert.Error(t, err)
		}
	})
}

func TestGRPCAndNoTransformRequestsAreNotCompressed(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		c := p.serve(t, compress.Options{}, http.HandlerFunc(answer))
		for _, f := range [][2]string{{"Content-Type", "application/grpc+proto"}, {"Cache-Control", "no-cache, no-transform"}} {
			res, body := ask(t, c, "POST", "/", "Accept-Encoding", "gzip", f[0], f[1])
			assert.Empty(t, res.Header.Get("Content-Encoding"))
			assert.Equal(t, prose, body)
		}
	})
}

func TestAWebSocketPassesThrough(t *testing.T) {
	for _, server := range []bool{false, true} {
		proxytest.NoLeaks(t)
		backend := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
			q, err := c.ReadRequest()
			if err != nil {
				return
			}
			_ = c.Send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + proxytest.Accept(q.Header) + "\r\n\r\n")
			_, _ = io.Copy(c.Conn, c.Conn)
		})
		var h http.Handler = hostproxy.To(backend.Addr())
		r := &hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
		s := &hostproxy.Server{Router: r}
		if server {
			z, err := compress.New(r, compress.Options{})
			require.NoError(t, err)
			s.Handler = z
		} else {
			z, err := compress.New(h, compress.Options{})
			require.NoError(t, err)
			h = z
		}
		r.Handle("a.test", h)
		run := proxytest.StartPlain(t, s)
		c := proxytest.Dial(t, run.Plain)
		c.Send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAccept-Encoding: gzip\r\n\r\n")
		assert.Contains(t, c.Head(), "101 Switching Protocols")
		c.Send("\x82\x84\x00\x00\x00\x00some")
		c.Expect("\x82\x84\x00\x00\x00\x00some")
		c.Close()
	}
}

// A WebSocket over HTTP/2 or HTTP/3 is a CONNECT whose response is the stream.
func TestAConnectIsNotCompressed(t *testing.T) {
	w := httptest.NewRecorder()
	h, err := compress.New(http.HandlerFunc(func(got http.ResponseWriter, _ *http.Request) { assert.Same(t, w, got) }), compress.Options{})
	require.NoError(t, err)
	q := httptest.NewRequest(http.MethodConnect, "https://a.test/", nil)
	q.Header.Set("Accept-Encoding", "gzip")
	h.ServeHTTP(w, q)
	assert.Empty(t, w.Header())
}

func TestTheRouterSeesTheUpstreamBehindAHandler(t *testing.T) {
	u := hostproxy.To("localhost:1")
	h, err := compress.New(u, compress.Options{})
	require.NoError(t, err)
	assert.Same(t, u, h.Unwrap())
}

func TestJitterChangesSizes(t *testing.T) {
	p := place{protocol: "h1"}
	for _, encoding := range []string{"gzip", "zstd"} {
		sizes := map[int]bool{}
		c := p.serve(t, compress.Options{Jitter: 64}, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			fmt.Fprint(w, prose, q.URL.Path)
		}))
		for i := range 20 {
			_, body := ask(t, c, "GET", fmt.Sprintf("/%02d", i), "Accept-Encoding", encoding)
			assert.Equal(t, fmt.Sprintf("%s/%02d", prose, i), plain(t, encoding, body))
			sizes[len(body)] = true
		}
		assert.Greater(t, len(sizes), 5, encoding)
	}
}

func TestAllInvalidOptionsAreReportedTogether(t *testing.T) {
	_, err := compress.New(nil, compress.Options{MinSize: -1, Jitter: -2})
	assert.EqualError(t, err, "compress: next is nil: want a handler\n"+
		"compress: Options.MinSize is -1: want 0 for the default, or a size\n"+
		"compress: Options.Jitter is -2: want 0 for none, or at most 32768 bytes")
	c := place{protocol: "h1"}.serve(t, compress.Options{GzipOnly: true, MinSize: 10, Compressible: func(t string) bool { return t == "image/x" }}, http.HandlerFunc(answer))
	for query, want := range map[string]string{"size=10&Content-Type=image/x": "gzip", "size=9&Content-Type=image/x": "", "": ""} {
		res, _ := ask(t, c, "GET", "/?"+query, "Accept-Encoding", "gzip, zstd")
		assert.Equal(t, want, res.Header.Get("Content-Encoding"), query)
	}
}

// .ci/run installs curl. Without it, the other tests' Go clients must suffice.
func TestCurlReadsCompressedResponses(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Log("curl is not installed: .ci/run tools installs it")
		return
	}
	for _, protocol := range []string{"--http1.1", "--http2"} {
		_, run := place{upstream: true, protocol: "h1"}.start(t, compress.Options{}, http.HandlerFunc(answer))
		_, port, err := net.SplitHostPort(run.HTTPS)
		require.NoError(t, err)
		for _, tt := range []struct{ query, want string }{{"", prose}, {"size=9", prose[:9]}, {"Content-Type=text/event-stream", prose}} {
			out, err := exec.CommandContext(t.Context(), curl, "-sSk", "--max-time", "10", "--compressed", protocol, "-w", "%{stderr}%{size_download}",
				"--resolve", "a.test:"+port+":127.0.0.1", "https://a.test:"+port+"/?"+tt.query).Output()
			require.NoError(t, err)
			assert.Equal(t, tt.want, string(out), protocol)
		}
	}
}

func TestTheModuleIsCompleteOutsideTheTree(t *testing.T) {
	text, err := os.ReadFile("cmd/proxy/main.go")
	require.NoError(t, err)
	proxytest.BuildOutside(t, string(text))
}

func BenchmarkHandler(b *testing.B) {
	var text strings.Builder
	for r := rand.New(rand.NewPCG(1, 2)); text.Len() < 64<<10; {
		fmt.Fprintf(&text, `{"id":%d,"name":"user %d","mail":"%x@example.com","active":%v,"score":%.2f},`, r.IntN(1e6), r.IntN(1e4), r.Uint32(), r.IntN(2) == 0, r.Float64()*100)
	}
	for _, encoding := range []string{"identity", "gzip", "zstd"} {
		b.Run("encoding="+encoding, func(b *testing.B) {
			c := place{protocol: "h1", upstream: true}.serve(b, compress.Options{}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				_, _ = io.WriteString(w, text.String())
			}))
			b.SetBytes(int64(text.Len()))
			b.ReportAllocs()
			var n int64
			for b.Loop() {
				res := begin(b, c, "GET", "/", "Accept-Encoding", encoding)
				n, _ = io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
			b.ReportMetric(float64(n), "bytes")
		})
	}
}
