//go:build !unix || portable

package peek

import "syscall"

// Gone returns false: there is no portable way to peek at a socket without
// waiting. Our servers read ahead instead. Behind a foreign server, a client
// that leaves during a wait for a certificate is noticed only after the wait.
func Gone(syscall.RawConn) bool { return false }

// HungUp returns false, for the same reason.
func HungUp(syscall.RawConn) bool { return false }
