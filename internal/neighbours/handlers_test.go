package neighbours_test

import (
	"context"
	"encoding/json"
	"expvar"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestTimeoutHandlerAnswersForSlowHandlers(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		wrote := make(chan error, 1)
		s := p.serve(t, http.TimeoutHandler(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			<-q.Context().Done()
			assert.ErrorIs(t, q.Context().Err(), context.DeadlineExceeded)
			proxytest.Eventually(t, "the timeout of writes", func() bool {
				_, err := io.WriteString(w, "too late")
				return err == http.ErrHandlerTimeout
			})
			_, err := io.WriteString(w, "too late")
			wrote <- err
		}), time.Millisecond, "slow"))
		resp := s.get("/")
		assert.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
		assert.Equal(t, "slow", resp.body)
		assert.ErrorIs(t, await(t, "the late write", wrote), http.ErrHandlerTimeout)
	})
}

func TestTimeoutHandlerPassesOnResponsesThatAreInTime(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if q.URL.Path == "/panic" {
				panic(http.ErrAbortHandler)
			}
			_, flushes := w.(http.Flusher)
			assert.Equal(t, p.server == inFront, flushes, "TimeoutHandler does not flush; the writer that a Router hands on offers it and does nothing")
			w.Header().Set("X-A", "1")
			w.WriteHeader(http.StatusTeapot)
			_, _ = io.Copy(w, q.Body)
		}), func(next http.Handler) http.Handler { return http.TimeoutHandler(next, time.Hour, "slow") })
		resp := s.do("POST", "/", strings.NewReader("hello"))
		assert.Equal(t, http.StatusTeapot, resp.StatusCode)
		assert.Equal(t, "1", resp.Header.Get("X-A"))
		assert.Equal(t, "hello", resp.body)
		s.fails("/panic")
	})
}

// site of files: a.txt is prose, big.bin is pattern(1<<20).
func newFiles(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string][]byte{"a.txt": []byte(prose), "big.bin": pattern(1 << 20), "sub/index.html": []byte("<p>index"), "list/b.txt": nil} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	return dir
}

func TestFileServerServesFilesAndFolders(t *testing.T) {
	dir, big := newFiles(t), string(pattern(1<<20))
	everywhere(t, func(t *testing.T, p place) {
		s := p.serve(t, http.StripPrefix("/static", http.FileServer(http.Dir(dir))))
		whole := s.get("/static/big.bin")
		assert.True(t, big == whole.body)
		assert.EqualValues(t, len(big), whole.ContentLength)
		assert.Equal(t, "bytes", whole.Header.Get("Accept-Ranges"))
		assert.Equal(t, "<p>index", s.get("/static/sub/").body)
		assert.Contains(t, s.get("/static/list/").body, `<a href="b.txt">b.txt</a>`)

		for path, want := range map[string]string{"/static/sub": "sub/", "/static/sub/index.html": "./"} {
			moved := s.get(path)
			assert.Equal(t, http.StatusMovedPermanently, moved.StatusCode)
			assert.Equal(t, want, moved.Header.Get("Location"))
		}
		assert.Equal(t, http.StatusNotFound, s.get("/static/missing").StatusCode)
		assert.Equal(t, http.StatusNotFound, s.get("/a.txt").StatusCode, "StripPrefix")
		assert.Equal(t, http.StatusNotFound, s.get("/static/%2e%2e/%2e%2e/etc/passwd").StatusCode)
	})
}

