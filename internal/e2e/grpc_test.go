package e2e_test

import (
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// An ownError is a setting with which the proxy itself answers b.test.
type ownError struct {
	name         string
	set          func(t *testing.T, s *site)
	status       int
	code, reason string
}

// body returns a request's body, only where it is needed: one that is not read
// keeps a connection of net/http's client busy for a second.
func (o *ownError) body() io.Reader {
	if o.status == http.StatusRequestEntityTooLarge {
		return strings.NewReader("\x00\x00\x00\x00\x00")
	}
	return nil
}

// ownErrors has at least one for each status. Read-only.
var ownErrors = []ownError{
	{"a path without a route", func(_ *testing.T, s *site) { s.router.Handle("b.test/other", s.upstream) }, 404, "12", "destination_not_found"},
	{"no password", func(t *testing.T, s *site) {
		hash, err := bcrypt.GenerateFromPassword([]byte("s3cret"), bcrypt.MinCost)
		require.NoError(t, err)
		s.router.Handle("b.test", &hostproxy.BasicAuth{Users: map[string]string{"ann": string(hash)}, Next: s.upstream})
	}, 401, "16", "http_request_denied"},
	{"an address on the list", upstreamWith(func(u *hostproxy.Upstream) {
		u.Deny = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	}), 403, "7", "http_request_denied"},
	{"too large a body", upstreamWith(func(u *hostproxy.Upstream) { u.MaxRequestBody = 2 }), 413, "8", "http_request_error"},
	{"nobody listens", func(t *testing.T, s *site) { s.router.Handle("b.test", hostproxy.To(proxytest.Refused(t))) }, 502, "14", "connection_refused"},
	{"the target answers nothing", upstreamWith(func(u *hostproxy.Upstream) { u.ResponseHeaderTimeout = 50 * time.Millisecond }), 504, "4", "http_response_timeout"},
	{"a page", upstreamWith(func(u *hostproxy.Upstream) {
		_ = u.Maintain(hostproxy.Page{ContentType: "text/html", Body: []byte("<h1>100 % soon</h1>"), RetryAfter: time.Minute})
	}), 503, "14", "destination_unavailable"},
	{"a page that says 200", upstreamWith(func(u *hostproxy.Upstream) { _ = u.Maintain(hostproxy.Page{Status: 200, Body: []byte("soon")}) }), 200, "14", "destination_unavailable"},
	{"an auth server that is down", func(t *testing.T, s *site) {
		s.router.Handle("b.test", &hostproxy.ForwardAuth{Auth: hostproxy.To(proxytest.Refused(t)), Next: s.upstream})
	}, 502, "14", "connection_refused"},
	{"a hook that panics", upstreamWith(func(u *hostproxy.Upstream) {
		u.Pick = func(*http.Request, []*hostproxy.Target) *hostproxy.Target { panic("oh") }
	}), 500, "13", "proxy_internal_error"},
}

// upstreamWith routes b.test to the site's backend, by an upstream edited by
// change.
func upstreamWith(change func(*hostproxy.Upstream)) func(*testing.T, *site) {
	return func(_ *testing.T, s *site) {
		u := hostproxy.To(s.backend.Addr())
		change(u)
		s.router.Handle("b.test", u)
	}
}

// mute reads everything and answers nothing.
func mute(c *proxytest.BackendConn) { _, _ = io.Copy(io.Discard, c) }

// askAs sends a request like a gRPC client's, with that content type.
func askAs(t *testing.T, client *http.Client, contentType string, body io.Reader) (*http.Response, string) {
	t.Helper()
	q := newRequest(t, "POST", "/grpc.testing.TestService/EmptyCall", body)
	q.URL.Host, q.Host = "b.test", "b.test"
	q.Header.Set("Content-Type", contentType)
	q.Header.Set("Te", "trailers")
	return do(t, client, q)
}

// overHTTP2 runs check over the lanes in which clients can speak HTTP/2.
func overHTTP2(t *testing.T, set func(*testing.T, *site), check func(*testing.T, *site)) {
	t.Helper()
	for _, l := range lanes {
		if l.secure {
			t.Run(l.name, func(t *testing.T) {
				proxytest.NoLeaks(t)
				check(t, newSite(t, l, mute, func(s *site) { set(t, s) }))
			})
		}
	}
}

func TestGRPCClientsGetOurErrorsInTrailers(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	for _, tt := range ownErrors {
		t.Run(tt.name, func(t *testing.T) {
			overHTTP2(t, tt.set, func(t *testing.T, s *site) {
				client := proxytest.HTTPClient(t, s.addr, s.tls.RootCAs, "h2")
				for i, contentType := range []string{"application/grpc", "application/grpc+proto", "application/grpc;x=y", "Application/GRPC"} {
					p, body := askAs(t, client, contentType, tt.body())
					assert.Equal(t, 200, p.StatusCode)
					assert.Equal(t, "application/grpc", p.Header.Get("Content-Type"))
					assert.Equal(t, []string{tt.code}, p.Header["Grpc-Status"])
					shown := tt.status
					if shown == 200 { // a page for browsers
						shown = 503
					}
					assert.Equal(t, []string{strconv.Itoa(shown) + " " + http.StatusText(shown) + ": " + tt.reason}, p.Header["Grpc-Message"])
					assert.Equal(t, "hostproxy; error="+tt.reason, p.Header.Get("Proxy-Status"))
					assert.Empty(t, body)
					assert.Equal(t, tt.status, s.record(t, i+1).Status, "the record has the HTTP status")
					assert.Zero(t, s.record(t, i+1).ResponseBytes)
				}
			})
		})
	}
}

// A handler may answer a gRPC client with what it recorded of an Upstream's
// error, or with a response of its own: the record follows what was sent.
func TestTheRecordOfAGRPCErrorThatAHandlerReplacesIsOfItsOwnResponse(t *testing.T) {
	for _, tt := range []struct {
		name   string
		copies bool
		want   int
	}{{"copied", true, 502}, {"replaced", false, 200}} {
		t.Run(tt.name, func(t *testing.T) {
			overHTTP2(t, func(t *testing.T, s *site) {
				u := hostproxy.To(proxytest.Refused(t))
				s.router.Handle("b.test/grpc.testing.TestService", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
					rec := httptest.NewRecorder()
					u.ServeHTTP(rec, q)
					w.Header().Set("Content-Type", "application/grpc")
					if tt.copies {
						maps.Copy(w.Header(), rec.Header())
					}
					w.WriteHeader(200)
				}))
			}, func(t *testing.T, s *site) {
				p, _ := askAs(t, proxytest.HTTPClient(t, s.addr, s.tls.RootCAs, "h2"), "application/grpc", nil)
				assert.Equal(t, 200, p.StatusCode)
				assert.Equal(t, tt.copies, p.Header.Get("Grpc-Status") == "14")
				assert.Equal(t, tt.want, s.record(t, 1).Status)
				assert.Error(t, s.record(t, 1).Err)
			})
		})
	}
}

