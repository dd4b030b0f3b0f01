package peek

import (
	"syscall"
	"unsafe"
)

// hungUp reports whether the peer has closed its side of the socket, even
// if some of what it sent has not been read.
func hungUp(fd uintptr) bool {
	const closeWait = 8 // TCP_CLOSE_WAIT
	info, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO)
	head := int32(info) // the first bytes of struct tcp_info, of which the very first is the state
	return err == nil && *(*byte)(unsafe.Pointer(&head)) == closeWait
}
