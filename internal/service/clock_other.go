//go:build !linux

package service

// monotonic is 0: there is no service manager of that kind.
func monotonic() int64 { return 0 }
