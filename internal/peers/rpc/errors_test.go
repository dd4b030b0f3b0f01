package rpc_test

import (
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestErrorsOfTheProxyAreStatuses(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		// the routes; nil means u for all hosts
		set     func(u *hostproxy.Upstream) map[string]http.Handler
		code    codes.Code
		message string
	}{
		{"another path has the only route", func(u *hostproxy.Upstream) map[string]http.Handler {
			return map[string]http.Handler{"a.test/other.Service": u}
		}, codes.Unimplemented, "404 Not Found: destination_not_found"},
		{"a client that is denied", func(u *hostproxy.Upstream) map[string]http.Handler {
			u.Deny = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
			return nil
		}, codes.PermissionDenied, "403 Forbidden: http_request_denied"},
		{"no password", func(u *hostproxy.Upstream) map[string]http.Handler {
			return only(&hostproxy.BasicAuth{Users: map[string]string{"ann": string(hash)}, Next: u})
		}, codes.Unauthenticated, "401 Unauthorized: http_request_denied"},
		{"too large a message", func(u *hostproxy.Upstream) map[string]http.Handler {
			u.MaxRequestBody = 100
			return nil
		}, codes.ResourceExhausted, "413 Request Entity Too Large: http_request_error"},
		{"maintenance", func(u *hostproxy.Upstream) map[string]http.Handler {
			_ = u.Maintain(hostproxy.Page{Body: []byte("soon")})
			return nil
		}, codes.Unavailable, "503 Service Unavailable: destination_unavailable"},
		{"a target that takes too long", func(u *hostproxy.Upstream) map[string]http.Handler {
			u.ResponseHeaderTimeout = 20 * time.Millisecond
			return nil
		}, codes.DeadlineExceeded, "504 Gateway Timeout: http_response_timeout"},
		{"a target that refuses connections", func(u *hostproxy.Upstream) map[string]http.Handler {
			u.Targets[0].Host = proxytest.Refused(t)
			return nil
		}, codes.Unavailable, "502 Bad Gateway: connection_refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			everywhere(t, func(t *testing.T, p place) {
				g := newTarget(t, p.scheme)
				u := g.upstream()
				routes := tt.set(u)
				if routes == nil {
					routes = only(u)
				}
				c := p.serve(t, routes).dial(t, "a.test")
				if tt.code == codes.DeadlineExceeded {
					_, err := c.EmptyCall(patient(t), new(testpb.Empty))
					checkStatus(t, err, tt.code, tt.message)
					return
				}
				_, err := c.UnaryCall(patient(t), &testpb.SimpleRequest{Payload: payload(1000)})
				checkStatus(t, err, tt.code, tt.message)
				s, err := c.FullDuplexCall(patient(t))
				if assert.NoError(t, err) {
					_ = s.Send(&testpb.StreamingOutputCallRequest{Payload: payload(1000)})
					_, err = s.Recv()
					checkStatus(t, err, tt.code, tt.message)
				}
			})
		})
	}
}

func checkStatus(t *testing.T, err error, code codes.Code, message string) {
	t.Helper()
	assert.Equal(t, code, status.Code(err), "%v", err)
	assert.Equal(t, message, status.Convert(err).Message())
}

func TestACallToAnUnknownHostHasAStatus(t *testing.T) {
	for _, tt := range []struct {
		front   string
		code    codes.Code
		message string
	}{
		{plain, codes.Unimplemented, "404 Not Found: destination_not_found"},
		{overTLS, codes.Unavailable, `connection error: desc = "transport: authentication handshake failed: remote error: tls: unrecognized name"`},
		{foreign, codes.Unavailable, "421 Misdirected Request: destination_not_found"},
	} {
		t.Run(tt.front, func(t *testing.T) {
			proxytest.NoLeaks(t)
			g := newTarget(t, "h2c")
			f := place{tt.front, "h2c"}.serve(t, map[string]http.Handler{"localhost": g.upstream()})
			_, err := f.dial(t, "unknown.test").UnaryCall(patient(t), new(testpb.SimpleRequest))
			checkStatus(t, err, tt.code, tt.message)
			_, err = f.dial(t, "localhost").UnaryCall(patient(t), new(testpb.SimpleRequest))
			assert.NoError(t, err)
		})
	}
}

func TestCallsAboveTheRateLimitAreResourceExhausted(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		c, _ := p.through(t, func(u *hostproxy.Upstream) { u.RateLimit = &hostproxy.RateLimit{Rate: 1.0 / 3600} })
		var err error
		for i := 0; i < 20 && err == nil; i++ {
			_, err = c.UnaryCall(patient(t), new(testpb.SimpleRequest))
		}
		checkStatus(t, err, codes.ResourceExhausted, "429 Too Many Requests: http_request_denied")
	})
}