func TestFileServerServesRanges(t *testing.T) {
	dir, big := newFiles(t), string(pattern(1<<20))
	everywhere(t, func(t *testing.T, p place) {
		s := p.serve(t, http.FileServer(http.Dir(dir)))
		for asked, want := range map[string]struct {
			is   string
			body string
		}{
			"bytes=0-0":          {"bytes 0-0/1048576", big[:1]},
			"bytes=1000-500000":  {"bytes 1000-500000/1048576", big[1000:500001]},
			"bytes=1048570-":     {"bytes 1048570-1048575/1048576", big[1048570:]},
			"bytes=-100":         {"bytes 1048476-1048575/1048576", big[1048476:]},
			"bytes=1048570-9999": {"", ""},
		} {
			resp := s.get("/big.bin", "Range", asked)
			if want.is == "" {
				assert.Equal(t, http.StatusRequestedRangeNotSatisfiable, resp.StatusCode, asked)
				continue
			}
			assert.Equal(t, http.StatusPartialContent, resp.StatusCode, asked)
			assert.Equal(t, want.is, resp.Header.Get("Content-Range"))
			assert.EqualValues(t, len(want.body), resp.ContentLength, asked)
			assert.True(t, want.body == resp.body, asked)
		}
		assert.Equal(t, []string{big[:10], big[100_000:300_000]}, rangesOf(t, s.get("/big.bin", "Range", "bytes=0-9,100000-299999")))
	})
}

// rangesOf returns the parts of a multi-range response.
func rangesOf(t testing.TB, resp answer) []string {
	t.Helper()
	require.Equal(t, http.StatusPartialContent, resp.StatusCode)
	kind, parameters, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	require.NoError(t, err)
	require.Equal(t, "multipart/byteranges", kind)
	require.EqualValues(t, len(resp.body), resp.ContentLength)
	var parts []string
	for r := multipart.NewReader(strings.NewReader(resp.body), parameters["boundary"]); ; {
		part, err := r.NextPart()
		if err == io.EOF {
			return parts
		}
		require.NoError(t, err)
		text, err := io.ReadAll(part)
		require.NoError(t, err)
		parts = append(parts, string(text))
	}
}

func TestFileServerAnswersConditions(t *testing.T) {
	dir := newFiles(t)
	everywhere(t, func(t *testing.T, p place) {
		s := p.serve(t, http.FileServer(http.Dir(dir)))
		head := s.do("HEAD", "/a.txt", nil)
		assert.EqualValues(t, len(prose), head.ContentLength)
		assert.Empty(t, head.body)
		modified := head.Header.Get("Last-Modified")
		unchanged := s.get("/a.txt", "If-Modified-Since", modified)
		assert.Equal(t, http.StatusNotModified, unchanged.StatusCode)
		assert.Empty(t, unchanged.body)
		assert.Equal(t, http.StatusPartialContent, s.get("/a.txt", "Range", "bytes=0-1", "If-Range", modified).StatusCode)
		assert.Equal(t, http.StatusOK, s.get("/a.txt", "Range", "bytes=0-1", "If-Range", "Mon, 02 Jan 2006 15:04:05 GMT").StatusCode)
		assert.Equal(t, http.StatusPreconditionFailed, s.get("/a.txt", "If-Unmodified-Since", "Mon, 02 Jan 2006 15:04:05 GMT").StatusCode)
	})
}

// Responses with and without a body follow each other on one connection.
func TestFileServerKeepsConnections(t *testing.T) {
	dir := newFiles(t)
	overHTTP1(t, func(t *testing.T, p place) {
		c := p.serve(t, http.FileServer(http.Dir(dir))).dial()
		for range 2 {
			assert.Equal(t, 200, c.Do("HEAD /big.bin HTTP/1.1\r\nHost: localhost\r\n\r\n").StatusCode)
			assert.Len(t, c.Do("GET /big.bin HTTP/1.1\r\nHost: localhost\r\n\r\n").Content, 1<<20)
			assert.Len(t, c.Do("GET /big.bin HTTP/1.1\r\nHost: localhost\r\nRange: bytes=5-9\r\n\r\n").Content, 5)
			assert.Equal(t, 304, c.Do("GET /a.txt HTTP/1.1\r\nHost: localhost\r\nIf-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT\r\n\r\n").StatusCode)
		}
	})
}

