package hostproxy_test

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A hiding writer has only the methods of http.ResponseWriter.
type hiding struct{ w http.ResponseWriter }

func (h hiding) Header() http.Header         { return h.w.Header() }
func (h hiding) Write(p []byte) (int, error) { return h.w.Write(p) }
func (h hiding) WriteHeader(status int)      { h.w.WriteHeader(status) }

func hide(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { next.ServeHTTP(hiding{w}, q) })
}

// A passing writer passes everything on.
type passing struct{ http.ResponseWriter }

func (p passing) Unwrap() http.ResponseWriter { return p.ResponseWriter }

func pass(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { next.ServeHTTP(passing{w}, q) })
}

// A signalling writer signals when the first event is written.
type signalling struct {
	http.ResponseWriter
	written chan struct{}
}

func (w signalling) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w signalling) Write(p []byte) (int, error) {
	if strings.HasPrefix(string(p), "data: one") {
		w.written <- struct{}{}
	}
	return w.ResponseWriter.Write(p)
}

func TestAStreamThatCannotBeFlushedIsLoggedOnce(t *testing.T) {
	written := make(chan struct{}, 1) // the proxy has written the first event
	target := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Type", q.URL.Query().Get("type"))
		_, _ = io.WriteString(w, "data: one\n\n")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-written:
		case <-q.Context().Done():
		}
		_, _ = io.WriteString(w, "data: two\n\n")
	}))
	same := func(h http.Handler) http.Handler { return h }
	for name, tt := range map[string]struct {
		server, route func(http.Handler) http.Handler
		kind          string
		lines         int
	}{
		"in front of the Router":     {hide, same, "text/event-stream", 1},
		"in front of the Upstream":   {same, hide, "text/event-stream; charset=utf-8", 1},
		"in front of both":           {hide, hide, "text/event-stream", 1},
		"a response of gRPC":         {same, hide, "application/grpc", 1},
		"a page":                     {hide, hide, "text/html", 0},
		"a wrapper with Unwrap":      {pass, pass, "text/event-stream", 0},
		"no wrapper":                 {same, same, "text/event-stream", 0},
		"a wrapper of that with one": {pass, hide, "text/event-stream", 1},
	} {
		t.Run(name, func(t *testing.T) {
			log := new(proxytest.Log)
			r := hostproxy.Router{Logger: slog.New(slog.NewTextHandler(log, nil))}
			r.Handle("a.test", tt.route(hostproxy.To(target.Addr())))
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				tt.server(&r).ServeHTTP(signalling{w, written}, q)
			}))
			defer s.Close()
			for range 3 {
				q, err := http.NewRequestWithContext(t.Context(), "GET", s.URL+"/?type="+url.QueryEscape(tt.kind), nil)
				require.NoError(t, err)
				q.Host = "a.test"
				res, err := s.Client().Do(q)
				require.NoError(t, err)
				body, err := io.ReadAll(res.Body)
				require.NoError(t, err)
				require.NoError(t, res.Body.Close())
				assert.Equal(t, "data: one\n\ndata: two\n\n", string(body))
			}
			assert.Equal(t, tt.lines, strings.Count(log.String(), "streams are delayed"), log.String())
			if tt.lines > 0 {
				assert.Contains(t, log.String(), "level=WARN")
				assert.Contains(t, log.String(), "pattern=a.test")
				assert.Contains(t, log.String(), "Unwrap() http.ResponseWriter")
			}
		})
	}
}
