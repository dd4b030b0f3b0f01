package hostproxy_test

import (
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"weak"

	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A program may have a new Upstream for each version, for as long as it runs.
func TestAnUpstreamDoesNotKeepTheOneThatItHasReplaced(t *testing.T) {
	target := proxytest.NewServer(t, nil)
	var r hostproxy.Router
	version := hostproxy.To(target.Addr())
	r.Handle("app.test", version)
	first := weak.Make(version)
	for range 3 {
		next := hostproxy.To(target.Addr())
		require.NoError(t, version.Canary(next, 0.5))
		r.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "http://app.test/", nil))
		require.NoError(t, version.Canary(nil, 0))
		require.NoError(t, r.Replace(map[string]http.Handler{"app.test": next}))
		r.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "http://app.test/", nil))
		version = next
	}
	proxytest.Eventually(t, "the first version is garbage", func() bool {
		runtime.GC()
		return first.Value() == nil
	})
	runtime.KeepAlive(version)
}
