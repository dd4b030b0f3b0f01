//go:build unix && !linux && !portable

package peek

// hungUp returns false: there is no portable way to see the end of a stream
// after unread bytes.
func hungUp(uintptr) bool { return false }
