package e2e_test

import (
	"compress/gzip"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A zipper is a ResponseWriter that compresses.
type zipper struct {
	http.ResponseWriter
	z *gzip.Writer
}

func (z zipper) Write(p []byte) (int, error) { return z.z.Write(p) }

// zipped compresses the responses of next.
func zipped(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		z := zipper{w, gzip.NewWriter(w)}
		next.ServeHTTP(z, q)
		_ = z.z.Close()
	})
}

// The record counts the bytes that the client gets once, whatever is between
// the Router and the target.
func TestTheRecordCountsEachByteOfAnAnswerOnce(t *testing.T) {
	chunks := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("hello"))
		_ = http.NewResponseController(w).Flush()
		_, _ = w.Write(make([]byte, 100_000))
	}))
	overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		c := s.dial(t)
		for i, host := range []string{"a.test", "behind.test", "long.test", "zipped.test", "down.test", "downbehind.test", "fallback.test", "mine.test"} {
			a := c.Do("GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n")
			require.NotEmpty(t, a.Content)
			assert.Equal(t, int64(len(a.Content)), s.record(t, i+1).ResponseBytes, host)
		}
	}, func(s *site) {
		down := hostproxy.To("127.0.0.1:1")
		fallback := hostproxy.To("127.0.0.1:1")
		fallback.ErrorHandler = func(w http.ResponseWriter, q *http.Request, _ error) { s.upstream.ServeHTTP(w, q) }
		s.router.Handle("behind.test", http.HandlerFunc(s.upstream.ServeHTTP))
		s.router.Handle("long.test", http.HandlerFunc(hostproxy.To(chunks.Addr()).ServeHTTP))
		s.router.Handle("zipped.test", zipped(hostproxy.To(chunks.Addr())))
		s.router.Handle("down.test", down)
		s.router.Handle("downbehind.test", http.HandlerFunc(down.ServeHTTP))
		s.router.Handle("fallback.test", fallback)
		s.router.Handle("mine.test", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("mine")) }))
	})
}
