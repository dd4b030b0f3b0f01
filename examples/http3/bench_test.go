package http3_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// BenchmarkProtocols measures requests through the proxy. Client, proxy and
// target run in one process. The requests of h2, and those of h3, share one
// connection.
func BenchmarkProtocols(b *testing.B) {
	for size, body := range map[string]string{"1KiB": strings.Repeat("x", 1<<10), "1MiB": strings.Repeat("x", 1<<20)} {
		target := proxytest.NewServer(b, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }))
		s := newSite(b, "a.test")
		s.router.Handle("a.test", hostproxy.To(target.Addr()))
		s.start(b)
		for _, p := range protocols {
			b.Run("body="+size+"/impl="+p, func(b *testing.B) {
				c := s.client(b, p)
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				b.SetParallelism(8)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						res, err := c.Get("https://a.test/")
						if err != nil {
							b.Error(err)
							return
						}
						n, err := io.Copy(io.Discard, res.Body)
						res.Body.Close()
						if err != nil || n != int64(len(body)) {
							b.Error(n, err)
						}
					}
				})
			})
		}
		require.NoError(b, s.run.Stop())
	}
}
