package neighbours_test

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	chimw "github.com/go-chi/chi/v5/middleware"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A chiLog is a LogFormatter of chi that passes each entry to a channel.
type chiLog chan string

func (l chiLog) NewLogEntry(q *http.Request) chimw.LogEntry {
	return chiEntry{l, q.Method + " " + q.URL.RequestURI() + " " + q.Proto}
}

type chiEntry struct {
	to      chan<- string
	request string
}

func (e chiEntry) Write(status, bytes int, _ http.Header, _ time.Duration, _ any) {
	e.to <- fmt.Sprint(e.request, " ", status, " ", bytes)
}

func (e chiEntry) Panic(v any, _ []byte) { e.to <- fmt.Sprint("panic: ", v) }

// proto returns the protocol of p as it appears in a request.
func (p place) proto() string {
	if p.protocol == h2 {
		return "HTTP/2.0"
	}
	return "HTTP/1.1"
}

func TestChiRoutesRequests(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		mux := chi.NewRouter()
		mux.Use(chimw.RequestID, chimw.CleanPath, chimw.GetHead, chimw.Heartbeat("/ping"))
		mux.Get("/users/{id}", func(w http.ResponseWriter, q *http.Request) {
			fmt.Fprint(w, "user ", chi.URLParam(q, "id"), " of ", chi.RouteContext(q.Context()).RoutePattern())
		})
		mux.Route("/files", func(r chi.Router) {
			r.Get("/*", func(w http.ResponseWriter, q *http.Request) { fmt.Fprint(w, "file ", chi.URLParam(q, "*")) })
		})
		s := p.serve(t, mux)
		assert.Equal(t, "user 7 of /users/{id}", s.get("/users/7").body)
		assert.Equal(t, "file a/b", s.get("/files/a/b").body)
		assert.Equal(t, "file a%2Fb", s.get("/files/a%2Fb").body, "the path as it was sent")
		assert.Equal(t, "user 7 of /users/{id}", s.get("//users//7").body, "CleanPath")
		assert.Equal(t, ".", s.get("/ping").body)
		assert.Equal(t, http.StatusOK, s.do("HEAD", "/users/7", nil).StatusCode, "GetHead")
		wrong := s.do("POST", "/users/7", strings.NewReader("body"))
		assert.Equal(t, http.StatusMethodNotAllowed, wrong.StatusCode)
		assert.Equal(t, "GET", wrong.Header.Get("Allow"))
		assert.Equal(t, http.StatusNotFound, s.get("/nowhere").StatusCode)
	})
}

func TestChiLogsStatusAndSize(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		lines := make(chiLog, 1)
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			switch q.URL.Path {
			case "/copied":
				_, _ = io.Copy(w, strings.NewReader(strings.Repeat("x", 100_000)))
			case "/not-modified":
				w.WriteHeader(http.StatusNotModified)
			case "/hints":
				w.WriteHeader(http.StatusEarlyHints)
				w.WriteHeader(http.StatusTeapot)
			default:
				fmt.Fprint(w, "hello")
			}
		}), chimw.RequestLogger(lines))
		for path, want := range map[string]string{"/written?a=b": "200 5", "/copied": "200 100000", "/not-modified": "304 0", "/hints": "418 0"} {
			s.get(path)
			assert.Equal(t, "GET "+path+" "+p.proto()+" "+want, await(t, "the line", lines))
		}
	})
}

func TestChiRecoversPanics(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		lines := make(chiLog, 2)
		s := p.serve(t, http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
			if q.URL.Path == "/abort" {
				panic(http.ErrAbortHandler)
			}
			panic("oops")
		}), chimw.RequestLogger(lines), chimw.Recoverer)
		assert.Equal(t, http.StatusInternalServerError, s.get("/").StatusCode)
		assert.Equal(t, "panic: oops", await(t, "the panic", lines))
		assert.Contains(t, await(t, "the line", lines), " 500 ")

		s.fails("/abort")
		assert.NotContains(t, s.log.String(), "panic serving", "http.ErrAbortHandler is not logged")
	})
}

func TestChiCompressesAndFlushes(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		next := make(chan struct{})
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			fmt.Fprint(w, "one")
			w.(http.Flusher).Flush()
			if q.URL.Path == "/slow" {
				hold(q, next)
			}
			fmt.Fprint(w, "two")
		}), chimw.Compress(5))

		slow := s.begin("GET", "/slow", nil, "Accept-Encoding", "gzip")
		assert.Equal(t, "gzip", slow.Header.Get("Content-Encoding"))
		assert.Equal(t, "Accept-Encoding", slow.Header.Get("Vary"))
		unzipped, err := gzip.NewReader(slow.Body)
		require.NoError(t, err)
		assert.Equal(t, "one", readString(t, unzipped, 3), "before the handler continues")
		close(next)
		rest, err := io.ReadAll(unzipped)
		require.NoError(t, err)
		assert.Equal(t, "two", string(rest))

		asIs := s.get("/")
		assert.Empty(t, asIs.Header["Content-Encoding"])
		assert.Equal(t, "onetwo", asIs.body)
	})
}

