//go:build linux && !portable

package forward

import (
	"net"
	"syscall"
	"time"
)

// userTimeout is TCP_USER_TIMEOUT, which package syscall does not have.
const userTimeout = 0x12

// limitSilence makes the system close nc when its peer has acknowledged nothing
// for d: neither data nor, on an idle connection, TCP's probes.
func limitSilence(nc net.Conn, d time.Duration) {
	c, ok := nc.(*net.TCPConn)
	if !ok {
		return
	}
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, userTimeout, int(d/time.Millisecond))
		})
	}
}
