//go:build unix && !portable

package peek_test

import (
	"context"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/peek"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// pair returns the two ends of a connection.
func pair(t testing.TB) (client, server *net.TCPConn) {
	t.Helper()
	ln := proxytest.Listen(t)
	c, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	s, err := ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

func TestAContextEndsWhenThePeerLeaves(t *testing.T) {
	t.Parallel()
	for what, leave := range map[string]func(c *net.TCPConn){
		"closes":      func(c *net.TCPConn) { c.Close() },
		"half-closes": func(c *net.TCPConn) { _ = c.CloseWrite() },
		"resets":      func(c *net.TCPConn) { _ = c.SetLinger(0); c.Close() },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			client, server := pair(t)
			ctx, cancel := peek.Context(t.Context(), server)
			defer cancel()
			select {
			case <-ctx.Done():
				assert.Fail(t, "the client is still connected")
			case <-time.After(600 * time.Millisecond):
			}
			leave(client)
			select {
			case <-ctx.Done():
				assert.Equal(t, peek.ErrLeft, context.Cause(ctx))
			case <-time.After(proxytest.Patience):
				assert.Fail(t, "the disconnect was not noticed")
			}
		})
	}
}

func TestPeekingConsumesNoBytes(t *testing.T) {
	client, server := pair(t)
	_, err := client.Write([]byte("hello"))
	require.NoError(t, err)
	raw, err := server.SyscallConn()
	require.NoError(t, err)
	proxytest.Eventually(t, "the bytes", func() bool { return !peek.Gone(raw) && !peek.HungUp(raw) })
	require.NoError(t, client.Close())
	b := make([]byte, 9)
	n, err := server.Read(b)
	require.NoError(t, err)
	assert.Equal(t, "hello", string(b[:n]))
	proxytest.Eventually(t, "the end", func() bool { return peek.Gone(raw) && peek.HungUp(raw) })
}

func TestADisconnectIsSeenDespiteUnreadBytes(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("no portable way is known")
	}
	for what, leave := range map[string]func(c *net.TCPConn){
		"closed": func(c *net.TCPConn) { c.Close() },
		"reset":  func(c *net.TCPConn) { _ = c.SetLinger(0); c.Close() },
	} {
		client, server := pair(t)
		_, err := client.Write([]byte("hello"))
		require.NoError(t, err)
		raw, err := server.SyscallConn()
		require.NoError(t, err)
		require.False(t, peek.HungUp(raw), what)
		leave(client)
		proxytest.Eventually(t, what, func() bool { return peek.HungUp(raw) })
	}
}
