//go:build unix && !portable

package pool

import (
	"io"
	"net"
	"os"
	"syscall"

	"github.com/hostproxy/hostproxy/internal/peek"
)

// A proof that a kept connection is alive needs no state: sockets are
// non-blocking, and can be read by their descriptor when the connection is
// taken.
type proof struct{}

// above prepares a connection that carries the bytes of socket.
func (c *Conn) above(socket net.Conn) {
	_, tcp := socket.(*net.TCPConn)
	c.raw, c.splices = peek.Raw(socket), tcp && canSplice
}

// provable reports whether the connection can be proven alive once it was kept.
func (c *Conn) provable() bool { return c.raw != nil }

// guard is called when the connection is kept, and unguard when it is taken.
func (proof) guard()   {}
func (proof) unguard() {}

// quiet reports whether the connection is open and has no byte to read. Under
// TLS it consumes session tickets and key updates.
func (c *Conn) quiet() bool {
	n, err := c.stream().Read(c.probe[:])
	return n == 0 && err == errAgain
}

// readNow reads from a non-blocking socket. It returns errAgain if no byte is
// there, and io.EOF at the end.
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
