package e2e_test

import (
	"context"
	"log/slog"
	"net"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A hook that ends its goroutine, as testing's FailNow does, ends its
// connection: neither the client nor the shutdown of the Server waits.
func TestAHookThatEndsItsGoroutineEndsItsConnection(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]setting{
		"Begin": func(s *site) { s.router.Begin = func(*hostproxy.Beginning) { runtime.Goexit() } },
		"BeginAttempt": func(s *site) {
			s.router.BeginAttempt = func(*hostproxy.Beginning) { runtime.Goexit() }
			s.upstream.RateLimit = &hostproxy.RateLimit{MaxInFlight: 1}
		},
		"Observe": func(s *site) { s.router.Observe = func(*hostproxy.Exchange) { runtime.Goexit() } },
	} {
		t.Run(name, func(t *testing.T) {
			overOurLanes(t, good, func(t *testing.T, s *site) {
				for _, raw := range []string{get, "POST / HTTP/1.1\r\n" + host + sized("hello"), "GET / HTTP/1.1\r\n" + host + "Content-Length: x\r\n\r\n"} {
					c := s.dial(t)
					c.Send(raw)
					_, err := c.ReadAll()
					require.NoError(t, err)
				}
				noneInFlight(t, s.upstream)
				require.NoError(t, s.server.Stop())
			}, set)
		})
	}
}

// Observe is called for every exchange with a Begin: otherwise a program's
// count of requests in flight would never return to zero.
func TestAnExchangeWhoseHookEndsItsGoroutineIsObserved(t *testing.T) {
	for name, set := range map[string]setting{
		"Begin":        func(s *site) { s.router.Begin = func(*hostproxy.Beginning) { runtime.Goexit() } },
		"BeginAttempt": func(s *site) { s.router.BeginAttempt = func(*hostproxy.Beginning) { runtime.Goexit() } },
		"a connection": func(s *site) {
			s.router.Logger = silent()
			s.upstream.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				c, err := new(net.Dialer).DialContext(ctx, network, address)
				return unreadable{c}, err
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			overOurLanes(t, good, func(t *testing.T, s *site) {
				refused := "GET / HTTP/1.1\r\n" + host + "Content-Length: x\r\n\r\n"
				for i, raw := range []string{get, "POST / HTTP/1.1\r\n" + host + sized("hello"), refused} {
					c := s.dial(t)
					c.Send(raw)
					_, _ = c.ReadAll()
					x := s.record(t, i+1)
					assert.Equal(t, raw == refused, x.Status == 400)
					assert.Equal(t, raw != refused, x.Status == 500)
					assert.Error(t, x.Err)
				}
				noneInFlight(t, s.upstream)
			}, set)
		})
	}
}

// An unreadable connection panics when it is read.
type unreadable struct{ net.Conn }

func (unreadable) Read([]byte) (int, error) { panic("as told") }

// The response is complete when Observe is called, and the connection goes on.
func TestAPanicInObserveLeavesTheResponseAsItIs(t *testing.T) {
	log := new(proxytest.Log)
	overEachLane(t, good, func(t *testing.T, s *site) {
		c := s.dial(t)
		for range 2 {
			a := c.Do(get)
			assert.Equal(t, 200, a.StatusCode)
			assert.Contains(t, string(a.Content), "good")
		}
		noneInFlight(t, s.upstream)
		assert.Contains(t, log.String(), "panic in Observe: bug")
	}, func(s *site) {
		s.router.Logger = slog.New(slog.NewTextHandler(log, nil))
		s.router.Observe = func(*hostproxy.Exchange) { panic("bug") }
	})
}

// A Dial that ends its goroutine fails the request, even without a DialTimeout.
func TestADialThatEndsItsGoroutineFailsTheRequest(t *testing.T) {
	for _, l := range lanes {
		for _, scheme := range []string{"http://", "h2c://"} {
			t.Run(l.name+" "+scheme, func(t *testing.T) {
				s := newSite(t, l, nil, func(s *site) {
					s.upstream = hostproxy.To(scheme + "over.there:1")
					s.upstream.DialTimeout = -1
					s.upstream.Dial = func(context.Context, string, string) (net.Conn, error) {
						runtime.Goexit()
						return nil, nil
					}
				})
				assert.Equal(t, 502, s.dial(t).Do(get).StatusCode)
				noneInFlight(t, s.upstream)
			})
		}
	}
}