// Of a Router within a Router, both have a record of the response.
func TestBothRecordsOfAGRPCErrorInARouterWithinARouterHaveItsStatus(t *testing.T) {
	overHTTP2(t, func(t *testing.T, s *site) {
		inner := &hostproxy.Router{Observe: s.observe, Logger: silent()}
		inner.Handle("b.test", hostproxy.To(proxytest.Refused(t)))
		s.router.Handle("b.test/grpc.testing.TestService", http.HandlerFunc(inner.ServeHTTP))
	}, func(t *testing.T, s *site) {
		p, _ := askAs(t, proxytest.HTTPClient(t, s.addr, s.tls.RootCAs, "h2"), "application/grpc", nil)
		assert.Equal(t, []string{"14"}, p.Header["Grpc-Status"])
		assert.Equal(t, []int{502, 502}, []int{s.record(t, 1).Status, s.record(t, 2).Status})
	})
}

func TestClientsOtherThanGRPCGetOurErrorsAsHTTP(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	for _, tt := range ownErrors {
		t.Run(tt.name, func(t *testing.T) {
			overHTTP2(t, tt.set, func(t *testing.T, s *site) {
				clients := map[string]*http.Client{}
				for _, protocol := range []string{"h1", "h2"} {
					clients[protocol] = proxytest.HTTPClient(t, s.addr, s.tls.RootCAs, protocol)
				}
				for _, c := range []struct{ protocol, contentType string }{
					{"h2", "application/grpc-web"}, {"h2", "application/grpc-web+proto"}, {"h2", "application/grpcish"}, {"h2", "application/json"}, {"h2", ""},
					{"h1", "application/grpc"}, // which is no gRPC
				} {
					p, body := askAs(t, clients[c.protocol], c.contentType, tt.body())
					assert.Equal(t, tt.status, p.StatusCode, c)
					assert.Empty(t, p.Header["Grpc-Status"], c)
					assert.NotEmpty(t, body, c)
				}
			})
		})
	}
}

