package peek_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/peek"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestMain(m *testing.M) { proxytest.Main(m) }

// A leaver knows itself whether its peer has left.
type leaver struct {
	net.Conn
	left atomic.Bool
}

func (l *leaver) HungUp() bool { return l.left.Load() }

func TestAContextEndsWhenTheConnectionReportsADisconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := new(leaver)
		ctx, cancel := peek.Context(t.Context(), c)
		defer cancel()
		<-time.After(time.Minute)
		require.NoError(t, ctx.Err())
		c.left.Store(true)
		begin := time.Now()
		<-ctx.Done()
		assert.Equal(t, peek.ErrLeft, context.Cause(ctx))
		assert.Less(t, time.Since(begin), time.Second)
	})
}

func TestAContextWithoutASocketEndsWithItsParent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		for _, c := range []net.Conn{server, nil} {
			parent, end := context.WithTimeout(t.Context(), time.Minute)
			ctx, cancel := peek.Context(parent, c)
			client.Close()
			begin := time.Now()
			<-ctx.Done()
			assert.Equal(t, time.Minute, time.Since(begin))
			cancel()
			end()
		}
	})
}

// A wrapper may get its socket later, and return a nil pointer until then.
func TestANilPointerIsNoSocket(t *testing.T) {
	var tcp *net.TCPConn
	var unix *net.UnixConn
	for _, c := range []net.Conn{tcp, unix, wrapper{tcp}, wrapper{unix}, wrapper{nil}} {
		assert.Nil(t, peek.Socket(c))
	}
}

// A wrapper exposes the connection below it.
type wrapper struct{ net.Conn }

func (w wrapper) Unbuffered() net.Conn { return w.Conn }
