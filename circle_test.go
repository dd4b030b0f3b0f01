package hostproxy_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestUpstreamsThatAreBesideEachOtherLogToTheirRouter(t *testing.T) {
	for name, circle := range map[string]func(t *testing.T, blue, green *hostproxy.Upstream){
		"canaries": func(t *testing.T, blue, green *hostproxy.Upstream) {
			require.NoError(t, blue.Canary(green, 0))
			require.NoError(t, green.Canary(blue, 0))
		},
		"a mirror and a canary": func(t *testing.T, blue, green *hostproxy.Upstream) {
			require.NoError(t, blue.Mirror(green, 0))
			require.NoError(t, green.Canary(blue, 0))
		},
		"a canary of itself, refused": func(t *testing.T, _, green *hostproxy.Upstream) {
			require.Error(t, green.Canary(green, 0.5))
		},
	} {
		t.Run(name, func(t *testing.T) {
			blue, green := hostproxy.To(proxytest.Refused(t)), hostproxy.To(proxytest.Refused(t))
			green.Breaker = &hostproxy.Breaker{Failures: 1}
			circle(t, blue, green)
			var log proxytest.Log
			r := hostproxy.Router{Logger: slog.New(slog.NewTextHandler(&log, nil))}
			r.Handle("app.test", green)
			w := httptest.NewRecorder()
			r.ServeHTTP(w, httptest.NewRequest("GET", "http://app.test/", nil))
			assert.Equal(t, http.StatusBadGateway, w.Code)
			proxytest.Eventually(t, "the open breaker is logged", func() bool { return strings.Contains(log.String(), "target health changed") })
		})
	}
}