func TestARateLimitedGRPCClientGetsStatus8AndRetryAfter(t *testing.T) {
	set := func(_ *testing.T, s *site) {
		s.router.Handle("b.test/other", s.upstream)
		s.router.RateLimit = &hostproxy.RateLimit{Rate: 1.0 / 3600}
	}
	overHTTP2(t, set, func(t *testing.T, s *site) {
		client := proxytest.HTTPClient(t, s.addr, s.tls.RootCAs, "h2")
		p, _ := askAs(t, client, "application/grpc", nil)
		for i := 2; p.Header.Get("Grpc-Status") != "8" && i < 20; i++ {
			p, _ = askAs(t, client, "application/grpc", nil)
		}
		assert.Equal(t, "8", p.Header.Get("Grpc-Status"))
		assert.NotEmpty(t, p.Header.Get("Retry-After"))
	})
}

// gRPC over HTTP/2 calls this Trailers-Only: one block of fields, which ends
// the stream.
func TestOurGRPCErrorIsOneFrame(t *testing.T) {
	overHTTP2(t, func(_ *testing.T, s *site) { s.router.Handle("b.test/other", s.upstream) }, func(t *testing.T, s *site) {
		p := newH2(t, &track{name: s.lane.name, addr: s.addr, tls: s.tls})
		defer p.c.Close()
		p.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		require.NoError(t, p.ask(1, true, ":method", "POST", ":scheme", "https", ":authority", "b.test", ":path", "/x.Y/Z", "content-type", "application/grpc", "te", "trailers"))
		for {
			f, err := p.ReadFrame()
			require.NoError(t, err)
			if f, ok := f.(*http2.MetaHeadersFrame); ok {
				assert.True(t, f.StreamEnded())
				assert.Equal(t, "200", f.PseudoValue("status"))
				return
			}
		}
	})
}

// A foreign server without TLS speaks HTTP/2 to clients that begin with it.
func TestGRPCClientsOfAForeignServerGetOurErrorsToo(t *testing.T) {
	var r hostproxy.Router
	r.Handle("a.test/other", hostproxy.To("127.0.0.1:1"))
	client := proxytest.HTTPClient(t, proxytest.NewH2CServer(t, &r).Addr(), nil, "h2c")
	q := newRequest(t, "POST", "/x.Y/Z", nil)
	q.URL.Scheme = "http"
	q.Header.Set("Content-Type", "application/grpc")
	p, body := do(t, client, q)
	assert.Equal(t, 200, p.StatusCode)
	assert.Equal(t, "12", p.Header.Get("Grpc-Status"))
	assert.Empty(t, body)
}
