package e2e_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A badBody is a request's body from middleware that panics.
type badBody struct{ io.ReadCloser }

func (badBody) Read([]byte) (int, error) { panic("oh") }

// overTransports runs check with an Upstream for each kind of client to
// targets.
func overTransports(t *testing.T, h http.Handler, check func(t *testing.T, u *hostproxy.Upstream)) {
	h1, h2c := proxytest.NewServer(t, h), proxytest.NewH2CServer(t, h)
	for name, u := range map[string]*hostproxy.Upstream{
		"HTTP/1.1":       hostproxy.To(h1.Addr()),
		"h2c":            hostproxy.To("h2c://" + h2c.Addr()),
		"own Transport":  {Targets: hostproxy.To(h1.Addr()).Targets, Transport: &http.Transport{DisableKeepAlives: true}},
		"ModifyResponse": {Targets: hostproxy.To(h1.Addr()).Targets, ModifyResponse: func(*http.Response) error { return nil }},
	} {
		t.Run(name, func(t *testing.T) { check(t, u) })
	}
}

// A panic of a request's body fails only that request, on whichever goroutine
// the body is read.
func TestABodyThatPanicsFailsOnlyItsRequest(t *testing.T) {
	overTransports(t, nil, func(t *testing.T, u *hostproxy.Upstream) {
		var r hostproxy.Router
		var failed atomic.Pointer[hostproxy.Error]
		r.Observe = func(x *hostproxy.Exchange) {
			var err *hostproxy.Error
			if errors.As(x.Err, &err) {
				failed.Store(err)
			}
		}
		r.Handle("a.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if q.Header.Get("X-Bad") != "" {
				q.Body = badBody{q.Body}
			}
			u.ServeHTTP(w, q)
		}))
		k := proxytest.StartPlain(t, &hostproxy.Server{Router: &r})
		bad := "POST / HTTP/1.1\r\nHost: a.test\r\nX-Bad: 1\r\n" + sized("hello")
		c := proxytest.Dial(t, k.Plain)
		require.NoError(t, c.Conn.Send(bad))
		assert.Equal(t, 500, c.Response("POST").StatusCode)
		proxytest.Eventually(t, "the record", func() bool { return failed.Load() != nil })
		assert.Equal(t, hostproxy.SideProxy, failed.Load().Side)
		assert.ErrorContains(t, failed.Load(), "panic in a request body: oh")
		require.NoError(t, u.Drain(t.Context()), "nothing is left of it")
	})
}

// A rigged connection panics at its second Read.
type rigged struct {
	net.Conn
	reads atomic.Int64
}

func (c *rigged) Read(p []byte) (int, error) {
	if c.reads.Add(1) > 1 {
		panic("oh")
	}
	return c.Conn.Read(p)
}

// If a connection of a program's listener panics during an upload, only that
// connection ends.
func TestAConnectionThatPanicsDuringAnUploadEndsAlone(t *testing.T) {
	for _, l := range lanes {
		// TLS reads more than once; net/http reads on its own goroutines
		if l.secure || l.foreign {
			continue
		}
		for _, framing := range []string{"Content-Length: 100000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n5\r\nhe"} {
			t.Run(l.name+"/"+strings.Fields(framing)[0], func(t *testing.T) {
				proxytest.NoLeaks(t)
				s := wrapped(t, l, slog.New(slog.DiscardHandler), proxytest.NewServer(t, nil).Addr(), func(c *net.TCPConn) net.Conn { return &rigged{Conn: c} })
				c := s.dialAfter(t, "POST / HTTP/1.1\r\nHost: a.test\r\n"+framing)
				require.Equal(t, 500, c.Response("POST").StatusCode)
				again := s.dialAfter(t, get)
				assert.Equal(t, 200, again.Response("GET").StatusCode)
			})
		}
	}
}

// A tripper is a Transport.
type tripper func(*http.Request) (*http.Response, error)

func (f tripper) RoundTrip(q *http.Request) (*http.Response, error) { return f(q) }

// The limits of an Upstream apply to its Transport too, even if that ignores
// the request's context.
func TestTheTimeoutsOfAnUpstreamApplyToItsTransport(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	release := make(chan struct{})
	silent := proxytest.NewBackend(t, func(c *proxytest.BackendConn) { _, _ = c.ReadRequest(); <-release })
	t.Cleanup(func() { close(release) })
	heeds := func(q *http.Request) (*http.Response, error) {
		<-q.Context().Done()
		return nil, q.Context().Err()
	}
	var closed atomic.Bool
	deaf := func(q *http.Request) (*http.Response, error) {
		<-release
		return &http.Response{StatusCode: 200, Body: closer{&closed}}, nil
	}
	after := func(f tripper) tripper {
		return func(q *http.Request) (*http.Response, error) {
			if q.Body != nil {
				_, _ = io.Copy(io.Discard, q.Body)
			}
			return f(q)
		}
	}
	hangs := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	for name, tt := range map[string]struct {
		transport http.RoundTripper
		reason    string
	}{
		"a Transport that heeds its context":      {after(heeds), "http_response_timeout"},
		"a Transport that ignores its context":    {after(deaf), "http_response_timeout"},
		"a target that sends nothing":             {&http.Transport{}, "http_response_timeout"},
		"a Transport that does not connect":       {hangs, "connection_timeout"},
		"a Transport that does not read the body": {tripper(deaf), "http_response_timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of the time is spent waiting
			for _, body := range []string{"", "hello"} {
				if name == "a Transport that does not read the body" && body != "" {
					continue
				}
				s := newSite(t, lanes[0], nil, func(s *site) {
					s.upstream = &hostproxy.Upstream{Targets: hostproxy.To(silent.Addr()).Targets, Transport: tt.transport, ResponseHeaderTimeout: patient}
					if tt.transport == hangs {
						s.upstream.DialTimeout = patient
					}
				})
				c := s.dial(t)
				require.NoError(t, c.Conn.Send("POST / HTTP/1.1\r\nHost: a.test\r\n"+sized(body)))
				p := c.Response("POST")
				assert.Equal(t, 504, p.StatusCode)
				assert.Contains(t, string(p.Content), tt.reason)
			}
		})
	}
}

type closer struct{ closed *atomic.Bool }

func (c closer) Read([]byte) (int, error) { return 0, io.EOF }
func (c closer) Close() error             { c.closed.Store(true); return nil }

// The same applies while a handler serves a request, when the connection is
// read to notice a disconnect.
func TestAConnectionThatPanicsWhileAHandlerServesEndsAlone(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	for _, raw := range []string{get, request("POST /", sized("hello"))} {
		t.Run(strings.Fields(raw)[0], func(t *testing.T) {
			proxytest.NoLeaks(t)
			r := &hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
			entered, ended := make(chan struct{}, 1), make(chan struct{})
			r.Handle("a.test", http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
				entered <- struct{}{}
				_, _ = io.Copy(io.Discard, q.Body)
				<-q.Context().Done()
				close(ended)
			}))
			s := &site{listen: func(ln net.Listener) net.Listener {
				return &wrapping{ln, func(c *net.TCPConn) net.Conn { return &rigged{Conn: c} }}
			}}
			addr := proxytest.StartPlain(t, s.runner(&hostproxy.Server{Router: r})).Plain
			// on a machine that stands still the connection may panic earlier
			for called := false; !called; {
				c := proxytest.Dial(t, addr)
				_ = c.Conn.Send(raw)
				_, _ = c.ReadAll()
				select {
				case <-entered:
					called = true
				default:
				}
			}
			<-ended
		})
	}
}