func TestStripPrefixKeepsEscapes(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := p.serve(t, http.StripPrefix("/api", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			fmt.Fprint(w, q.URL.Path, " ", q.URL.EscapedPath(), " ", q.RequestURI)
		})))
		assert.Equal(t, "/a/b /a%2Fb /api/a%2Fb?c", s.get("/api/a%2Fb?c").body)
		assert.Equal(t, http.StatusNotFound, s.get("/other").StatusCode)
	})
}

func TestAllowQuerySemicolonsWorks(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			fmt.Fprint(w, q.FormValue("a"), " ", q.FormValue("b"), " ", q.URL.RawQuery)
		}), http.AllowQuerySemicolons)
		assert.Equal(t, "1 2 a=1&b=2", s.get("/?a=1;b=2").body)
		assert.NotContains(t, s.log.String(), "semicolon")
	})
}

func TestAServeMuxRoutesBehindTheServer(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		var mux http.ServeMux
		mux.HandleFunc("GET localhost/users/{id}", func(w http.ResponseWriter, q *http.Request) {
			fmt.Fprint(w, q.PathValue("id"), " ", q.Pattern)
		})
		s := p.serve(t, &mux)
		assert.Equal(t, "7 GET localhost/users/{id}", s.get("/users/7").body)
		wrong := s.do("POST", "/users/7", strings.NewReader("body"))
		assert.Equal(t, http.StatusMethodNotAllowed, wrong.StatusCode)
		assert.Equal(t, "GET, HEAD", wrong.Header.Get("Allow"))
		moved := s.get("/a/../users/7")
		assert.Contains(t, []int{http.StatusMovedPermanently, http.StatusTemporaryRedirect}, moved.StatusCode)
		assert.Equal(t, "/users/7", moved.Header.Get("Location"))
	})
}

func TestCrossOriginProtectionRefusesForeignPosts(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { _, _ = io.Copy(w, q.Body) }), http.NewCrossOriginProtection().Handler)
		assert.Equal(t, "hello", s.do("POST", "/", strings.NewReader("hello"), "Origin", s.url("")).body)
		assert.Equal(t, http.StatusForbidden, s.do("POST", "/", strings.NewReader("hello"), "Origin", "https://other.test").StatusCode)
		assert.Equal(t, http.StatusForbidden, s.do("POST", "/", strings.NewReader("hello"), "Sec-Fetch-Site", "cross-site").StatusCode)
	})
}

func TestExpvarAndProfilesAreServed(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		var mux http.ServeMux
		mux.Handle("/debug/vars", expvar.Handler())
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		s := p.serve(t, &mux)
		var vars map[string]any
		require.NoError(t, json.Unmarshal([]byte(s.get("/debug/vars").body), &vars))
		assert.Contains(t, vars, "memstats")
		assert.Contains(t, s.get("/debug/pprof/").body, "goroutine?debug=1")
		assert.Contains(t, s.get("/debug/pprof/goroutine?debug=1").body, "goroutine profile: total ")
		heap := s.get("/debug/pprof/heap")
		assert.Equal(t, `attachment; filename="heap"`, heap.Header.Get("Content-Disposition"))
		assert.NotEmpty(t, heap.body)
		assert.Contains(t, s.get("/debug/pprof/cmdline").body, os.Args[0])
		assert.Equal(t, "num_symbols: 1\n", s.do("POST", "/debug/pprof/symbol", strings.NewReader("0x0")).body)
	})
}

// The profile would take an hour. net/http/pprof looks up the request's
// http.Server, to compare its WriteTimeout, and waits for the end of the
// request.
func TestAProfileEndsWhenItsClientDisconnects(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		arrived, ended := make(chan struct{}), make(chan struct{})
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			close(arrived)
			defer close(ended)
			pprof.Handler("goroutine").ServeHTTP(w, q)
		}))
		ctx, leave := context.WithCancel(t.Context())
		go func() {
			<-arrived
			leave()
		}()
		_, err := s.client.Do(s.request("GET", "/?seconds=3600", nil).WithContext(ctx))
		require.ErrorIs(t, err, context.Canceled)
		await(t, "the handler", ended)
	})
}
