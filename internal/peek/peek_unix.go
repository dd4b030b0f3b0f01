//go:build unix && !portable

package peek

import "syscall"

// Gone reports whether the peer has closed its side and all it sent has been
// read, or has reset the connection. It takes no bytes. A socket that is closed
// here is gone too.
func Gone(c syscall.RawConn) bool {
	return look(c, func(uintptr) bool { return false })
}

// HungUp is Gone, even if some of what the peer sent has not been read, on
// systems that tell.
func HungUp(c syscall.RawConn) bool { return look(c, hungUp) }

// look peeks at the next byte, and asks behind if there is one.
func look(c syscall.RawConn, behind func(fd uintptr) bool) (gone bool) {
	err := c.Control(func(fd uintptr) {
		var p [1]byte
		n, _, err := syscall.Recvfrom(int(fd), p[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		switch {
		case err == syscall.EAGAIN, err == syscall.EINTR:
		case err != nil, n == 0:
			gone = true
		default:
			gone = behind(fd)
		}
	})
	return gone || err != nil
}
