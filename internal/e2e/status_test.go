package e2e_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
	"github.com/hostproxy/hostproxy/internal/status"
)

// The status of a Router that serves real requests shows its certificates and
// targets.
func TestTheStatusShowsTheCertificatesAndTargetsInUse(t *testing.T) {
	for _, lane := range []string{"fast", "handler"} {
		t.Run(lane, func(t *testing.T) {
			r := &hostproxy.Router{Logger: silent()}
			r.TLS.Storage = &certmagic.FileStorage{Path: t.TempDir()}
			conf, roots := proxytest.TLS(t, "own.example.com")
			r.TLS.Config = conf
			b, dead := proxytest.NewServer(t, nil), proxytest.Refused(t)
			stream := proxytest.NewBackend(t, echoes)
			r.Handle("own.example.com", hostproxy.To(b.Addr()))
			r.Handle("local.test", hostproxy.To(b.Addr()))
			r.Handle("broken.test", hostproxy.To(dead))
			r.Handle("stream.test", hostproxy.To(stream.Addr()))
			r.Handle("status.test", hostproxy.StatusHandler(r))
			s := &hostproxy.Server{Router: r}
			if lane == "handler" {
				s.Handler = http.HandlerFunc(r.ServeHTTP)
			}
			running := proxytest.Start(t, s)
			require.NoError(t, r.AwaitCertificates(t.Context()))
			root, err := (&hostproxy.LocalCA{Storage: r.TLS.Storage}).RootPEM(t.Context())
			require.NoError(t, err)
			roots.AppendCertsFromPEM(root)
			began := time.Now()
			dial := func(host string) *proxytest.Client {
				return proxytest.DialTLS(t, running.HTTPS, &tls.Config{RootCAs: roots, ServerName: host})
			}
			to := func(host string) string { return "GET /p HTTP/1.1\r\nHost: " + host + "\r\n\r\n" }
			var leaf *x509.Certificate
			for host, n := range map[string]int{"own.example.com": 20, "local.test": 10} {
				c := dial(host)
				for range n {
					require.Equal(t, 200, c.Do(to(host)).StatusCode)
				}
				if host == "local.test" {
					leaf = c.Conn.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
				}
			}
			broken := dial("broken.test")
			for range 3 {
				require.Equal(t, 502, broken.Do(to("broken.test")).StatusCode)
			}
			ws := dial("stream.test")
			ws.Send("GET /ws HTTP/1.1\r\nHost: stream.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + token + "\r\n")
			require.Contains(t, ws.Head(), " 101 ")

			var p status.Page
			// they are counted after the client got its response
			proxytest.Eventually(t, "the failures and the stream", func() bool {
				p = status.Page{}
				a := dial("status.test").Do("GET /?format=json HTTP/1.1\r\nHost: status.test\r\n\r\n")
				require.Equal(t, 200, a.StatusCode)
				require.NoError(t, json.Unmarshal(a.Content, &p))
				return len(p.Failures) == 3 && slices.ContainsFunc(p.Routes, func(r status.Route) bool {
					return r.Pattern == "stream.test" && r.Targets[0].Streams == 1
				})
			})
			assert.Equal(t, status.Failure{Time: p.Failures[0].Time, Host: "broken.test", Path: "/p", Target: dead, Status: 502, Op: "dial",
				Side: "upstream", Cause: p.Failures[0].Cause}, p.Failures[0])
			assert.Contains(t, p.Failures[0].Cause, "refused")
			assert.WithinRange(t, p.Failures[0].Time, began, time.Now())

			routes := map[string]status.Target{}
			for _, route := range p.Routes {
				if route.Pattern == "status.test" {
					assert.Empty(t, route.Targets)
					continue
				}
				require.Len(t, route.Targets, 1, route.Pattern)
				routes[route.Pattern] = route.Targets[0]
				assert.Equal(t, "*hostproxy.Upstream", route.Handler)
			}
			for pattern, n := range map[string]uint64{"own.example.com": 20, "local.test": 10} {
				target := routes[pattern]
				assert.Equal(t, b.Addr(), target.Name)
				assert.Equal(t, "up", target.State)
				assert.Equal(t, n, target.Answers)
				assert.Zero(t, target.Failures)
				assert.Zero(t, target.Streams)
				assert.Positive(t, target.P50)
				assert.LessOrEqual(t, target.P50, target.P90)
				assert.LessOrEqual(t, target.P90, target.P99)
				assert.LessOrEqual(t, target.P99, float64(2*time.Since(began).Milliseconds()+1), "milliseconds")
			}
			assert.Equal(t, uint64(3), routes["broken.test"].Failures)
			assert.Zero(t, routes["broken.test"].Answers)
			assert.Zero(t, routes["broken.test"].P99)
			assert.Equal(t, int64(1), routes["stream.test"].Streams)
			assert.Equal(t, int64(1), routes["stream.test"].InFlight)

			certificates := map[string]status.Certificate{}
			for _, c := range p.Certificates {
				certificates[c.Host] = c
			}
			require.Len(t, certificates, 5)
			local, own := certificates["local.test"], certificates["own.example.com"]
			assert.Equal(t, "valid", local.State)
			assert.Equal(t, "hostproxy-local", local.Issuer)
			assert.WithinDuration(t, leaf.NotAfter, local.NotAfter, time.Second)
			assert.True(t, local.Renewal.After(began) && local.Renewal.Before(local.NotAfter), local.Renewal)
			assert.Equal(t, "static", own.State)
			assert.WithinDuration(t, conf.Certificates[0].Leaf.NotAfter, own.NotAfter, time.Second)
			assert.Empty(t, local.Error+own.Error)
		})
	}
}
