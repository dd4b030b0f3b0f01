//go:build !portable

package peek

import (
	"syscall"
	"unsafe"
)

// hungUp reports whether the peer has closed its side of the socket or reset
// it, even if bytes that it sent are unread.
func hungUp(fd uintptr) bool {
	const reset, closeWait = 7, 8 // TCP_CLOSE, TCP_CLOSE_WAIT
	info, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO)
	head := int32(info) // the first bytes of struct tcp_info; its first byte is the state
	state := *(*byte)(unsafe.Pointer(&head))
	return err == nil && (state == reset || state == closeWait)
}
