package neighbours_test

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"testing"

	"github.com/coder/websocket"
	chimw "github.com/go-chi/chi/v5/middleware"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// stack returns the middleware of all libraries, one around the other.
func stack(t *testing.T) []middleware {
	t.Helper()
	around, _ := traced(t)
	return []middleware{around, chimw.RequestLogger(make(chiLog, 100)), chimw.Recoverer, zip, http.AllowQuerySemicolons}
}

// through returns handlers that forward to a backend: an Upstream, and
// httputil's ReverseProxy.
func through(t *testing.T, addr string) map[string]http.Handler {
	t.Helper()
	return map[string]http.Handler{"Upstream": hostproxy.To(addr), "ReverseProxy": newReverseProxy(t, addr)}
}

func TestWebSocketsPassAStackOfMiddleware(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		h, served := coderServer(t, websocket.AcceptOptions{}, coderEcho)
		for name, proxy := range through(t, proxytest.NewServer(t, h).Addr()) {
			c := p.serve(t, proxy, stack(t)...).dial()
			upgrade(t, c, wsRequest)
			c.Send(wsHello)
			c.Expect(wsHelloBack)
			c.Send("\x88\x82\x00\x00\x00\x00\x03\xe8") // close, 1000
			assert.Equal(t, "\x88\x02\x03\xe8", c.Rest(), name)
			assert.Equal(t, websocket.StatusNormalClosure, websocket.CloseStatus(await(t, "the handler", served)))
		}
	})
}

func TestStreamsPassAStackOfMiddleware(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		next := make(chan struct{})
		backend := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range 3 {
				fmt.Fprintf(w, "data: %d\n\n", i)
				w.(http.Flusher).Flush()
				hold(q, next)
			}
		}))
		for name, proxy := range through(t, backend.Addr()) {
			resp := p.serve(t, proxy, stack(t)...).begin("GET", "/", nil, "Accept-Encoding", "gzip")
			var events io.Reader = resp.Body
			if resp.Header.Get("Content-Encoding") == "gzip" {
				var err error
				events, err = gzip.NewReader(resp.Body)
				require.NoError(t, err, name)
			}
			for i := range 3 {
				want := fmt.Sprintf("data: %d\n\n", i)
				assert.Equal(t, want, readString(t, events, len(want)), name)
				next <- struct{}{}
			}
			rest, err := io.ReadAll(events)
			assert.NoError(t, err, name)
			assert.Empty(t, rest, name)
		}
	})
}

func TestTruncatedResponsesPassAStackOfMiddlewareTruncated(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		backend := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
			if _, err := c.ReadRequest(); err == nil {
				_ = c.Send("HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 100\r\n\r\nshort")
			}
		})
		for name, proxy := range through(t, backend.Addr()) {
			if proxy, ok := proxy.(*httputil.ReverseProxy); ok {
				proxy.FlushInterval = -1
			}
			assert.LessOrEqual(t, len(p.serve(t, proxy, stack(t)...).fails("/")), len("short"), name)
		}
	})
}
