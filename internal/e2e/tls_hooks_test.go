package e2e_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// panicking has funcs that set a hook of a tls.Config which panics when now
// returns true, by the name of the hook. Read-only.
var panicking = map[string]func(c *tls.Config, now func() bool){
	"TLS.VerifyConnection": func(c *tls.Config, now func() bool) {
		c.VerifyConnection = func(tls.ConnectionState) error {
			if now() {
				panic("oh")
			}
			return nil
		}
	},
	"TLS.VerifyPeerCertificate": func(c *tls.Config, now func() bool) {
		c.VerifyPeerCertificate = func([][]byte, [][]*x509.Certificate) error {
			if now() {
				panic("oh")
			}
			return nil
		}
	},
	"TLS.GetClientCertificate": func(c *tls.Config, now func() bool) {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if now() {
				panic("oh")
			}
			return new(tls.Certificate), nil
		}
	},
}

// newAsking starts a backend that requests client certificates.
func newAsking(t *testing.T, h http.Handler) (target string, roots *x509.CertPool) {
	t.Helper()
	b, roots := proxytest.NewTLSServer(t, h)
	b.TLS.ClientAuth = tls.RequestClientCert // applies from the next handshake on
	return "https://" + b.Addr(), roots
}

func always() bool { return true }

// assertPanic checks the record of an exchange that failed by a panic of the
// hook.
func assertPanic(t *testing.T, hook string, x hostproxy.Exchange) {
	t.Helper()
	assert.Equal(t, 500, x.Status)
	var e *hostproxy.Error
	require.ErrorAs(t, x.Err, &e)
	assert.Equal(t, hostproxy.SideProxy, e.Side)
	assert.ErrorContains(t, x.Err, "panic in "+hook+": oh")
	assert.ErrorContains(t, x.Err, "tls_hooks_test.go", "the stack")
	assert.Equal(t, 1, x.Attempts, "another target would not help")
}

func TestAPanicInAHandshakeFailsOnlyItsRequest(t *testing.T) {
	for hook, set := range panicking {
		for name, hedge := range map[string]time.Duration{"": 0, ", hedged": time.Minute} {
			t.Run(hook+name, func(t *testing.T) {
				one, roots := newAsking(t, nil)
				two, _ := newAsking(t, nil)
				var bad atomic.Bool
				build := func() *hostproxy.Upstream {
					u := hostproxy.To(one, two)
					u.TLS, u.Hedge = &tls.Config{InsecureSkipVerify: true, RootCAs: roots}, hedge
					set(u.TLS, bad.Load)
					return u
				}
				inLanes(t, build, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
					bad.Store(true)
					for range 3 {
						a := c.Do(request("GET /", "\r\n"))
						assert.Equal(t, 500, a.StatusCode)
						assert.NotContains(t, string(a.Raw), "oh", "nothing of it goes to the client")
						assertPanic(t, hook, <-records)
					}
					bad.Store(false)
					assert.Equal(t, "ok", string(c.Do(request("GET /", "\r\n")).Content), "and of no other")
				})
			})
		}
	}
}

// The handshake of a hedge runs on its own goroutine.
func TestAPanicInTheHandshakeOfAHedgeLeavesTheFirstTargetTime(t *testing.T) {
	for hook, set := range panicking {
		t.Run(hook, func(t *testing.T) {
			asked, panicked := make(chan struct{}, 1), make(chan struct{}, 1)
			first, _ := newAsking(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				asked <- struct{}{}
				<-panicked
				_, _ = io.WriteString(w, "first")
			}))
			second, _ := newAsking(t, nil)
			build := func() *hostproxy.Upstream {
				u := hostproxy.To(first, second)
				u.Policy, u.Hedge = hostproxy.FirstAvailable, 10*time.Millisecond
				u.TLS = &tls.Config{InsecureSkipVerify: true}
				u.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
					// on a busy machine the hedge may be the faster one
					if strings.HasSuffix(second, addr) {
						<-asked
					}
					return new(net.Dialer).DialContext(ctx, network, addr)
				}
				var handshakes atomic.Int64
				set(u.TLS, func() bool {
					if handshakes.Add(1) == 1 {
						return false
					}
					panicked <- struct{}{}
					return true
				})
				return u
			}
			inLanes(t, build, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
				assert.Equal(t, "first", string(c.Do(request("GET /", "\r\n")).Content))
				x := <-records
				assert.NoError(t, x.Err)
				assert.Equal(t, first, x.Target)
				require.Len(t, x.Retried, 1)
				// The first may answer before the failure of the other is
				// known.
				assert.Regexp(t, "panic in "+hook+": oh|another target was faster", x.Retried[0].Error())
			})
		})
	}
}

// The handshakes of health checks, and of requests that need HTTP/2, run on
// goroutines of net/http.
func TestAPanicInTheHandshakeOfAHealthCheckFailsTheCheck(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	old := proxytest.NewBackend(t, says("old"))
	for hook, set := range panicking {
		for name, check := range map[string]hostproxy.HealthCheck{
			"by a path": {Path: "/up", Interval: -1}, "by gRPC": {GRPC: true, Interval: -1},
		} {
			t.Run(hook+" "+name, func(t *testing.T) {
				proxytest.NoLeaks(t)
				target, _ := newAsking(t, nil)
				from := old.Addr()
				if check.GRPC { // not possible over plain http
					from = "h2c://" + from
				}
				u := hostproxy.To(from)
				u.TLS, u.Health = &tls.Config{InsecureSkipVerify: true}, &check
				set(u.TLS, always)
				err := untilItSays(t, "panic in "+hook+": oh", func(ctx context.Context) error { return u.Replace(ctx, target) })
				assert.ErrorIs(t, err, context.DeadlineExceeded)
				assert.ErrorContains(t, err, "target "+target+" is not ready")
				for left := range u.All() {
					assert.Equal(t, from, left.String(), "everything stays as it was")
				}
			})
		}
	}
}

func TestAPanicInAHandshakeFailsOnlyItsGRPCCall(t *testing.T) {
	for hook, set := range panicking {
		t.Run(hook, func(t *testing.T) {
			target, _ := newAsking(t, nil)
			u := hostproxy.To(target)
			u.TLS = &tls.Config{InsecureSkipVerify: true}
			set(u.TLS, always)
			records := make(chan hostproxy.Exchange, 10)
			r := &hostproxy.Router{Observe: func(x *hostproxy.Exchange) { records <- *x }}
			conf, roots := proxytest.TLS(t, "a.test")
			r.TLS.Config = conf
			r.Handle("a.test", u)
			c := proxytest.HTTPClient(t, proxytest.Start(t, &hostproxy.Server{Router: r}).HTTPS, roots, "h2")
			for range 3 {
				res, err := c.Post("https://a.test/x.Y/Z", "application/grpc", strings.NewReader("\x00\x00\x00\x00\x00"))
				require.NoError(t, err)
				res.Body.Close()
				assert.Equal(t, "13", res.Header.Get("Grpc-Status"), "INTERNAL, as gRPC says it")
				x := <-records
				assert.Equal(t, 500, x.Status)
				assertPanic(t, hook, x)
			}
		})
	}
}
