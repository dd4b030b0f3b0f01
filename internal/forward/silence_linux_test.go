//go:build linux && !portable

package forward_test

import (
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/forward"
)

// userTimeout is TCP_USER_TIMEOUT.
const userTimeout = 0x12

func TestLimitSilenceSetsTheTCPUserTimeout(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	nc, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer nc.Close()
	forward.LimitSilence(nc, 45*time.Second)
	raw, err := nc.(*net.TCPConn).SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		ms, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, userTimeout)
		assert.NoError(t, err)
		assert.Equal(t, 45_000, ms)
	}))
}
