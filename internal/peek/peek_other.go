//go:build !unix || portable

package peek

import "syscall"

// Gone is false: no portable way is known to look at a socket without waiting.
func Gone(syscall.RawConn) bool { return false }

// HungUp is false, as Gone.
func HungUp(syscall.RawConn) bool { return false }
