package service

import (
	"syscall"
	"unsafe"
)

// monotonic returns CLOCK_MONOTONIC in microseconds, or 0 if it cannot be read.
// The service manager compares it with its own clock.
func monotonic() int64 {
	const clockMonotonic = 1
	var now syscall.Timespec
	if _, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, clockMonotonic, uintptr(unsafe.Pointer(&now)), 0); errno != 0 {
		return 0
	}
	return now.Nano() / 1000
}
