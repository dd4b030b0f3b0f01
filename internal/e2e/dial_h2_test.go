package e2e_test

import (
	"context"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A connection to an HTTP/2 target that panics, or returns an impossible count,
// fails the requests on it, and not the program.
func TestAConnectionThatPanicsOverHTTP2FailsOnlyItsRequests(t *testing.T) {
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"Read":       func(c net.Conn) net.Conn { return unreadable{c} },
		"Write":      func(c net.Conn) net.Conn { return unwritable{c} },
		"count":      func(c net.Conn) net.Conn { return boastful{c} },
		"everything": func(c net.Conn) net.Conn { c.Close(); return unreadable{} },
		"nil":        func(c net.Conn) net.Conn { c.Close(); return (*net.TCPConn)(nil) },
	} {
		for _, version := range []int{0, 1} {
			for _, l := range lanes {
				t.Run(name+" "+l.name, func(t *testing.T) {
					s := newSite(t, l, nil, func(s *site) {
						s.router.Logger = silent()
						s.upstream = hostproxy.To("h2c://" + proxytest.NewH2CServer(t, nil).Addr())
						s.upstream.ProxyProtocol = version
						s.upstream.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
							c, err := new(net.Dialer).DialContext(ctx, network, addr)
							if err != nil {
								return nil, err
							}
							return wrap(c), nil
						}
					})
					for range 2 {
						assert.GreaterOrEqual(t, s.dial(t).Do(get).StatusCode, 500)
					}
					noneInFlight(t, s.upstream)
				})
			}
		}
	}
}

// An unwritable connection panics when it is written.
type unwritable struct{ net.Conn }

func (unwritable) Write([]byte) (int, error) { panic("as told") }

// A boastful connection says that it has read more than there was room for.
type boastful struct{ net.Conn }

func (boastful) Read(p []byte) (int, error) { return len(p) + 1, nil }
