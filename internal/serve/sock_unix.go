//go:build unix

package serve

import "syscall"

// canTry: sockets are non-blocking and can be read by their number.
const canTry = true

// tryRead reads the socket without waiting, into an exchange that it keeps
// only if there was something; raw.Read calls it until it reports true.
func (c *conn) tryRead(fd uintptr) bool {
	x := exchanges.Get().(*fastExchange)
	n, err := sysRead(fd, x.in[:])
	if n > 0 {
		x.r, x.w = 0, n
		c.x = x
		return true
	}
	exchanges.Put(x)
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
