//go:build unix && !portable

package pool

import (
	"io"
	"net"
	"os"
	"syscall"

	"github.com/hostproxy/hostproxy/internal/peek"
)

// A proof that a kept connection is alive needs nothing meanwhile: sockets are
// non-blocking and can be read by their number.
type proof struct{}

// above prepares a connection whose bytes are those of socket.
func (c *Conn) above(socket net.Conn) {
	_, tcp := socket.(*net.TCPConn)
	c.raw, c.splices = peek.Raw(socket), tcp && canSplice
}

// provable reports whether the connection can be proven alive once it was kept.
func (c *Conn) provable() bool { return c.raw != nil }

// guard begins the time in which the connection is kept, and unguard ends it.
func (proof) guard()   {}
func (proof) unguard() {}

// quiet reports whether the connection is open and has nothing to read. Under
// TLS, session tickets and key updates are consumed on the way.
func (c *Conn) quiet() bool {
	n, err := c.stream().Read(c.probe[:])
	return n == 0 && err == errAgain
}

// readNow reads from a non-blocking socket: errAgain if nothing is there,
// io.EOF at the end.
func readNow(fd uintptr, p []byte) (int, error) {
	for {
		n, err := syscall.Read(int(fd), p)
		switch {
		case err == nil && n == 0:
			return 0, io.EOF
		case err == nil:
			return n, nil
		case err == syscall.EAGAIN:
			return 0, errAgain
		case err != syscall.EINTR:
			return 0, os.NewSyscallError("read", err)
		}
	}
}
