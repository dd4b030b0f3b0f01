//go:build !unix || portable

package peek

import "syscall"

// Gone is false: no portable way is known to look at a socket without waiting.
// Servers that are ours read ahead instead. Under somebody else's, a client
// that leaves a wait for a certificate is noticed at the end of the wait.
func Gone(syscall.RawConn) bool { return false }

// HungUp is false, as Gone.
func HungUp(syscall.RawConn) bool { return false }