func TestChiEndsSlowHandlers(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
			<-q.Context().Done()
		}), chimw.Timeout(time.Millisecond))
		assert.Equal(t, http.StatusGatewayTimeout, s.get("/").StatusCode)
	})
}

func TestChiThrottlesRequests(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		arrived, next := make(chan struct{}, 2), make(chan struct{})
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			w.(http.Flusher).Flush()
			arrived <- struct{}{}
			hold(q, next)
		}), chimw.Throttle(1))
		first := s.begin("GET", "/", nil)
		await(t, "the first request", arrived)
		assert.Equal(t, http.StatusTooManyRequests, s.get("/").StatusCode)
		close(next)
		_, err := io.ReadAll(first.Body)
		require.NoError(t, err)
	})
}

func TestChiThrottleFreesTheTokenOfAClientThatDisconnects(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		arrived, ended := make(chan struct{}, 1), make(chan struct{})
		around := func(next http.Handler) http.Handler {
			throttled := chimw.ThrottleBacklog(1, 1, time.Hour)(next)
			return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				throttled.ServeHTTP(w, q)
				if q.URL.Path == "/leaves" {
					close(ended)
				}
			})
		}
		s := p.serve(t, http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
			if q.URL.Path == "/leaves" {
				arrived <- struct{}{}
				<-q.Context().Done()
			}
		}), around)
		ctx, leave := context.WithCancel(t.Context())
		go func() {
			<-arrived
			leave()
		}()
		_, err := s.client.Do(s.request("GET", "/leaves", nil).WithContext(ctx))
		require.ErrorIs(t, err, context.Canceled)
		await(t, "the handler", ended)
		assert.Equal(t, http.StatusOK, s.get("/").StatusCode)
	})
}

func TestChiRewritesRequests(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		echo := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { fmt.Fprint(w, q.URL.Path, " ", q.RemoteAddr) })
		//lint:ignore SA1019 programs have it, and it writes to the request
		s := p.serve(t, echo, chimw.StripSlashes, chimw.RealIP)
		assert.Equal(t, "/a/b 192.0.2.7", s.get("/a/b/", "X-Real-IP", "192.0.2.7").body)
		assert.True(t, strings.HasPrefix(s.get("/").body, "/ 127.0.0.1:"))
	})
}

func TestChiRefusesWrongContentTypes(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			body, err := io.ReadAll(q.Body)
			fmt.Fprint(w, len(body), " ", err)
		}), chimw.AllowContentType("text/plain"))
		assert.Equal(t, http.StatusUnsupportedMediaType, s.do("POST", "/", strings.NewReader("{}"), "Content-Type", "application/json").StatusCode)
		assert.Equal(t, "5 <nil>", s.do("POST", "/", strings.NewReader("hello"), "Content-Type", "text/plain").body)
	})
}

// NewWrapResponseWriter chooses its type by the interfaces of the writer.
func TestChiFindsTheInterfacesOfAWriter(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		can := func(w http.ResponseWriter) string {
			_, flushes := w.(http.Flusher)
			_, hijacks := w.(http.Hijacker)
			_, readsFrom := w.(io.ReaderFrom)
			return fmt.Sprint("Flusher ", flushes, ", Hijacker ", hijacks, ", ReaderFrom ", readsFrom)
		}
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			fmt.Fprint(w, can(chimw.NewWrapResponseWriter(w, q.ProtoMajor)))
		}))
		want := "Flusher true, Hijacker true, ReaderFrom true"
		if p.protocol == h2 {
			want = "Flusher true, Hijacker false, ReaderFrom false"
		}
		assert.Equal(t, want, s.get("/").body)
	})
}

func TestChiLetsHandlersHijack(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			c, _, err := w.(http.Hijacker).Hijack()
			if assert.NoError(t, err) {
				_, _ = io.WriteString(c, "raw bytes")
				c.Close()
			}
		}), chimw.RequestLogger(make(chiLog, 1)), chimw.Compress(5), chimw.Recoverer)
		c := s.dial()
		c.Send(echoUpgrade)
		assert.Equal(t, "raw bytes", c.Rest())
	})
}

func TestChiWorksAroundUpstreams(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		backend := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			body, _ := io.ReadAll(q.Body)
			_, _ = w.Write(body)
		}))
		lines := make(chiLog, 1)
		s := p.serve(t, hostproxy.To(backend.Addr()), chimw.RequestLogger(lines), chimw.Recoverer, chimw.Compress(5))
		resp := s.do("POST", "/", strings.NewReader(strings.Repeat("hello ", 1000)), "Accept-Encoding", "gzip")
		assert.True(t, strings.Repeat("hello ", 1000) == unzip(t, resp))
		assert.Equal(t, fmt.Sprintf("POST / %s 200 %d", p.proto(), len(resp.body)), await(t, "the line", lines))
	})
}

// unzip returns the decompressed body of a gzip response.
func unzip(t testing.TB, resp answer) string {
	t.Helper()
	require.Equal(t, "gzip", resp.Header.Get("Content-Encoding"))
	r, err := gzip.NewReader(strings.NewReader(resp.body))
	require.NoError(t, err)
	text, err := io.ReadAll(r)
	require.NoError(t, err)
	return string(text)
}
