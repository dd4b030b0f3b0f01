//go:build unix && !portable

package pool

import (
	"io"
	"os"
	"syscall"
)

// canProve: sockets are non-blocking and can be read by their number.
const canProve = true

// readNow reads from a non-blocking socket: errAgain if nothing is there, io.EOF
// at the end.
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
