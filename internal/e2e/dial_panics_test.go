package e2e_test

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A connection of a Passthrough that panics ends that connection, and not the
// program.
func TestAConnectionOfAPassthroughThatPanicsEndsOnlyItself(t *testing.T) {
	target, roots := proxytest.NewTLSServer(t, nil)
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"Read":        func(c net.Conn) net.Conn { return unreadable{c} },
		"Write":       func(c net.Conn) net.Conn { return unwritable{c} },
		"SetDeadline": func(c net.Conn) net.Conn { return timeless{c} },
		"everything":  func(c net.Conn) net.Conn { c.Close(); return unreadable{} },
		"nil":         func(c net.Conn) net.Conn { c.Close(); return (*net.TCPConn)(nil) },
	} {
		for _, introduces := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				r := &hostproxy.Router{Logger: silent()}
				config, _ := proxytest.TLS(t, "b.test")
				r.TLS.Config, r.TLS.Storage = config, newStorage(t)
				r.Handle("localhost", &hostproxy.Passthrough{Addr: "over.there:1", ProxyProtocol: introduces, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
					c, err := new(net.Dialer).DialContext(ctx, network, target.Addr())
					if err != nil {
						return nil, err
					}
					return wrap(c), nil
				}})
				server := proxytest.Start(t, &hostproxy.Server{Router: r})
				raw, err := net.Dial("tcp", server.HTTPS)
				require.NoError(t, err)
				defer raw.Close()
				require.NoError(t, raw.SetDeadline(time.Now().Add(proxytest.Patience)))
				err = tls.Client(raw, &tls.Config{RootCAs: roots, ServerName: "localhost"}).Handshake()
				assert.Error(t, err)
				assert.NotErrorIs(t, err, context.DeadlineExceeded)
				require.NoError(t, server.Stop())
			})
		}
	}
}

// A timeless connection panics when a deadline is set.
type timeless struct{ net.Conn }

func (timeless) SetDeadline(time.Time) error { panic("as told") }
