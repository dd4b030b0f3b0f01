//go:build unix && !portable

package peek

import "syscall"

// Gone reports whether the peer has reset the connection, or has closed its
// side and all its bytes have been read. It consumes no bytes. A socket that is
// closed on our side counts as gone.
func Gone(c syscall.RawConn) bool {
	return look(c, func(uintptr) bool { return false })
}

// HungUp is Gone, but also with unread bytes, on systems that show that.
func HungUp(c syscall.RawConn) bool { return look(c, hungUp) }

// look peeks at the next byte. If there is one, it returns the result of
// behind.
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
