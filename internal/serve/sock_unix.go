//go:build unix && !portable

package serve

import (
	"io/fs"
	"syscall"
)

// canTry: sockets are non-blocking and can be read by their number.
const canTry = true

// tryRead reads the socket without waiting, into a front that it keeps
// only if there was something; raw.Read calls it until it reports true.
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

// sysRead is read(2), past interrupts.
func sysRead(fd uintptr, p []byte) (int, error) {
	for {
		n, err := syscall.Read(int(fd), p)
		if err != syscall.EINTR {
			return n, err
		}
	}
}

// readNow reads into p what has come on a plain connection, without waiting;
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

// A lookahead is nothing where the sweeper can peek.
type lookahead struct{}

func (lookahead) lookAhead()    {}
func (lookahead) lookBack()     {}
func (lookahead) endSeen() bool { return false }

// narrowMode lets bind(2) create the file of a unix socket with no more than
// that mode, where the system takes it from the socket, as Linux does.
func narrowMode(fd uintptr, mode fs.FileMode) { _ = syscall.Fchmod(int(fd), uint32(mode)) }
