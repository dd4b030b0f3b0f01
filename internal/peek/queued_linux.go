//go:build !portable

package peek

import (
	"syscall"
	"unsafe"
)

// queued asks the system with SIOCOUTQ.
func queued(fd uintptr) int64 {
	var n int32
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&n))); errno != 0 {
		return 0
	}
	return int64(n)
}
