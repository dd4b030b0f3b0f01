package neighbours_test

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/klauspost/compress/gzhttp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// zip is gzhttp's middleware with its defaults: it compresses from 1 KiB.
func zip(next http.Handler) http.Handler { return gzhttp.GzipHandler(next) }

var prose = strings.Repeat("to be or not to be ", 1000) // read-only

func TestGzhttpCompresses(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			switch q.URL.Path {
			case "/small":
				_, _ = io.WriteString(w, "small")
			case "/sized":
				w.Header().Set("Content-Length", fmt.Sprint(len(prose)))
				_, _ = io.WriteString(w, prose)
			case "/copied":
				_, _ = io.Copy(w, strings.NewReader(prose))
			default:
				_, _ = io.WriteString(w, prose)
			}
		}), zip)
		for _, path := range []string{"/", "/sized", "/copied"} {
			resp := s.get(path, "Accept-Encoding", "gzip")
			assert.True(t, prose == unzip(t, resp), path)
			assert.Equal(t, "Accept-Encoding", resp.Header.Get("Vary"), path)
			assert.Equal(t, "text/plain; charset=utf-8", resp.Header.Get("Content-Type"), path)
		}
		small := s.get("/small", "Accept-Encoding", "gzip")
		assert.Empty(t, small.Header["Content-Encoding"])
		assert.EqualValues(t, 5, small.ContentLength)
		plain := s.get("/sized")
		assert.Empty(t, plain.Header["Content-Encoding"])
		assert.EqualValues(t, len(prose), plain.ContentLength)
		assert.True(t, prose == plain.body)
	})
}

func TestGzhttpFlushes(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		next := make(chan struct{})
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			_, _ = io.WriteString(w, prose)
			assert.NoError(t, http.NewResponseController(w).Flush())
			hold(q, next)
			_, _ = io.WriteString(w, "the end")
		}), zip)
		resp := s.begin("GET", "/", nil, "Accept-Encoding", "gzip")
		unzipped, err := gzip.NewReader(resp.Body)
		require.NoError(t, err)
		assert.True(t, prose == readString(t, unzipped, len(prose)), "before the handler continues")
		close(next)
		rest, err := io.ReadAll(unzipped)
		require.NoError(t, err)
		assert.Equal(t, "the end", string(rest))
	})
}

func TestGzhttpLeavesEncodedBodiesAlone(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "br")
			_, _ = io.WriteString(w, prose)
		}), zip)
		resp := s.get("/", "Accept-Encoding", "gzip, br")
		assert.Equal(t, "br", resp.Header.Get("Content-Encoding"))
		assert.True(t, prose == resp.body)
	})
}

func TestGzhttpWorksAroundServeContent(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Etag", `"a"`)
			http.ServeContent(w, q, "a.txt", time.Time{}, strings.NewReader(prose))
		}), zip)

		assert.True(t, prose == unzip(t, s.get("/", "Accept-Encoding", "gzip")))

		part := s.get("/", "Accept-Encoding", "gzip", "Range", "bytes=3-2002")
		assert.Equal(t, http.StatusPartialContent, part.StatusCode)
		assert.Equal(t, fmt.Sprintf("bytes 3-2002/%d", len(prose)), part.Header.Get("Content-Range"))
		assert.Empty(t, part.Header["Content-Encoding"])
		assert.Equal(t, prose[3:2003], part.body)

		unchanged := s.get("/", "Accept-Encoding", "gzip", "If-None-Match", `"a"`)
		assert.Equal(t, http.StatusNotModified, unchanged.StatusCode)
		assert.Empty(t, unchanged.Header["Content-Encoding"])
		assert.Empty(t, unchanged.Header["Content-Type"])
		assert.Empty(t, unchanged.body)

		head := s.do("HEAD", "/", nil, "Accept-Encoding", "gzip")
		assert.Equal(t, http.StatusOK, head.StatusCode)
		assert.Empty(t, head.body)
		assert.True(t, prose == s.get("/").body)
	})
}

// A HEAD and a 304 use a connection that stays open: any byte of a body would
// be read as the next response.
func TestGzhttpKeepsConnections(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Etag", `"a"`)
			http.ServeContent(w, q, "a.txt", time.Time{}, strings.NewReader(prose))
		}), zip)
		c := s.dial()
		const fields = " / HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n"
		for range 2 {
			assert.Equal(t, 200, c.Do("HEAD"+fields+"\r\n").StatusCode)
			assert.Equal(t, 304, c.Do("GET"+fields+"If-None-Match: \"a\"\r\n\r\n").StatusCode)
			resp := c.Do("GET" + fields + "\r\n")
			assert.True(t, prose == unzip(t, answer{resp.Response, string(resp.Content)}))
		}
	})
}

func TestGzhttpLetsWebSocketsPass(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		h, _ := gorillaServer(t, websocket.Upgrader{}, gorillaEcho)
		s := p.serve(t, h, zip)
		c := s.dial()
		upgrade(t, c, strings.Replace(wsRequest, "\r\n\r\n", "\r\nAccept-Encoding: gzip\r\n\r\n", 1))
		c.Send(wsHello)
		c.Expect(wsHelloBack)
	})
}

func TestGzhttpWorksAroundUpstreams(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		backend := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Set("Trailer", "X-Sum")
			_, _ = io.WriteString(w, prose)
			w.Header().Set("X-Sum", "1")
		}))
		s := p.serve(t, hostproxy.To(backend.Addr()), zip)
		resp := s.get("/", "Accept-Encoding", "gzip")
		assert.True(t, prose == unzip(t, resp))
		assert.Equal(t, http.Header{"X-Sum": {"1"}}, resp.Trailer)
		head := s.do("HEAD", "/", nil, "Accept-Encoding", "gzip")
		assert.Empty(t, head.body)
	})
}
