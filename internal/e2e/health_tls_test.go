package e2e_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// servesGRPC answers all requests. Health checks, by GET of /up and by gRPC,
// succeed as long as well is true.
func servesGRPC(well *atomic.Bool, protos *[2]atomic.Int64) http.HandlerFunc {
	return func(w http.ResponseWriter, q *http.Request) {
		switch q.URL.Path {
		case "/up":
			protos[q.ProtoMajor-1].Add(1)
			if !well.Load() {
				w.WriteHeader(500)
			}
		case "/grpc.health.v1.Health/Check":
			protos[q.ProtoMajor-1].Add(1)
			_, _ = io.Copy(io.Discard, q.Body)
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Trailer", "Grpc-Status")
			status := "\x01"
			if !well.Load() {
				status = "\x02"
			}
			_, _ = io.WriteString(w, "\x00\x00\x00\x00\x02\x08"+status)
			w.Header().Set("Grpc-Status", "0")
		}
	}
}

func TestChecksOverTLSVerifyTheTarget(t *testing.T) {
	_, foreign := proxytest.TLS(t)
	for _, tt := range []struct {
		name  string
		check hostproxy.HealthCheck
		major int
	}{
		{"by a path", hostproxy.HealthCheck{Path: "/up"}, 1},
		{"by gRPC", hostproxy.HealthCheck{GRPC: true}, 2},
	} {
		tt.check.Interval, tt.check.Fall = 5*time.Millisecond, 1
		for trust, configure := range map[string]func(roots *x509.CertPool) *tls.Config{
			"trusted":                  func(roots *x509.CertPool) *tls.Config { return &tls.Config{RootCAs: roots} },
			"of another CA":            func(*x509.CertPool) *tls.Config { return &tls.Config{RootCAs: foreign} },
			"of another name":          func(roots *x509.CertPool) *tls.Config { return &tls.Config{RootCAs: roots, ServerName: "other.test"} },
			"unknown to the system":    func(*x509.CertPool) *tls.Config { return nil },
			"trusted whatever it says": func(*x509.CertPool) *tls.Config { return &tls.Config{InsecureSkipVerify: true} },
		} {
			t.Run(tt.name+", "+trust, func(t *testing.T) {
				var well atomic.Bool
				var protos [2]atomic.Int64 // numbers of checks over HTTP/1 and HTTP/2
				b, roots := proxytest.NewTLSServer(t, servesGRPC(&well, &protos))
				name, conf := "https://"+b.Addr(), configure(roots)
				well.Store(true)
				good := strings.HasPrefix(trust, "trusted")
				check := tt.check
				check.StartDown = good
				changed := make(states, 100)
				u := hostproxy.To(name)
				u.TLS, u.Health, u.TargetChanged = conf, &check, changed.hook
				r := &hostproxy.Router{Logger: silent()}
				r.Handle("a.test", u)
				c := proxytest.Dial(t, proxytest.StartPlain(t, &hostproxy.Server{Router: r}).Plain)
				asked := protos[tt.major-1].Load()
				status := c.Do(request("GET /", "\r\n")).StatusCode
				if !good {
					assert.Equal(t, 502, status)
					changed.await(t, name+" down")
					assert.Regexp(t, "x509: |certificate", slices.Collect(u.All())[0].Health().Reason)
					assert.Equal(t, asked, protos[tt.major-1].Load(), "nothing is asked of who it may be")
					return
				}
				assert.Equal(t, 200, status, "it is tried while there is no other")
				changed.await(t, name+" up")
				well.Store(false)
				changed.await(t, name+" down")
				well.Store(true)
				changed.await(t, name+" up")
				assert.Greater(t, protos[tt.major-1].Load(), asked+1)
			})
		}
	}
}

// If a route leads elsewhere for a while and then back, the health of its
// targets is kept.
func TestTheHealthOfATargetOutlivesItsRoute(t *testing.T) {
	for _, by := range []string{"checks", "breaker"} {
		for _, lane := range []string{"fast", "full"} {
			t.Run(by+"/"+lane, func(t *testing.T) {
				var asked atomic.Int64
				ill := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
					if q.URL.Path != "/up" {
						asked.Add(1)
					}
					w.WriteHeader(503)
				}))
				well, other := proxytest.NewBackend(t, says("well")), proxytest.NewBackend(t, says("other"))
				u := hostproxy.To(ill.Addr(), well.Addr())
				changed := make(states, 100)
				u.Policy, u.TargetChanged = hostproxy.FirstAvailable, changed.hook
				u.Retry.Statuses = []int{503}
				state := "down"
				if by == "checks" {
					u.Health = &hostproxy.HealthCheck{Path: "/up", Interval: 5 * time.Millisecond, Fall: 1}
				} else {
					state = "open"
					u.Breaker = &hostproxy.Breaker{Failures: 1, Statuses: []int{503}}
				}
				r := new(hostproxy.Router)
				r.Handle("a.test", u)
				s := &hostproxy.Server{Router: r}
				if lane == "full" {
					s.Handler = http.HandlerFunc(r.ServeHTTP)
				}
				c := proxytest.Dial(t, proxytest.StartPlain(t, s).Plain)
				says := func() string { return string(c.Do(request("GET /", "\r\n")).Content) }
				assert.Equal(t, "well", says())
				changed.await(t, ill.Addr()+" "+state)
				before, known := asked.Load(), slices.Collect(u.All())[0].Health()
				for range 5 {
					require.NoError(t, r.Set("a.test", hostproxy.To(other.Addr())))
					assert.Equal(t, "other", says())
					require.NoError(t, r.Set("a.test", u))
					for range 5 {
						assert.Equal(t, "well", says())
					}
					require.True(t, r.Remove("a.test"))
					assert.Equal(t, 404, c.Do(request("GET /", "\r\n")).StatusCode)
					require.NoError(t, r.Replace(map[string]http.Handler{"a.test": u, "b.test": u}))
					assert.Equal(t, "well", says())
				}
				assert.Equal(t, before, asked.Load(), "no request has reached it")
				assert.Equal(t, known.State, slices.Collect(u.All())[0].Health().State)
				assert.Equal(t, known.Since, slices.Collect(u.All())[0].Health().Since)
				assert.Empty(t, changed)
			})
		}
	}
}
