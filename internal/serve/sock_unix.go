//go:build unix && !portable

package serve

import (
	"io/fs"
	"syscall"
)

// canTry is true: sockets are non-blocking and can be read by their descriptor.
const canTry = true

// tryRead reads the socket without waiting, into a front that it keeps only if
// there were bytes. raw.Read calls it until it returns true.
func (c *conn) tryRead(fd uintptr) bool {
	f := fronts.Get().(*front1)
	n, err := sysRead(fd, f.in[:])
	if n > 0 {
		f.r, f.w = 0, n
		c.front = f
		return true
	}
	fronts.Put(f)
	return err != syscall.EAGAIN
}

// sysRead calls read(2), again after interrupts.
func sysRead(fd uintptr, p []byte) (int, error) {
	for {
		n, err := syscall.Read(int(fd), p)
		if err != syscall.EINTR {
			return n, err
		}
	}
}

// readNow reads what has arrived on a plain connection into p, without waiting.
// 0 or less means nothing.
func (c *conn) readNow(p []byte) (n int) {
	if c.readable == nil {
		return 0
	}
	_ = c.raw.Read(func(fd uintptr) bool {
		n, _ = sysRead(fd, p)
		return true
	})
	return n
}

// A lookahead does nothing where the sweeper can peek.
type lookahead struct{}

func (lookahead) lookAhead()    {}
func (lookahead) lookBack()     {}
func (lookahead) endSeen() bool { return false }

// narrowMode makes bind(2) create the file of a unix socket with at most that
// mode, on systems that take it from the socket, such as Linux.
func narrowMode(fd uintptr, mode fs.FileMode) { _ = syscall.Fchmod(int(fd), uint32(mode)) }
